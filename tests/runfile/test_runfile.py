"""The run file: its layout to strangers' tools, its arithmetic, and what is left of it when things go wrong."""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from rhotrace.config import recipe
from rhotrace.errors import TraceError
from rhotrace.models.losses import Square
from rhotrace.models.network import Block
from rhotrace.recording.quantities import QUANTILES, QUANTITIES
from rhotrace.runfile import writer as trace_writer
from rhotrace.runfile.layout import FORMAT_VERSION, Facts, Layout, columns, dimension_sizes, snapshot_steps
from rhotrace.runfile.reader import open_trace
from rhotrace.runfile.sealing import seal
from rhotrace.training.train import train as train_recipe

GD = ()
SGD = ("optimizer={kind: sgd, lr: 0.05, batch_size: 7}", "record.full_every=3", "steps=50")
WEIGHT_NORM = ("optimizer={kind: weight-norm, lr: 0.05}", "network.dtype=float32", "steps=30")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Finished runs of the small recipe under three optimizers, trained once."""
    from small import SMALL

    folder = tmp_path_factory.mktemp("runs")
    paths = {}
    for name, overrides in {"gd": GD, "sgd": SGD, "weight-norm": WEIGHT_NORM}.items():
        paths[name] = folder / f"{name}.h5"
        train_recipe(recipe.parse(SMALL, list(overrides)), paths[name], device="cpu")
    return paths


@pytest.fixture
def run(runs, tmp_path) -> Path:
    """A copy of the finished GD run, to be damaged."""
    return Path(shutil.copy(runs["gd"], tmp_path / "run.h5"))


def fault(path: Path) -> str:
    """The one-line message with which a file is refused."""
    with pytest.raises(TraceError) as caught:
        open_trace(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    assert message.startswith(f"{path}: ")
    return message


# --- layout ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gd", "sgd", "weight-norm"])
def test_xarray_names_every_dimension_and_every_quantity_has_units(runs, kind):
    with open_trace(runs[kind]) as trace:
        content, steps = trace.recipe, trace.steps
        expected = {q: (trace.axis(q.name), trace[q.name]) for q in trace.quantities}
    with xr.open_dataset(runs[kind], engine="h5netcdf") as opened:
        for quantity, (axis, array) in expected.items():
            variable = opened[quantity.name]
            assert variable.dims == (axis, *quantity.axes)
            assert variable.attrs["units"] == quantity.units
            assert variable.attrs["long_name"] == quantity.says
            assert variable.attrs["symbol"] == quantity.symbol
            np.testing.assert_array_equal(variable.values, array)
        for name in ("seed", "batch_seed", "lr", "init_rho_k"):
            assert opened[name].dims == ("member",)
        assert set(opened.sizes) <= {"step", "full_step", "test_step", "member", "layer", "quantile"}
        np.testing.assert_array_equal(opened["layer"], [1, 2, 3])
        np.testing.assert_array_equal(opened["step"], np.arange(steps))
        assert json.loads(opened.attrs["recipe_json"]) == content


def test_a_run_that_xarray_has_open_in_the_same_process_opens_too(runs):
    with xr.open_dataset(runs["gd"], engine="h5netcdf"), open_trace(runs["gd"]) as trace:
        assert trace.steps == 60


@pytest.mark.parametrize("kind", ["gd", "sgd", "weight-norm"])
def test_xarray_names_every_dimension_of_the_weights(runs, kind):
    with xr.open_dataset(runs[kind], engine="h5netcdf", group="weights") as weights:
        for k in (1, 2, 3):
            assert weights[f"W{k}"].dims == ("snapshot", "member", f"W{k}_out", f"W{k}_in")
            assert weights[f"W{k}"].attrs["units"] == "1"
            assert (
                weights[f"W{k}"].attrs["long_name"]
                == f"weight W{k}, flattened from {weights[f'W{k}'].shape[2]}x{weights[f'W{k}'].shape[3]}"
            )
        assert weights["snapshot_step"].dims == ("snapshot",)
        assert dict(weights.sizes) == {
            "snapshot": 6,
            "member": 3,
            "W1_in": 784,
            "W1_out": 8,
            "W2_in": 8,
            "W2_out": 8,
            "W3_in": 8,
            "W3_out": 1,
        }


@pytest.mark.parametrize("kind", ["gd", "sgd", "weight-norm"])
def test_h5py_alone_reads_plain_arrays(runs, kind):
    steps = {"gd": 60, "sgd": 50, "weight-norm": 30}[kind]
    with h5py.File(runs[kind]) as file:
        assert file["rho_k"].shape == file["grad_norm"].shape == (steps, 3, 3)
        assert file["rho_k"].dtype == np.dtype("<f8")
        assert file["weights/W1"].dtype == np.dtype("<f4" if kind == "weight-norm" else "<f8")
        assert file["a"].shape == (-(-steps // 3) if kind == "sgd" else steps, 3)
        assert file["test_error"].shape == (-(-steps // 10), 3)
        assert file.attrs["status"] == "complete"
        assert file.attrs["ended"] == "finished"
        for name in ("recipe", "recipe_digest", "data_digest", "versions", "started", "finished", "command"):
            assert isinstance(file.attrs[name], str)
            assert file.attrs[name]
        assert recipe.parse(file.attrs["recipe"]).digest == file.attrs["recipe_digest"]


@pytest.mark.parametrize("kind", ["gd", "sgd", "weight-norm"])
def test_the_file_holds_the_quantities_table_and_nothing_else(runs, kind):
    expected = set(QUANTITIES) - ({"v_norm"} if kind != "weight-norm" else set())
    axes = {"step", "member", "layer", "quantile", "test_step"} | ({"full_step"} if kind == "sgd" else set())
    with h5py.File(runs[kind]) as file:
        assert set(file) == expected | axes | {"seed", "batch_seed", "lr", "init_rho_k", "weights", "checkpoint"}
    with open_trace(runs[kind]) as trace:
        assert {q.name for q in trace.quantities} == expected


def test_every_committed_dataset_has_a_checksum_when_sealed(runs):
    for path in runs.values():
        with h5py.File(path) as file:
            timed = [d for d in file.values() if isinstance(d, h5py.Dataset) and d.shape[0] > 6] + list(
                file["weights"].values()
            )
            names = {d.name for d in timed if d.fletcher32}
            expected = {f"/{name}" for name in QUANTITIES if name in file} | {
                "/step",
                "/test_step",
                "/weights/snapshot_step",
            }
            expected |= {f"/weights/W{k}" for k in (1, 2, 3)}
            assert expected - names - {f"/{n}" for n in file if n.startswith("test_")} == set()
            assert all(file[n].fletcher32 for n in file if n.startswith("test_"))


def test_the_sealed_file_keeps_the_last_state_and_is_the_only_one_left(runs):
    with h5py.File(runs["gd"]) as file:
        assert set(file["checkpoint"]) == {"weights1", "weights2", "weights3"}
        np.testing.assert_array_equal(file["checkpoint/weights1"][0], file["weights/W1"][-1])
    with open_trace(runs["weight-norm"]) as trace:
        assert set(trace.state()) == {"weights", "v", "gamma"}
    assert sorted(p.name for p in runs["gd"].parent.iterdir()) == ["gd.h5", "sgd.h5", "weight-norm.h5"]


def test_a_run_without_snapshots_has_none(train):
    with open_trace(train("record.snapshots=0", "steps=3")) as trace:
        assert trace.snapshots() == []
        assert "weights" not in trace


def test_a_run_of_one_step_reads(train):
    with open_trace(train("steps=1")) as trace:
        assert trace.steps == 1
        assert trace["rho_k"].shape == (1, 3, 3)
        assert [s for s, _ in trace.snapshots()] == [0, 1]


@pytest.mark.parametrize(("steps", "count"), [(60, 6), (10_000, 12), (1_000_000, 40), (5, 12), (1, 5), (7, 3), (9, 2)])
def test_snapshot_steps_are_log_spaced_with_both_ends(steps, count):
    taken = snapshot_steps(steps, count)
    assert taken[0] == 0
    assert taken[-1] == steps
    assert taken == sorted(set(taken))
    assert len(taken) <= count
    gaps = np.diff(np.log(taken[1:]))
    large = np.array(taken[1:-1]) > 100  # below, rounding to whole steps shows
    if large.sum() > 1:
        np.testing.assert_allclose(gaps[large], np.log(steps) / (count - 2), rtol=0.02)


def test_no_or_one_snapshot_may_be_asked_for():
    assert snapshot_steps(9, 0) == []
    assert snapshot_steps(9, 1) == [0]


# --- arithmetic --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "strides"), [("gd", GD), ("sgd", SGD)])
def test_snapshots_recompute_the_quantities_at_their_steps(runs, small, kind, strides):
    read = recipe.parse(small, list(strides))
    loaded = read.load_data("float64")
    with open_trace(runs[kind]) as trace:
        assert [s for s, _ in trace.snapshots()] == snapshot_steps(read.steps, 6)
        compared = 0
        for step, weights in trace.snapshots():
            if step == trace.steps:
                continue  # the end: after the last recorded row
            np.testing.assert_allclose(
                np.stack([np.sqrt((W**2).sum(axis=(1, 2))) for W in weights], axis=1), trace["rho_k"][step], rtol=1e-10
            )
            row = np.flatnonzero(trace.step_of("a") == step)
            for member in range(3):
                g = loaded.x.T
                for W in weights[:-1]:
                    g = np.maximum(W[member] @ g, 0)
                g, y = (weights[-1][member] @ g)[0], loaded.y[:, 0]
                if len(row):
                    for name, value in (("a", (y * g).mean()), ("q", (g**2).mean()), ("loss", ((g - y) ** 2).mean())):
                        np.testing.assert_allclose(trace[name][row[0], member], value, rtol=1e-10, err_msg=name)
                    assert trace["error"][row[0], member] == (y * g <= 0).mean()
                    np.testing.assert_allclose(trace["margin_min"][row[0], member], (y * g).min(), rtol=1e-10)
                    compared += 1
        assert compared >= 6


def test_the_last_snapshot_is_one_step_of_descent_past_the_last_row(runs, small):
    read = recipe.parse(small)
    loaded = read.load_data("float64")
    with open_trace(runs["gd"]) as trace:
        step, weights = trace.snapshots()[-1]
        assert step == trace.steps
        norms = np.stack([np.linalg.norm(W, axis=(1, 2)) for W in weights], axis=1)
        last = {name: trace[name][-1] for name in ("rho_k", "grad_norm", "a", "q")}
        grown = last["rho_k"] ** 2 + 4 * 0.05 * (last["a"] - last["q"])[:, None] + (0.05 * last["grad_norm"]) ** 2
        np.testing.assert_allclose(norms**2, grown, rtol=1e-10)
    assert len(loaded.x) == 40


# --- live files --------------------------------------------------------------------------------------------

STEPS, MEMBERS, SHAPES = 40, 2, ((3, 4), (1, 3))
PER_MEMBER = {"seed": np.arange(MEMBERS), "lr": np.ones(MEMBERS), "init_rho_k": np.ones(MEMBERS)}


def live_layout() -> Layout:
    return Layout(
        steps=STEPS,
        members=MEMBERS,
        blocks=tuple(Block(f"W{k}", shape) for k, shape in enumerate(SHAPES, 1)),
        dtype="float64",
        strides={"step": 1, "full": 4, "test": 10},
        snapshots=[0, 5, STEPS],
        quantities=tuple(q.describe(Square()) for q in QUANTITIES.values() if q.name != "v_norm"),
        axes={"quantile": QUANTILES},
        state={"weights": list(SHAPES)},
        per_member={"lr": "lr", "init_rho_k": "rho_k(0)"},
        facts=Facts("square", equilibrium=True, optimizer="gd", law="descent", minibatches=True),
    )


def values(layout: Layout, first: int, last: int) -> dict[str, np.ndarray]:
    """A block in which every number says its quantity, its row and its place."""
    sizes = dimension_sizes(layout)
    block = {}
    for number, quantity in enumerate(layout.quantities):
        start, stop = layout.rows(quantity.cadence, first), layout.rows(quantity.cadence, last)
        shape = [sizes[a] for a in quantity.axes]
        inside = np.arange(np.prod(shape)).reshape(shape) / 100
        block[quantity.name] = 1000 * number + np.arange(start, stop).reshape(-1, *[1] * len(shape)) + inside
    return block


def weights_of(step: int) -> list[np.ndarray]:
    return [np.full((MEMBERS, *shape), step + 1.0) for shape in SHAPES]


@pytest.fixture
def live(tmp_path):
    """Makes a live file with the given blocks appended and committed; returns the writer, still open."""
    opened = []

    def make(*ends: int) -> trace_writer.TraceWriter:
        attributes = {"recipe_json": "{}"}
        members = PER_MEMBER
        writer = trace_writer.create(tmp_path / f"live{len(opened)}.h5", live_layout(), attributes, members)
        opened.append(writer)
        for first, last in zip((0, *ends), ends, strict=False):
            writer.append(first, last, values(writer.layout, first, last))
            writer.commit(last, {"weights": weights_of(last)})
        return writer

    yield make
    for writer in opened:
        writer.close()


def check_cut(path: Path, steps: int) -> None:
    layout = live_layout()
    with open_trace(path) as trace:
        assert trace.steps == steps
        assert not trace.complete
        assert trace.members == MEMBERS
        assert trace.depth == 2
        for name, expected in values(layout, 0, steps).items():
            np.testing.assert_array_equal(trace[name], expected, err_msg=name)
        for cost, axis in (("step", "step"), ("full", "full_step"), ("test", "test_step")):
            np.testing.assert_array_equal(trace[axis], np.arange(layout.rows(cost, steps)) * layout.strides[cost])


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


def flip(path: Path, place: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1 << bit]))


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
    writer.snapshot(5, weights_of(5))
    writer.append(12, 20, values(writer.layout, 12, 20))
    writer.close()
    seal(writer.path, {"ended": "finished", "wall_seconds": 1.5})
    with open_trace(writer.path) as trace:
        assert trace.complete
        assert trace.steps == 12
        assert trace.wall_seconds == 1.5
        for name, expected in values(writer.layout, 0, 12).items():
            np.testing.assert_array_equal(trace[name], expected, err_msg=name)
        assert [s for s, _ in trace.snapshots()] == [5]
    assert [p.name for p in writer.path.parent.iterdir()] == [writer.path.name]


def test_a_run_that_a_reader_of_the_same_process_has_open_can_be_sealed(live):
    writer = live(7)
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
        with pytest.raises(TraceError, match="cannot be made") as caught:
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


# --- files that are not runs, or no longer -----------------------------------------------------------------


def test_a_missing_file_names_the_command_that_makes_one(tmp_path):
    assert "rhotrace train" in fault(tmp_path / "none.h5")


def test_a_folder_is_not_a_run(tmp_path):
    assert "folder" in fault(tmp_path)


@pytest.mark.parametrize("content", [b"", b"x", b"hello\n" * 1000, b"\x89PNG\r\n\x1a\n" + bytes(100), bytes(10_000)])
def test_a_file_that_is_not_hdf5_says_so(tmp_path, content):
    (tmp_path / "run.h5").write_bytes(content)
    assert "not HDF5" in fault(tmp_path / "run.h5")


@pytest.mark.parametrize("part", [0.0, 0.001, 0.01, 0.1, 0.3, 0.5, 0.9, 0.99])
def test_a_sealed_file_cut_short_says_so(run, part):
    size = max(8, int(part * run.stat().st_size))
    run.write_bytes(run.read_bytes()[:size])
    assert "damaged or cut short" in fault(run)


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
def test_a_live_file_cut_short_says_so(live, part):
    path = live(7, 12).path
    path.write_bytes(path.read_bytes()[: max(8, int(part * path.stat().st_size))])
    assert "damaged or cut short" in fault(path)


def test_hdf5_of_something_else_says_so(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["rho_k"] = np.ones(3)
    assert "not a run of RhoTrace" in fault(tmp_path / "other.h5")


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 0, "two"])
def test_another_format_version_is_refused_with_both_numbers(run, version):
    with h5py.File(run, "r+") as file:
        file.attrs["format_version"] = version
    message = fault(run)
    assert str(version) in message


@pytest.mark.parametrize("name", ["rho_k", "batch_a", "step", "member", "loss"])
def test_a_missing_dataset_is_named(run, name):
    with h5py.File(run, "r+") as file:
        del file[name]
    assert f"{name} are missing" in fault(run) or f"{name} is missing" in fault(run)


@pytest.mark.parametrize("name", ["layout", "status", "format_version"])
def test_a_missing_attribute_is_named(run, name):
    with h5py.File(run, "r+") as file:
        del file.attrs[name]
    message = fault(run)
    assert "version" in message if name == "format_version" else name in message


def test_a_live_file_without_its_commit_record_is_refused(live):
    path = live(7).path
    with h5py.File(path, "r+") as file:
        del file["checkpoint"]
    assert "damaged" in fault(path)


def test_an_unreadable_file_is_a_trace_error(tmp_path, monkeypatch):
    path = tmp_path / "run.h5"
    path.write_bytes(b"x" * 100)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(h5py, "File", refuse)
    assert "Permission denied" in fault(path)


def test_an_unknown_dataset_names_those_there_are(runs):
    with open_trace(runs["gd"]) as trace, pytest.raises(TraceError, match="no dataset 'rho'; it holds rho_k") as caught:
        trace["rho"]
    assert len(str(caught.value).splitlines()) == 1


def test_a_group_is_not_a_dataset(runs):
    with open_trace(runs["gd"]) as trace, pytest.raises(TraceError, match="weights"):
        trace["weights"]


def chunk_place(path: Path, name: str) -> int:
    """A byte in the middle of a dataset's first compressed chunk."""
    with h5py.File(path, "r") as file:
        chunk = file[name].id.get_chunk_info(0)
        return chunk.byte_offset + chunk.size // 2


