"""Refusing what no run file contains, before any data is read: links, external storage, absurd sizes."""

from __future__ import annotations

import contextlib
import json
import math
import re
import struct
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from rhotrace.errors import TraceError
from rhotrace.runfile import format2
from rhotrace.runfile.hdf5_io import _Padded
from rhotrace.runfile.layout import FORMAT, READABLE_VERSIONS

# What h5py and the decoders raise on bytes that are not what they should be.
DAMAGE = (OSError, KeyError, ValueError, RuntimeError, TypeError, AttributeError, IndexError)
_MAX_CHUNK = 1 << 24  # bytes of a chunk
_ALLOWANCE = 1 << 26  # bytes that any file may unpack to
_MAX_RATIO = 100  # times its size that a file may unpack to beyond the allowance
_GROUPS = ("weights", "checkpoint")
_CHECKSUM_BYTES = 4
_MAX_BETWEEN = 1 << 25  # bytes of a file that belong to no dataset
_MAX_HEAP = 1 << 22  # bytes of a heap of text
_MAX_TEXT = 1 << 24  # bytes of all attributes of a group or dataset
_MAX_ATTRIBUTES = 200
_MAX_EXCESS = 1 << 10  # bytes by which a stored chunk may exceed 9/8 of its unpacked size
_MAX_MARK = 1 << 10  # bytes of the attributes ``format`` and ``format_version``
_SLAB = 1 << 22  # bytes searched at a time
_TYPES: dict[str, type] = {
    **dict.fromkeys(("format_version", "samples", "samples_test", "outputs"), int),
    **dict.fromkeys(("status", "ended", "sessions", "recipe", "recipe_json", "recipe_digest", "dtype", "device"), str),
    **dict.fromkeys(("data_classes", "data_digest", "planned_steps", "planned_snapshots", "strides"), str),
    **dict.fromkeys(("layer_shapes", "state_shapes", "layout", "own_loop"), str),
    "wall_seconds": float,
}
_SEEDS = ("seed", "batch_seed")

Opened = dict[tuple[str, str], Any]  # groups and datasets, by the name of their group and their own


def check(path: Path, file: h5py.File, *, cut_short: bool = False) -> None:
    """Raises TraceError unless the file is a run of this format whose datasets are what they seem.

    Args:
        path: of the file.
        file: opened for reading.
        cut_short: the file lost its end, so its size says nothing of its data; what cannot be opened is not checked.
    """
    opened: Opened = {}
    if "format" in file.attrs and not cut_short:
        for place in damaged_heaps(path, file, opened):
            raise TraceError(f"{path}: a damaged run file: the text at byte {place} is damaged")
    if _mark(file, "format") != FORMAT:
        raise TraceError(f"{path}: HDF5, but not a run of RhoTrace (no attribute format = {FORMAT!r})")
    version = _mark(file, "format_version")
    if version not in READABLE_VERSIONS:
        raise TraceError(
            f"{path}: got format version {version}, expected {' or '.join(map(str, READABLE_VERSIONS))}; "
            "use the version of RhoTrace that wrote it"
        )
    _check_datasets(path, file, opened, cut_short=cut_short)


def _mark(file: h5py.File, name: str) -> Any:  # noqa: ANN401 - as plain
    """A root attribute of any HDF5 file; None if it is missing, or too long for a run file."""
    attributes = file.attrs
    short = name in attributes and h5py.h5a.open(file.id, name.encode()).get_storage_size() <= _MAX_MARK
    return plain(attributes[name]) if short else None


def _check_datasets(path: Path, file: h5py.File, opened: Opened, *, cut_short: bool) -> None:
    quantities, per_member = _declared(file)
    missing = sorted({"step", "member", "layer", "seed", *per_member, *quantities} - set(file))
    if missing:
        raise TraceError(f"{path}: a damaged run file: the datasets {', '.join(missing)} are missing")
    total, tolerated = 0, DAMAGE if cut_short else ()
    for group in _groups(file):
        names: list[str] = []
        with contextlib.suppress(*tolerated):
            names = list(group)
        for name in names:
            with contextlib.suppress(*tolerated):
                item = opened.get((group.name, name))
                total += _check_item(path, group, name, item, quantities, per_member)
    stat, whole = path.stat(), file.id.get_filesize()
    stored = min(stat.st_size, stat.st_blocks * 512)  # a sparse file counts as what it occupies
    stored = whole if whole > stat.st_size else stored  # a truncated file counts as its full size
    if total > _ALLOWANCE + _MAX_RATIO * stored:
        raise TraceError(
            f"{path}: refused: its datasets declare {total / 1e6:.3g} MB, far more than {stored / 1e6:.3g} MB can hold"
        )


