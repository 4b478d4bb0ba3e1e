"""Convolutional networks on a processor: how members are best trained, and what tracing costs.

    python benchmarks/convolution.py         # the ways to train members
    python benchmarks/convolution.py traced  # RhoTrace's loop against a bare PyTorch loop

Three ways to the outputs and gradients of M members, at the sizes of a small CIFAR-10 run: one ``vmap`` over the members; members
folded into channels, with a group for each (``conv2d(groups=M)``); and one member after another, as networks with
``one_by_one`` do. They take turns for some seconds, after a first round that is not counted, and the quickest round of each
counts. A ratio above 1 means quicker than ``vmap``.

The traced loop and the bare one take turns, ``ROUNDS`` pairs after one that is not counted. The ratio is of the processor time
of a pair, which other processes hardly change; below 1, RhoTrace is quicker.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn
from torch.nn.functional import conv2d

from rhotrace.config import recipe
from rhotrace.models.losses import Square
from rhotrace.models.networks.conv import Conv
from rhotrace.training.train import train

Tensors = tuple[torch.Tensor, ...]

IMAGE = (3, 32, 32)
CHANNELS = {"32, 64, 128": [32, 64, 128], "8, 16, 32": [8, 16, 32]}
MEMBERS = (1, 4, 16)
SAMPLES = (32, 128)
SECONDS = 8.0  # of each row
ROUNDS = 5
TRACED = """\
data: {dataset: npz, file: images.npz, classes: [0, 1], train: 400, test: 100}
network: {kind: conv}
init: {kind: equal-norms, rho_k: 3}
optimizer: {kind: sgd, lr: 0.001, batch_size: 128}
steps: 30
record: {full_every: 1000000000}
"""
CASES = {
    "SGD, batch 128, no full-set sums, 1 member": [],
    "the same, batch normalisation": ["network.batch_norm=true"],
    "the same, 4 members": ["members.seeds=4", "steps=10"],
    "SGD, batch 128, full-set sums at every step, 1 member": ["record.full_every=1"],
    "GD, N = 400, all traced, 1 member": ["optimizer={kind: gd, lr: 0.001}", "steps=12"],
}


def network(channels: list[int], *, one_by_one: bool) -> Conv:
    made = Conv(IMAGE, channels, kernel=3, stride=2, padding=1, outputs=1)
    made.one_by_one = one_by_one  # type: ignore[misc]
    return made


def derived(made: Conv, parameters: Tensors, x: torch.Tensor, y: torch.Tensor) -> Tensors:
    return made.gradients(parameters, x, y, Square()).gradients


def grouped(made: Conv, parameters: Tensors, x: torch.Tensor, y: torch.Tensor) -> Tensors:
    """The members' images side by side as channels, (N, M channels, height, width)."""
    members, samples, _ = x.shape
    own = [W.detach().requires_grad_() for W in parameters]
    with torch.enable_grad():
        kernels = [W.view(members, *block.shape) for W, block in zip(own, made.blocks, strict=True)]
        h = x.view(members, samples, *made.image).transpose(0, 1).flatten(1, 2)
        for W in kernels[:-1]:
            h = conv2d(h, W.flatten(0, 1), stride=made.stride, padding=made.padding, groups=members).relu()
        outputs = torch.bmm(h.view(samples, members, -1).transpose(0, 1), kernels[-1].flatten(2).mT)
    slope = Square().slope(outputs.detach().mT, y.mT).mT
    return torch.autograd.grad(outputs, own, slope)


def seconds(ways: list[Callable[[], Tensors]]) -> list[float]:
    best = [np.inf] * len(ways)
    first = [way() for way in ways]
    for other in first[1:]:
        for ours, theirs in zip(first[0], other, strict=True):
            assert (ours - theirs).norm() < 1e-3 * ours.norm()  # a ReLU at 0 may round to either side
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        for number, way in enumerate(ways):
            began = time.perf_counter()
            way()
            best[number] = min(best[number], time.perf_counter() - began)
    return best