@pytest.mark.parametrize("name", ["rho_k", "a", "margin_quantile", "test_error"])
def test_a_flipped_bit_in_a_chunk_is_a_trace_error_on_reading_that_dataset_alone(run, name):
    flip(run, chunk_place(run, name))
    with open_trace(run) as trace:
        with pytest.raises(TraceError, match=f"dataset {name} is damaged") as caught:
            trace[name]
        assert len(str(caught.value).splitlines()) == 1
        assert trace["q"].shape == (60, 3)


@pytest.mark.parametrize("name", ["W1", "snapshot_step"])
def test_a_flipped_bit_in_the_weights_is_a_trace_error_on_reading_them(run, name):
    flip(run, chunk_place(run, f"weights/{name}"))
    with open_trace(run) as trace:
        with pytest.raises(TraceError, match="weights"):
            trace.snapshots()
        assert trace["rho_k"].shape == (60, 3, 3)


def read_everything(path: Path) -> None:
    with open_trace(path) as trace:
        assert trace.recipe
        assert trace.members
        assert trace.depth
        for quantity in trace.quantities:
            assert len(trace.step_of(quantity.name)) == len(trace[quantity.name])
        assert len(trace["lr"]) == len(trace["seed"])
        trace.snapshots()


def test_a_flipped_bit_anywhere_raises_nothing_but_trace_errors(run):
    rng = np.random.default_rng(0)
    whole = run.read_bytes()
    escaped = {}
    for place in [*rng.integers(len(whole), size=60), *rng.integers(min(20_000, len(whole)), size=60)]:
        run.write_bytes(whole)
        flip(run, int(place), int(place) % 8)
        try:
            read_everything(run)
        except TraceError as error:
            if len(str(error).splitlines()) != 1:
                escaped[int(place)] = str(error)
        except Exception as error:  # all that escape are shown at once
            escaped[int(place)] = repr(error)
    assert not escaped