def damaged_heaps(path: Path, file: h5py.File, opened: Opened | None = None) -> list[int]:
    """Places of damaged text in a file, whose reading might never end.

    HDF5 stores text in *global heaps* (HDF5 File Format Specification, section III.E), the only part of its metadata
    without a checksum. It walks a heap by the sizes in it: one flipped bit can make the walk endless.

    Args:
        path: of the file.
        file: opened for reading.
        opened: takes the items of its groups that can be opened and are no links to another place.
    """
    between = list(_between_datasets(path, file, {} if opened is None else opened))
    total = sum(last - first for first, last in between)
    if total > _MAX_BETWEEN:
        raise TraceError(
            f"{path}: refused: {total / 1e6:.3g} MB of it belong to no dataset, expected at most {_MAX_BETWEEN / 1e6:.3g}"
        )
    damaged = []
    with path.open("rb") as raw:
        for first, last in between:
            for start in range(first, last, _SLAB):
                raw.seek(start)
                found = re.finditer(rb"GCOL\x01", raw.read(min(_SLAB + 4, last - start)))
                damaged += [
                    place for place in [start + heap.start() for heap in found] if not _heap_is_whole(raw, place)
                ]
    return damaged


def without(path: Path, file: h5py.File, heaps: Sequence[int]) -> h5py.File:
    """Reopens a truncated file so that reading text in the given heaps is an error."""
    size = file.id.get_filesize()
    file.close()
    return h5py.File(_Silenced(path, size, heaps), "r")


class _Silenced(_Padded):
    """A padded file in which the first byte of some heaps reads as zero."""

    def __init__(self, path: Path, size: int, heaps: Sequence[int]) -> None:
        super().__init__(path, size)
        self._heaps = heaps

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - as that of _Padded
        first = self.tell()
        count = super().readinto(buffer)
        view = memoryview(buffer).cast("B")
        for heap in self._heaps:
            if first <= heap < first + count:
                view[heap - first] = 0
        return count


