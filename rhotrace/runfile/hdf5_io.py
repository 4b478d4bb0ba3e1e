"""Opening HDF5 files where plain h5py is not safe: live files, truncated files, and files on a disk that may be full."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from rhotrace.errors import TraceError

# Readable by HDF5 1.10 tools; "latest" would not be.
_LIBVER = ("v110", "v110")
# Numbers begin at multiples of their size, so that no sector of a disk, and no page in memory, holds half of one.
_ALIGNMENT = {"alignment_threshold": 1, "alignment_interval": 8}
# Bytes of unpacked chunks that HDF5 keeps of each open dataset: two chunks. HDF5 2.0 would keep 8 MiB of each.
CHUNK_CACHE = 1 << 20
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SUPERBLOCK_END = 28  # place of the end-of-file address in a superblock of version 2 or 3


def open_hdf5(path: Path) -> h5py.File:
    """Opens HDF5 for reading without taking a lock, so that a live file can be watched.

    HDF5 refuses to open one file with two locking modes in one process. If another library, such as xarray, has
    opened the file, its mode is used.
    """
    try:
        return h5py.File(path, "r", locking=False, rdcc_nbytes=CHUNK_CACHE)
    except OSError as problem:
        if "locking flag" not in str(problem):
            raise
        return h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE)


@contextlib.contextmanager
def new_hdf5(path: Path) -> Iterator[h5py.File]:
    """Creates an HDF5 file, and syncs it to the disk at the end.

    HDF5 ends the whole process with SIGSEGV when it closes a file whose writes fail. So it writes through
    a Python file that keeps the first failure and reports success until HDF5 has closed it.

    Raises:
        OSError: the file exists already, the folder cannot be written, or the disk is full.
    """
    with _Forgiving(path, "xb+") as raw:
        try:
            with h5py.File(raw, "w", libver=_LIBVER, track_order=True, **_ALIGNMENT) as file:
                yield file
        except Exception:
            if raw.failure:
                raise raw.failure from None
            raise
        if raw.failure:
            raise raw.failure
        sync(raw.fileno())


class _Forgiving(io.FileIO):
    """An unbuffered file whose failing writes are kept in ``failure`` instead of raised."""

    def __init__(self, path: Path, mode: str) -> None:
        super().__init__(path, mode)
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:  # noqa: ANN401 - as readinto below
        view = memoryview(data).cast("B")
        size = len(view)
        try:
            while view and not self.failure:
                view = view[super().write(view) :]
        except OSError as problem:
            self.failure = problem
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as problem:
            self.failure = self.failure or problem
            return size or 0


def open_cut_short(path: Path) -> h5py.File:
    """Opens a truncated file, for what is left of it; the lost end reads as zeros.

    Raises:
        OSError: its beginning is damaged too.
    """
    with path.open("rb") as file:
        superblock = file.read(48)
    if not superblock.startswith(_SIGNATURE) or len(superblock) < 48 or superblock[8] not in (2, 3):
        raise OSError("its first bytes are lost")
    return h5py.File(_Padded(path, struct.unpack_from("<Q", superblock, _SUPERBLOCK_END)[0]), "r")


class _Padded(io.FileIO):
    """A file that reads as zeros from its real end to the end it should have."""

    def __init__(self, path: Path, size: int) -> None:
        super().__init__(path, "rb")
        self._size = max(size, os.fstat(self.fileno()).st_size)
        self._place = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = start + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - a writable buffer; Python 3.11 has no name for it
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._size - self._place))
        data = os.pread(self.fileno(), count, self._place)
        view[:count] = data.ljust(count, b"\0")
        self._place += count
        return count


def sync(descriptor: int) -> None:
    """Returns once everything written is on the disk itself, not in its cache."""
    if hasattr(fcntl, "F_FULLFSYNC"):  # macOS, where fsync stops at the disk's cache
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(descriptor)


def sync_folder(folder: Path) -> None:
    """Returns once the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def begins_as_hdf5(path: Path) -> bool:
    """Whether a file has HDF5's first bytes, as every run file has, damaged or not.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return file.read(len(_SIGNATURE)) == _SIGNATURE


def refuse_to_replace_a_run(path: Path) -> None:
    """Raises TraceError if writing to ``path`` would replace a run file, which no output may do."""
    with contextlib.suppress(OSError):  # an unreadable path is reported when writing to it fails
        if path.suffix != ".nc" and path.is_file() and begins_as_hdf5(path):
            raise TraceError(
                f"{path}: an HDF5 file, perhaps a run, which is never replaced; choose another name with -o"
            )
