"""Reading the datasets of a finished run, whose chunks several threads unpack at once.

HDF5 unpacks one chunk at a time, whoever asks. Here each chunk is read from the file at the place that HDF5 states, and
checked and unpacked as HDF5 would. Only datasets that are stored exactly as ``sealing`` stores them are read so. All
others, and every chunk that does not match its checksum, are left to HDF5, which says what is wrong.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from zlib_ng import zlib_ng

Array = NDArray[Any]

_FILTERS = [h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32]  # in the order of writing
_CHECKSUM_BYTES = 4
_MOST_THREADS = 8
_FEWEST = 4  # chunks for each thread: for fewer, its start takes longer than what it saves
_LANES = np.uint64(0x0000_FFFF_0000_FFFF)  # two of the four words in eight bytes, each with room for a sum
_WORD_BITS, _LANE_BITS = np.uint64(16), np.uint64(32)
_ROW = 4096  # words of 16 bits
_EVEN = np.arange(0, _ROW, 2, dtype=np.uint64)
_ODD = _EVEN + np.uint64(1)


class ChunkReader:
    """Reads rows of the datasets of an open file by several threads; ``None`` stands for what HDF5 must read itself.

    Any number of threads may read at once.

    Args:
        file: opened for reading; nothing may write to it meanwhile.
        threads: that unpack; by default one for each processor that this process may use.
    """

    def __init__(self, file: h5py.File, threads: int | None = None) -> None:
        self._threads = threads or _processors()
        self._stored: dict[str, _Stored | None] = {}
        self._kept: dict[str, tuple[int, bytes]] = {}  # number and content of the last chunk that was read in part
        self._pool: ThreadPoolExecutor | None = None
        self._starts = threading.Lock()
        at_its_places = file.driver == "sec2" and not file.userblock_size  # where HDF5 says that a chunk is
        self._descriptor = int(file.id.get_vfd_handle()) if at_its_places else None

    def rows(self, name: str, dataset: h5py.Dataset, which: slice) -> Array | None:
        """Some rows of a dataset, the same bits as ``dataset[which]``.

        Args:
            name: of the dataset.
            dataset: open.
            which: rows.

        Raises:
            ValueError: a chunk matches its checksum, but unpacks to another size than a chunk has.
        """
        if self._descriptor is None:
            return None
        if name not in self._stored:
            self._stored[name] = _stored(dataset, self._descriptor)
        stored = self._stored[name]
        if stored is None:
            return None
        first, last, stride = which.indices(stored.length)
        if stride != 1 or first >= last:
            return None
        found = np.empty((last - first, *stored.width), stored.dtype)
        numbers = range(first // stored.rows, (last - 1) // stored.rows + 1)
        return found if self._fill(found, name, stored, numbers, first) else None

    def _fill(self, found: Array, name: str, stored: _Stored, numbers: Sequence[int], first: int) -> bool:
        """Unpacks chunks into the rows from ``first`` on; False where one is not as it should be."""
        left = iter(numbers)
        odd: list[int] = []

        def unpack() -> None:
            for number in left:  # which each thread takes the next of
                if odd or not self._unpack(found, name, stored, number, first):
                    odd.append(number)

        helpers = [self._helpers().submit(unpack) for _ in range(min(self._threads, len(numbers) // _FEWEST) - 1)]
        try:
            unpack()
        except BaseException:
            odd.append(-1)  # the helpers need not go on
            raise
        finally:
            for helper in helpers:
                if not helper.cancel():
                    helper.result()
        return not odd

    def _unpack(self, found: Array, name: str, stored: _Stored, number: int, first: int) -> bool:
        """Puts a chunk's rows in their places among those from ``first`` on; False where it is not as it should be."""
        start = number * stored.rows  # of the chunk
        end = min(start + stored.rows, stored.length)
        low, high = max(first, start), min(first + len(found), end)
        kept = self._kept.get(name, (-1, b""))
        shuffled = kept[1] if kept[0] == number else stored.inflated(number)
        if shuffled is None:
            return False
        if (low, high) != (start, end):  # the next piece of the dataset may begin in it
            self._kept[name] = number, shuffled
        size = stored.dtype.itemsize
        planes = np.frombuffer(shuffled, np.uint8).reshape(size, -1)
        part = planes[:, (low - start) * stored.row_items : (high - start) * stored.row_items]
        target = found[low - first : high - first].reshape(-1).view(np.uint8).reshape(-1, size)
        for place in range(size):
            target[:, place] = part[place]
        return True

    def _helpers(self) -> ThreadPoolExecutor:
        """The threads that unpack beside the one that asks."""
        with self._starts:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._threads - 1)
            return self._pool

    def close(self) -> None:
        """Ends the threads; from now on HDF5 is left to say that the file is closed."""
        self._descriptor = None
        if self._pool:
            self._pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _Stored:
    """Where a dataset's chunks are.

    Attributes:
        descriptor: of the file.
        length: rows of the dataset.
        rows: of a chunk.
        width: shape of a row.
        dtype: of the numbers.
        places: first byte of each chunk, and its bytes.
    """

    descriptor: int
    length: int
    rows: int
    width: tuple[int, ...]
    dtype: np.dtype[Any]
    places: list[tuple[int, int]]

    @property
    def row_items(self) -> int:
        """Numbers in a row."""
        return math.prod(self.width)

    def inflated(self, number: int) -> bytes | None:
        """A chunk's numbers: the first byte of each, then the second of each; None where HDF5 has to say what is wrong.

        Raises:
            ValueError: as ``ChunkReader.rows``.
        """
        offset, size = self.places[number]
        packed = memoryview(os.pread(self.descriptor, size, offset))
        content, checksum = packed[:-_CHECKSUM_BYTES], packed[-_CHECKSUM_BYTES:]
        if len(packed) != size or fletcher32(content) != int.from_bytes(checksum, "little"):
            return None
        expected = self.rows * self.row_items * self.dtype.itemsize
        inflater = zlib_ng.decompressobj()
        try:
            found = inflater.decompress(content, expected + 1)
        except zlib_ng.error:  # type: ignore[misc] # which its stubs call an instance
            return None
        if len(found) != expected or not inflater.eof:
            raise ValueError(f"a chunk does not unpack to {expected} bytes")
        return found


