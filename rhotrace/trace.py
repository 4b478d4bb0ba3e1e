"""Reading a run file: live, interrupted and finished ones alike, as plain arrays cut to what was committed."""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from rhotrace.errors import TraceError
from rhotrace.hdf5_files import open_cut_short, open_hdf5
from rhotrace.quantities import QUANTITIES, Cost, Quantity
from rhotrace.trace_checks import DAMAGE, check, first_line, plain
from rhotrace.trace_layout import Layout, checksum, time_axis

Array = NDArray[Any]


@dataclass(frozen=True)
class Commit:
    """A commit record of a live file.

    Attributes:
        steps: that count.
        blocks: in which they were written.
        slot: place of the optimizer's state after them.
        state_crc: CRC-32 of that state.
        seconds: spent training.
    """

    steps: int
    blocks: int
    slot: int
    state_crc: int
    seconds: float


@dataclass(frozen=True)
class WrittenBlock:
    """Steps ``first`` to ``last - 1`` of a live file, written at once, and the CRC-32 of their rows."""

    first: int
    last: int
    crc: int


def whole_commits(trace: Trace) -> list[Commit]:
    """The commit records of a live file that are not torn, newest first."""
    records = trace.checkpoint("commit")[:, :7]
    whole = [r for r in records if r[5] > 0 and r[6] == zlib.crc32(r[:6].tobytes()) and 0 <= r[0] <= trace.layout.steps]
    whole.sort(key=lambda r: (r[0], r[5]), reverse=True)
    return [Commit(int(r[0]), int(r[1]), int(r[2]) % 2, int(r[3]), float(r[4] * 1e-9)) for r in whole]