def tampered(run: Path, change) -> None:
    with h5py.File(run, "r+") as file:
        change(file)


def declare_absurd_shape(file: h5py.File) -> None:
    attributes = dict(file["loss"].attrs)
    del file["loss"]
    file.create_dataset("loss", shape=(10**12, file["member"].shape[0]), dtype="<f8", chunks=(1000, 1))
    file["loss"].attrs.update({k: v for k, v in attributes.items() if isinstance(v, str)})


HOSTILE = {
    "external link": lambda f: (f.pop("loss"), f.__setitem__("loss", h5py.ExternalLink("other.h5", "/loss"))),
    "soft link": lambda f: (f.pop("loss"), f.__setitem__("loss", h5py.SoftLink("/error"))),
    "external storage": lambda f: (
        f.pop("loss"),
        f.create_dataset("loss", (60, 3), "<f8", external=[("other.bin", 0, h5py.h5f.UNLIMITED)]),
    ),
    "virtual dataset": lambda f: (
        f.pop("loss"),
        f.create_virtual_dataset("loss", virtual()),
    ),
    "absurd shape": declare_absurd_shape,
    "wrong type": lambda f: (f.pop("loss"), f.create_dataset("loss", data=np.full((60, 3), b"x"))),
    "wrong axes": lambda f: (f.pop("loss"), f.create_dataset("loss", data=np.zeros((60, 4)))),
    "integers for a quantity": lambda f: (f.pop("loss"), f.create_dataset("loss", data=np.zeros((60, 3), "i8"))),
}


def virtual() -> h5py.VirtualLayout:
    layout = h5py.VirtualLayout((60, 3), "<f8")
    layout[:] = h5py.VirtualSource("other.h5", "loss", (60, 3))
    return layout


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_refused_in_one_line_before_its_data_is_read(train, change):
    run = train()
    tampered(run, change)
    with pytest.raises(TraceError) as caught:
        open_trace(run)
    assert len(str(caught.value).splitlines()) == 1
