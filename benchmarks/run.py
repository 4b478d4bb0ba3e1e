"""Everything about speed in one command: ``python benchmarks/run.py [--only PART,PART] [--steps N] [-o FOLDER]``.

First the limits of the machine, then RhoTrace beside what a user would do otherwise, alternately and in one process, then
what reads a run of a million steps, the start of each command, and how the cost grows. Writes ``speed.json``, ``speed.md``
and ``speed.png``; about six minutes on two free cores.

One thread. Ratios are of processor time, which other work on the machine disturbs less than the clock; whole processes are
timed by the clock too. A ratio above 1 means that RhoTrace takes longer.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import contextlib
import csv
import datetime
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import nn

from rhotrace.config import recipe
from rhotrace.config.recipe import Recipe
from rhotrace.runfile.reader import open_trace
from rhotrace.training.train import train

HERE = Path(__file__).resolve().parent
COMMANDS = ("train", "watch", "sweep", "analyze", "audit", "compare", "scaling", "simulate", "plot", "report", "info",
            "verify", "repair", "export", "quantities", "recipe", "study")  # fmt: skip
SECONDS = 0.4  # of one side of a pair, about
ROUNDS = 5
DEEP8 = """\
data: {dataset: mnist, classes: [0, 1], train: 400, test: 400}
network: {kind: mlp, depth: 8, width: 64}
init: {kind: equal-norms, rho_k: 3.5}
optimizer: {kind: gd, lr: 0.01}
steps: 1000
record: {snapshots: 2, test_every: 1000}
"""
SGD = "optimizer={kind: sgd, lr: 0.01, batch_size: 32}"
ONE_SAMPLE = 1000  # training samples in the rows "N = 1000"

Loop = Callable[[int], float]
Row = dict[str, Any]


# --- both sides of a pair: processor seconds of some steps -----------------------------------------------------


def traced(content: Recipe) -> Loop:
    """RhoTrace's loop with everything recorded and written, from the first step to the last block."""

    def go(steps: int) -> float:
        marks = [0.0, 0.0]
        with tempfile.TemporaryDirectory() as folder:
            train(
                content.model_copy(update={"steps": steps}),
                Path(folder) / "run.h5",
                device="cpu",
                begin=lambda _: marks.__setitem__(0, time.process_time()),
                watch=lambda _: marks.__setitem__(1, time.process_time()),
            )
        return marks[1] - marks[0]

    return go


def tensors(content: Recipe) -> tuple[torch.Tensor, torch.Tensor]:
    data = content.load_data()
    return torch.tensor(data.x, dtype=torch.float32), torch.tensor(data.y, dtype=torch.float32)


