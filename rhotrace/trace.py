"""The run file: HDF5 that any tool opens, written so that no instant exists at which it cannot be read.

While a run trains, its file is *live*: every dataset was allocated in full, contiguously, before the
first step, and h5py closed the file for good. From then on the writer only overwrites bytes inside
those datasets with ``pwrite``; HDF5's own metadata never changes, so a reader (or a crash) can never
find it half written. A block of steps counts once the commit record says so, which is written after
the block is on the disk. A finished run is *sealed*: rewritten once, compressed and with checksums,
and renamed over the live file. Both are the same datasets to a reader.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from rhotrace.errors import TraceError
from rhotrace.quantities import QUANTILES, QUANTITIES, Cost, Quantity

FORMAT = "rhotrace-run"
FORMAT_VERSION = 1
# Readable by HDF5 1.10 tools; "latest" would not be.
_LIBVER = ("v110", "v110")
_CHUNK_BYTES = 1 << 20
_COPY_BYTES = 1 << 25

Array = NDArray[Any]
AttributeValue = str | int | float


@dataclass(frozen=True)
class Layout:
    """Everything that decides the datasets of a run file.

    Attributes:
        steps: training steps the run will have.
        members: M.
        shapes: (out, in) of each layer.
        dtype: of the weights.
        strides: steps between evaluations, by cost class.
        snapshots: step of each copy of the weights, ascending.
        quantities: rows of the quantities table.
        state: shape after the member axis of each tensor of the optimizer's state, by name and layer.
    """

    steps: int
    members: int
    shapes: tuple[tuple[int, int], ...]
    dtype: str
    strides: Mapping[Cost, int]
    snapshots: Sequence[int]
    quantities: tuple[Quantity, ...]
    state: Mapping[str, Sequence[tuple[int, ...]]]

    def rows(self, cost: Cost, steps: int) -> int:
        """Number of evaluations of a cost class within the first ``steps`` steps."""
        return -(-steps // self.strides[cost])


@dataclass(frozen=True)
class _Column:
    path: str
    dims: tuple[str, ...]
    dtype: str
    attributes: Mapping[str, str]


def time_axis(cost: Cost, strides: Mapping[Cost, int]) -> str:
    """Name of a cost class's time axis: ``step`` where it is evaluated at every step."""
    return "step" if strides[cost] == 1 else {"free": "step", "forward": "full_step", "test": "test_step"}[cost]


def snapshot_steps(steps: int, count: int) -> list[int]:
    """At most ``count`` steps between 0 and ``steps``, both included, evenly spaced in the logarithm."""
    if count <= 2:
        return [0, steps][:count]
    return sorted({0, *(int(s) for s in np.geomspace(1, steps, count - 1).round())})


def _sizes(layout: Layout) -> dict[str, int]:
    """Length of each named dimension."""
    sizes = {"step": layout.steps, "member": layout.members, "layer": len(layout.shapes), "quantile": len(QUANTILES)}
    for cost in layout.strides:
        sizes[time_axis(cost, layout.strides)] = layout.rows(cost, layout.steps)
    sizes["snapshot"] = len(layout.snapshots)
    sizes["units_0"] = layout.shapes[0][1]
    sizes.update({f"units_{k}": out for k, (out, _) in enumerate(layout.shapes, 1)})
    return sizes


def _columns(layout: Layout) -> Iterator[_Column]:
    for axis in dict.fromkeys(time_axis(cost, layout.strides) for cost in layout.strides):
        yield _Column(axis, (axis,), "<i8", {"long_name": "training steps taken before this row; -1 where none is recorded yet"})
    for quantity in layout.quantities:
        described = {"units": quantity.units, "long_name": quantity.says, "symbol": quantity.symbol, "equation": quantity.equation or ""}
        yield _Column(quantity.name, (time_axis(quantity.cost, layout.strides), *quantity.axes), "<f8", described)
    if not layout.snapshots:
        return
    weights = "<f4" if layout.dtype == "float32" else "<f8"
    yield _Column("weights/snapshot_step", ("snapshot",), "<i8", {"long_name": "training steps taken before the snapshot; -1 where none"})
    for k in range(1, len(layout.shapes) + 1):
        dims = ("snapshot", "member", f"units_{k}", f"units_{k - 1}")
        yield _Column(f"weights/W{k}", dims, weights, {"units": "1", "long_name": f"weights of layer {k}", "symbol": f"W_{k}"})


