"""Writing a run file that can be read at every instant.

While a run trains, its file is *live*: every dataset was allocated in full, contiguously, before the
first step, and h5py closed the file for good. From then on the writer only overwrites bytes inside
those datasets with ``pwrite``; HDF5's own metadata never changes, so a reader (or a crash) can never
find it half written. A block of steps counts once the commit record says so, which is written after
the block is on the disk. ``sealing`` turns the file of a finished run into a compressed one.

What changes after the start, apart from the quantities and the snapshots:

- ``checkpoint/blocks``: the last step and the CRC-32 of each block, so that damage is found and located;
- ``checkpoint/weights1`` ... : two copies of the optimizer's state, written in turn;
- ``checkpoint/commit``: two commit records, written in turn, in different pages of the disk;
- the time axes: a block's steps appear there last, for readers that do not know of commits.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from rhotrace.errors import TraceError
from rhotrace.runfile.hdf5_io import new_hdf5, open_hdf5, sync, sync_folder
from rhotrace.runfile.layout import (
    FORMAT,
    SESSIONS_BYTES,
    SLAB_BYTES,
    Column,
    Commit,
    Layout,
    attributes_digest,
    checksum,
    columns,
    dimension_sizes,
    fixed_axes,
    fixed_digest,
    list_columns,
    time_axis,
)
from rhotrace.runfile.reader import Trace, whole_commits

_RECORD_NUMBERS = 512  # a commit record fills a page of 4096 bytes, so that a torn page takes one at most

Array = NDArray[Any]
AttributeValue = str | int | float


def create(
    path: Path, layout: Layout, attributes: Mapping[str, AttributeValue], fixed: Mapping[str, Array]
) -> TraceWriter:
    """Creates a live run file in one atomic step and opens it for writing.

    Args:
        path: of the run file; an existing file there is replaced.
        layout: what the file holds.
        attributes: of the root group (recipe, provenance, ...).
        fixed: arrays of length M, such as seeds and learning rates, and the lists that the layout names.

    Raises:
        TraceError: the folder cannot be written or the disk is too full for the whole run.
    """
    return extend(None, path, layout, attributes, fixed)


@dataclass(frozen=True)
class Beginning:
    """The part of a run that another file begins with.

    Attributes:
        trace: the run.
        steps: taken from it.
        snapshots: steps of the snapshots taken from it.
        state: of the optimizer after these steps; empty if it is lost.
    """

    trace: Trace
    steps: int
    snapshots: Sequence[int]
    state: Mapping[str, Sequence[Array]]


def extend(
    beginning: Beginning | None,
    path: Path,
    layout: Layout,
    attributes: Mapping[str, AttributeValue],
    fixed: Mapping[str, Array],
) -> TraceWriter:
    """As ``create``, with the beginning of another run already in the file when it appears.

    Raises:
        TraceError: as ``create``; or the beginning is damaged.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_hdf5(scratch) as file:
            _write_skeleton(file, layout, attributes, fixed)
        _reserve(scratch)
        writer = TraceWriter(scratch, layout)
        try:
            if beginning:
                _copy_steps(beginning, writer)
            writer.sync()  # a power cut must not leave the name of a file that is not on the disk
            scratch.replace(path)
            sync_folder(path.parent)
        except (OSError, TraceError):
            writer.close()
            raise
    except OSError as problem:
        raise TraceError(f"{path}: the run file cannot be created: {reason(problem)}") from None
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
    writer.path = path
    return writer


def _copy_steps(beginning: Beginning, writer: TraceWriter) -> None:
    layout, trace = writer.layout, beginning.trace
    slab = layout.steps_within(SLAB_BYTES)
    for first in range(0, beginning.steps, slab):
        last = min(first + slab, beginning.steps)
        block = {q.name: trace.rows(q.name, layout.span(q.cadence, first, last)) for q in layout.quantities}
        writer.append(first, last, block)
    for step in beginning.snapshots:
        writer.snapshot(step, trace.snapshot(step))
    writer.started = time.monotonic() - trace.wall_seconds
    for session in trace.sessions:
        writer.note_session(session)
    writer.commit(beginning.steps, beginning.state)


