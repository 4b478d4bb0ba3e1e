"""Writing a run file so that no instant exists at which it cannot be read.

While a run trains, its file is *live*: every dataset was allocated in full, contiguously, before the
first step, and h5py closed the file for good. From then on the writer only overwrites bytes inside
those datasets with ``pwrite``; HDF5's own metadata never changes, so a reader (or a crash) can never
find it half written. A block of steps counts once the commit record says so, which is written after
the block is on the disk. A finished run is *sealed*: rewritten once, compressed and with checksums,
and renamed over the live file. Both are the same datasets to a reader.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from rhotrace.errors import TraceError
from rhotrace.quantities import QUANTILES
from rhotrace.trace import Commit, newest_commit, open_hdf5
from rhotrace.trace_layout import FORMAT, FORMAT_VERSION, Column, Layout, columns, dimension_sizes, time_axis

# Readable by HDF5 1.10 tools; "latest" would not be.
_LIBVER = ("v110", "v110")
_CHUNK_BYTES = 1 << 20
_COPY_BYTES = 1 << 25

Array = NDArray[Any]
AttributeValue = str | int | float


def create(
    path: Path, layout: Layout, attributes: Mapping[str, AttributeValue], per_member: Mapping[str, Array]
) -> TraceWriter:
    """Makes a live run file in one atomic step and opens it for writing.

    Args:
        path: of the run file; an existing file there is replaced.
        layout: what the file holds.
        attributes: of the root group (recipe, provenance, ...).
        per_member: arrays of length M, such as seeds and learning rates.

    Raises:
        TraceError: the folder cannot be written or the disk is too full for the whole run.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(scratch, "x", libver=_LIBVER, track_order=True) as file:
            _write_skeleton(file, layout, attributes, per_member)
            early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            early.set_layout(h5py.h5d.CONTIGUOUS)
            early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            sizes = dimension_sizes(layout)
            for column in columns(layout):
                _add(file, column, [sizes[d] for d in column.dims], dcpl=early)
            for key, tensors in layout.state.items():
                for k, shape in enumerate(tensors, 1):
                    whole = (2, layout.members, *shape)
                    file.create_dataset(f"checkpoint/{key}{k}", whole, layout.number_type, dcpl=early)
            file.create_dataset("checkpoint/commit", data=np.zeros((2, 5), "<i8"), dcpl=early)
            _attach_scales(file, layout)
        _reserve(scratch)
        writer = TraceWriter(scratch, layout)
        try:
            scratch.replace(path)
            _sync_folder(path.parent)
        except OSError:
            writer.close()
            raise
    except OSError as problem:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise TraceError(f"{path}: the run file cannot be made: {_reason(problem)}") from None
    writer.path = path
    return writer


def _write_skeleton(
    file: h5py.File, layout: Layout, attributes: Mapping[str, AttributeValue], per_member: Mapping[str, Array]
) -> None:
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
        for name, size in dimension_sizes(layout).items():
            if name.startswith("units_"):
                weights[name] = np.arange(size)


def _add(file: h5py.File, column: Column, shape: Sequence[int], **storage: Any) -> h5py.Dataset:  # noqa: ANN401 - h5py's options
    dataset = file.create_dataset(column.path, tuple(shape), column.dtype, **storage)
    dataset.attrs.update(column.attributes)
    return dataset


def _attach_scales(file: h5py.File, layout: Layout) -> None:
    """Names every dimension, which is what lets xarray and ncdump show axes instead of numbers."""
    named = list(columns(layout))
    per_member = [
        n
        for n, d in file.items()
        if isinstance(d, h5py.Dataset) and d.shape == (layout.members,) and n not in dimension_sizes(layout)
    ]
    named += [Column(name, ("member",), "", {}) for name in per_member if name not in {c.path for c in named}]
    homes = {d: f"weights/{d}" if d == "snapshot" or d.startswith("units_") else d for d in dimension_sizes(layout)}
    for dim, home in homes.items():
        if home in file:
            file[home].make_scale(dim)
    for column in named:
        for number, dim in enumerate(column.dims):
            if column.path != homes[dim]:
                file[column.path].dims[number].attach_scale(file[homes[dim]])