# --- writing -----------------------------------------------------------------------------------------------


def create(path: Path, layout: Layout, attributes: Mapping[str, AttributeValue], per_member: Mapping[str, Array]) -> TraceWriter:
    """Makes a live run file in one atomic step and opens it for writing.

    Args:
        path: of the run file; an existing file there is replaced.
        layout: what the file holds.
        attributes: of the root group (recipe, provenance, ...).
        per_member: arrays of length M, such as seeds and learning rates.

    Raises:
        TraceError: the folder cannot be written or the disk is too full for the whole run.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with h5py.File(scratch, "x", libver=_LIBVER, track_order=True) as file:
            _write_skeleton(file, layout, attributes, per_member)
            early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            early.set_layout(h5py.h5d.CONTIGUOUS)
            early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            sizes = _sizes(layout)
            for column in _columns(layout):
                _add(file, column, [sizes[d] for d in column.dims], dcpl=early)
            for key, tensors in layout.state.items():
                for k, shape in enumerate(tensors, 1):
                    dtype = "<f4" if layout.dtype == "float32" else "<f8"
                    file.create_dataset(f"checkpoint/{key}{k}", (2, layout.members, *shape), dtype, dcpl=early)
            file.create_dataset("checkpoint/commit", data=np.zeros((2, 5), "<i8"), dcpl=early)
            _attach_scales(file, layout)
        _reserve(scratch)
        writer = TraceWriter(scratch, layout)
        scratch.replace(path)
        _sync_folder(path.parent)
    except OSError as problem:
        scratch.unlink(missing_ok=True)
        raise TraceError(f"{path}: the run file cannot be made: {_reason(problem)}") from None
    writer.path = path
    return writer


def _write_skeleton(file: h5py.File, layout: Layout, attributes: Mapping[str, AttributeValue], per_member: Mapping[str, Array]) -> None:
    file.attrs.update({"format": FORMAT, "format_version": FORMAT_VERSION, "status": "live", **attributes})
    file.attrs["strides"] = json.dumps(dict(layout.strides))
    file["member"] = np.arange(layout.members)
    file["layer"] = np.arange(1, len(layout.shapes) + 1)
    file["quantile"] = np.array(QUANTILES)
    for name, values in per_member.items():
        file[name] = values
    if layout.snapshots:
        weights = file.create_group("weights", track_order=True)
        weights["snapshot"] = np.arange(len(layout.snapshots))
        for name, size in _sizes(layout).items():
            if name.startswith("units_"):
                weights[name] = np.arange(size)


def _add(file: h5py.File, column: _Column, shape: Sequence[int], **storage: Any) -> h5py.Dataset:  # noqa: ANN401 - h5py's options
    dataset = file.create_dataset(column.path, tuple(shape), column.dtype, **storage)
    dataset.attrs.update(column.attributes)
    return dataset


def _attach_scales(file: h5py.File, layout: Layout) -> None:
    """Names every dimension, which is what lets xarray and ncdump show axes instead of numbers."""
    columns = list(_columns(layout))
    per_member = [n for n, d in file.items() if isinstance(d, h5py.Dataset) and d.shape == (layout.members,) and n not in _sizes(layout)]
    columns += [_Column(name, ("member",), "", {}) for name in per_member if name not in {c.path for c in columns}]
    for dim in _sizes(layout):
        home = f"weights/{dim}" if dim == "snapshot" or dim.startswith("units_") else dim
        if home in file:
            file[home].make_scale(dim)
    for column in columns:
        for number, dim in enumerate(column.dims):
            home = f"weights/{dim}" if dim == "snapshot" or dim.startswith("units_") else dim
            if column.path != home:
                file[column.path].dims[number].attach_scale(file[home])


def _reserve(path: Path) -> None:
    """Takes the whole run's disk space now, so that a full disk is an error at step 0 and not at step 10^6."""
    with path.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(problem: OSError) -> str:
    return problem.strerror or str(problem)


