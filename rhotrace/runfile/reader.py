"""Reading a run file, whether live, interrupted or finished, as plain arrays cut to the committed steps."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import math
import zlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import h5py
import numpy as np
from numpy.typing import NDArray

from rhotrace.errors import RecipeError, TraceError, nearest_file
from rhotrace.recording.quantity import Description
from rhotrace.runfile.chunks import ChunkReader
from rhotrace.runfile.hdf5_io import begins_as_hdf5, open_cut_short, open_hdf5
from rhotrace.runfile.layout import Commit, Layout, dimension_sizes, time_axis
from rhotrace.runfile.own_loop_facts import own_loop_facts, refuse_without_recipe
from rhotrace.runfile.untrusted import (
    DAMAGE,
    check,
    damaged_heaps,
    first_line,
    read_attributes,
    read_root_attributes,
    without,
)

if TYPE_CHECKING:
    from rhotrace.config.recipe import Recipe

Array = NDArray[Any]


class Attributes(dict[str, Any]):
    """The attributes of a run file's root group; looking up a missing one raises TraceError."""

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self._path = path

    def __missing__(self, name: str) -> NoReturn:
        raise TraceError(f"{self._path}: a damaged run file: the attribute {name} is missing")


def whole_commits(trace: Trace) -> list[Commit]:
    """The commit records of a live file that are not torn, newest first."""
    records = trace.checkpoint("commit")[:, :10]
    whole = [r for r in records if r[5] > 0 and r[6] == zlib.crc32(r[:6].tobytes()) and 0 <= r[0] <= trace.layout.steps]
    whole.sort(key=lambda r: (r[0], r[5]), reverse=True)
    return [Commit(int(r[0]), int(r[1]), int(r[2]) % 2, int(r[3]), float(r[4] * 1e-9), _sessions_of(r)) for r in whole]


def _sessions_of(record: Array) -> tuple[int, int] | None:
    """Length and CRC-32 of the list of sessions at a commit, where the record has them, and whole."""
    told = len(record) == 10 and record[9] == zlib.crc32(record[7:9].tobytes())
    return (int(record[7]), int(record[8])) if told else None


