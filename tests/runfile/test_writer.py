"""Live files: what is committed reads, what is not does not, and a torn commit falls back to the one before."""

from __future__ import annotations

import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from run_files import MEMBERS, PER_MEMBER, STEPS, flip, live_layout, values, weights_of

from rhotrace.errors import TraceError
from rhotrace.runfile import writer as trace_writer
from rhotrace.runfile.layout import columns
from rhotrace.runfile.live_checksums import damaged_block
from rhotrace.runfile.reader import open_trace
from rhotrace.runfile.sealing import seal


def check_cut(path: Path, steps: int) -> None:
    layout = live_layout()
    with open_trace(path) as trace:
        assert trace.steps == steps
        assert not trace.complete
        assert trace.members == MEMBERS
        assert trace.depth == 2
        for name, expected in values(layout, 0, steps).items():
            np.testing.assert_array_equal(trace[name], expected, err_msg=name)
        for cadence, axis in (("step", "step"), ("full", "full_step"), ("test", "test_step")):
            np.testing.assert_array_equal(trace[axis], np.arange(layout.rows(cadence, steps)) * layout.strides[cadence])


@pytest.mark.parametrize("ends", [(), (1,), (7,), (7, 8, 21), (10, 20, 30, 40)])
@pytest.mark.parametrize("closed", [True, False])
def test_a_live_file_reads_up_to_its_last_commit(live, ends, closed):
    writer = live(*ends)
    if closed:
        writer.close()
    check_cut(writer.path, ends[-1] if ends else 0)


def test_a_live_file_is_plain_hdf5_with_minus_one_for_steps_to_come(live):
    writer = live(7)
    with h5py.File(writer.path, "r") as file:
        assert file.attrs["status"] == "live"
        assert set(file) >= {c.path for c in columns(writer.layout) if "/" not in c.path}
        assert file["rho_k"].shape == (STEPS, MEMBERS, 2)
        np.testing.assert_array_equal(file["rho_k"][:7], values(writer.layout, 0, 7)["rho_k"])
        np.testing.assert_array_equal(file["step"][:], [*range(7), *[-1] * (STEPS - 7)])
        np.testing.assert_array_equal(file["full_step"][:], [0, 4, *[-1] * 8])
    with xr.open_dataset(writer.path, engine="h5netcdf") as opened:
        assert opened["rho_k"].dims == ("step", "member", "layer")


def test_a_live_file_opens_while_a_reader_has_it_open_and_the_writer_goes_on(live):
    writer = live(7)
    with open_trace(writer.path) as early:
        writer.append(7, 12, values(writer.layout, 7, 12))
        writer.commit(12, {"weights": weights_of(12)})
        assert len(early["rho_k"]) == early.steps == 7
        check_cut(writer.path, 12)


def test_appended_but_uncommitted_rows_are_invisible(live):
    writer = live(7, 12)
    writer.append(12, 20, values(writer.layout, 12, 20))
    check_cut(writer.path, 12)
    with xr.open_dataset(writer.path, engine="h5netcdf") as opened:
        assert opened["step"].max() == 11
    writer.commit(20, {"weights": weights_of(20)})
    check_cut(writer.path, 20)


def test_snapshots_of_uncommitted_steps_are_invisible(live):
    writer = live(3)
    writer.snapshot(0, weights_of(0))
    writer.snapshot(5, weights_of(5))
    with open_trace(writer.path) as trace:
        assert [s for s, _ in trace.snapshots()] == [0]
    writer.append(3, 9, values(writer.layout, 3, 9))
    writer.commit(9, {"weights": weights_of(9)})
    with open_trace(writer.path) as trace:
        taken = trace.snapshots()
        assert [s for s, _ in taken] == [0, 5]
        np.testing.assert_array_equal(taken[1][1][0], weights_of(5)[0])


def record_place(path: Path, steps: int) -> int:
    """Where in the file the commit record of ``steps`` lies."""
    with h5py.File(path, "r") as file:
        commits = file["checkpoint/commit"]
        slot = list(commits[:, 0]).index(steps)
        return commits.id.get_offset() + 4096 * slot


@pytest.mark.parametrize("byte", [0, 1, 8, 17, 24, 32, 40, 48, 51])
def test_a_torn_commit_record_falls_back_to_the_one_before(live, byte):
    writer = live(7, 12, 20)
    writer.close()
    flip(writer.path, record_place(writer.path, 20) + byte)
    check_cut(writer.path, 12)


