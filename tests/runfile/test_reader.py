"""The reader of run files: plain arrays, arithmetic that holds, and one line for what is no run, or damaged."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from run_files import RUNS, flip

from rhotrace.config import recipe
from rhotrace.errors import TraceError
from rhotrace.recording.quantities import QUANTITIES
from rhotrace.runfile.layout import FORMAT_VERSION, snapshot_steps
from rhotrace.runfile.reader import open_trace


def fault(path: Path) -> str:
    """The one-line message with which a file is refused."""
    with pytest.raises(TraceError) as caught:
        open_trace(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    assert message.startswith(f"{path}: ")
    return message


# --- finished runs -----------------------------------------------------------------------------------------


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
    others = {"batch_c", "log_margin", "velocity_norm", "velocity_along", "lr_step"}  # of other losses and options
    others |= {"log_rho_bn"}  # of batch-normalised networks
    others |= {q.name for q in QUANTITIES.values() if q.cadence not in ("step", "full", "test")}  # where a recipe asks
    expected = set(QUANTITIES) - others - ({"v_norm"} if kind != "weight-norm" else set())
    axes = {"step", "member", "layer", "quantile", "test_step"} | ({"full_step"} if kind == "sgd" else set())
    with h5py.File(runs[kind]) as file:
        members = {"seed", "batch_seed", "lr", "init_rho_k"}
        assert set(file) == expected | axes | members | {"train_sample", "test_sample", "weights", "checkpoint"}
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


# --- arithmetic --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "strides"), [(kind, RUNS[kind]) for kind in ("gd", "sgd")])
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
    with (
        open_trace(runs["gd"]) as trace,
        pytest.raises(TraceError, match="no dataset 'rho'; the file has rho_k") as caught,
    ):
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