class Trace:
    """A run file opened for reading; ``trace["rho_k"]`` is a plain array, cut to the committed steps.

    Use it as a context manager. Live, interrupted and finished files read alike.

    Attributes:
        path: of the file.
        attributes: of the root group, as plain values.
        layout: what the file was created to contain.
        facts: what decides which statements apply to the run.
        strides: steps between evaluations, by cadence.
        members: M.
        depth: L, the number of weight layers.
        complete: whether the run was finished and sealed.
        steps: number of committed steps.
        wall_seconds: time spent training.
    """

    def __init__(self, path: Path, file: h5py.File, *, cut_short: bool = False) -> None:
        self.path = path
        self._file = file
        self._opened: dict[str, Any] = {}
        self._present: dict[str, bool] = {}
        self._chunks = ChunkReader(file)
        self.attributes: dict[str, Any] = Attributes(path, read_root_attributes(file))
        layout = Layout.from_attributes(self.attributes)
        every_step = next(quantity.name for quantity in layout.quantities if quantity.cadence == "step")
        rows, self.members = map(int, file[every_step].shape[:2])  # the axes themselves may be damaged
        self.layout = dataclasses.replace(layout, members=self.members)
        self.facts, self.strides = self.layout.facts, self.layout.strides
        self.depth = len(self.layout.layers)
        self.complete = self.attributes["status"] == "complete"
        if self.complete:
            self.steps = rows
            self.wall_seconds = float(self.attributes.get("wall_seconds", np.nan))
        else:
            newest = None
            with contextlib.suppress(*([TraceError] if cut_short else [])):
                newest = next(iter(whole_commits(self)), None)
            self.steps, self.wall_seconds = (newest.steps, newest.seconds) if newest else (0, 0.0)
        self._refuse_odd_shapes()

    def _refuse_odd_shapes(self) -> None:
        """Raises TraceError if a quantity is not laid out as the attributes say, or lacks committed steps."""
        sizes = dimension_sizes(self.layout)
        for quantity in self.layout.quantities:
            dataset, axes = self._dataset(quantity.name), tuple(sizes[axis] for axis in quantity.axes)
            rows = self.layout.rows(quantity.cadence, self.steps)
            if dataset.shape[1:] != axes or dataset.dtype != np.float64 or len(dataset) < rows:
                raise TraceError(
                    f"{self.path}: refused: {quantity.name} is {dataset.dtype} of shape {dataset.shape}, expected float64 "
                    f"of {(rows, *axes)}"
                )

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe as a plain mapping, as the version of RhoTrace that wrote it stored it.

        Raises:
            TraceError: the attribute is not a recipe.
        """
        try:
            content = json.loads(self.attributes["recipe_json"])
        except (ValueError, RecursionError):
            content = None
        sections = ("data", "network", "init", "optimizer", "members", "record")
        if not isinstance(content, dict) or not all(isinstance(content.get(name), dict) for name in sections):
            raise TraceError(f"{self.path}: a damaged run file: the attribute recipe_json is not a valid recipe")
        return content

    @cached_property
    def own_loop(self) -> dict[str, Any]:
        """What ``rhotrace.record`` found out about a loop of the user's own; empty for a run of a recipe."""
        return own_loop_facts(self.path, self.attributes)

    def validated_recipe(self) -> Recipe:
        """The recipe with its components, validated by this version.

        Raises:
            TraceError: it names a component or an option that is not registered here, or code that has not run, or the
                run has no recipe.
        """
        from rhotrace.config.recipe import Recipe, parse
        from rhotrace.config.trusted_code import refuse_unloaded

        refuse_without_recipe(self.path, self.own_loop)
        with self._explained():
            refuse_unloaded(self.recipe)
        try:
            return Recipe.model_validate(self.recipe)
        except ValueError:
            with self._explained():
                return parse(str(self.attributes["recipe"]), where="its recipe")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except RecipeError as problem:
            raise TraceError(f"{self.path}: {problem}") from None

    def to_xarray(self, *, every: int = 1) -> Any:  # noqa: ANN401 - xarray is optional
        """The run as an ``xarray.Dataset`` in memory, with named dimensions, units and the members' settings.

        Args:
            every: steps from one row to the next.

        Raises:
            RhoTraceError: xarray is not installed.
        """
        from rhotrace.runfile.xarray_view import to_xarray

        return to_xarray(self, every=every)

    @property
    def quantities(self) -> tuple[Description, ...]:
        """The quantities in this file, as it describes them."""
        return self.layout.quantities

    @property
    def per_member(self) -> tuple[str, ...]:
        """Names of the arrays of length M: the seeds, and what else may differ between members."""
        return "seed", "batch_seed", *self.layout.per_member

    def quantity(self, name: str) -> Description:
        """What the file says of a quantity.

        Raises:
            TraceError: it has none of this name.
        """
        try:
            return self.layout.quantity(name)
        except KeyError:
            self._refuse(name)

    def axis(self, name: str) -> str:
        """Name of a quantity's time axis.

        Raises:
            TraceError: the file has no such quantity.
        """
        return time_axis(self.quantity(name).cadence, self.strides)

    def aligned(self, name: str, to: str = "full") -> Array:
        """The rows of an every-step quantity at the steps at which a cadence is evaluated.

        Args:
            name: of the quantity; one of that cadence is returned unchanged.
            to: the cadence.

        Raises:
            TraceError: the file has no such quantity, or it is damaged.
        """
        rows = self[name]
        return rows if self.quantity(name).cadence == to else rows[:: self.strides[to]]

    def step_of(self, name: str) -> NDArray[np.int64]:
        """Step of each row of a quantity.

        Raises:
            TraceError: the file has no such quantity.
        """
        return np.asarray(self[self.axis(name)], dtype=np.int64)

    def __contains__(self, name: str) -> bool:
        if not self.complete:
            return name in self._file
        if name not in self._present:  # asked for each piece of a long run
            self._present[name] = name in self._file
        return self._present[name]

    def __getitem__(self, name: str) -> Array:
        """A dataset, cut along its time axis to the committed steps.

        Raises:
            TraceError: no such dataset, or one that fails its checksum.
        """
        axis = next((c for c in self.strides if time_axis(c, self.strides) == name), None)
        if axis is not None:  # known without looking
            return np.arange(-(-self.steps // self.strides[axis])) * self.strides[axis]
        cadence = next((q.cadence for q in self.quantities if q.name == name), None)
        return self.rows(name, slice(None if cadence is None else -(-self.steps // self.strides[cadence])))

    def rows(self, name: str, which: slice) -> Array:
        """Some rows of a dataset, committed or not.

        Raises:
            TraceError: no such dataset, or one that fails its checksum.
        """
        with self._guard(name):
            dataset = self._dataset(name) if name in self else None
            if not isinstance(dataset, h5py.Dataset):
                self._refuse(name)
            found = self._chunks.rows(name, dataset, which) if self.complete else None
            return np.asarray(dataset[which]) if found is None else found

    def _refuse(self, name: str) -> NoReturn:
        known = [q.name for q in self.quantities]
        hint = "".join(f"; did you mean {near!r}?" for near in difflib.get_close_matches(name, known, 1))
        raise TraceError(f"{self.path}: no dataset {name!r}; the file has {', '.join(known)}{hint}")

    def _dataset(self, name: str) -> Any:  # noqa: ANN401 - h5py is untyped
        """A dataset, opened once; in a live file, opened each time, as HDF5 caches what it has read of an open one."""
        if not self.complete:
            return self._file[name]
        if name not in self._opened:
            self._opened[name] = self._file[name]
        return self._opened[name]

    def dataset_names(self) -> list[str]:
        """Paths of all datasets except those of the group ``checkpoint``."""
        weights = [f"weights/{name}" for name in self._file.get("weights", ())]
        return [name for name, item in self._file.items() if isinstance(item, h5py.Dataset)] + weights

    def description(self, name: str) -> tuple[tuple[int, ...], str, tuple[str, ...], dict[str, Any]]:
        """Shape, type, names of the dimensions, and attributes (except HDF5's own) of a dataset."""
        with self._guard(name):
            dataset = self._dataset(name)
            dims = tuple(dim[0].name.rpartition("/")[2] if len(dim) else "" for dim in dataset.dims)
            described = read_attributes(dataset, without={"CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST"})
            return dataset.shape, dataset.dtype.str, dims, described

    def length(self, name: str) -> int:
        """Rows of a dataset, committed or not."""
        with self._guard(name):
            return len(self._dataset(name))

    def size_of(self, name: str) -> int:
        """Bytes that a dataset unpacks to."""
        return int(self._dataset(name).nbytes)

    def is_checksummed(self, name: str) -> bool:
        """Whether each chunk of a dataset exists and has a checksum; a missing chunk would read as zeros."""
        with self._guard(name):
            dataset = self._dataset(name)
            if not dataset.chunks or not dataset.fletcher32:
                return False
            grid = (-(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True))
            return bool(dataset.id.get_num_chunks() == math.prod(grid))

    @contextlib.contextmanager
    def _guard(self, name: str) -> Iterator[None]:
        """Turns an error of h5py into one line that names the dataset."""
        try:
            yield
        except DAMAGE as problem:
            raise TraceError(f"{self.path}: dataset {name} is damaged ({first_line(problem)})") from None

    def snapshot_steps(self) -> list[int]:
        """Steps of the committed snapshots, in order."""
        if "weights" not in self._file:
            return []
        return [s for s in self.rows("weights/snapshot_step", slice(None)).tolist() if 0 <= s <= self.steps]

    @property
    def due_snapshots(self) -> list[int]:
        """Steps of the snapshots that must exist; that of the newest committed step may be written later."""
        planned = self.layout.snapshots
        return [s for s in planned if s < self.steps or s == self.steps == self.layout.steps]

    def snapshot(self, step: int) -> list[Array]:
        """The network's blocks after ``step`` steps, one (M, out, fan_in) array each.

        Raises:
            TraceError: there is no snapshot at that step, or it is damaged.
        """
        if step not in (there := self.snapshot_steps()):
            steps = ", ".join(map(str, there)) or "none"
            raise TraceError(f"{self.path}: no snapshot at step {step}; there are snapshots at steps {steps}")
        number = self.snapshot_slot(step)
        with self._guard(f"weights at step {step}"):
            return [self._tensor(f"weights/{block.name}", number, block.matrix) for block in self.layout.blocks]

    def _tensor(self, name: str, number: int, shape: tuple[int, ...]) -> Array:
        dataset, expected = self._dataset(name), (self.members, *shape)
        if dataset.shape[1:] != expected or dataset.dtype != self.layout.number_type:
            raise ValueError(f"{name} is {dataset.dtype} of shape {dataset.shape}, expected {expected} in each row")
        return np.asarray(dataset[number])

    def snapshot_slot(self, step: int) -> int:
        """Row of a snapshot in the datasets of the weights."""
        with self._guard("weights/snapshot_step"):
            return list(self.rows("weights/snapshot_step", slice(None))).index(step)

    def snapshots(self) -> list[tuple[int, list[Array]]]:
        """(step, blocks) of each committed snapshot, in order; see ``snapshot``.

        Raises:
            TraceError: one of them is damaged.
        """
        return [(step, self.snapshot(step)) for step in self.snapshot_steps()]

    def beginning_attributes(self) -> dict[str, Any]:
        """The root attributes that do not depend on how far the run got."""
        of_the_end = {"status", "ended", "finished", "wall_seconds", "sessions", "attributes_digest"}
        return {name: value for name, value in self.attributes.items() if name not in of_the_end}

    # --- what a run is resumed from and verified by ---

    def checkpoint(self, name: str) -> Array:
        """An integer dataset of the group ``checkpoint``.

        Raises:
            TraceError: the dataset is missing, damaged, or of another shape or type.
        """
        with self._guard(f"checkpoint/{name}"):
            dataset = self._dataset(f"checkpoint/{name}")
            least = {"commit": (2, 7), "blocks": (0, 2)}.get(name, (0,))
            if len(dataset.shape) != len(least) or dataset.shape < least or dataset.dtype.kind not in "iu":
                raise ValueError(f"{dataset.dtype} of shape {dataset.shape}")
            return np.asarray(dataset[:])

    def state(self, slot: int | None = None) -> dict[str, list[Array]]:
        """The optimizer's state after the last committed step (or in a slot), by name and layer, (M, ...).

        Empty if the file has none, like that of a run that diverged.

        Raises:
            TraceError: it is damaged.
        """
        if "checkpoint" not in self._file:
            return {}
        if slot is None:
            slot = 0 if self.complete else next((c.slot for c in whole_commits(self)), 0)
        with self._guard("checkpoint"):
            return {
                key: [self._tensor(f"checkpoint/{key}{k}", slot, shape) for k, shape in enumerate(shapes, 1)]
                for key, shapes in self.layout.state.items()
            }

    @property
    def sessions(self) -> list[dict[str, Any]]:
        """The processes that resumed this run, oldest first; a torn line is left out."""
        text = self.attributes.get("sessions", "")
        if not self.complete:
            with contextlib.suppress(TraceError):
                text = bytes(self.checkpoint("sessions")).rstrip(b"\0").decode(errors="replace")
        found = []
        for line in text.splitlines():
            with contextlib.suppress(ValueError, RecursionError):  # a torn last line
                session = json.loads(line)
                if isinstance(session, dict) and {"from_step", "started", "host"} <= set(session):
                    found.append(session)
        return found

    def __enter__(self) -> Trace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._chunks.close()
        self._file.close()


def open_trace(path: Path | str, *, cut_short: bool = False) -> Trace:
    """Opens a run file of any state for reading.

    Args:
        path: of the file.
        cut_short: also open a file that lost its end, or some of its parts; what is lost reads as damaged.

    Raises:
        TraceError: the file is missing, not HDF5, damaged, or not a run of a format that this version reads.
    """
    path = Path(path)
    if not path.exists():
        raise TraceError(f"{path}: no such run file; {_remedy(path)}")
    if not path.is_file():
        raise TraceError(f"{path}: got a {'folder' if path.is_dir() else 'special file'}, expected a run file")
    try:
        file = open_cut_short(path) if cut_short else open_hdf5(path)
    except OSError as problem:
        raise TraceError(f"{path}: cannot be read as a run file: {_trouble(path)} ({first_line(problem)})") from None
    try:
        heaps = damaged_heaps(path, file) if cut_short else []
        if heaps:
            file = without(path, file, heaps)
        check(path, file, cut_short=cut_short)
        return Trace(path, file, cut_short=cut_short)
    except TraceError:
        file.close()
        raise
    except DAMAGE as problem:
        file.close()
        raise TraceError(f"{path}: a damaged run file ({first_line(problem)})") from None


def _remedy(path: Path) -> str:
    if near := nearest_file(path, "*.h5"):
        return f"did you mean {near}?"
    return "nothing matches the pattern" if "*" in path.name else f"`rhotrace train RECIPE -o {path}` creates one"


def _trouble(path: Path) -> str:
    try:
        begins_well = begins_as_hdf5(path)
    except OSError as problem:
        return problem.strerror or str(problem)
    return f"damaged or cut short; try `rhotrace repair {path}`" if begins_well else "not HDF5"
