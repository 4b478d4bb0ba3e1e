"""Reading a run file: live, interrupted and finished ones alike, as plain arrays cut to what was committed."""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from rhotrace.errors import TraceError
from rhotrace.quantities import QUANTITIES, Cost, Quantity
from rhotrace.trace_layout import FORMAT, FORMAT_VERSION, time_axis

Array = NDArray[Any]
_MAX_CHUNK = 1 << 24
_MAX_RATIO = 2000  # gzip cannot do better than about 1000:1
# What h5py and the decoders raise on bytes that are not what they should be.
_DAMAGE = (OSError, KeyError, ValueError, RuntimeError, TypeError, AttributeError)


@dataclass(frozen=True)
class Commit:
    """A commit record of a live file: steps that count, place of the state that belongs to them, seconds trained."""

    steps: int
    slot: int
    seconds: float


def newest_commit(file: h5py.File) -> Commit:
    """The valid commit record with the most steps; zero steps where there is none yet."""
    records = file["checkpoint/commit"][:]
    whole = [r for r in records if r[3] > 0 and r[4] == zlib.crc32(r[:4].tobytes())]
    newest = max(whole, key=lambda r: (r[0], r[3]), default=np.array([0, 1, 0]))
    return Commit(int(newest[0]), int(newest[1]), float(newest[2] * 1e-9))


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
        self.attributes: dict[str, Any] = {name: _plain(value) for name, value in file.attrs.items()}
        self.strides: dict[Cost, int] = json.loads(self.attributes["strides"])
        self.recipe: dict[str, Any] = dict(json.loads(self.attributes["recipe_json"]))
        self.members = int(file["member"].shape[0])
        self.depth = int(file["layer"].shape[0])
        self.complete = self.attributes["status"] == "complete"
        if self.complete:
            self.steps = int(file["step"].shape[0])
            self.wall_seconds = float(self.attributes.get("wall_seconds", np.nan))
        else:
            newest = newest_commit(file)
            self.steps, self.wall_seconds = newest.steps, newest.seconds

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
        cost = next((q.cost for q in QUANTITIES if q.name == name), None)
        cost = cost or next((c for c in self.strides if time_axis(c, self.strides) == name), None)
        with self._guard(name):
            dataset = self._file.get(name)
            if not isinstance(dataset, h5py.Dataset):
                known = ", ".join(q.name for q in self.quantities)
                raise TraceError(f"{self.path}: no dataset {name!r}; it holds {known}")
            rows = dataset.shape[0] if cost is None else -(-self.steps // self.strides[cost])
            return np.asarray(dataset[:rows])

    @contextlib.contextmanager
    def _guard(self, name: str) -> Iterator[None]:
        """Turns what h5py says of damage into one line that names the place."""
        try:
            yield
        except _DAMAGE as problem:
            raise TraceError(f"{self.path}: dataset {name} is damaged ({_first_line(problem)})") from None

    def snapshot_steps(self) -> list[int]:
        """Steps of the committed copies of the weights, in order."""
        with self._guard("weights"):
            taken = self._file["weights/snapshot_step"][:] if "weights" in self._file else []
            return [int(s) for s in taken if 0 <= s <= self.steps]

    def snapshots(self) -> list[tuple[int, list[Array]]]:
        """(step, weights) of each committed copy of the weights, in order; weights are (M, out, in)."""
        with self._guard("weights"):
            if "weights" not in self._file:
                return []
            group = self._file["weights"]
            taken = group["snapshot_step"][:]
            layers = range(1, self.depth + 1)
            return [(int(s), [group[f"W{k}"][i] for k in layers]) for i, s in enumerate(taken) if 0 <= s <= self.steps]

    def __enter__(self) -> Trace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
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
        raise TraceError(f"{path}: got a {'folder' if path.is_dir() else 'special file'}, expected a run file")
    try:
        file = open_hdf5(path)
    except OSError as problem:
        raise TraceError(f"{path}: cannot be read as a run file: {_trouble(path)} ({_first_line(problem)})") from None
    try:
        _check(path, file)
        return Trace(path, file)
    except TraceError:
        file.close()
        raise
    except _DAMAGE as problem:
        file.close()
        raise TraceError(f"{path}: a damaged run file ({_first_line(problem)})") from None


def open_hdf5(path: Path) -> h5py.File:
    """Opens HDF5 for reading without taking a lock, so that a live file can be watched.

    HDF5 refuses to open one file with two locking modes in one process; where someone (xarray, say)
    has it open already, theirs is taken.
    """
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as problem:
        if "locking flag" not in str(problem):
            raise
        return h5py.File(path, "r")


def _trouble(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return "damaged or cut short" if file.read(8) == b"\x89HDF\r\n\x1a\n" else "not HDF5"
    except OSError as problem:
        return problem.strerror or str(problem)


def _check(path: Path, file: h5py.File) -> None:
    if _plain(file.attrs.get("format")) != FORMAT:
        raise TraceError(f"{path}: HDF5, but not a run of RhoTrace (no attribute format = {FORMAT!r})")
    version = int(file.attrs.get("format_version", -1))
    if version != FORMAT_VERSION:
        raise TraceError(
            f"{path}: got format version {version}, expected {FORMAT_VERSION}; use the version of RhoTrace that wrote it"
        )
    needed = {"step", "member", "layer", *(q.name for q in QUANTITIES if q.only is None)}
    missing = sorted(needed - set(file))
    if missing:
        raise TraceError(f"{path}: a damaged run file: the datasets {', '.join(missing)} are missing")
    for name in file:
        _check_item(path, file, name)
    for name in file.get("weights", ()):
        _check_item(path, file["weights"], name)


def _check_item(path: Path, group: h5py.Group, name: str) -> None:
    """Refuses what a run file never has and what could make a reader open other files or fill the memory."""
    where = f"{path}: refused: {group.name.rstrip('/')}/{name}"
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise TraceError(f"{where} is a link to another place; a run file has none")
    item = group[name]
    if not isinstance(item, h5py.Dataset):
        return
    if item.is_virtual or item.external:
        raise TraceError(f"{where} keeps its data in other files; a run file does not")
    if item.chunks and np.prod(item.chunks, dtype=float) * item.dtype.itemsize > _MAX_CHUNK:
        raise TraceError(f"{where} has chunks of {item.chunks}, expected at most {_MAX_CHUNK >> 20} MiB each")
    if item.dtype.kind not in "if":
        raise TraceError(f"{where} has type {item.dtype}, expected numbers")
    quantity = next((q for q in QUANTITIES if q.name == name), None)
    if quantity and group.name == "/":
        expected = tuple(group[axis].shape[0] for axis in quantity.axes)
        if item.ndim != 1 + len(expected) or item.shape[1:] != expected or item.dtype != np.float64:
            raise TraceError(
                f"{where} is {item.dtype} of shape {item.shape}, expected float64 of (time, {', '.join(map(str, expected))})"
            )
    if item.size * item.dtype.itemsize > _MAX_RATIO * (path.stat().st_size + _MAX_CHUNK):
        raise TraceError(f"{where} declares shape {item.shape}, far more than the file can hold")


def _first_line(problem: BaseException) -> str:
    return (str(problem).splitlines() or [type(problem).__name__])[0]


def _plain(value: Any) -> Any:  # noqa: ANN401 - an HDF5 attribute
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value
