"""What tracing costs: RhoTrace's loop against the bare PyTorch loop that records nothing, side by side in one run.

    python benchmarks/overhead.py            # about three minutes on two cores; prints a Markdown table of ratios

Each row alternates the two loops and reports the median of the pairwise time ratios with its range, so that drift
of the machine's speed affects both. Below 1, RhoTrace is faster.
"""

from __future__ import annotations

import itertools
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rhotrace.config import recipe
from rhotrace.training.plan import initial_parameters
from rhotrace.training.train import train

ROUNDS = 7
RECIPE = """\
data: {dataset: mnist, classes: [0, 1], train: 1000, test: 1000}
network: {kind: mlp, depth: 8, width: 32}
init: {kind: equal-norms, rho_k: 3.5}
optimizer: {kind: gd, lr: 0.01}
steps: 500
"""
SGD = ["optimizer={kind: sgd, lr: 0.01, batch_size: 32}", "record.full_every=1000000000", "steps=3000"]


def data_of(content: recipe.Recipe) -> tuple[torch.Tensor, torch.Tensor]:
    dataset = content.data.load("float32")
    return torch.tensor(dataset.x, dtype=torch.float32), torch.tensor(dataset.y, dtype=torch.float32)


def bare_single(content: recipe.Recipe) -> float:
    """Seconds of the usual loop for one network: nn.Sequential, autograd, torch.optim.SGD."""
    x, y = data_of(content)
    sizes = [x.shape[1], *[content.network.width] * (content.network.depth - 1), 1]
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs, bias=False), nn.ReLU()]
    net = nn.Sequential(*layers[:-1])
    optimizer = torch.optim.SGD(net.parameters(), lr=content.optimizer.lr)
    batch = getattr(content.optimizer, "batch_size", None)
    began = time.perf_counter()
    for _ in range(content.steps):
        index = torch.randint(len(x), (batch,)) if batch else slice(None)
        optimizer.zero_grad()
        ((net(x[index]) - y[index]) ** 2).mean().backward()
        optimizer.step()
    return time.perf_counter() - began


def bare_members(content: recipe.Recipe) -> float:
    """Seconds of a bare loop over batched products for several networks at once, with autograd."""
    x, y = data_of(content)
    network = content.network.build((x.shape[1],), 1)
    weights = [torch.tensor(W, dtype=torch.float32, requires_grad=True) for W in initial_parameters(content, network)]
    members, batch = len(content.seeds), getattr(content.optimizer, "batch_size", None)
    began = time.perf_counter()
    for _ in range(content.steps):
        if batch:
            index = torch.randint(len(x), (members, batch))
            h, target = x[index], y[index]
        else:
            h, target = x.expand(members, -1, -1), y
        for W in weights[:-1]:
            h = torch.relu(h @ W.mT)
        loss = ((h @ weights[-1].mT - target) ** 2).mean(dim=(1, 2)).sum()
        for W, G in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            with torch.no_grad():
                W.sub_(G, alpha=content.optimizer.lr)
    return time.perf_counter() - began


def traced(content: recipe.Recipe) -> float:
    """Seconds of RhoTrace's loop with everything recorded and written, without start-up."""
    with tempfile.TemporaryDirectory() as folder:
        return train(content, Path(folder) / "run.h5", device="cpu").seconds


def ratios(content: recipe.Recipe, bare) -> tuple[float, float, float, float]:  # noqa: ANN001 - one of the two above
    """Median, smallest and largest ratio traced/bare, and the traced milliseconds per step."""
    pairs = []
    for number in range(ROUNDS + 1):
        pairs.append((traced(content), bare(content)))
        if number == 0:
            pairs.clear()  # warm-up
    found = sorted(a / b for a, b in pairs)
    return statistics.median(found), found[0], found[-1], 1e3 * statistics.median(a for a, _ in pairs) / content.steps


def overhead_rows() -> None:
    cases = [
        ("GD, 1 member, all traced", [], bare_single, "nn.Sequential + optim.SGD"),
        ("GD, 6 members, all traced", ["members.seeds=6", "steps=150"], bare_members, "batched products + autograd"),
        ("SGD, 1 member, no full-set sums", SGD, bare_single, "nn.Sequential + optim.SGD"),
        (
            "SGD, 6 members, no full-set sums",
            [*SGD, "members.seeds=6", "steps=1000"],
            bare_members,
            "batched products + autograd",
        ),
    ]
    print("| RhoTrace | bare loop | time ratio (range) | RhoTrace ms/step |\n|---|---|---|---|")
    for name, overrides, bare, what in cases:
        median, low, high, step = ratios(recipe.parse(RECIPE, overrides), bare)
        print(f"| {name} | {what} | {median:.2f} ({low:.2f}–{high:.2f}) | {step:.2f} |", flush=True)


def memory_row() -> None:
    peaks = [
        int(
            subprocess.run(
                [sys.executable, __file__, "--peak", str(n)], capture_output=True, text=True, check=True
            ).stdout
        )
        for n in (5_000, 40_000)
    ]
    print(f"\npeak memory of 40,000 steps over that of 5,000: {peaks[1] / peaks[0]:.3f} ({peaks[0] / 1024:.0f} MB)")


def peak(steps: int) -> None:
    traced(recipe.parse(RECIPE, [*SGD, f"steps={steps}", "data.train=100", "network.width=8"]))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def analysis_row(steps: int = 1_000_000) -> None:
    """A sealed run of a million steps and eight layers, made of the recorded rows of a short one, then analysed."""
    from long_runs import begin

    from rhotrace.runfile.sealing import seal

    with tempfile.TemporaryDirectory() as folder:
        short, long = Path(folder) / "short.h5", Path(folder) / "long.h5"
        train(recipe.parse(RECIPE, ["steps=1000", "record.test_every=1"]), short, device="cpu")
        writer, block = begin(short, long, steps)
        for first in range(0, steps, 1000):
            writer.append(first, first + 1000, block)
        writer.commit(steps, {})
        began = time.perf_counter()
        writer.close()
        seal(long, {"ended": "finished"}, keep_state=False)
        sealing = time.perf_counter() - began
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "rhotrace", "analyze", str(long)], capture_output=True, check=True)
        took = time.perf_counter() - began
        size = long.stat().st_size / 1e6
    print(
        f"\nanalyze, {steps:,} steps x 8 layers: {took:.1f} s, process start included; file {size:.0f} MB, sealed in {sealing:.1f} s"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        peak(int(sys.argv[2]))
    else:
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, numpy {np.__version__}\n")
        overhead_rows()
        memory_row()
        analysis_row()