class Trace:
    """A run file opened for reading; ``trace["rho_k"]`` is a plain array, cut to what was committed.

    Use as a context manager. Live, interrupted and finished files read alike.

    Attributes:
        path: of the file.
        attributes: of the root group, as plain values.
        strides: steps between evaluations, by cost class.
        recipe: the resolved recipe as a plain mapping.
        members: M.
        depth: L, the number of weight layers.
        complete: whether the run was finished and sealed.
        steps: number of committed steps.
        wall_seconds: spent training.
    """

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path = path
        self._file = file
        self.attributes: dict[str, Any] = {name: plain(value) for name, value in file.attrs.items()}
        self.strides: dict[Cost, int] = json.loads(self.attributes["strides"])
        self.recipe: dict[str, Any] = dict(json.loads(self.attributes["recipe_json"]))
        self.members = int(file["member"].shape[0])
        self.depth = int(file["layer"].shape[0])
        self.complete = self.attributes["status"] == "complete"
        if self.complete:
            self.steps = int(file["step"].shape[0])
            self.wall_seconds = float(self.attributes.get("wall_seconds", np.nan))
        else:
            newest = next(iter(whole_commits(self)), None)
            self.steps, self.wall_seconds = (newest.steps, newest.seconds) if newest else (0, 0.0)

    @cached_property
    def layout(self) -> Layout:
        """What the file was made to hold."""
        return Layout.from_attributes(self.attributes, self.members)

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
        axis = next((c for c in self.strides if time_axis(c, self.strides) == name), None)
        if axis is not None:  # known without looking
            return np.arange(-(-self.steps // self.strides[axis])) * self.strides[axis]
        cost = next((q.cost for q in QUANTITIES if q.name == name), None)
        return self.rows(name, slice(None if cost is None else -(-self.steps // self.strides[cost])))

    def rows(self, name: str, which: slice) -> Array:
        """Some rows of a dataset as they stand in the file, committed or not.

        Raises:
            TraceError: no such dataset, or one that fails its checksum.
        """
        with self._guard(name):
            dataset = self._file.get(name)
            if not isinstance(dataset, h5py.Dataset):
                known = ", ".join(q.name for q in self.quantities)
                raise TraceError(f"{self.path}: no dataset {name!r}; it holds {known}")
            return np.asarray(dataset[which])

    def dataset_names(self) -> list[str]:
        """Paths of all datasets but those of the group ``checkpoint``."""
        weights = [f"weights/{name}" for name in self._file.get("weights", ())]
        return [name for name, item in self._file.items() if isinstance(item, h5py.Dataset)] + weights

    def description(self, name: str) -> tuple[tuple[int, ...], str, tuple[str, ...], dict[str, Any]]:
        """Shape, type, names of the dimensions, and attributes (but HDF5's own) of a dataset."""
        with self._guard(name):
            dataset = self._file[name]
            dims = tuple(dim[0].name.rpartition("/")[2] if len(dim) else "" for dim in dataset.dims)
            own = {"CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST"}
            described = {key: plain(value) for key, value in dataset.attrs.items() if key not in own}
            return dataset.shape, dataset.dtype.str, dims, described

    def size_of(self, name: str) -> int:
        """Bytes that a dataset unpacks to."""
        return int(self._file[name].nbytes)

    def has_checksum(self, name: str) -> bool:
        """Whether HDF5 keeps a checksum of each chunk of a dataset."""
        return bool(self._file[name].fletcher32)

    @contextlib.contextmanager
    def _guard(self, name: str) -> Iterator[None]:
        """Turns what h5py says of damage into one line that names the place."""
        try:
            yield
        except DAMAGE as problem:
            raise TraceError(f"{self.path}: dataset {name} is damaged ({first_line(problem)})") from None

    def snapshot_steps(self) -> list[int]:
        """Steps of the committed copies of the weights, in order."""
        if "weights" not in self._file:
            return []
        return [s for s in self.rows("weights/snapshot_step", slice(None)).tolist() if 0 <= s <= self.steps]

    def snapshot(self, step: int) -> list[Array]:
        """The weights after ``step`` steps, one (M, out, in) array per layer; one of ``snapshot_steps``."""
        number = self._slot(step)
        with self._guard(f"weights at step {step}"):
            return [np.asarray(self._file[f"weights/W{k}"][number]) for k in range(1, self.depth + 1)]

    def _slot(self, step: int) -> int:
        return list(self.rows("weights/snapshot_step", slice(None))).index(step)

    def snapshots(self) -> list[tuple[int, list[Array]]]:
        """(step, weights) of each committed copy of the weights, in order."""
        return [(step, self.snapshot(step)) for step in self.snapshot_steps()]

    def beginning_attributes(self) -> dict[str, Any]:
        """The root attributes that a longer or shorter file of the same run has too."""
        of_the_end = {"status", "ended", "finished", "wall_seconds", "sessions", "attributes_digest"}
        return {name: value for name, value in self.attributes.items() if name not in of_the_end}

    # --- what a run goes on from, and is verified by ---

    def checkpoint(self, name: str) -> Array:
        """A dataset of the group ``checkpoint``, whole."""
        with self._guard(f"checkpoint/{name}"):
            return np.asarray(self._file[f"checkpoint/{name}"][:])

    def state(self, slot: int | None = None) -> dict[str, list[Array]]:
        """The optimizer's state after the last committed step (or in a slot), by name and layer, (M, ...).

        Empty where the file has none, as that of a run that diverged.
        """
        if "checkpoint" not in self._file:
            return {}
        if slot is None:
            slot = 0 if self.complete else next((c.slot for c in whole_commits(self)), 0)
        with self._guard("checkpoint"):
            return {
                key: [np.asarray(self._file[f"checkpoint/{key}{k}"][slot]) for k in range(1, len(shapes) + 1)]
                for key, shapes in self.layout.state.items()
            }

    @property
    def sessions(self) -> list[dict[str, Any]]:
        """The processes that went on with this run after the first, oldest first."""
        text = self.attributes.get("sessions", "")
        if not self.complete:
            text = bytes(self.checkpoint("sessions")).rstrip(b"\0").decode(errors="replace")
        found = []
        for line in text.splitlines():
            with contextlib.suppress(ValueError):  # a torn last line
                found.append(json.loads(line))
        return found

    def blocks(self) -> list[WrittenBlock]:
        """The blocks of a live file in order, committed or not, as far as the list makes sense."""
        found: list[WrittenBlock] = []
        first = 0
        for last, crc in self.checkpoint("blocks"):
            if not first < last <= self.layout.steps:
                break
            found.append(WrittenBlock(first, int(last), int(crc)))
            first = int(last)
        return found

    def block_is_whole(self, block: WrittenBlock) -> bool:
        """Whether the rows of a live file's block have the checksum they were written with."""
        layout = self.layout
        rows = (self.rows(q.name, layout.span(q.cost, block.first, block.last)) for q in layout.quantities)
        return checksum(rows) == block.crc

    def damaged_block(self) -> WrittenBlock | None:
        """The first committed block of a live file that is not as it was written."""
        return next((b for b in self.blocks() if b.last <= self.steps and not self.block_is_whole(b)), None)

    def snapshot_is_whole(self, step: int) -> bool:
        """Whether a copy of the weights in a live file has the checksum it was written with."""
        return bool(checksum(self.snapshot(step)) == self.checkpoint("snapshot_crc")[self._slot(step)])

    def damaged_snapshots(self) -> list[int]:
        """Steps of the copies of the weights of a live file that are not as they were written."""
        return [step for step in self.snapshot_steps() if not self.snapshot_is_whole(step)]

    def __enter__(self) -> Trace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._file.close()


def open_trace(path: Path, *, cut_short: bool = False) -> Trace:
    """Opens a run file of any state for reading.

    Args:
        path: of the file.
        cut_short: open also what is left of a file that lost its end; what is lost reads as damaged.

    Raises:
        TraceError: missing, not HDF5, damaged, or not a run of a format this version reads.
    """
    path = Path(path)
    if not path.exists():
        raise TraceError(f"{path}: no such run file; `rhotrace train RECIPE -o {path}` makes one")
    if not path.is_file():
        raise TraceError(f"{path}: got a {'folder' if path.is_dir() else 'special file'}, expected a run file")
    try:
        file = open_cut_short(path) if cut_short else open_hdf5(path)
    except OSError as problem:
        raise TraceError(f"{path}: cannot be read as a run file: {_trouble(path)} ({first_line(problem)})") from None
    try:
        check(path, file, cut_short=cut_short)
        return Trace(path, file)
    except TraceError:
        file.close()
        raise
    except DAMAGE as problem:
        file.close()
        raise TraceError(f"{path}: a damaged run file ({first_line(problem)})") from None


def _trouble(path: Path) -> str:
    try:
        with path.open("rb") as file:
            begins_well = file.read(8) == b"\x89HDF\r\n\x1a\n"
    except OSError as problem:
        return problem.strerror or str(problem)
    return f"damaged or cut short; try `rhotrace repair {path}`" if begins_well else "not HDF5"
