"""What recording a training loop of one's own costs, beside other ways to log it: CPU time over that of the bare loop.

    python benchmarks/own_loop.py [--turns 40] [--steps 20] [--only WORDS] [--write benchmarks/own_loop]

The network is that of ``recipes/deep8.yaml`` (eight layers of width 64, 400 samples of dimension 784), trained by full-batch
gradient descent and by SGD with minibatches of 32, on one thread. Each way to log takes turns with the bare loop, on the same
network in one process: a short burst of steps each. The figures are the median over the turns of the ratio of CPU times, with
its quartiles, and the ratio of the sums over all turns, which contains what is written once a second. One way is the
bare loop itself; how far its figures are from 1 shows how far the others can be trusted. ``--write`` saves the figures as NAME.json and
as a table, NAME.md. A way whose package is missing is left out, with the reason.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn

import rhotrace
from rhotrace.own_loop.layer_norms import norms_of

SAMPLES, WARMUP = 400, 4  # turns that do not count
MODES = {"GD, N = 400": None, "SGD, batch 32": 32}
NORMS = {"loss": None, "gradients": False, "updates": False}


@dataclass
class Logged:
    """How a loop is logged.

    Attributes:
        optimizer: that it steps with.
        after: called after each step with the loss, the outputs and the targets.
        backward: the backward pass.
    """

    optimizer: torch.optim.Optimizer
    after: Callable[..., object]
    backward: Callable[[torch.Tensor], None] = torch.Tensor.backward


class Loop:
    """A training loop; the bare and the logged turns train the same network."""

    def __init__(self, batch: int | None) -> None:
        torch.manual_seed(0)
        sizes = [784, *[64] * 7, 1]
        layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b, bias=False), nn.ReLU())][:-1]
        self.net, self.batch = nn.Sequential(*layers), batch
        with torch.no_grad():
            for W in self.net.parameters():
                W.mul_(3.5 / W.norm())
        x = torch.randn(SAMPLES, 784)
        self.x, self.y = x / x.norm(dim=1, keepdim=True), x[:, :1].sign()
        self.order = torch.randperm(SAMPLES)

    def optimizer(self) -> torch.optim.Optimizer:
        """Plain SGD, which has no state: every way has one of its own."""
        return torch.optim.SGD(self.net.parameters(), lr=0.03)

    def logged(self, after: Callable[..., object]) -> Logged:
        """Logged after each step, and no further."""
        return Logged(self.optimizer(), after)

    def norms(self, **how: Any) -> list[float]:  # noqa: ANN401 - of ``vector_norm``
        """The norms of the layers as numbers."""
        return [torch.linalg.vector_norm(W.detach(), **how).item() for W in self.net.parameters()]

    def run(self, steps: int, way: Logged) -> None:
        """A burst of steps."""
        for step in range(steps):
            x, y = self.x, self.y
            if self.batch:
                first = step * self.batch % (SAMPLES - self.batch)
                chosen = self.order[first : first + self.batch]
                x, y = x[chosen], y[chosen]
            way.optimizer.zero_grad()
            g = self.net(x)
            loss = (g - y).square().mean()
            way.backward(loss)
            way.optimizer.step()
            way.after(loss, g, y)


def nothing(*_: object) -> None:
    """The bare loop."""


@contextmanager
def bare(loop: Loop, _: Path) -> Iterator[Logged]:
    yield loop.logged(nothing)


@contextmanager
def recorded(loop: Loop, folder: Path, **how: Any) -> Iterator[Logged]:  # noqa: ANN401 - of ``record``
    give = how.get("loss", "square") is not None
    if give and loop.batch is None:
        how = {**how, "full_batch": True}
    optimizer = loop.optimizer()
    with rhotrace.record(folder / "run.h5", loop.net, optimizer, steps=100_000, **how) as trace:
        yield Logged(optimizer, (lambda _, g, y: trace.step(g, y)) if give else (lambda *_: trace.step()))


@contextmanager
def thrown_away(loop: Loop, _: Path) -> Iterator[Logged]:
    parameters = list(loop.net.parameters())
    norms, untraced = norms_of([(W,) for W in parameters]), torch.no_grad()

    def after(*_: object) -> None:
        with untraced:
            norms(parameters)

    yield loop.logged(after)


@contextmanager
def lists(loop: Loop, _: Path, **how: Any) -> Iterator[Logged]:  # noqa: ANN401 - of ``vector_norm``
    kept: list[list[float]] = []
    yield loop.logged(lambda *_: kept.append(loop.norms(**how)))


@contextmanager
def tensorboard(loop: Loop, folder: Path) -> Iterator[Logged]:
    from torch.utils.tensorboard import SummaryWriter

    writer, steps = SummaryWriter(str(folder / "tensorboard")), count()

    def after(*_: object) -> None:
        step = next(steps)
        for k, norm in enumerate(loop.norms()):
            writer.add_scalar(f"rho/{k}", norm, step)

    yield loop.logged(after)
    writer.close()


@contextmanager
def wandb(loop: Loop, folder: Path) -> Iterator[Logged]:
    import wandb as package

    run = package.init(mode="offline", dir=str(folder), settings=package.Settings(silent=True, console="off"))
    yield loop.logged(lambda *_: run.log({f"rho/{k}": norm for k, norm in enumerate(loop.norms())}))
    run.finish()


@contextmanager
def lightning(loop: Loop, folder: Path) -> Iterator[Logged]:
    from lightning.pytorch.loggers import CSVLogger

    logger, steps = CSVLogger(str(folder), name="csv", flush_logs_every_n_steps=1000), count()
    yield loop.logged(
        lambda *_: logger.log_metrics({f"rho/{k}": norm for k, norm in enumerate(loop.norms())}, step=next(steps))
    )
    logger.finalize("success")


@contextmanager
def cockpit(loop: Loop, _: Path) -> Iterator[Logged]:
    import cockpit as package

    warnings.simplefilter("ignore")
    pit, steps = (
        package.Cockpit(loop.net.parameters(), quantities=[package.quantities.GradNorm(lambda _: True)]),
        count(),
    )
    optimizer = loop.optimizer()

    def backward(loss: torch.Tensor) -> None:
        step = next(steps)
        with pit(step, info={"batch_size": loop.batch or SAMPLES, "loss": loss, "optimizer": optimizer}):
            loss.backward(create_graph=pit.create_graph(step))

    yield Logged(optimizer, nothing, backward)


@dataclass(frozen=True)
class Way:
    """A row of the table.

    Attributes:
        package: that it needs.
        begin: a context manager whose value is the ``Logged`` loop.
        how: arguments of ``begin``.
    """

    package: str
    begin: Callable[..., Any]
    how: dict[str, Any]


WAYS = {
    "the bare loop against itself": Way("torch", bare, {}),
    "norms in float64, thrown away": Way("torch", thrown_away, {}),
    "`rhotrace.record`, norms alone (float64)": Way("torch", recorded, NORMS),
    "`rhotrace.record`, norms and gradients": Way("torch", recorded, {**NORMS, "gradients": True}),
    "`rhotrace.record`, also the sums over outputs": Way("torch", recorded, {"updates": False}),
    "`rhotrace.record`, also updates (default)": Way("torch", recorded, {}),
    "`.item()` lists, norms in float64": Way("torch", lists, {"dtype": torch.float64}),
    "`.item()` lists, norms in float32": Way("torch", lists, {}),
    "TensorBoard, norms in float32": Way("tensorboard", tensorboard, {}),
    "W&B offline, norms in float32": Way("wandb", wandb, {}),
    "Lightning's CSVLogger, norms in float32": Way("lightning", lightning, {}),
    "cockpit, gradient norms in float32": Way("cockpit", cockpit, {}),
}


def measured(way: Way, batch: int | None, turns: int, steps: int) -> dict[str, float]:
    """CPU time of bursts of steps that are logged over that of bare ones, in turns."""
    loop = Loop(batch)
    plain = loop.logged(nothing)
    took: dict[str, list[float]] = {"bare": [], "logged": []}
    with tempfile.TemporaryDirectory() as folder, way.begin(loop, Path(folder), **way.how) as logged:
        for turn in range(turns + WARMUP):
            pair = [("bare", plain), ("logged", logged)]
            for name, one in pair if turn % 2 else reversed(pair):
                began = time.process_time()
                loop.run(steps, one)
                took[name].append(time.process_time() - began)
    a, b = (np.array(took[name][WARMUP:]) for name in ("bare", "logged"))
    low, middle, high = map(float, np.quantile(b / a, [0.25, 0.5, 0.75]))
    return {
        "median": middle,
        "low": low,
        "high": high,
        "of_sums": float(b.sum() / a.sum()),
        "bare_us": float(np.quantile(a, 0.1)) / steps * 1e6,
        "logged_us": float(np.quantile(b, 0.1)) / steps * 1e6,
    }


PARTS = {
    "the hook, all of it": ("trace", "before_step"),
    "… norms": ("trace._probe", "_norms_of_weights"),
    "… learning rates": ("trace._probe", "rates"),
    "`trace.step`, all of it": ("trace", "step"),
    "… the row": ("trace._rows", "add"),
    "… what is written once a second": ("trace", "flush"),
}


def profile(batch: int | None, steps: int) -> dict[str, float]:
    """Microseconds for each step of the parts of a recording of the norms alone: the 10 % quantile; of what is written, the mean."""
    took: dict[str, list[float]] = {name: [] for name in PARTS}
    loop = Loop(batch)
    optimizer = loop.optimizer()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        trace = rhotrace.record(Path(folder) / "run.h5", loop.net, optimizer, steps=100_000, **NORMS)
        for name, (owner, attribute) in PARTS.items():
            where = owner
            if isinstance(owner, str):
                where = trace
                for part in owner.split(".")[1:]:
                    where = getattr(where, part)
            original = getattr(where, attribute)
            stack.callback(setattr, where, attribute, original)
            setattr(where, attribute, _timed(original, took[name], cpu=attribute == "flush"))
        stack.enter_context(trace)
        loop.run(steps, Logged(optimizer, lambda *_: trace.step()))
    rows = trace.steps - steps // 10
    return {
        name: (sum(each[1:]) / rows if "once a second" in name else float(np.quantile(each[steps // 10 :], 0.1))) * 1e6
        for name, each in took.items()
    }


def _timed(call: Callable[..., Any], took: list[float], *, cpu: bool) -> Callable[..., Any]:
    clock = time.process_time if cpu else time.perf_counter

    def timed(*given: Any, **named: Any) -> Any:  # noqa: ANN401 - of ``call``
        began = clock()
        found = call(*given, **named)
        took.append(clock() - began)
        return found

    return timed


def machine() -> dict[str, str]:
    """Where and with what the figures were measured."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    packages = ("torch", "numpy", "tensorboard", "wandb", "lightning", "cockpit-for-pytorch")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages if _installed(name)]
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "processor": f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, one thread",
        "load": f"{os.getloadavg()[0]:.1f}",
        "versions": f"Python {platform.python_version()}, {', '.join(versions)}",
    }