def module(content: Recipe, inputs: int) -> nn.Module:
    """The network as PyTorch's tutorials write it."""
    network = content.network
    if network.kind == "conv":
        channels = [3, *network.channels]
        layers: list[nn.Module] = [nn.Unflatten(1, (3, 32, 32))]
        for into, out in pairwise(channels):
            layers += [nn.Conv2d(into, out, network.kernel, network.stride, network.padding, bias=False), nn.ReLU()]
        layers += [nn.Flatten(), nn.LazyLinear(1, bias=False)]
        net = nn.Sequential(*layers)
        net(torch.zeros(1, inputs))
        return net
    sizes = [inputs, *[network.width] * (network.depth - 1), 1]
    layers = []
    for into, out in pairwise(sizes):
        layers += [nn.Linear(into, out, bias=False), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def bare(
    content: Recipe, log: Callable[[int, nn.Module, torch.Tensor, torch.Tensor, torch.Tensor], None] | None = None
) -> Loop:
    """The usual loop: ``nn.Sequential``, automatic gradients, ``torch.optim.SGD``; with a function that logs, or none."""
    x, y = tensors(content)
    batch, weight_norm = getattr(content.optimizer, "batch_size", None), content.optimizer.kind == "weight-norm"

    def go(steps: int) -> float:
        net = module(content, x.shape[1])
        if weight_norm:
            for layer in net:
                if isinstance(layer, nn.Linear):
                    nn.utils.parametrizations.weight_norm(layer, dim=None)
        optimizer = torch.optim.SGD(net.parameters(), lr=content.optimizer.lr)
        began = time.process_time()
        for step in range(steps):
            index = torch.randint(len(x), (batch,)) if batch else slice(None)
            xs, ys = (x[index], y[index]) if batch else (x, y)
            optimizer.zero_grad()
            outputs = net(xs)
            loss = ((outputs - ys) ** 2).mean()
            loss.backward()
            if log:
                log(step, net, outputs.detach(), ys, loss.detach())
            optimizer.step()
        return time.process_time() - began

    return go


def one_by_one(content: Recipe, members: int) -> Loop:
    """The bare loop for one network after another."""
    alone = bare(content)
    return lambda steps: sum(alone(steps) for _ in range(members))


def paired(ours: Loop, theirs: Loop, rounds: int = ROUNDS) -> Row:
    """Median and range of the ratio of two loops that take turns, and microseconds per step of each."""
    steps = 8
    while (took := max(ours(steps), theirs(steps))) < SECONDS / 4 and steps < 4000:
        steps = min(4000, int(steps * min(8.0, 1.2 * SECONDS / max(took, 1e-3))) + 1)
    pairs = [(ours(steps), theirs(steps)) for _ in range(rounds)]
    ratios = sorted(a / b for a, b in pairs)
    mine, other = (1e6 * statistics.median(p[k] for p in pairs) / steps for k in (0, 1))
    return {
        "ratio": statistics.median(ratios),
        "low": ratios[0],
        "high": ratios[-1],
        "us": mine,
        "us_other": other,
        "steps": steps,
    }


# --- limits --------------------------------------------------------------------------------------------------


def fastest(go: Callable[[], object], seconds: float = 0.5) -> float:
    """Processor seconds of the fastest of many calls."""
    go()
    best, until = np.inf, time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.process_time()
        go()
        best = min(best, time.process_time() - began)
    return float(best)


def limits() -> Row:
    """What one core of the machine can do: products of matrices in float32, and memory copied."""
    n = 1024
    A, B = torch.randn(n, n), torch.randn(n, n)
    found = {"torch product, GFLOP/s": 2e-9 * n**3 / fastest(lambda: A @ B)}
    a, b = A.numpy(), B.numpy()
    found["numpy product, GFLOP/s"] = 2e-9 * n**3 / fastest(lambda: a @ b)
    if torch.backends.mkldnn.is_available():
        one_dnn = torch.ops.mkldnn._linear_pointwise
        found["oneDNN product, GFLOP/s"] = 2e-9 * n**3 / fastest(lambda: one_dnn(A, B, None, "none", [], ""))
    big = torch.zeros(1 << 26)
    to = torch.empty_like(big)
    found["memory copied, GB/s"] = 2 * big.nbytes * 1e-9 / fastest(lambda: to.copy_(big))
    return found


def work(content: Recipe) -> tuple[float, float]:
    """Floating-point operations and bytes that a step cannot avoid: its products, and each weight read and written once.

    A full-set pass is counted wherever the recipe asks for one, by the plain product.
    """
    data = content.load_data()
    blocks = content.network.build(data.shape, data.y.shape[1]).blocks
    weights = [int(np.prod(block.shape)) for block in blocks]
    uses = [1] * len(blocks)
    if content.network.kind == "conv":  # each weight is used at every place of the image
        side = data.shape[1]
        for k in range(len(blocks) - 1):
            side = (side + 2 * content.network.padding - content.network.kernel) // content.network.stride + 1
            uses[k] = side * side
    products = [w * u for w, u in zip(weights, uses, strict=True)]
    members, size = len(content.seeds), getattr(content.optimizer, "batch_size", None)
    per_sample = 2 * (3 * sum(products) - products[0])  # forward, backward, and no gradient of the inputs
    flops = (size or len(data.x)) * per_sample
    if size:
        flops += len(data.x) * 2 * sum(products) / content.record.full_every
    return members * flops, members * 4 * 3 * sum(weights)


# --- the parts -----------------------------------------------------------------------------------------------


def images(folder: Path) -> list[str]:
    """Overrides for data of the shape of CIFAR-10: random, since the archives are not in the repository."""
    rng, y = np.random.default_rng(0), np.arange(600) % 2
    x = rng.standard_normal((600, 3, 32, 32)).astype(np.float32)
    np.savez(folder / "images.npz", x=x[:500], y=y[:500], x_test=x[500:], y_test=y[500:])
    return [f"data={{dataset: npz, file: images.npz, root: {folder}, train: 400, test: 100}}"]


def workloads(folder: Path) -> dict[str, list[str]]:
    rare, cifar = "record.full_every=1000000", images(folder)
    n1000 = f"data.train={ONE_SAMPLE}"
    return {
        "GD, L = 8, width 64, N = 400": [],
        "GD, L = 8, width 64, N = 1000": [n1000],
        "GD, L = 8, width 16": ["network.width=16"],
        "GD, L = 8, width 256": ["network.width=256"],
        "GD, L = 4, width 1024": ["network={kind: mlp, depth: 4, width: 1024}"],
        "weight norm, L = 8, width 64": ["optimizer={kind: weight-norm, lr: 0.01}"],
        "SGD, no full-set sums": [SGD, rare],
        "SGD, full-set sums every 10 steps": [SGD, "record.full_every=10"],
        "SGD, full-set sums every step": [SGD],
        "SGD, every step, first layer followed": [SGD, "record.every.first_layer=64"],
        "SGD, every step, N = 1000": [SGD, n1000],
        "SGD, every step, first layer followed, N = 1000": [SGD, n1000, "record.every.first_layer=64"],
        "GD, 3072 inputs, L = 4, width 128": [*cifar, "network={kind: mlp, depth: 4, width: 128}"],
        "SGD, 3072 inputs, every step": [*cifar, "network={kind: mlp, depth: 4, width: 128}", SGD],
        "SGD, 3072 inputs, first layer followed": [
            *cifar, "network={kind: mlp, depth: 4, width: 128}", SGD, "record.every.first_layer=64",
        ],
        "SGD, conv, no full-set sums": [*cifar, "network={kind: conv, channels: [16, 32]}", SGD, rare],
    }  # fmt: skip


def training(folder: Path, peak: float) -> Iterator[Row]:
    """RhoTrace beside the loop that records nothing."""
    for name, overrides in workloads(folder).items():
        content = recipe.parse(DEEP8, overrides)
        flops, size = work(content)
        found = paired(traced(content), bare(content))
        share = flops / (found["us"] * 1e3) / peak
        yield {"what": name, "beside": "bare loop", **found, "flops": flops, "bytes": size, "share_of_peak": share}


def _sums(net: nn.Module, outputs: torch.Tensor, ys: torch.Tensor, loss: torch.Tensor) -> dict[str, float]:
    """What people log at each step, as numbers: norms of weights and gradients, a, q, loss, error and smallest margin."""
    found = {}
    for k, layer in enumerate(layer for layer in net if isinstance(layer, nn.Linear)):
        found[f"rho_{k}"] = layer.weight.detach().double().norm().item()
        found[f"grad_{k}"] = layer.weight.grad.double().norm().item()
    margins = outputs * ys
    found |= {"a": margins.mean().item(), "q": outputs.square().mean().item(), "loss": loss.item()}
    return found | {"error": (margins <= 0).double().mean().item(), "margin": margins.min().item()}


Write = Callable[[int, dict[str, float]], object]


@contextlib.contextmanager
def as_list(_: Path) -> Iterator[Write]:
    kept: list[dict[str, float]] = []
    yield lambda _, row: kept.append(row)


@contextlib.contextmanager
def as_csv(folder: Path) -> Iterator[Write]:
    with (folder / "log.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        yield lambda _, row: (writer.writerow(row.values()), file.flush())


@contextlib.contextmanager
def as_hdf5(folder: Path) -> Iterator[Write]:
    with h5py.File(folder / "log.h5", "w") as log:

        def append(_: int, row: dict[str, float]) -> None:
            for name, value in row.items():
                if name not in log:
                    log.create_dataset(name, (0,), maxshape=(None,), chunks=(1024,), dtype="f8")
                log[name].resize(len(log[name]) + 1, axis=0)
                log[name][-1] = value

        yield append


@contextlib.contextmanager
def as_tensorboard(folder: Path) -> Iterator[Write]:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder / "board")) as board:
        yield lambda step, row: [board.add_scalar(name, value, step) for name, value in row.items()]