def _write_skeleton(
    file: h5py.File, layout: Layout, attributes: Mapping[str, AttributeValue], fixed: Mapping[str, Array]
) -> None:
    described = {"format": FORMAT, "format_version": layout.version, "status": "live"}
    axes = {name: values for name, values in fixed_axes(layout).items() if "/" not in name}
    described |= {**attributes, **layout.attributes(), "fixed_digest": fixed_digest({**axes, **fixed})}
    file.attrs.update({**described, "attributes_digest": attributes_digest(described)})
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_layout(h5py.h5d.CONTIGUOUS)
    early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    add_fixed(file, layout, fixed)
    sizes = dimension_sizes(layout)
    for column in columns(layout):
        add(file, column, [sizes[d] for d in column.dims], dcpl=early)
    for name, shape in _checkpoint(layout).items():
        kind = "u1" if name == "sessions" else "<i8" if name in ("blocks", "commit", "snapshot_crc") else None
        file.create_dataset(f"checkpoint/{name}", shape, kind or layout.number_type, dcpl=early)
    attach_scales(file, layout)


def _checkpoint(layout: Layout) -> dict[str, tuple[int, ...]]:
    """The datasets of the group ``checkpoint`` and their shapes."""
    state = {
        f"{key}{k}": (2, layout.members, *shape)
        for key, tensors in layout.state.items()
        for k, shape in enumerate(tensors, 1)
    }
    return {
        "commit": (2, _RECORD_NUMBERS),
        "blocks": (layout.steps, 2),
        "snapshot_crc": (len(layout.snapshots),),
        "sessions": (SESSIONS_BYTES,),
        **state,
    }


def add_fixed(file: h5py.File, layout: Layout, fixed: Mapping[str, Array], **storage: Any) -> None:  # noqa: ANN401 - h5py's options
    """Writes the axes that do not grow, the arrays of length M, and the lists."""
    axes = fixed_axes(layout)
    if layout.snapshots:
        file.create_group("weights", track_order=True)
    within = {name: values for name, values in axes.items() if "/" in name}
    for name, values in {**axes, **fixed, **within}.items():
        if name not in file:
            file.create_dataset(name, data=values, **storage)
    for column in list_columns(layout):
        file[column.path].attrs.update(column.attributes)


def add(file: h5py.File, column: Column, shape: Sequence[int], **storage: Any) -> h5py.Dataset:  # noqa: ANN401 - h5py's options
    """Creates a column's dataset, with its attributes."""
    dataset = file.create_dataset(column.path, tuple(shape), column.dtype, **storage)
    dataset.attrs.update(column.attributes)
    return dataset


def attach_scales(file: h5py.File, layout: Layout) -> None:
    """Names every dimension, which is what lets xarray and ncdump show axes instead of numbers."""
    named = list(columns(layout))
    per_member = [
        n
        for n, d in file.items()
        if isinstance(d, h5py.Dataset) and d.shape == (layout.members,) and n not in dimension_sizes(layout)
    ]
    named += [Column(name, ("member",), "", {}) for name in per_member if name not in {c.path for c in named}]
    within = {name.partition("/")[2] for name in fixed_axes(layout) if "/" in name}
    homes = {d: f"weights/{d}" if d in within else d for d in dimension_sizes(layout)}
    for dim, home in homes.items():
        if home in file:
            file[home].make_scale(dim)
    for column in named:
        for number, dim in enumerate(column.dims):
            if column.path != homes[dim]:
                file[column.path].dims[number].attach_scale(file[homes[dim]])


def _reserve(path: Path) -> None:
    """Reserves the whole run's disk space now, so that a full disk is an error at step 0 and not at step 10^6."""
    with path.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        free = shutil.disk_usage(path.parent).free
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as problem:
            needs = f"{reason(problem)}; the run needs {size / 1e9:.3g} GB and {free / 1e9:.3g} GB were free"
            raise OSError(problem.errno, f"{needs} (fewer steps, members or record.snapshots need less)") from None