class TraceWriter:
    """Writes blocks into a live run file; made by ``create``. Not for two processes at once."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path = path
        self.layout = layout
        self.committed = 0
        self._commits = 0
        self._started = time.monotonic()
        self._places: dict[str, tuple[int, int]] = {}  # name -> offset of row 0, bytes of a row
        with h5py.File(path, "r") as file:
            names = [c.path for c in _columns(layout)] + ["checkpoint/commit"]
            names += [f"checkpoint/{key}{k}" for key, t in layout.state.items() for k in range(1, len(t) + 1)]
            for name in names:
                dataset = file[name]
                if dataset.size:
                    self._places[name] = (dataset.id.get_offset(), dataset.nbytes // dataset.shape[0])
            empty = {c.path: np.full(file[c.path].shape, -1, "<i8") for c in _columns(layout) if c.dtype == "<i8"}
        self._descriptor = os.open(path, os.O_RDWR)
        for name, values in empty.items():
            self._put(name, 0, values)

    def _put(self, name: str, row: int, values: Array) -> None:
        if not values.size:
            return
        offset, row_bytes = self._places[name]
        view = memoryview(np.ascontiguousarray(values)).cast("B")
        place = offset + row * row_bytes
        while view:
            written = os.pwrite(self._descriptor, view, place)
            place += written
            view = view[written:]

    def append(self, first: int, last: int, block: Mapping[str, Array]) -> None:
        """Writes the rows of steps ``first`` to ``last - 1``; they count after ``commit(last)``.

        Args:
            first: must be the number of steps written so far.
            last: one past the last step of the block.
            block: each quantity's rows, (rows, M, ...).
        """
        strides = self.layout.strides
        for cost in strides:
            start, stop = self.layout.rows(cost, first), self.layout.rows(cost, last)
            if stop > start:
                self._put(time_axis(cost, strides), start, np.arange(start, stop) * strides[cost])
        for quantity in self.layout.quantities:
            start = self.layout.rows(quantity.cost, first)
            self._put(quantity.name, start, block[quantity.name])

    def snapshot(self, step: int, weights: Sequence[Array]) -> None:
        """Keeps a copy of the weights after ``step`` steps in the next free place."""
        slots = list(self.layout.snapshots)
        slot = next((i for i, s in enumerate(slots) if s >= step), len(slots) - 1)
        for k, W in enumerate(weights, 1):
            self._put(f"weights/W{k}", slot, W)
        self._put("weights/snapshot_step", slot, np.array([step]))

    def commit(self, steps: int, state: Mapping[str, Sequence[Array]]) -> None:
        """Makes all steps before ``steps`` count, with the optimizer's state to go on from.

        Both the state and the record alternate between two places, so that the previous pair stays
        whole until this one is on the disk.
        """
        slot = self._commits % 2
        for key, tensors in state.items():
            for k, tensor in enumerate(tensors, 1):
                self._put(f"checkpoint/{key}{k}", slot, tensor)
        os.fdatasync(self._descriptor)
        record = np.array([steps, slot, int((time.monotonic() - self._started) * 1e9), time.time_ns(), 0], "<i8")
        record[4] = zlib.crc32(record[:4].tobytes())
        self._put("checkpoint/commit", slot, record)
        os.fdatasync(self._descriptor)
        self.committed = steps
        self._commits += 1

    def close(self) -> None:
        """Leaves the file live, as it is after the last commit."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def seal(self, attributes: Mapping[str, AttributeValue]) -> None:
        """Closes the run: compressed, with checksums, cut to the committed steps, renamed over the live file."""
        self.close()
        scratch = self.path.with_name(f".{self.path.name}.{os.getpid()}.seal")
        try:
            with h5py.File(self.path, "r") as live, h5py.File(scratch, "w", libver=_LIBVER, track_order=True) as sealed:
                _copy_sealed(live, sealed, self.layout, self.committed)
                sealed.attrs.update({"status": "complete", **attributes})
            with scratch.open("rb") as file:
                os.fsync(file.fileno())
            scratch.replace(self.path)
            _sync_folder(self.path.parent)
        except OSError as problem:
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)
            raise TraceError(f"{self.path}: trained and recorded, but not compressed ({_reason(problem)}); the file reads as it is") from None