@contextlib.contextmanager
def as_lightning_csv(folder: Path) -> Iterator[Write]:
    from lightning.fabric.loggers import CSVLogger

    own = CSVLogger(str(folder), flush_logs_every_n_steps=1)
    yield lambda step, row: own.log_metrics(row, step)
    own.save()


@contextlib.contextmanager
def as_wandb(folder: Path) -> Iterator[Write]:
    """Offline; what its own process does is not counted."""
    import wandb

    own = wandb.init(project="speed", mode="offline", dir=str(folder), settings=wandb.Settings(silent=True))
    yield lambda _, row: own.log(row)
    own.finish()


TOOLS = {
    ".item() loop, numbers in a list": as_list,
    "CSV row per step": as_csv,
    "HDF5 append per step": as_hdf5,
    "TensorBoard per step": as_tensorboard,
    "Lightning CSVLogger per step": as_lightning_csv,
    "W&B offline per step": as_wandb,
}


def recorders(folder: Path) -> Iterator[Row]:
    """RhoTrace beside loops that record the same numbers at each step by other tools, as far as these are installed."""
    content = recipe.parse(DEEP8)
    ours = traced(content)
    for name, tool in TOOLS.items():
        try:
            with tool(folder) as write:

                def log(
                    step: int,
                    net: nn.Module,
                    outputs: torch.Tensor,
                    ys: torch.Tensor,
                    loss: torch.Tensor,
                    to: Write = write,
                ) -> None:
                    to(step, _sums(net, outputs, ys, loss))

                found = paired(ours, bare(content, log), rounds=3)
        except ImportError:
            continue
        yield {"what": "GD, L = 8, width 64, N = 400", "beside": name, **found}