def reason(problem: OSError) -> str:
    """What the operating system says of a failure."""
    return problem.strerror or str(problem)


def reopen(path: Path) -> tuple[TraceWriter, dict[str, list[Array]]]:
    """Opens an interrupted run for writing, after its last committed step.

    Returns:
        The writer, and the optimizer's state after the last committed step: arrays by name and layer.

    Raises:
        TraceError: the file cannot be opened, or its checkpoints are damaged.
    """
    try:
        with Trace(path, open_hdf5(path)) as trace:
            for commit in whole_commits(trace):
                state = trace.state(commit.slot)
                if checksum(W for tensors in state.values() for W in tensors) == commit.state_crc:
                    return TraceWriter(path, trace.layout, commit), state
    except (OSError, KeyError, ValueError) as problem:
        raise TraceError(f"{path}: this run cannot be resumed: {problem}") from None
    raise TraceError(
        f"{path}: this run cannot be resumed: both of its checkpoints are damaged; `rhotrace repair {path}` saves its steps"
    )


def _with_crc(numbers: Array) -> Array:
    """Whole numbers, and their CRC-32."""
    return np.append(numbers, zlib.crc32(numbers.tobytes()))


@dataclass(frozen=True)
class _Place:
    """Where the values of a dataset begin in a live file, in bytes, with their shape and type."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class TraceWriter:
    """Writes blocks into a live run file; made by ``create``, ``extend`` or ``reopen``.

    Only one process at a time may write to a file; see ``run_lock``.

    Attributes:
        path: of the file.
        layout: of the file.
        committed: number of committed steps.
        started: when training began on the monotonic clock, as if it had never been interrupted.
    """

    def __init__(self, path: Path, layout: Layout, resumed: Commit | None = None) -> None:
        self.path = path
        self.layout = layout
        self.committed = resumed.steps if resumed else 0
        self._blocks = resumed.blocks if resumed else 0  # appended so far
        self._next_slot = 1 - resumed.slot if resumed else 0
        self.started = time.monotonic() - (resumed.seconds if resumed else 0)
        self._places: dict[str, _Place] = {}
        self._sessions = b""  # the list of sessions, as the next commit records it
        with open_hdf5(path) as file:
            if resumed:
                self._sessions = bytes(file["checkpoint/sessions"][:]).rstrip(b"\0")
            for name in [c.path for c in columns(layout)] + [f"checkpoint/{n}" for n in _checkpoint(layout)]:
                dataset = file[name]
                if dataset.size:
                    self._places[name] = _Place(dataset.id.get_offset(), dataset.shape, dataset.dtype)
            steps = {c.path: file[c.path].shape for c in columns(layout) if c.dtype == "<i8"}
        self._descriptor = os.open(path, os.O_RDWR)
        if resumed:
            self.sync()  # the process that was killed may have written this commit without syncing it
            self._put_axes(0, self.committed)
        else:
            for name, shape in steps.items():
                self._put(name, 0, np.full(shape, -1, "<i8"))

    def _put(self, name: str, row: int, values: Array) -> None:
        """Overwrites the rows of a dataset from ``row`` on; the first axis of ``values`` counts rows."""
        if not values.size:
            return
        home = self._places[name]
        rows, *shape = home.shape
        # Past the end of a dataset, or of the wrong kind, these bytes would overwrite HDF5's own or be read as others.
        if values.shape[1:] != tuple(shape) or values.dtype != home.dtype or not 0 <= row <= rows - len(values):
            raise TraceError(
                f"{self.path}: {name}: got {values.dtype} of shape {values.shape} for row {row}, expected "
                f"{home.dtype} of shape {('n', *shape)} within {rows} rows".replace("'n'", "n")
            )
        view = np.ascontiguousarray(values).view(np.uint8).reshape(-1).data
        place = home.offset + row * (home.dtype.itemsize * math.prod(shape))
        while view:
            written = os.pwrite(self._descriptor, view, place)
            place += written
            view = view[written:]

    def _put_axes(self, first: int, last: int) -> None:
        strides = self.layout.strides
        for cadence, stride in strides.items():
            rows = self.layout.span(cadence, first, last)
            self._put(time_axis(cadence, strides), rows.start, np.arange(rows.start, rows.stop) * stride)

    @property
    def seconds(self) -> float:
        """Time spent on the run so far, by this process and those before it."""
        return time.monotonic() - self.started

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except OSError as problem:
            raise TraceError(
                f"{self.path}: cannot be written: {reason(problem)}. Its first {self.committed} steps are safe; "
                "the same command resumes from there"
            ) from None

    def append(self, first: int, last: int, block: Mapping[str, Array]) -> None:
        """Writes the rows of steps ``first`` to ``last - 1``; ``commit(last)`` makes them count.

        Args:
            first: must be the number of steps written so far.
            last: one past the last step of the block.
            block: each quantity's rows, (rows, M, ...).
        """
        if last == first:
            return
        with self._guard():
            for quantity in self.layout.quantities:
                self._put(quantity.name, self.layout.rows(quantity.cadence, first), block[quantity.name])
            crc = checksum(block[quantity.name] for quantity in self.layout.quantities)
            self._put("checkpoint/blocks", self._blocks, np.array([[last, crc]]))
        self._blocks += 1

    def snapshot(self, step: int, weights: Sequence[Array]) -> None:
        """Saves the network's blocks after ``step`` steps, which the layout must have planned.

        Args:
            step: number of steps done.
            weights: the blocks, (M, out, fan_in) each.
        """
        slot = list(self.layout.snapshots).index(step)
        with self._guard():
            for block, W in zip(self.layout.blocks, weights, strict=True):
                self._put(f"weights/{block.name}", slot, W[None])
            self._put("checkpoint/snapshot_crc", slot, np.array([checksum(weights)]))
            if step <= self.committed:  # it counts from now, and not from the next commit
                self.sync()
            self._put("weights/snapshot_step", slot, np.array([step]))

    def note_session(self, session: Mapping[str, AttributeValue]) -> None:
        """Adds to the list of processes that have written into the file; a full list is left as it is."""
        text = self._sessions
        if not text.endswith(b"\n"):  # the last process was killed while it wrote its line
            text += b"\n" * bool(text)
        text += json.dumps(session).encode() + b"\n"
        if len(text) <= SESSIONS_BYTES:
            with self._guard():
                self._put("checkpoint/sessions", 0, np.frombuffer(text, np.uint8))
            self._sessions = text

    def commit(self, steps: int, state: Mapping[str, Sequence[Array]]) -> None:
        """Makes all steps before ``steps`` count, with the optimizer's state to resume from.

        Both the state and the commit record alternate between two places, so that the previous pair stays
        whole until this one is on the disk.
        """
        slot = self._next_slot
        with self._guard():
            for key, tensors in state.items():
                for k, tensor in enumerate(tensors, 1):
                    self._put(f"checkpoint/{key}{k}", slot, tensor[None])
            self.sync()
            self._refuse_absence()
            crc = checksum(tensor for tensors in state.values() for tensor in tensors)
            counts = np.array([steps, self._blocks, slot, crc, int(self.seconds * 1e9), time.time_ns()], "<i8")
            sessions = np.array([len(self._sessions), zlib.crc32(self._sessions)], "<i8")
            record = np.concatenate([_with_crc(counts), _with_crc(sessions)])
            self._put("checkpoint/commit", slot, np.pad(record, (0, _RECORD_NUMBERS - len(record)))[None])
            self.sync()
            self._put_axes(self.committed, steps)
        self.committed = steps
        self._next_slot = 1 - slot

    def _refuse_absence(self) -> None:
        """Raises TraceError if the file is no longer at its path: the run could not be sealed."""
        ours = os.fstat(self._descriptor)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if os.path.samestat(ours, self.path.stat()):
                return
        how = f"moved; it contains the first {self.committed} steps" if ours.st_nlink else "removed"
        raise TraceError(f"{self.path}: training stopped, because the file was {how}")

    def sync(self) -> None:
        """Returns once everything written is on the disk."""
        sync(self._descriptor)

    def close(self) -> None:
        """Leaves the file live, as it is after the last commit."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
