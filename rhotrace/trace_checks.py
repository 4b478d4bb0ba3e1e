"""Refusing what no run file holds, before any of its data is read: links, foreign storage, absurd sizes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rhotrace.errors import TraceError
from rhotrace.quantities import QUANTITIES
from rhotrace.trace_layout import FORMAT, FORMAT_VERSION

# What h5py and the decoders raise on bytes that are not what they should be.
DAMAGE = (OSError, KeyError, ValueError, RuntimeError, TypeError, AttributeError, IndexError)
_MAX_CHUNK = 1 << 24
_ALLOWANCE = 1 << 26  # bytes that any file may unpack to,
_MAX_RATIO = 100  # and how many times its size beyond that
_GROUPS = ("weights", "checkpoint")


def check(path: Path, file: h5py.File, *, cut_short: bool = False) -> None:
    """Raises TraceError unless the file is a run of this format whose datasets are what they seem.

    Args:
        path: of the file.
        file: opened for reading.
        cut_short: the file lost its end, so its size says nothing of its data.
    """
    if plain(file.attrs.get("format")) != FORMAT:
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
    total = sum(_check_item(path, group, name) for group in _groups(path, file) for name in group)
    stat = path.stat()
    stored = min(stat.st_size, stat.st_blocks * 512)  # a sparse file is as small as it is
    if total > _ALLOWANCE + _MAX_RATIO * stored and not cut_short:
        raise TraceError(
            f"{path}: refused: its datasets declare {total / 1e6:.3g} MB, far more than {stored / 1e6:.3g} MB can hold"
        )


def _groups(path: Path, file: h5py.File) -> list[h5py.Group]:
    for name in _GROUPS:
        if name in file:
            _check_link(path, file, name)
    return [file, *(file[name] for name in _GROUPS if name in file)]


def _check_link(path: Path, group: h5py.Group, name: str) -> str:
    where = f"{path}: refused: {group.name.rstrip('/')}/{name}"
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise TraceError(f"{where} is a link to another place; a run file has none")
    return where


def _check_item(path: Path, group: h5py.Group, name: str) -> int:
    """Bytes that a dataset unpacks to."""
    where = _check_link(path, group, name)
    item = group[name]
    if not isinstance(item, h5py.Dataset):
        if group.name != "/" or name not in _GROUPS:
            raise TraceError(f"{where} is no dataset; a run file has no other groups than {' and '.join(_GROUPS)}")
        return 0
    if item.is_virtual or item.external:
        raise TraceError(f"{where} keeps its data in other files; a run file does not")
    if item.chunks and np.prod(item.chunks, dtype=float) * item.dtype.itemsize > _MAX_CHUNK:
        raise TraceError(f"{where} has chunks of {item.chunks}, expected at most {_MAX_CHUNK >> 20} MiB each")
    if item.dtype.kind not in "iuf":
        raise TraceError(f"{where} has type {item.dtype}, expected numbers")
    quantity = next((q for q in QUANTITIES if q.name == name), None)
    if quantity and group.name == "/":
        expected = tuple(group[axis].shape[0] for axis in quantity.axes)
        if item.ndim != 1 + len(expected) or item.shape[1:] != expected or item.dtype != np.float64:
            raise TraceError(
                f"{where} is {item.dtype} of shape {item.shape}, expected float64 of (time, {', '.join(map(str, expected))})"
            )
    size: int = math.prod(item.shape) * item.dtype.itemsize
    if item.chunks is None and size and item.id.get_storage_size() < size:
        raise TraceError(f"{where} declares shape {item.shape}, but holds nothing of it")
    return size


def first_line(problem: BaseException) -> str:
    """The first line of an error's message, or its name."""
    return (str(problem).splitlines() or [type(problem).__name__])[0]


def plain(value: Any) -> Any:  # noqa: ANN401 - an HDF5 attribute
    """An HDF5 attribute as a plain Python value."""
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value