def together(_: Path) -> Iterator[Row]:
    """Members side by side, beside the bare loop for one network after another."""
    for label, overrides, counts in (
        ("L = 3, width 16, N = 200", ["network={kind: mlp, depth: 3, width: 16}", "data.train=200"], (1, 16, 256)),
        ("L = 8, width 64, N = 400", [], (1, 16)),
    ):
        for members in counts:
            content = recipe.parse(DEEP8, [*overrides, f"members.seeds={members}"])
            found = paired(traced(content), one_by_one(content, members), rounds=3)
            yield {"what": f"GD, {label}, {members} members", "beside": "bare loop, one after another", **found}


def growth(_: Path) -> Iterator[Row]:
    """Exponents: by what power the time of a step grows when one size of the run grows."""
    axes = {
        "N": ("data.train={}", (200, 400, 800, 1600)),
        "width": ("network.width={}", (64, 128, 256, 512)),
        "depth": ("network.depth={}", (4, 8, 16, 32)),
        "members": ("members.seeds={}", (1, 2, 4, 8, 16)),
    }
    for name, (override, values) in axes.items():
        took, needed = [], []
        for value in values:
            content = recipe.parse(DEEP8, [override.format(value)])
            go, steps = traced(content), 10
            steps = max(10, int(0.3 / max(go(steps) / steps, 1e-5)))
            took.append(min(go(steps) / steps for _ in range(2)))
            needed.append(work(content)[0])
        slopes = [float(np.polyfit(np.log(values), np.log(y), 1)[0]) for y in (took, needed)]
        yield {
            "what": name,
            "values": list(values),
            "us": [1e6 * t for t in took],
            "exponent": slopes[0],
            "arithmetic": slopes[1],
        }
    go = traced(recipe.parse(DEEP8, ["network.width=16", "data.train=100"]))
    values = (1000, 2000, 4000, 8000)
    took = [go(steps) for steps in values]
    slope = float(np.polyfit(np.log(values), np.log(took), 1)[0])
    yield {"what": "steps", "values": list(values), "us": [1e6 * t for t in took], "exponent": slope, "arithmetic": 1.0}


# --- whole processes -------------------------------------------------------------------------------------------

CHILD = r"""
import re, resource, sys
from rhotrace.cli import app as cli
try:
    cli.main()
except SystemExit as left:
    assert not left.code
used = resource.getrusage(resource.RUSAGE_SELF)
peak = re.search(r"VmHWM:\s*(\d+)", open("/proc/self/status").read())[1]
print("USED", used.ru_utime + used.ru_stime, peak, file=sys.stderr)
"""