def test_with_both_commit_records_torn_nothing_is_committed(live):
    writer = live(7, 12)
    writer.close()
    for steps in (7, 12):
        flip(writer.path, record_place(writer.path, steps) + 9)
    check_cut(writer.path, 0)


def test_the_state_of_the_last_commit_is_whole_while_the_next_is_written(live):
    writer = live(7, 12)
    with h5py.File(writer.path, "r") as file:
        records = file["checkpoint/commit"][:]
        newest = records[records[:, 0].argmax()]
        assert newest[6] == zlib.crc32(newest[:6].tobytes())
        np.testing.assert_array_equal(file["checkpoint/weights1"][newest[2]], weights_of(12)[0])
        np.testing.assert_array_equal(file["checkpoint/weights1"][1 - newest[2]], weights_of(7)[0])


def test_sealing_an_unfinished_run_keeps_what_was_committed(live):
    writer = live(7, 12)
    for step in (0, 5):
        writer.snapshot(step, weights_of(step))
    writer.append(12, 20, values(writer.layout, 12, 20))
    writer.close()
    seal(writer.path, {"ended": "finished", "wall_seconds": 1.5})
    with open_trace(writer.path) as trace:
        assert trace.complete
        assert trace.steps == 12
        assert trace.wall_seconds == 1.5
        for name, expected in values(writer.layout, 0, 12).items():
            np.testing.assert_array_equal(trace[name], expected, err_msg=name)
        assert [s for s, _ in trace.snapshots()] == [0, 5]
    assert [p.name for p in writer.path.parent.iterdir()] == [writer.path.name]


def test_a_run_that_a_reader_of_the_same_process_has_open_can_be_sealed(live):
    writer = live(7)
    for step in (0, 5):
        writer.snapshot(step, weights_of(step))
    with open_trace(writer.path) as reader:
        writer.close()
        seal(writer.path, {"ended": "finished"})
        assert reader["rho_k"].shape[0] == 7
    with open_trace(writer.path) as trace:
        assert trace.complete


def test_creating_over_a_file_replaces_it_at_once(live):
    path = live(7).path
    trace_writer.create(path, live_layout(), {"recipe_json": "{}"}, PER_MEMBER).close()
    check_cut(path, 0)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_written_is_a_trace_error(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "run.h5", tmp_path / "folder"):
        with pytest.raises(TraceError, match="cannot be created") as caught:
            trace_writer.create(path, live_layout(), {}, {})
        assert len(str(caught.value).splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_a_full_disk_is_a_trace_error_that_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(TraceError, match="No space left on device"):
        trace_writer.create(tmp_path / "run.h5", live_layout(), {}, {})
    assert not list(tmp_path.iterdir())


# --- what does not fit ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("rho_k", lambda rows: rows[:, :, :1]),
        ("rho_k", lambda rows: np.concatenate([rows, rows], axis=2)),
        ("log_rho", lambda rows: rows.astype(np.float32)),
        ("log_rho", lambda rows: np.concatenate([rows] * 50)),
        ("loss", lambda rows: rows[..., None]),
    ],
    ids=["a layer less", "layers more", "another type", "rows past the end", "an axis more"],
)
def test_values_that_do_not_fit_are_refused_and_change_no_byte_but_their_own(live, name, spoil):
    writer = live(7)
    before = writer.path.read_bytes()
    block = values(writer.layout, 7, 14)
    places = {}
    with h5py.File(writer.path, "r", locking=False) as file:
        for quantity in writer.layout.quantities:
            places[quantity.name] = range(
                file[quantity.name].id.get_offset(), file[quantity.name].id.get_offset() + file[quantity.name].nbytes
            )
    with pytest.raises(TraceError, match=f"{name}: got float.* of shape .*, expected float64 of shape"):
        writer.append(7, 14, {**block, name: spoil(block[name])})
    after = writer.path.read_bytes()
    changed = np.flatnonzero(np.frombuffer(before, np.uint8) != np.frombuffer(after, np.uint8))
    assert len(after) == len(before)
    assert not set(changed.tolist()) & set(places[name])
    within = np.zeros(len(before), bool)
    for place in places.values():
        within[place.start : place.stop] = True
    assert within[changed].all()  # HDF5's own bytes are as they were
    with open_trace(writer.path) as trace:
        assert trace.steps == 7
        assert damaged_block(trace) is None


def test_weights_of_another_network_are_refused(live):
    writer = live(7)
    with pytest.raises(TraceError, match=r"weights/W1: got float64 of shape \(1, 2, 4, 3\) for row 1, expected"):
        writer.snapshot(5, [W.transpose(0, 2, 1) for W in weights_of(5)])
