"""What recording a training loop of one's own costs, beside other ways to log it: CPU time over that of the bare loop.

    python benchmarks/own_loop.py [--rounds 40] [--steps 60]

The network is that of ``recipes/deep8.yaml`` (eight layers of width 64, 400 samples of dimension 784), trained by full-batch
gradient descent and by SGD with minibatches of 32. Each way runs in turns with the bare loop in one process, a burst of steps
each; the figure is the median over the turns of the ratio of CPU times, with its quartiles. A way whose package is missing is
left out, with the reason.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn

import rhotrace

Step = Callable[[Callable[..., None]], None]


class Loop:
    """A training loop, and what it shows to a way of logging after each step."""

    def __init__(self, batch: int | None) -> None:
        torch.manual_seed(0)
        sizes = [784, *[64] * 7, 1]
        layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b, bias=False), nn.ReLU())][:-1]
        self.net, self.batch = nn.Sequential(*layers), batch
        with torch.no_grad():
            for W in self.net.parameters():
                W.mul_(3.5 / W.norm())
        x = torch.randn(400, 784)
        self.x, self.y = x / x.norm(dim=1, keepdim=True), x[:, :1].sign()
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.03)
        self.order = torch.randperm(400)

    def run(self, steps: int, after: Callable[..., None]) -> None:
        """A burst of steps, with something after each."""
        for step in range(steps):
            x, y = self.x, self.y
            if self.batch:
                first = step * self.batch % (400 - self.batch)
                chosen = self.order[first : first + self.batch]
                x, y = x[chosen], y[chosen]
            self.optimizer.zero_grad()
            g = self.net(x)
            loss = (g - y).square().mean()
            loss.backward()
            self.optimizer.step()
            after(loss, g, y)


def nothing(*_: object) -> None:
    """The bare loop."""


@contextmanager
def recorded(loop: Loop, folder: Path, **how: Any) -> Iterator[Callable[..., None]]:  # noqa: ANN401 - of ``record``
    give = how.get("loss", "square") is not None
    with rhotrace.record(folder / f"{time.monotonic_ns()}.h5", loop.net, loop.optimizer, steps=100_000, **how) as trace:
        yield (lambda _, g, y: trace.step(g, y)) if give else (lambda *_: trace.step())


@contextmanager
def lists(loop: Loop, _: Path) -> Iterator[Callable[..., None]]:
    kept: list[list[float]] = []
    yield lambda *_: kept.append([W.detach().norm().item() for W in loop.net.parameters()])


@contextmanager
def tensorboard(loop: Loop, folder: Path) -> Iterator[Callable[..., None]]:
    from torch.utils.tensorboard import SummaryWriter

    writer, count = SummaryWriter(str(folder / "tensorboard")), iter(range(10**9))

    def after(*_: object) -> None:
        step = next(count)
        for k, W in enumerate(loop.net.parameters()):
            writer.add_scalar(f"rho/{k}", W.detach().norm().item(), step)

    yield after
    writer.close()


@contextmanager
def wandb(loop: Loop, folder: Path) -> Iterator[Callable[..., None]]:
    import wandb as package

    run = package.init(mode="offline", dir=str(folder), settings=package.Settings(silent=True, console="off"))
    yield lambda *_: run.log({f"rho/{k}": W.detach().norm().item() for k, W in enumerate(loop.net.parameters())})
    run.finish()


@contextmanager
def lightning(loop: Loop, folder: Path) -> Iterator[Callable[..., None]]:
    from lightning.pytorch.loggers import CSVLogger

    logger, count = CSVLogger(str(folder), name="csv", flush_logs_every_n_steps=1000), iter(range(10**9))

    def after(*_: object) -> None:
        values = {f"rho/{k}": W.detach().norm().item() for k, W in enumerate(loop.net.parameters())}
        logger.log_metrics(values, step=next(count))

    yield after
    logger.finalize("success")


WAYS: dict[str, tuple[str, Callable[..., Any], dict[str, Any]]] = {
    "record, norms alone": ("torch", recorded, {"loss": None, "gradients": False, "updates": False}),
    "record, norms and gradients": ("torch", recorded, {"loss": None, "updates": False}),
    "record, also outputs": ("torch", recorded, {"updates": False}),
    "record, also updates": ("torch", recorded, {}),
    ".item() lists, norms": ("torch", lists, {}),
    "TensorBoard, norms": ("tensorboard", tensorboard, {}),
    "W&B offline, norms": ("wandb", wandb, {}),
    "Lightning CSVLogger, norms": ("lightning", lightning, {}),
    "cockpit": ("cockpit", nothing, {}),
}


def ratios(way: Callable[..., Any], how: dict[str, Any], batch: int | None, rounds: int, steps: int) -> list[float]:
    """CPU time of a burst of steps that is logged over that of a bare one, in turns."""
    bare, loop = Loop(batch), Loop(batch)
    if batch is None and how.get("loss", "square") is not None and way is recorded:
        how = {**how, "full_batch": True}
    found = []
    with tempfile.TemporaryDirectory() as folder, way(loop, Path(folder), **how) as after:
        for turn in range(rounds + 2):
            took = {}
            for one, call in ((bare, nothing), (loop, after)) if turn % 2 else ((loop, after), (bare, nothing)):
                began = time.process_time()
                one.run(steps, call)
                took[one] = time.process_time() - began
            if turn > 1:  # the first turns warm up
                found.append(took[loop] / took[bare])
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=40)
    options.add_argument("--steps", type=int, default=60)
    options.add_argument("--only", default="", help="ways whose name contains this")
    chosen = options.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    print(
        f"torch {torch.__version__}, {chosen.rounds} turns of {chosen.steps} steps; ratio of CPU times: median [quartiles]"
    )
    print(f"{'':30}{'GD, N = 400':>24}{'SGD, batch 32':>24}")
    for name, (package, way, how) in WAYS.items():
        if chosen.only not in name:
            continue
        if importlib.util.find_spec(package) is None or way is nothing:
            print(f"{name:30}  left out: {package} is not installed or has no interface to this loop")
            continue
        cells = []
        for batch in (None, 32):
            low, middle, high = np.quantile(
                ratios(way, dict(how), batch, chosen.rounds, chosen.steps), [0.25, 0.5, 0.75]
            )
            cells.append(f"{middle:.3f} [{low:.3f}, {high:.3f}]")
        print(f"{name:30}{cells[0]:>24}{cells[1]:>24}", flush=True)


if __name__ == "__main__":
    main()