def _reserve(path: Path) -> None:
    """Takes the whole run's disk space now, so that a full disk is an error at step 0 and not at step 10^6."""
    with path.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        free = shutil.disk_usage(path.parent).free
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as problem:
            needs = f"{_reason(problem)}; the run needs {size / 1e9:.3g} GB and {free / 1e9:.3g} GB were free"
            raise OSError(problem.errno, f"{needs} (fewer steps, members or record.snapshots need less)") from None
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(problem: OSError) -> str:
    return problem.strerror or str(problem)


def reopen(path: Path, layout: Layout) -> tuple[TraceWriter, dict[str, list[Array]]]:
    """Opens an interrupted run to go on where it stopped.

    Returns:
        The writer, and the optimizer's state after the last committed step: arrays by name and layer.

    Raises:
        TraceError: the file cannot be opened, or was laid out by another version.
    """
    try:
        with open_hdf5(path) as file:
            newest = newest_commit(file)
            sizes = dimension_sizes(layout)
            for column in columns(layout):
                shape = tuple(sizes[d] for d in column.dims)
                if column.path not in file or file[column.path].shape != shape:
                    raise TraceError(
                        f"{path}: cannot go on: {column.path} is not laid out as this version of RhoTrace does; "
                        "use the version that began it, or start again with --force"
                    )
            state = {
                key: [file[f"checkpoint/{key}{k}"][newest.slot] for k in range(1, len(tensors) + 1)]
                for key, tensors in layout.state.items()
            }
        return TraceWriter(path, layout, newest), state
    except (OSError, KeyError) as problem:
        raise TraceError(f"{path}: cannot go on with this run: {problem}") from None


class TraceWriter:
    """Writes blocks into a live run file; made by ``create`` or ``reopen``. Not for two processes at once."""

    def __init__(self, path: Path, layout: Layout, resumed: Commit | None = None) -> None:
        self.path = path
        self.layout = layout
        self.committed = resumed.steps if resumed else 0
        self._next_slot = 1 - resumed.slot if resumed else 0
        self._started = time.monotonic() - (resumed.seconds if resumed else 0)
        self._places: dict[str, tuple[int, int]] = {}  # name -> offset of row 0, bytes of a row
        with open_hdf5(path) as file:
            names = [c.path for c in columns(layout)] + ["checkpoint/commit"]
            names += [f"checkpoint/{key}{k}" for key, t in layout.state.items() for k in range(1, len(t) + 1)]
            for name in names:
                dataset = file[name]
                if dataset.size:
                    self._places[name] = (dataset.id.get_offset(), dataset.nbytes // dataset.shape[0])
            steps = {c.path: file[c.path].shape for c in columns(layout) if c.dtype == "<i8"}
        self._descriptor = os.open(path, os.O_RDWR)
        if resumed is None:
            for name, shape in steps.items():
                self._put(name, 0, np.full(shape, -1, "<i8"))

    def _put(self, name: str, row: int, values: Array) -> None:
        if not values.size:
            return
        offset, row_bytes = self._places[name]
        view = np.ascontiguousarray(values).view(np.uint8).reshape(-1).data
        place = offset + row * row_bytes
        while view:
            written = os.pwrite(self._descriptor, view, place)
            place += written
            view = view[written:]

    @property
    def seconds(self) -> float:
        """Spent on the run so far, by this process and those before it."""
        return time.monotonic() - self._started

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except OSError as problem:
            raise TraceError(
                f"{self.path}: cannot be written: {_reason(problem)}. Its first {self.committed} steps are safe; "
                "the same command goes on from there"
            ) from None

    def append(self, first: int, last: int, block: Mapping[str, Array]) -> None:
        """Writes the rows of steps ``first`` to ``last - 1``; they count after ``commit(last)``.

        Args:
            first: must be the number of steps written so far.
            last: one past the last step of the block.
            block: each quantity's rows, (rows, M, ...).
        """
        strides = self.layout.strides
        with self._guard():
            for cost in strides:
                start, stop = self.layout.rows(cost, first), self.layout.rows(cost, last)
                if stop > start:
                    self._put(time_axis(cost, strides), start, np.arange(start, stop) * strides[cost])
            for quantity in self.layout.quantities:
                start = self.layout.rows(quantity.cost, first)
                self._put(quantity.name, start, block[quantity.name])

    def snapshot(self, step: int, weights: Sequence[Array]) -> None:
        """Keeps a copy of the weights after ``step`` steps, one of those that the layout plans."""
        slot = list(self.layout.snapshots).index(step)
        with self._guard():
            for k, W in enumerate(weights, 1):
                self._put(f"weights/W{k}", slot, W)
            self._put("weights/snapshot_step", slot, np.array([step]))

    def commit(self, steps: int, state: Mapping[str, Sequence[Array]]) -> None:
        """Makes all steps before ``steps`` count, with the optimizer's state to go on from.

        Both the state and the record alternate between two places, so that the previous pair stays
        whole until this one is on the disk.
        """
        slot = self._next_slot
        with self._guard():
            for key, tensors in state.items():
                for k, tensor in enumerate(tensors, 1):
                    self._put(f"checkpoint/{key}{k}", slot, tensor)
            os.fdatasync(self._descriptor)
            if os.fstat(self._descriptor).st_nlink == 0:
                raise OSError(errno.ENOENT, "somebody removed the file while it was trained into")
            record = np.array([steps, slot, int(self.seconds * 1e9), time.time_ns(), 0], "<i8")
            record[4] = zlib.crc32(record[:4].tobytes())
            self._put("checkpoint/commit", slot, record)
            os.fdatasync(self._descriptor)
        self.committed = steps
        self._next_slot = 1 - slot

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
            with (
                open_hdf5(self.path) as live,
                h5py.File(scratch, "w", libver=_LIBVER, track_order=True) as sealed,
            ):
                _copy_sealed(live, sealed, self.layout, self.committed)
                sealed.attrs.update({"status": "complete", **attributes})
            with scratch.open("rb") as file:
                os.fsync(file.fileno())
            scratch.replace(self.path)
            _sync_folder(self.path.parent)
        except OSError as problem:
            raise TraceError(
                f"{self.path}: trained and recorded, but not compressed ({_reason(problem)}); the file reads as it is, "
                "and the same command tries again"
            ) from None
        finally:
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)


