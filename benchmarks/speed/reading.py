"""What reads long runs: analysis, figures and the report; and the size of a run file."""

from __future__ import annotations

import shutil
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from rhotrace.config import recipe
from rhotrace.runfile.reader import open_trace
from rhotrace.runfile.sealing import seal
from rhotrace.training.train import train

from .long_runs import begin
from .measure import Effort, Row, process, rhotrace
from .workloads import DEEP8

SHORT = 2000  # steps of the run whose rows are stretched
BLOCK = 20_000
UNITS = {"seconds": "s", "peak_MB": "MB"}
Asked = dict[str, tuple[tuple[object, ...], Row]]  # label: words of the command, and its goals
LEAVES = ("network.depth=3", "init.rho_k=0.5", "optimizer.lr=0.1")  # its members leave the transient
PICTURES = ("rho", "layers", "margins", "loss", "fluctuation", "transient")


def long_run(folder: Path, steps: int, *overrides: str) -> Path:
    """A sealed run whose rows are those of a short one, stretched, with noise that lets it compress as a real one does."""
    short, path, rng = folder / "short.h5", folder / f"{steps}.h5", np.random.default_rng(0)
    small = ("optimizer.lr=0.05", "data={dataset: mnist, classes: [0, 1], train: 100, test: 20}", "network.width=16",
             "init.rho_k=1.9", f"steps={SHORT}", "record={test_every: 1, snapshots: 0}")  # fmt: skip
    train(recipe.parse(DEEP8, [*small, *overrides]), short, device="cpu", force=True)
    writer, rows = begin(short, path, steps)
    noise = {name: 1 + 1e-3 * rng.standard_normal((BLOCK, *values.shape[1:])) for name, values in rows.items()}
    for first in range(0, steps, BLOCK):
        at = np.arange(first, min(first + BLOCK, steps)) * SHORT // steps
        block = {n: v[at] * np.roll(noise[n], first // BLOCK, axis=0)[: len(at)] for n, v in rows.items()}
        writer.append(first, first + len(at), block)
    writer.commit(steps, {})
    writer.close()
    seal(path, {"ended": "finished"}, keep_state=False)
    return path


def read_all() -> None:
    """Reads every number of a run file, and keeps none."""
    with h5py.File(sys.argv[1]) as file:

        def read(_: str, item: object) -> None:
            if isinstance(item, h5py.Dataset) and item.shape:
                for slab in item.iter_chunks() if item.chunks else [()]:
                    item[slab]

        file.visititems(read)


def reading(folder: Path, effort: Effort) -> Iterator[Row]:
    """Analysis, audit, figures and report of runs of a million steps; analysis of one of deep8's length."""
    four = ("members.seeds=4",)
    short = long_run(folder, SHORT if effort.quick else 8000, *four)
    fit = {"analyze --fit-transient": (("analyze", short, "--fit-transient"), {"seconds": 1.0})}
    yield from _commands(short, "L = 8, 4 members", fit)
    if effort.quick:
        return
    path = long_run(folder, effort.long, *four)
    asked: Asked = {
        "analyze": (("analyze", path), {"seconds": 2.0, "peak_MB": 300.0}),
        "plot rho": (("plot", path, "--what", "rho", "-o", folder / "rho.png"), {}),
        "plot transient": (("plot", path, "--what", "transient", "-o", folder / "transient.png"), {}),
        "audit": (("audit", path), {}),
        "report": (("report", path, "-o", folder / "report.html"), {}),
    }
    yield from _commands(path, "L = 8, 4 members", asked)
    (other := folder / "three-layers").mkdir(exist_ok=True)
    path = long_run(other, effort.long, *four, *LEAVES)
    copy = Path(shutil.copy(path, other / "copy.h5"))
    yield from _commands(path, "L = 3, 4 members", {"compare with a copy": (("compare", path, copy), {})})


def pictures(folder: Path, effort: Effort) -> Iterator[Row]:
    """Each picture of a run of ten million steps."""
    path = long_run(folder, effort.longest, "members.seeds=1", *LEAVES)
    asked: Asked = {
        f"plot {kind}": (
            ("plot", path, "--what", kind, "-o", folder / f"{kind}.png"),
            {"seconds": 10.0, "peak_MB": 1000.0},
        )
        for kind in (PICTURES[:1] if effort.quick else PICTURES)
    }
    yield from _commands(path, "L = 3, 1 member", asked)


def _commands(path: Path, size: str, asked: Asked) -> Iterator[Row]:
    """A row for each command, after one for a process that only reads the file."""
    with open_trace(path) as trace:
        of = f"{trace.steps:,} steps, {size}, {path.stat().st_size / 1e6:.0f} MB"
    floor = process("speed.reading:read_all", path)
    yield {"what": f"h5py reads every number: {of}", **floor}
    for label, (words, goal) in asked.items():
        row = {"what": f"{label}: {of}", "goal": goal, "limit_seconds": floor["seconds"], **rhotrace(*words)}
        missed = [f"{row[what]:.1f} {UNITS[what]} (goal {most:g})" for what, most in goal.items() if row[what] > most]
        if missed:
            row["why"] = (
                f"{' and '.join(missed)}; {row['processor_seconds']:.1f} s are of the processor. A process that only reads "
                f"every number by h5py takes {floor['seconds']:.1f} s and {floor['peak_MB']:.0f} MB."
            )
        yield row


def size(folder: Path, effort: Effort) -> Iterator[Row]:
    """Size of a finished run beside its raw numbers compressed."""
    path, steps = folder / "size.h5", 20 if effort.quick else 3000
    asked = ["members.seeds=4", f"steps={steps}", "network.width=16", "record.snapshots=0"]
    train(recipe.parse(DEEP8, asked), path, device="cpu")
    packed = 0
    with open_trace(path) as trace:
        for quantity in trace.quantities:
            raw = np.ascontiguousarray(trace[quantity.name])
            packed += len(zlib.compress(np.frombuffer(raw.tobytes(), np.uint8).reshape(-1, 8).T.tobytes(), 6))
        packed += sum(len(zlib.compress(W.tobytes())) for tensors in trace.state().values() for W in tensors)
    stored: list[int] = []

    def count(_: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            stored.append(item.id.get_storage_size())

    with h5py.File(path) as file:
        file.visititems(count)
    whole = path.stat().st_size
    row = {
        "what": f"file size, {steps:,} steps, L = 8, 4 members",
        "beside": "raw numbers, bytes shuffled, zlib",
        "goal": 1.3,
    }
    row |= {"ratio": whole / packed, "MB": whole / 1e6}
    if row["ratio"] > row["goal"]:
        row["why"] = (
            f"of {whole / 1e6:.2f} MB, the stored numbers are {sum(stored) / 1e6:.2f} MB ({packed / 1e6:.2f} MB by zlib); the rest "
            "is the file's own structure, which does not grow with the steps."
        )
    yield row