def _stored(dataset: h5py.Dataset, descriptor: int) -> _Stored | None:
    """Where a dataset's chunks are; None where it is not stored as the datasets of a finished run are."""
    shape, chunks, dtype = dataset.shape, dataset.chunks, dataset.dtype
    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(k) for k in range(plist.get_nfilters())]
    if not chunks or chunks[1:] != shape[1:] or [code for code, *_ in filters] != _FILTERS:
        return None
    if tuple(filters[0][2]) != (dtype.itemsize,) or dtype.kind not in "iuf" or dtype != dtype.newbyteorder("<"):
        return None
    if dataset.id.get_type() != h5py.h5t.py_create(dtype):  # the numbers would be converted
        return None
    found: list[Any] = []
    dataset.id.chunk_iter(found.append)
    found.sort(key=lambda chunk: chunk.chunk_offset)
    starts = [(start, *(0 for _ in shape[1:])) for start in range(0, shape[0], chunks[0])]
    if [chunk.chunk_offset for chunk in found] != starts or any(chunk.filter_mask for chunk in found):
        return None
    places = [(chunk.byte_offset, chunk.size) for chunk in found]
    return _Stored(descriptor, shape[0], chunks[0], shape[1:], dtype, places)


def fletcher32(data: bytes | memoryview) -> int:
    """Fletcher's checksum as HDF5 computes it (``H5_checksum_fletcher32``), over words of 16 bits, the first byte higher.

    That is two sums modulo 65535: of the words, and of the words times how many there are from each to the end. Modulo
    65535 the sums of the words with their bytes exchanged differ by a factor of 256. So eight bytes are added at once.
    """
    whole = len(data) // (2 * _ROW)
    fours = np.frombuffer(data, "<u8", count=whole * _ROW // 4).reshape(whole, _ROW // 4)
    even = fours & _LANES
    odd = fours >> _WORD_BITS
    odd &= _LANES
    columns_even, columns_odd = (lanes.sum(axis=0).view("<u4") for lanes in (even, odd))
    even += odd
    both = even.sum(axis=1)
    in_rows = (both & np.uint64(0xFFFF_FFFF)) + (both >> _LANE_BITS)
    tail = bytes(data[whole * 2 * _ROW :])
    rest = np.frombuffer(tail + bytes(len(tail) % 2), "<u2").astype(np.uint64)
    words = whole * _ROW + len(rest)
    from_end = np.arange(words, len(rest), -_ROW, dtype=np.uint64)
    first = int(in_rows.sum()) + int(rest.sum())
    second = int(in_rows @ from_end) - int(_EVEN @ columns_even) - int(_ODD @ columns_odd)
    second += int(rest @ np.arange(len(rest), 0, -1, dtype=np.uint64))
    return _folded(second) << 16 | _folded(first)


def _folded(total: int) -> int:
    """A sum modulo 65535, in which only a sum of zeros is zero."""
    return (total * 256 % 0xFFFF or 0xFFFF) if total else 0


def _processors() -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, _MOST_THREADS)