def _copy_sealed(live: h5py.File, sealed: h5py.File, layout: Layout, steps: int) -> None:
    for name, value in live.attrs.items():
        sealed.attrs[name] = value
    kept = {time_axis(cost, layout.strides): layout.rows(cost, steps) for cost in layout.strides}
    if layout.snapshots:
        taken = live["weights/snapshot_step"][:]
        keep = np.flatnonzero((taken >= 0) & (taken <= steps))
        kept["snapshot"] = len(keep)
        sealed.create_group("weights", track_order=True)
    streamed = {c.path: c for c in columns(layout)}
    for path in ("", "weights/") if layout.snapshots else ("",):
        for name, item in live[path or "/"].items():
            if isinstance(item, h5py.Dataset) and path + name not in streamed:
                sealed[path + name] = item[: kept.get(name, item.shape[0])]
    for column in streamed.values():
        source = live[column.path]
        rows = keep if column.dims[0] == "snapshot" else np.arange(kept[column.dims[0]])
        _copy_rows(source, sealed, column, rows)
    _attach_scales(sealed, layout)


def _copy_rows(source: h5py.Dataset, sealed: h5py.File, column: Column, rows: Array) -> None:
    row_bytes = max(1, source.dtype.itemsize * int(np.prod(source.shape[1:])))
    per_chunk = max(1, min(len(rows), _CHUNK_BYTES // row_bytes))
    shape = (len(rows), *source.shape[1:])
    if len(rows) and row_bytes <= _CHUNK_BYTES * 8:
        storage: dict[str, Any] = {
            "chunks": (per_chunk, *shape[1:]),
            "compression": "gzip",
            "compression_opts": 1,
            "shuffle": True,
            "fletcher32": True,
        }
    else:
        storage = {"chunks": True, "fletcher32": True} if len(rows) else {}
    target = _add(sealed, column, shape, **storage)
    slab = per_chunk * max(1, _COPY_BYTES // (per_chunk * row_bytes))  # whole chunks at a time
    for start in range(0, len(rows), slab):
        part = rows[start : start + slab]
        target[start : start + len(part)] = source[part[0] : part[-1] + 1][part - part[0]]
