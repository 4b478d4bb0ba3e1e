"""Exports a run to the formats of other tools: a table with a row for each step and member, a netCDF file, or logs.

In the table, a quantity with a layer or quantile axis becomes a column for each (``rho_k_1``, ``margin_quantile_0.5``).
Quantities that are evaluated at a stride are empty between their evaluations.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rhotrace.analysis.run_series import require_steps
from rhotrace.errors import RhoTraceError, choice
from rhotrace.export.own_folder import why_not_own
from rhotrace.export.tensorboard import to_tensorboard
from rhotrace.export.wandb import to_wandb
from rhotrace.recording.quantity import Description
from rhotrace.runfile.hdf5_io import refuse_to_replace_a_run
from rhotrace.runfile.reader import Trace
from rhotrace.runfile.xarray_view import axes_of, labels

Columns = dict[str, NDArray[Any]]

_ROWS = 20_000  # steps times members in a block, so that a run of any length needs little memory
WINDOW_BYTES = 1 << 24  # of a quantity


def export(trace: Trace, kind: str, path: Path, *, every: int = 1, force: bool = False) -> int:
    """Writes a run in another format.

    Args:
        trace: the run.
        kind: one of ``FORMATS``.
        path: of the new file, or of the new folder for one of ``FOLDERS``.
        every: steps from one row to the next.
        force: replace an existing file, or a folder that contains only an earlier export of this kind.

    Returns:
        The number of rows, or of steps in a netCDF file.

    Raises:
        RhoTraceError: the format is unknown, its package is not installed, or the file or folder exists or cannot be
            written.
        AnalysisError: the run has no steps.
    """
    require_steps(trace)
    if kind not in FORMATS:
        raise choice("--to", kind, FORMATS)
    refuse_to_replace_a_run(path)
    if path.exists() and path.samefile(trace.path):
        raise RhoTraceError(f"{path} is the run itself; choose another name with -o")
    if path.exists() and not force:
        raise RhoTraceError(f"{path} exists already; choose another name with -o, or replace it with --force")
    if path.exists():
        why = why_not_own(path, kind) if kind in FOLDERS else "it is a folder" if path.is_dir() else ""
        if why:
            raise RhoTraceError(f"{path}: not replaced, because {why}; choose another name with -o, or move it away")
    half = path.with_name(f".{path.name}.half")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _discard(half)  # of an export that was killed
        rows = FORMATS[kind](trace, half, every)
        _put(half, path)
    except OSError as problem:
        raise RhoTraceError(f"{path}: cannot be written ({problem.strerror or problem})") from None
    finally:
        _discard(half)
    return rows


def _put(half: Path, path: Path) -> None:
    """Gives the new file or folder its name; an old folder of that name is removed only after that."""
    if not half.is_dir():
        half.replace(path)
        return
    old = path.with_name(f".{path.name}.old")
    _discard(old)
    if path.exists():
        path.replace(old)
    try:
        half.replace(path)
    except OSError:
        if old.exists():
            old.replace(path)
        raise
    _discard(old)


def _discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def columns(trace: Trace, *, every: int = 1, joint: str = "_") -> Iterator[Columns]:
    """The run as blocks of columns of equal length: step, member, the options that members differ in, and every quantity.

    Args:
        trace: the run.
        every: steps from one row to the next.
        joint: between a quantity's name and its layer or quantile.
    """
    fixed = {name: trace[name] for name in trace.per_member}
    span = max(1, _ROWS // trace.members // every) * every
    for first in range(0, trace.steps, span):
        steps = np.arange(first, min(first + span, trace.steps), every)
        block: Columns = {
            "step": np.repeat(steps, trace.members),
            "member": np.tile(np.arange(trace.members), len(steps)),
            **{name: np.tile(values, len(steps)) for name, values in fixed.items()},
        }
        for quantity in trace.quantities:
            block.update(_of_quantity(trace, quantity, steps, joint))
        yield block


def _of_quantity(trace: Trace, quantity: Description, steps: NDArray[np.int64], joint: str) -> Columns:
    """Columns of one quantity; NaN at the steps at which it was not evaluated."""
    stride = trace.strides[quantity.cadence]
    rows = -(-trace.steps // stride)
    there = steps % stride == 0
    first, last = int(steps[0]) // stride, min(int(steps[-1]) // stride + 1, rows)
    values = trace.rows(quantity.name, slice(first, last))  # (rows, M, ...)
    table = np.full((len(steps), *values.shape[1:]), np.nan)
    table[there] = values[steps[there] // stride - first]
    flat = table.reshape(len(steps) * trace.members, -1)
    labels = {"layer": range(1, trace.depth + 1), **trace.layout.axes}
    extra = next((labels[axis] for axis in quantity.axes if axis in labels), None)
    if extra is None:
        return {quantity.name: flat[:, 0]}
    return {f"{quantity.name}{joint}{label:g}": flat[:, number] for number, label in enumerate(extra)}


def _to_csv(trace: Trace, path: Path, every: int) -> int:
    rows = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        for block in columns(trace, every=every):
            if not rows:
                writer.writerow(block)
            # repr of a float is the shortest text that reads back as the same number
            cells = [["" if v != v else v for v in values.tolist()] for values in block.values()]  # noqa: PLR0124 - NaN
            writer.writerows(zip(*cells, strict=True))
            rows += len(cells[0])
    return rows


def _to_parquet(trace: Trace, path: Path, every: int) -> int:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise RhoTraceError("--to parquet: needs pyarrow; python -m pip install 'rhotrace[parquet]'") from None
    rows, writer = 0, None
    about = {"recipe": trace.attributes["recipe"], "rhotrace_run": str(trace.path).encode(errors="backslashreplace")}
    try:
        for block in columns(trace, every=every):
            table = pyarrow.table(block).replace_schema_metadata(about)
            writer = writer or pyarrow.parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
            rows += table.num_rows
    finally:
        if writer:
            writer.close()
    return rows


def _to_netcdf(trace: Trace, path: Path, every: int) -> int:
    """As xarray writes the data set of ``to_xarray``, in windows, so that a run of any length needs little memory."""
    try:
        import h5netcdf
        import xarray  # noqa: F401
    except ImportError:
        raise RhoTraceError("--to netcdf: needs xarray; python -m pip install 'rhotrace[netcdf]'") from None
    axes = axes_of(trace, every=every)
    axes.to_netcdf(path, engine="h5netcdf")
    with h5netcdf.File(path, "a") as file:
        of_members = file.attrs["coordinates"]  # which xarray keeps with each quantity, or with the file if it has none
        del file.attrs["coordinates"]
        for quantity in trace.quantities:
            dims, about, thin = labels(trace, quantity, every)
            target = file.create_variable(quantity.name, dims, np.float64, fillvalue=np.nan)
            target.attrs.update({**about, "coordinates": of_members})
            rows = trace.layout.rows(quantity.cadence, trace.steps)
            window = max(1, WINDOW_BYTES * max(1, rows) // max(1, trace.size_of(quantity.name)) // thin) * thin
            for first in range(0, rows, window):
                values = trace.rows(quantity.name, slice(first, min(first + window, rows)))[::thin]
                target[first // thin : first // thin + len(values)] = values
    return int(axes.sizes["step"])


def _to_tensorboard(trace: Trace, path: Path, every: int) -> int:
    return to_tensorboard(trace, path, lambda: columns(trace, every=every, joint="/"))


def _to_wandb(trace: Trace, path: Path, every: int) -> int:
    return to_wandb(trace, path, lambda: columns(trace, every=every, joint="/"))


FORMATS: dict[str, Callable[[Trace, Path, int], int]] = {
    "csv": _to_csv,
    "parquet": _to_parquet,
    "netcdf": _to_netcdf,
    "tensorboard": _to_tensorboard,
    "wandb-offline": _to_wandb,
}
ENDINGS = {
    "csv": ".csv",
    "parquet": ".parquet",
    "netcdf": ".nc",
    "tensorboard": ".tensorboard",
    "wandb-offline": ".wandb-offline",
}
FOLDERS = {"tensorboard", "wandb-offline"}