def process(*words: object) -> Row:
    """Seconds by the clock and of the processor, and peak memory, of one command in a process of its own."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", CHILD, *map(str, words)], capture_output=True, check=True, text=True)
    seconds = time.perf_counter() - began
    used = done.stderr.rpartition("USED ")[2].split()
    return {"seconds": seconds, "processor_seconds": float(used[0]), "peak_MB": float(used[1]) / 1024}


def starts(_: Path) -> Iterator[Row]:
    """The help of every command."""
    for words in ((), *((name,) for name in COMMANDS)):
        yield {
            "what": " ".join(("rhotrace", *words, "--help")),
            **min((process(*words, "--help") for _ in range(3)), key=lambda r: r["processor_seconds"]),
        }


def long_run(folder: Path, steps: int) -> Path:
    """A sealed run of 4 members and 8 layers, with noise on every number, so that it compresses as a real one."""
    from long_runs import begin

    from rhotrace.runfile.sealing import seal

    short, path, rng = folder / "short.h5", folder / "long.h5", np.random.default_rng(0)
    content = recipe.parse(DEEP8, ["members.seeds=4", "optimizer.lr=0.05", "data.train=100", "network.width=16",
                                   "init.rho_k=1.9", "steps=3000", "record={test_every: 1, snapshots: 0}"])  # fmt: skip
    train(content, short, device="cpu")
    writer, rows = begin(short, path, steps)
    noise = {name: 1 + 1e-3 * rng.standard_normal((20_000, *values.shape[1:])) for name, values in rows.items()}
    for first in range(0, steps, 20_000):
        at = np.arange(first, min(first + 20_000, steps)) * 3000 // steps
        writer.append(
            first,
            first + len(at),
            {n: v[at] * np.roll(noise[n], first // 20_000, axis=0)[: len(at)] for n, v in rows.items()},
        )
    writer.commit(steps, {})
    writer.close()
    seal(path, {"ended": "finished"}, keep_state=False)
    return path


def reading(folder: Path, steps: int) -> Iterator[Row]:
    """What reads a long run."""
    path = long_run(folder, steps)
    for words in (
        ("analyze", path, "--json"),
        ("plot", path, "--what", "rho", "-o", folder / "rho.png"),
        ("plot", path, "--what", "transient", "-o", folder / "transient.png"),
        ("report", path, "-o", folder / "report.html"),
    ):
        what = " ".join(str(word) for word in words[:3] if not str(word).startswith(("/", "-"))) + (
            f" {words[3]}" if words[0] == "plot" else ""
        )
        yield {
            "what": f"{what}: {steps:,} steps, L = 8, 4 members, {path.stat().st_size / 1e6:.0f} MB",
            **process(*words),
        }


def files(folder: Path) -> Iterator[Row]:
    """Size of a finished run beside its raw numbers compressed by zlib, and memory of a long training beside a short."""
    path = folder / "size.h5"
    train(
        recipe.parse(DEEP8, ["members.seeds=4", "steps=3000", "network.width=16", "record.snapshots=0"]),
        path,
        device="cpu",
    )
    packed = 0
    with open_trace(path) as trace:
        for quantity in trace.quantities:
            raw = np.ascontiguousarray(trace[quantity.name])
            packed += len(zlib.compress(np.frombuffer(raw.tobytes(), np.uint8).reshape(-1, 8).T.tobytes(), 6))
        packed += sum(len(zlib.compress(W.tobytes())) for tensors in trace.state().values() for W in tensors)
    yield {
        "what": "file size",
        "beside": "raw numbers, bytes shuffled, zlib",
        "ratio": path.stat().st_size / packed,
        "MB": path.stat().st_size / 1e6,
    }
    own = folder / "own.yaml"
    own.write_text(DEEP8)
    small = ("--set", "network.width=8", "--set", "data.train=100")
    peaks = [
        process("train", own, "-o", folder / f"{n}.h5", "--set", f"steps={n}", *small)["peak_MB"] for n in (3000, 12000)
    ]
    yield {"what": "peak memory of 12,000 steps", "beside": "3,000 steps", "ratio": peaks[1] / peaks[0], "MB": peaks[1]}


# --- the result ----------------------------------------------------------------------------------------------


def machine() -> Row:
    names = ("rhotrace", "torch", "numpy", "h5py", "tensorboard", "lightning", "wandb", "jax")
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    cpu = platform.processor()
    if (info := Path("/proc/cpuinfo")).exists():
        cpu = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), cpu)
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "processor": cpu,
        "cores": os.cpu_count(),
        "load_at_start": os.getloadavg()[0],
        "python": platform.python_version(),
        "packages": found,
    }


def markdown(result: Row) -> str:
    """The tables."""
    of = result["machine"]
    packages = ", ".join(f"{name} {which}" for name, which in of["packages"].items())
    lines = [
        "# Speed\n",
        f"Written by `python benchmarks/run.py` on {of['date']}: {of['processor']}, {of['cores']} cores, one thread, load "
        f"{of['load_at_start']:.1f} at the start; Python {of['python']}, {packages}.\n",
        "Ratios are of processor time, median (range), RhoTrace over the other; below 1, RhoTrace is faster.\n",
    ]
    if result.get("cut_short"):
        lines.append(f"Out of time in: {', '.join(result['cut_short'])}. `--minutes` gives it more.\n")
    if limit := result.get("limits"):
        lines += [
            "| limit of one core | |",
            "|---|---|",
            *(f"| {name} | {value:.1f} |" for name, value in limit.items()),
            "",
        ]
    for part in ("training", "recorders", "together"):
        if rows := result.get(part):
            lines += [
                "| RhoTrace, everything recorded | beside | ratio | microseconds a step | the other's | share of product peak |",
                "|---|---|---|---|---|---|",
            ]
            for r in rows:
                share = f"{100 * r['share_of_peak']:.0f} %" if "share_of_peak" in r else ""
                lines.append(
                    f"| {r['what']} | {r['beside']} | {r['ratio']:.2f} ({r['low']:.2f}–{r['high']:.2f}) | {r['us']:.0f} | {r['us_other']:.0f} | {share} |"
                )
            lines.append("")
    if rows := result.get("growth"):
        lines += ["| cost of a step grows with | exponent | that of its products | measured at |", "|---|---|---|---|"]
        lines += [
            f"| {r['what']} | {r['exponent']:.2f} | {r['arithmetic']:.2f} | {', '.join(map(str, r['values']))} |"
            for r in rows
        ] + [""]
    for part in ("reading", "starts"):
        if rows := result.get(part):
            lines += ["| command | seconds | processor seconds | peak MB |", "|---|---|---|---|"]
            lines += [
                f"| {r['what']} | {r['seconds']:.2f} | {r['processor_seconds']:.2f} | {r['peak_MB']:.0f} |"
                for r in rows
            ] + [""]
    if rows := result.get("files"):
        lines += ["| what | beside | ratio | MB |", "|---|---|---|---|"]
        lines += [f"| {r['what']} | {r['beside']} | {r['ratio']:.2f} | {r['MB']:.1f} |" for r in rows] + [""]
    return "\n".join(lines)


def figure(result: Row, path: Path) -> None:
    """The ratios, on a logarithmic axis."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = [r for part in ("training", "recorders", "together") for r in result.get(part, [])]
    if not rows:
        return
    drawn, axis = plt.subplots(figsize=(7.5, 0.5 + 0.24 * len(rows)), layout="constrained")
    places = range(len(rows), 0, -1)
    ends = [[r["ratio"] - r["low"] for r in rows], [r["high"] - r["ratio"] for r in rows]]
    axis.errorbar([r["ratio"] for r in rows], places, xerr=ends, fmt="o", markersize=4, capsize=2)
    axis.axvline(1, color="0.5", linewidth=0.8)
    axis.set_yticks(list(places), [f"{r['what']}, beside: {r['beside']}" for r in rows], fontsize=6)
    axis.set(xscale="log", xlabel="processor time of RhoTrace / of the other")
    drawn.savefig(path, dpi=150)


