"""How members of convolutional networks are best trained on a processor: python benchmarks/convolution.py.

Three ways to the outputs and gradients of M members, at the sizes of a small CIFAR-10 run: one ``vmap`` over the members; members
folded into channels, with a group for each (``conv2d(groups=M)``); and one member after another, as networks with
``one_by_one`` do. They take turns for some seconds, after a first round that is not counted, and the quickest round of each
counts. A ratio above 1 means quicker than ``vmap``. What tracing these networks costs is in ``run.py``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch.nn.functional import conv2d

from rhotrace.models.losses import Square
from rhotrace.models.networks.conv import Conv

Tensors = tuple[torch.Tensor, ...]

IMAGE = (3, 32, 32)
CHANNELS = {"32, 64, 128": [32, 64, 128], "8, 16, 32": [8, 16, 32]}
MEMBERS = (1, 4, 16)
SAMPLES = (32, 128)
SECONDS = 8.0  # of each row


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
    main()
