"""Reading by several threads: the bits that h5py reads, and no file that h5py refuses."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_files import flip, values

from rhotrace.errors import TraceError
from rhotrace.runfile.chunks import ChunkReader, fletcher32
from rhotrace.runfile.reader import open_trace
from rhotrace.runfile.untrusted import first_line

SEALED = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "fletcher32": True}
ROWS = 23


def numbers(*shape: int, dtype: str = "<f8", seed: int = 0) -> np.ndarray:
    """Numbers of any bits, NaN and infinities among them, of which some compress."""
    rng, kind = np.random.default_rng(seed), np.dtype(dtype)
    raw = rng.integers(0, 256, (int(np.prod(shape)), kind.itemsize), np.uint8)
    raw[:, kind.itemsize // 2 :] &= 0x81
    return raw.reshape(-1).view(kind).reshape(shape)


def stored(path: Path, content: np.ndarray, chunk: int, **storage: object) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=content, chunks=(chunk, *content.shape[1:]), **{**SEALED, **storage})
    return path


def same_bits(found: np.ndarray | None, expected: np.ndarray) -> bool:
    return found is not None and (found.dtype, found.shape, found.tobytes()) == (
        expected.dtype,
        expected.shape,
        expected.tobytes(),
    )


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_rows_have_the_bits_that_h5py_reads(tmp_path_factory, data):
    rows, chunk = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 12))
    width = data.draw(st.lists(st.integers(1, 4), max_size=2))
    dtype = data.draw(st.sampled_from(["<f8", "<f4", "<i8", "<i4", "<u2", "|i1"]))
    content = numbers(rows, *width, dtype=dtype, seed=rows)
    path = stored(tmp_path_factory.getbasetemp() / "any.h5", content, min(chunk, rows))
    edges = st.one_of(st.none(), st.integers(-rows - 2, rows + 2))
    with h5py.File(path) as file:
        reader = ChunkReader(file, data.draw(st.integers(1, 3)))
        for which in data.draw(st.lists(st.builds(slice, edges, edges), min_size=1, max_size=4)):
            expected = content[which]
            found = reader.rows("x", file["x"], which)
            assert same_bits(found, expected) or (found is None and not len(expected))
        reader.close()


@pytest.mark.parametrize("length", [0, 1, 2, 7, 8191, 8192, 8193, 3 * 8192 + 5])
@pytest.mark.parametrize("fill", [0, 0xFF, None])
def test_the_checksum_is_the_sum_that_hdf5_writes(tmp_path, length, fill):
    content = np.random.default_rng(length).integers(0, 256, length, np.uint8)
    if fill is not None:
        content[:] = fill
    if not length:
        assert fletcher32(b"") == 0
        return
    with h5py.File(tmp_path / "sum.h5", "w") as file:
        dataset = file.create_dataset("x", data=content, chunks=(length,), fletcher32=True)
        _, raw = dataset.id.read_direct_chunk((0,))
    assert raw[:-4] == content.tobytes()
    assert fletcher32(raw[:-4]) == int.from_bytes(raw[-4:], "little")


@pytest.mark.parametrize(
    "storage",
    [
        {"fletcher32": False},
        {"shuffle": False},
        {"compression": None, "compression_opts": None},
        {"compression": "lzf", "compression_opts": None},
        {"scaleoffset": 3, "shuffle": False, "fletcher32": False},
    ],
    ids=str,
)
def test_what_is_stored_in_another_way_is_left_to_hdf5(tmp_path, storage):
    path = stored(tmp_path / "other.h5", np.arange(60).reshape(20, 3), 7, **storage)
    with h5py.File(path) as file:
        assert ChunkReader(file).rows("x", file["x"], slice(None)) is None


def big_endian(file: h5py.File) -> None:
    file.create_dataset("x", data=np.arange(20, dtype=">f8"), chunks=(7,), **SEALED)


def split_rows(file: h5py.File) -> None:
    file.create_dataset("x", data=np.ones((20, 4)), chunks=(7, 2), **SEALED)


def with_a_gap(file: h5py.File) -> None:
    file.create_dataset("x", (20,), "<f8", chunks=(7,), **SEALED)[:7] = 1


def in_one_piece(file: h5py.File) -> None:
    file["x"] = np.ones(20)


def without_a_filter(file: h5py.File) -> None:
    dataset = file.create_dataset("x", data=np.ones(20), chunks=(7,), **SEALED)
    dataset.id.write_direct_chunk((7,), np.ones(7).tobytes(), filter_mask=7)


@pytest.mark.parametrize("make", [big_endian, split_rows, with_a_gap, in_one_piece, without_a_filter])
def test_what_no_finished_run_contains_is_left_to_hdf5(tmp_path, make: Callable[[h5py.File], None]):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        make(file)
    with h5py.File(tmp_path / "other.h5") as file:
        assert ChunkReader(file).rows("x", file["x"], slice(None)) is None


def test_a_file_with_a_user_block_or_in_memory_is_left_to_hdf5(tmp_path):
    with h5py.File(tmp_path / "block.h5", "w", userblock_size=512) as file:
        file.create_dataset("x", data=np.ones(20), chunks=(7,), **SEALED)
    path = stored(tmp_path / "plain.h5", np.ones(20), 7)
    with h5py.File(tmp_path / "block.h5") as file:
        assert ChunkReader(file).rows("x", file["x"], slice(None)) is None
    with path.open("rb") as raw, h5py.File(raw) as file:
        assert ChunkReader(file).rows("x", file["x"], slice(None)) is None


def places(path: Path, name: str) -> list[tuple[int, int]]:
    """First byte of each chunk of a dataset, and its bytes."""
    found = []
    with h5py.File(path) as file:
        file[name].id.chunk_iter(lambda chunk: found.append((chunk.byte_offset, chunk.size)))
    return found


@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.6, 0.98, -5, -4, -1])
def test_a_turned_bit_anywhere_in_a_chunk_is_refused_in_the_words_of_hdf5(run, part):
    first, size = places(run, "rho_k")[0]
    place = first + (size + part if part < 0 else int(part * size))
    flip(run, place, 2)
    with h5py.File(run) as file, pytest.raises(OSError) as problem:  # noqa: PT011 - the message is what is compared
        file["rho_k"][:]
    with open_trace(run) as trace, pytest.raises(TraceError) as refused:
        trace.rows("rho_k", slice(None))
    assert str(refused.value) == f"{run}: dataset rho_k is damaged ({first_line(problem.value)})"


@pytest.mark.parametrize("unpacked", [0, 100, 10**6])
def test_a_chunk_that_unpacks_to_another_size_is_refused(run, unpacked):
    packed = zlib.compress(bytes(unpacked))
    with h5py.File(run, "r+") as file:
        checksum = fletcher32(packed).to_bytes(4, "little")
        file["loss"].id.write_direct_chunk((0,) * file["loss"].ndim, packed + checksum)
    with (
        open_trace(run) as trace,
        pytest.raises(TraceError, match=r"loss is damaged \(a chunk does not unpack to \d+ bytes\)$"),
    ):
        trace.rows("loss", slice(None))


def test_readers_in_parallel_do_not_disturb_each_other(tmp_path):
    content = numbers(400, 3)
    path = stored(tmp_path / "shared.h5", content, 11)
    with h5py.File(path) as file, ThreadPoolExecutor(4) as others:
        reader = ChunkReader(file, 3)
        spans = [slice(first, first + size) for size in (1, 10, 57, 400) for first in range(0, 400, size)]
        found = others.map(lambda which: reader.rows("x", file["x"], which), spans)
        assert all(same_bits(rows, content[which]) for rows, which in zip(found, spans, strict=True))
        reader.close()


def test_a_closed_file_is_not_read(tmp_path):
    path = stored(tmp_path / "closed.h5", numbers(ROWS), 5)
    with h5py.File(path) as file:
        reader, dataset = ChunkReader(file, 2), file["x"]
        assert same_bits(reader.rows("x", dataset, slice(None)), numbers(ROWS))
        reader.close()
        assert reader.rows("x", dataset, slice(None)) is None


def test_a_live_run_shows_what_was_written_since(live):
    writer = live(8)
    with open_trace(writer.path) as trace:
        assert len(trace["rho_k"]) == 8
        writer.append(8, 16, values(writer.layout, 8, 16))
        writer.commit(16, {})
        assert same_bits(trace.rows("rho_k", slice(8, 16)), values(writer.layout, 8, 16)["rho_k"])


def test_every_dataset_of_a_finished_run_reads_as_in_h5py(runs, tmp_path):
    for path in (Path(shutil.copy(runs[kind], tmp_path)) for kind in runs):
        with h5py.File(path) as file, open_trace(path) as trace:
            for name in trace.dataset_names():
                assert same_bits(trace.rows(name, slice(None)), file[name][:]), name