def main() -> None:
    parts = {"training": training, "recorders": recorders, "together": together, "starts": starts, "files": files,
             "reading": reading, "growth": growth}  # fmt: skip
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--only", default=",".join(parts), help="parts, with commas: " + ", ".join(parts))
    words.add_argument("--steps", type=int, default=1_000_000, help="of the run that the part reading makes")
    words.add_argument("--minutes", type=float, default=6.5, help="after which no further row is begun")
    words.add_argument("-o", "--output", type=Path, default=HERE, help="folder of speed.json, speed.md and speed.png")
    asked = words.parse_args()
    torch.set_num_threads(1)
    result: Row = {"machine": machine(), "limits": limits()}
    peak = result["limits"]["torch product, GFLOP/s"]
    began = time.perf_counter()
    asked.output.mkdir(parents=True, exist_ok=True)
    for name in asked.only.split(","):
        more = {"training": (peak,), "reading": (asked.steps,)}.get(name, ())
        rows = result[name] = []
        with tempfile.TemporaryDirectory() as folder:
            for row in parts[name](Path(folder), *more) if time.perf_counter() - began < 60 * asked.minutes else ():
                rows.append(row)
                told = row.get("ratio", row.get("exponent", row.get("seconds")))
                print(
                    f"{time.perf_counter() - began:4.0f} s  {name}: {row['what']}, {row.get('beside', '')} {told:.2f}",
                    flush=True,
                )
                if time.perf_counter() - began > 60 * asked.minutes:
                    result.setdefault("cut_short", []).append(name)
                    break
            else:
                if not rows:
                    result.setdefault("cut_short", []).append(name)
        (asked.output / "speed.json").write_text(json.dumps(result, indent=1) + "\n")
        (asked.output / "speed.md").write_text(markdown(result))
    figure(result, asked.output / "speed.png")


if __name__ == "__main__":
    main()