def _copy_sealed(live: h5py.File, sealed: h5py.File, layout: Layout, steps: int) -> None:
    for name, value in live.attrs.items():
        sealed.attrs[name] = value
    kept = {time_axis(cost, layout.strides): layout.rows(cost, steps) for cost in layout.strides}
    if layout.snapshots:
        taken = live["weights/snapshot_step"][:]
        keep = np.flatnonzero((taken >= 0) & (taken <= steps))
        kept["snapshot"] = len(keep)
        sealed.create_group("weights", track_order=True)
    streamed = {c.path: c for c in _columns(layout)}
    for path in ("", "weights/") if layout.snapshots else ("",):
        for name, item in live[path or "/"].items():
            if isinstance(item, h5py.Dataset) and path + name not in streamed:
                sealed[path + name] = item[: kept.get(name, item.shape[0])]
    for column in streamed.values():
        source = live[column.path]
        rows = keep if column.dims[0] == "snapshot" else np.arange(kept[column.dims[0]])
        _copy_rows(source, sealed, column, rows)
    _attach_scales(sealed, layout)


def _copy_rows(source: h5py.Dataset, sealed: h5py.File, column: _Column, rows: Array) -> None:
    row_bytes = max(1, source.dtype.itemsize * int(np.prod(source.shape[1:])))
    per_chunk = max(1, min(len(rows), _CHUNK_BYTES // row_bytes))
    shape = (len(rows), *source.shape[1:])
    if len(rows) and row_bytes <= _CHUNK_BYTES * 8:
        storage: dict[str, Any] = {"chunks": (per_chunk, *shape[1:]), "compression": "gzip", "compression_opts": 1, "shuffle": True, "fletcher32": True}
    else:
        storage = {"chunks": True, "fletcher32": True} if len(rows) else {}
    target = _add(sealed, column, shape, **storage)
    slab = per_chunk * max(1, _COPY_BYTES // (per_chunk * row_bytes))  # whole chunks at a time
    for start in range(0, len(rows), slab):
        part = rows[start : start + slab]
        target[start : start + len(part)] = source[part[0] : part[-1] + 1][part - part[0]]


# --- reading -----------------------------------------------------------------------------------------------


class Trace:
    """A run file opened for reading; ``trace["rho_k"]`` is a plain array, cut to what was committed.

    Use as a context manager. Live, interrupted and finished files read alike.
    """

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path = path
        self._file = file
        self.attributes: dict[str, Any] = {name: _plain(value) for name, value in file.attrs.items()}
        self.strides: dict[Cost, int] = json.loads(self.attributes["strides"])
        self.complete = self.attributes["status"] == "complete"
        self.steps, self.wall_seconds = self._committed()

    def _committed(self) -> tuple[int, float]:
        if self.complete:
            return int(self._file["step"].shape[0]), float(self.attributes.get("wall_seconds", np.nan))
        records = self._file["checkpoint/commit"][:]
        whole = [r for r in records if r[4] == zlib.crc32(r[:4].tobytes()) and r[3] > 0]
        return max(((int(r[0]), r[2] * 1e-9) for r in whole), default=(0, 0.0))

    @property
    def members(self) -> int:
        """M."""
        return int(self._file["member"].shape[0])

    @property
    def depth(self) -> int:
        """L, the number of weight layers."""
        return int(self._file["layer"].shape[0])

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe as a plain mapping."""
        content = json.loads(self.attributes["recipe_json"])
        return dict(content)

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """Rows of the quantities table that this file holds."""
        return tuple(q for q in QUANTITIES if q.name in self._file)

    def axis(self, name: str) -> str:
        """Name of a quantity's time axis."""
        return next(time_axis(q.cost, self.strides) for q in QUANTITIES if q.name == name)

    def step_of(self, name: str) -> NDArray[np.int64]:
        """Step of each row of a quantity."""
        return np.asarray(self[self.axis(name)], dtype=np.int64)

    def __contains__(self, name: str) -> bool:
        return name in self._file

    def __getitem__(self, name: str) -> Array:
        """A dataset, cut along its time axis to the committed steps.

        Raises:
            TraceError: no such dataset, or one that fails its checksum.
        """
        if name not in self._file:
            known = ", ".join(q.name for q in self.quantities)
            raise TraceError(f"{self.path}: no dataset {name!r}; it holds {known}")
        dataset = self._file[name]
        cost = next((q.cost for q in QUANTITIES if q.name == name), None)
        cost = cost or next((c for c in self.strides if time_axis(c, self.strides) == name), None)
        rows = dataset.shape[0] if cost is None else -(-self.steps // self.strides[cost])
        try:
            return np.asarray(dataset[:rows])
        except OSError as problem:
            raise TraceError(f"{self.path}: dataset {name} is damaged ({_first_line(problem)})") from None

    def snapshots(self) -> list[tuple[int, list[Array]]]:
        """(step, weights) of each committed copy of the weights, in order; weights are (M, out, in)."""
        if "weights" not in self._file:
            return []
        group = self._file["weights"]
        taken = group["snapshot_step"][:]
        layers = range(1, self.depth + 1)
        return [(int(s), [group[f"W{k}"][i] for k in layers]) for i, s in enumerate(taken) if 0 <= s <= self.steps]

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._file.close()


def open_trace(path: Path) -> Trace:
    """Opens a run file of any state for reading.

    Raises:
        TraceError: missing, not HDF5, damaged, or not a run of a format this version reads.
    """
    path = Path(path)
    if not path.exists():
        raise TraceError(f"{path}: no such run file; `rhotrace train RECIPE -o {path}` makes one")
    if not path.is_file():
        raise TraceError(f"{path}: got a folder, expected a run file")
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as problem:
        kind = "damaged or cut short" if path.open("rb").read(8) == b"\x89HDF\r\n\x1a\n" else "not HDF5"
        raise TraceError(f"{path}: cannot be read as a run file: {kind} ({_first_line(problem)})") from None
    try:
        _check(path, file)
        return Trace(path, file)
    except TraceError:
        file.close()
        raise
    except (OSError, KeyError, ValueError, RuntimeError, TypeError) as problem:
        file.close()
        raise TraceError(f"{path}: a damaged run file ({_first_line(problem)})") from None


def _check(path: Path, file: h5py.File) -> None:
    if _plain(file.attrs.get("format")) != FORMAT:
        raise TraceError(f"{path}: HDF5, but not a run of RhoTrace (no attribute format = {FORMAT!r})")
    version = int(file.attrs.get("format_version", -1))
    if version != FORMAT_VERSION:
        raise TraceError(f"{path}: got format version {version}, expected {FORMAT_VERSION}; use the version of RhoTrace that wrote it")
    needed = {"step", "member", "layer", *(q.name for q in QUANTITIES if q.only is None)}
    missing = sorted(needed - set(file))
    if missing:
        raise TraceError(f"{path}: a damaged run file: the datasets {', '.join(missing)} are missing")


def _first_line(problem: BaseException) -> str:
    return (str(problem).splitlines() or [type(problem).__name__])[0]


def _plain(value: Any) -> Any:  # noqa: ANN401 - an HDF5 attribute
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value