def bare(content: recipe.Recipe) -> float:
    """Processor seconds of the usual loop, nn.Sequential and torch.optim.SGD, for each member in turn."""
    loaded = content.load_data()
    x, y = torch.as_tensor(loaded.x).view(-1, *IMAGE), torch.as_tensor(loaded.y)
    batches, spent = content.optimizer.minibatches, 0.0
    for _ in content.seeds:
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((IMAGE[0], *content.network.channels)):
            layers.append(nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False))
            layers += [nn.BatchNorm2d(outputs, affine=False)] if content.network.batch_norm else []
            layers.append(nn.ReLU())
        net = nn.Sequential(*layers, nn.Conv2d(content.network.channels[-1], 1, 4, bias=False), nn.Flatten())
        optimizer = torch.optim.SGD(net.parameters(), lr=content.optimizer.lr)
        began = time.process_time()
        for _ in range(content.steps):
            index = torch.randint(len(x), (batches.size,)) if batches else slice(None)
            optimizer.zero_grad()
            (net(x[index]) - y[index]).square().mean().backward()
            optimizer.step()
        spent += time.process_time() - began
    return spent


def traced(content: recipe.Recipe, folder: Path) -> float:
    """Processor seconds of RhoTrace's loop, with everything recorded and written, without start-up."""
    marks: list[float] = []
    train(content, folder / "run.h5", device="cpu", force=True, begin=lambda _: marks.append(time.process_time()),
          watch=lambda _: marks.append(time.process_time()))  # fmt: skip
    return marks[-1] - marks[0]


def overhead() -> None:
    print("| RhoTrace | processor time over that of the bare loop (range) | RhoTrace ms/step |\n|---|---|---|")
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arrays = {f"x{part}": rng.standard_normal((n, *IMAGE)) for part, n in (("", 400), ("_test", 100))}
        arrays |= {f"y{part}": np.arange(n) % 2 for part, n in (("", 400), ("_test", 100))}
        np.savez(folder / "images.npz", **arrays)
        for label, overrides in CASES.items():
            content = recipe.parse(TRACED, [f"data.root={folder}", *overrides])
            pairs = [(traced(content, folder), bare(content)) for _ in range(ROUNDS + 1)][1:]
            found = sorted(ours / theirs for ours, theirs in pairs)
            each = 1000 * statistics.median(ours for ours, _ in pairs) / content.steps
            spread = f"{statistics.median(found):.2f} ({found[0]:.2f}–{found[-1]:.2f})"
            print(f"| {label} | {spread} | {each:.1f} |", flush=True)


def main() -> None:
    print("| channels | members | batch | vmap, ms | grouped | one by one |\n|---|---|---|---|---|---|")
    rng = np.random.default_rng(0)
    for label, channels in CHANNELS.items():
        both = [network(channels, one_by_one=one) for one in (False, True)]
        for members in MEMBERS:
            parameters = tuple(
                torch.as_tensor(rng.standard_normal((members, *b.matrix)) / np.sqrt(b.matrix[1])).float()
                for b in both[0].blocks
            )
            for samples in SAMPLES:
                x = torch.as_tensor(rng.standard_normal((members, samples, int(np.prod(IMAGE))))).float()
                y = torch.as_tensor(rng.choice([-1.0, 1.0], (members, samples, 1))).float()
                with torch.no_grad():
                    vmapped, folded, apart = seconds(
                        [
                            partial(derived, both[0], parameters, x, y),
                            partial(grouped, both[0], parameters, x, y),
                            partial(derived, both[1], parameters, x, y),
                        ]
                    )
                ratios = f"{vmapped / folded:.2f} x | {vmapped / apart:.2f} x"
                print(f"| {label} | {members} | {samples} | {1000 * vmapped:.1f} | {ratios} |", flush=True)


if __name__ == "__main__":
    overhead() if sys.argv[1:] == ["traced"] else main()