def _heap_is_whole(raw: BinaryIO, place: int) -> bool:
    """Whether the objects of a global heap fill it.

    Each has an index (2 bytes), 6 bytes that do not matter here, a size (8 bytes), and content padded to 8 bytes.
    """
    raw.seek(place)
    header = raw.read(16)
    size = int.from_bytes(header[8:], "little")
    content = raw.read(size - 16) if len(header) == 16 and 16 <= size <= _MAX_HEAP else b""
    if len(content) != size - 16:
        return False
    at = 0
    while len(content) - at >= 16:  # a shorter rest is free
        index, length = struct.unpack_from("<H6xQ", content, at)
        if not index:  # the free rest, whose size counts from its own header
            return bool(length == len(content) - at)
        at += 16 + -(-length // 8) * 8
    return at <= len(content)


def _between_datasets(path: Path, file: h5py.File, opened: Opened) -> Iterator[tuple[int, int]]:
    """The ranges of bytes in which no dataset stores its values."""
    held: list[tuple[int, int]] = []
    for group in _groups(file):
        names: list[str] = []
        with contextlib.suppress(*DAMAGE):
            names = list(group)
        for name in names:
            with contextlib.suppress(*DAMAGE):  # the bytes of what cannot be opened are searched too
                if _is_hard(group, name):
                    opened[group.name, name] = item = group[name]
                    held += _places(path, item) if isinstance(item, h5py.Dataset) else []
    end = 0
    for first, last in sorted(held):
        if first > end:
            yield end, first
        end = max(end, last)
    yield end, path.stat().st_size


def _places(path: Path, dataset: h5py.Dataset) -> list[tuple[int, int]]:
    """First byte, and the one after the last, of each piece of a dataset's values."""
    if (shape := dataset.chunks) is None:
        first = dataset.id.get_offset()
        return [] if first is None else [(first, first + dataset.nbytes)]
    chunks: list[Any] = []
    dataset.id.chunk_iter(chunks.append)
    unpacked, checked = math.prod(shape) * dataset.dtype.itemsize, dataset.fletcher32
    for chunk in chunks:
        if checked and chunk.size < _CHECKSUM_BYTES:
            raise TraceError(
                f"{path}: refused: {dataset.name} has a chunk shorter than its checksum"
            )  # which crashes HDF5
        if chunk.size > unpacked + unpacked // 8 + _MAX_EXCESS:  # it could unpack to any size
            raise TraceError(f"{path}: refused: {dataset.name} stores {chunk.size} bytes for a chunk of {unpacked}")
    return [(chunk.byte_offset, chunk.byte_offset + chunk.size) for chunk in chunks]


def _is_hard(group: h5py.Group, name: str) -> bool:
    """Whether an item of a group is in this file, not behind a link."""
    return isinstance(group.get(name, getlink=True), h5py.HardLink)


def _groups(file: h5py.File) -> list[h5py.Group]:
    """The groups of a run file, as far as they exist and can be opened."""
    found: list[h5py.Group] = [file]
    for name in _GROUPS:
        with contextlib.suppress(*DAMAGE):
            if _is_hard(file, name) and isinstance(file[name], h5py.Group):
                found.append(file[name])
    return found


def _declared(file: h5py.File) -> tuple[set[str], set[str]]:
    """Names of the quantities and of the members' options that the file says it has.

    Raises:
        KeyError, TypeError, ValueError: the attributes that say so are damaged.
    """
    version = int(_mark(file, "format_version"))
    attributes = read_attributes(file)
    content = format2.content(attributes) if version == 2 else json.loads(attributes["layout"])
    return {str(quantity["name"]) for quantity in content["quantities"]}, set(map(str, content["per_member"]))


def _check_item(
    path: Path,
    group: h5py.Group,
    name: str,
    item: Any,  # noqa: ANN401 - h5py has no types
    quantities: Collection[str],
    per_member: Collection[str],
) -> int:
    """Bytes that a dataset unpacks to; ``item`` is what the name stands for, if it has been opened."""
    where = f"{path}: refused: {group.name.rstrip('/')}/{name}"
    if item is None and not _is_hard(group, name):
        raise TraceError(f"{where} is a link to another place; a run file has none")
    item = group[name] if item is None else item
    if not isinstance(item, h5py.Dataset):
        if group.name != "/" or name not in _GROUPS:
            raise TraceError(f"{where} is not a dataset; a run file has no other groups than {' and '.join(_GROUPS)}")
        return 0
    if group.name == "/" and name in _GROUPS:
        raise TraceError(f"{where} is a dataset, expected a group")
    if item.is_virtual or item.external:
        raise TraceError(f"{where} stores its data in other files; a run file does not")
    chunks, dtype = item.chunks, item.dtype
    if chunks and np.prod(chunks, dtype=float) * dtype.itemsize > _MAX_CHUNK:
        raise TraceError(f"{where} has chunks of {chunks}, expected at most {_MAX_CHUNK >> 20} MiB each")
    if dtype.kind not in "iuf":
        raise TraceError(f"{where} has type {dtype}, expected numbers")
    if name == "snapshot_step" or (group.name == "/" and name not in quantities):
        _check_axis(where, group, name, item, per_member)
    size: int = math.prod(item.shape) * dtype.itemsize
    if chunks is None and size and item.id.get_storage_size() < size:
        raise TraceError(f"{where} declares shape {item.shape}, but is not stored in full")
    return size


def _check_axis(where: str, group: h5py.Group, name: str, item: h5py.Dataset, per_member: Collection[str]) -> None:
    """Refuses what is not a list of numbers; the quantities are checked where the layout is known."""
    if group.name == "/" and (name in _SEEDS or name in per_member):
        if item.shape != group["member"].shape or (item.dtype.kind != "i" and name in _SEEDS):
            raise TraceError(f"{where} is {item.dtype} of shape {item.shape}, expected a number for each member")
    elif item.ndim != 1:
        raise TraceError(f"{where} has shape {item.shape}, expected one axis")


def read_attributes(item: h5py.Group | h5py.Dataset, *, without: Collection[str] = ()) -> dict[str, Any]:
    """The attributes of a group or dataset as plain values.

    Raises:
        TypeError: one is neither text nor a number.
        ValueError: there are more of them, or more text, than any run has.
    """
    attributes = item.attrs  # which h5py opens anew each time it is asked for
    if len(attributes) > _MAX_ATTRIBUTES:
        raise ValueError(f"{len(attributes)} attributes, expected at most {_MAX_ATTRIBUTES}")
    found: dict[str, Any] = {}
    room = _MAX_TEXT
    for name in attributes:
        if name in without:
            continue
        room -= int(h5py.h5a.open(item.id, name.encode()).get_storage_size())
        value = plain(attributes[name]) if room >= 0 else None
        room -= len(value) if isinstance(value, str) else 0
        if room < 0:
            raise ValueError(f"attributes of more than {_MAX_TEXT >> 20} MiB")
        if not isinstance(value, str | int | float):
            raise TypeError(f"attribute {name}: got {type(value).__name__}, expected text or a number")
        found[name] = value
    return found


def read_root_attributes(file: h5py.File) -> dict[str, Any]:
    """The root attributes of a run file as plain values, with their types checked.

    Raises:
        TypeError: as ``read_attributes``; or one has another type than in every run.
        ValueError: as ``read_attributes``.
    """
    found = read_attributes(file)
    for name in found:
        expected = _TYPES.get(name, object)
        if not isinstance(found[name], expected):
            raise TypeError(f"attribute {name}: got {type(found[name]).__name__}, expected {expected.__name__}")
    return found


def first_line(problem: BaseException) -> str:
    """The first line of an error's message; its type if it has none."""
    return (str(problem).splitlines() or [type(problem).__name__])[0]


def plain(value: Any) -> Any:  # noqa: ANN401 - an HDF5 attribute
    """An HDF5 attribute as a plain Python value; invalid text becomes printable."""
    if isinstance(value, str):
        value = value.encode(errors="surrogateescape")
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value.item() if isinstance(value, np.generic) else value