def _installed(package: str) -> bool:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return bool(importlib.metadata.version(package))
    return False


def table(found: dict[str, Any]) -> str:
    """The figures in Markdown."""
    facts, turns = found["machine"], found["turns"]
    command = f"python benchmarks/own_loop.py --turns {turns} --steps {found['steps']} --write benchmarks/own_loop"
    lines = [
        "# What recording a loop of one's own costs",
        "",
        f"Written by `{command}`: CPU time of the logged loop over that of the bare one,",
        f"in {turns} turns of {found['steps']} steps (under SGD four times as many) on the network of `recipes/deep8.yaml`.",
        "",
        "- A cell is the median of the ratio [its quartiles], and behind it the ratio of the sums over all turns.",
        "- The first row is the bare loop against itself: figures that differ by less than its quartiles do not differ.",
        "- W&B also works in a process of its own, whose time is not counted.",
        "- cockpit has no quantity for the norms of weights; its nearest one, `GradNorm`, was measured.",
        f"- {facts['date']}; {facts['processor']}; load of the machine at the start {facts['load']}.",
        f"- {facts['versions']}.",
        "",
        f"| logged | {' | '.join(MODES)} |",
        "|---" * (1 + len(MODES)) + "|",
    ]
    for name, cells in found["ways"].items():
        shown = [
            cell
            if isinstance(cell, str)
            else f"{cell['median']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}], {cell['of_sums']:.3f}"
            for cell in cells.values()
        ]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    if found["profile"]:
        lines += [
            "",
            "Parts of `record` for the norms alone: microseconds for each step in the loop, below which a tenth of the steps stay.",
            "What is written once a second is a mean; the busier the machine, the fewer steps a second has.",
            "",
        ]
        lines += [f"| part | {' | '.join(MODES)} |", "|---" * (1 + len(MODES)) + "|"]
        for part in PARTS:
            cells = [f"{found['profile'][mode][part]:.1f}" for mode in MODES]
            lines.append(f"| {part} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--turns", type=int, default=40)
    options.add_argument("--steps", type=int, default=20, help="of each turn; under SGD four times as many")
    options.add_argument("--only", default="", help="ways whose name contains this")
    options.add_argument("--write", default="", metavar="NAME", help="save NAME.json and NAME.md")
    chosen = options.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    found: dict[str, Any] = {
        "machine": machine(),
        "turns": chosen.turns,
        "steps": chosen.steps,
        "ways": {},
        "profile": {},
    }
    for name, way in WAYS.items():
        if chosen.only not in name:
            continue
        if importlib.util.find_spec(way.package) is None:
            found["ways"][name] = dict.fromkeys(MODES, f"left out: {way.package} is not installed")
        else:
            found["ways"][name] = {
                mode: measured(way, batch, chosen.turns, chosen.steps * (4 if batch else 1))
                for mode, batch in MODES.items()
            }
        print(name, found["ways"][name], flush=True)
    if not chosen.only:
        found["profile"] = {mode: profile(batch, 3000 if batch else 800) for mode, batch in MODES.items()}
    print(table(found))
    if chosen.write:
        Path(f"{chosen.write}.json").write_text(json.dumps(found, indent=1) + "\n")
        Path(f"{chosen.write}.md").write_text(table(found))


if __name__ == "__main__":
    main()
