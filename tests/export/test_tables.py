from __future__ import annotations

import csv
import datetime
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import zlib

import numpy as np
import pytest

from rhotrace.errors import RhoTraceError
from rhotrace.export import tables as exporting
from rhotrace.export import wandb as wandb_export
from rhotrace.recording.quantities import QUANTILES
from rhotrace.runfile.reader import open_trace
from rhotrace.runfile.xarray_view import to_xarray

SGD = ("optimizer={kind: sgd, lr: 0.05, batch_size: 8}", "record={full_every: 3, test_every: 10, snapshots: 2}")


@pytest.fixture
def run(train):
    return train(*SGD)


def expected(trace, every, joint="_"):
    """The table the slow way: a dictionary for each step and member."""
    rows = []
    for step in range(0, trace.steps, every):
        for member in range(trace.members):
            row = {"step": step, "member": member, "seed": int(trace["seed"][member]), "lr": float(trace["lr"][member])}
            for quantity in trace.quantities:
                at = np.flatnonzero(trace.step_of(quantity.name) == step)
                value = trace[quantity.name][at[0], member] if len(at) else None
                if quantity.axes == ("member",):
                    row[quantity.name] = value
                labels = range(1, trace.depth + 1) if "layer" in quantity.axes else QUANTILES
                if quantity.axes != ("member",):
                    for number, label in enumerate(labels):
                        row[f"{quantity.name}{joint}{label:g}"] = None if value is None else value[number]
            rows.append(row)
    return rows


@pytest.mark.parametrize("every", [1, 7])
def test_a_csv_holds_every_number_at_its_step_and_member(run, tmp_path, every, monkeypatch):
    monkeypatch.setattr(exporting, "_ROWS", 4)  # several blocks
    with open_trace(run) as trace:
        written = exporting.export(trace, "csv", tmp_path / "run.csv", every=every)
        wanted = expected(trace, every)
    with (tmp_path / "run.csv").open(encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert len(found) == len(wanted) == written
    for got, row in zip(found, wanted, strict=True):
        for name, value in row.items():
            empty = value is None or np.isnan(value)
            assert got[name] == "" if empty else float(got[name]) == value, name


def test_a_parquet_file_holds_what_the_csv_does(run, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    with open_trace(run) as trace:
        exporting.export(trace, "parquet", tmp_path / "run.parquet")
        wanted = expected(trace, 1)
    table = parquet.read_table(tmp_path / "run.parquet")
    assert table.num_rows == len(wanted)
    for name in ("rho_k_2", "a", "test_loss", "margin_quantile_0.5"):
        column = np.array([np.nan if row[name] is None else row[name] for row in wanted])
        np.testing.assert_array_equal(table[name].to_numpy(), column)
    assert b"steps: 60" in table.schema.metadata[b"recipe"]


@pytest.mark.parametrize("every", [1, 6])
def test_a_netcdf_file_opens_in_xarray_with_the_same_numbers(run, tmp_path, every):
    xarray = pytest.importorskip("xarray")
    with open_trace(run) as trace:
        exporting.export(trace, "netcdf", tmp_path / "run.nc", every=every)
        with xarray.open_dataset(tmp_path / "run.nc") as found:
            np.testing.assert_array_equal(found.step, np.arange(0, 60, every))
            np.testing.assert_array_equal(found.rho_k, trace["rho_k"][::every])
            np.testing.assert_array_equal(found.a.values, trace["a"][:: max(1, every // 3)])
            assert found.rho_k.dims == ("step", "member", "layer")
            assert "steps: 60" in found.attrs["recipe"]


@pytest.mark.parametrize("every", [1, 6])
def test_to_xarray_is_what_the_netcdf_file_holds(run, tmp_path, every):
    xarray = pytest.importorskip("xarray")
    with open_trace(run) as trace:
        labelled = to_xarray(trace, every=every)
        exporting.export(trace, "netcdf", tmp_path / "run.nc", every=every)
        with xarray.open_dataset(tmp_path / "run.nc") as found:
            xarray.testing.assert_identical(labelled, found.load())
        assert labelled.lr.dims == ("member",)
        assert set(labelled.coords) >= {"seed", "batch_seed", "lr", "init_rho_k", "step", "full_step", "test_step"}
        assert labelled.rho_k.sel(layer=2, member=1, step=30).item() == trace["rho_k"][30, 1, 1]
        assert labelled.rho_k.attrs["units"] == "1"
        assert labelled.a.attrs["symbol"] == "a"
        assert "training set" in labelled.a.attrs["long_name"]


def test_a_block_reads_no_more_than_its_rows(run, monkeypatch):
    monkeypatch.setattr(exporting, "_ROWS", 30)
    with open_trace(run) as trace:
        for every, rows in ((1, 30), (5, 6), (40, 3)):
            assert {len(block["step"]) for block in exporting.columns(trace, every=every)} == {rows}


def test_nothing_is_replaced_unasked_and_nothing_half_written_stays(run, tmp_path, monkeypatch):
    path = tmp_path / "run.csv"
    path.write_text("mine", encoding="utf-8")
    with open_trace(run) as trace:
        with pytest.raises(RhoTraceError, match="--force"):
            exporting.export(trace, "csv", path)
        assert path.read_text(encoding="utf-8") == "mine"

        def fails(*_, **__):
            yield from exporting_columns(trace, every=40)
            raise OSError(28, "No space left on device")

        exporting_columns = exporting.columns
        monkeypatch.setattr(exporting, "columns", fails)
        with pytest.raises(RhoTraceError, match="No space left"):
            exporting.export(trace, "csv", path, force=True)
    assert path.read_text(encoding="utf-8") == "mine"
    assert not list(tmp_path.glob("*.half")) + list(tmp_path.glob(".*.half"))


def test_the_command_exports_beside_the_run_and_refuses_in_a_line(run, command):
    code, out, err = command("export", run, "--to", "csv", "--every", "10")
    assert (code, err) == (0, "")
    assert out.strip() == f"{run.with_suffix('.csv')}: 18 rows"
    assert run.with_suffix(".csv").exists()
    for words, said in ((["--to", "xml"], "expected one of csv"), (["--to", "csv"], "exists already")):
        code, out, err = command("export", run, *words)
        assert (code, out) == (2, "")
        assert said in err


# --- TensorBoard and Weights & Biases ----------------------------------------------------------------------


def series(trace, every):
    """What a logger must hold of each member: name of a series -> [(step, value)], without what is not there."""
    members = [{} for _ in range(trace.members)]
    for row in expected(trace, every, "/"):
        for name, value in row.items():
            if name not in {"step", "member", "seed", "lr"} and value is not None and not np.isnan(value):
                members[row["member"]].setdefault(name, []).append((row["step"], float(value)))
    return members


def span_of(trace):
    start = datetime.datetime.fromisoformat(trace.attributes["started"]).timestamp()
    return start, start + trace.wall_seconds


@pytest.mark.parametrize("every", [1, 7])
def test_a_tensorboard_folder_holds_every_number_in_a_run_for_each_member(run, tmp_path, every, monkeypatch):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setattr(exporting, "_ROWS", 4)  # several blocks
    with open_trace(run) as trace:
        rows = exporting.export(trace, "tensorboard", tmp_path / "log", every=every)
        wanted, (start, end), recipe = series(trace, every), span_of(trace), trace.attributes["recipe"]
    assert rows == 3 * -(-60 // every)
    assert sorted(p.name for p in (tmp_path / "log").iterdir() if p.is_dir()) == ["member-0", "member-1", "member-2"]
    for member, numbers in enumerate(wanted):
        log = events.EventAccumulator(str(tmp_path / "log" / f"member-{member}"), {"scalars": 0, "tensors": 0})
        log.Reload()
        assert sorted(log.Tags()["scalars"]) == sorted(numbers)
        for name, held in numbers.items():
            found = log.Scalars(name)
            assert [(e.step, np.float32(e.value)) for e in found] == [(s, np.float32(v)) for s, v in held], name
            times = [event.wall_time for event in found]
            assert times == sorted(times)
            assert start <= times[0] <= times[-1] <= end
        assert log.SummaryMetadata("rho_k/2").summary_description.startswith("Frobenius norm")
        texts = {name: log.Tensors(name)[0].tensor_proto.string_val[0].decode() for name in ("recipe", "member")}
        assert [line.removeprefix("    ") for line in texts["recipe"].split("\n")] == recipe.splitlines()
        assert f"| seed | {member} |" in texts["member"]


def wandb_records(path):
    """The records of a run of W&B's offline mode, from the log of blocks of 32 KiB that it keeps."""
    from wandb.proto import wandb_internal_pb2

    raw, at, whole = path.read_bytes(), 7, b""
    assert raw[:4] == b":W&B"
    while at < len(raw):
        left = 32768 - at % 32768
        if left < 7:  # no room for another header: the rest of the block is padding
            at += left
            continue
        crc, size, kind = struct.unpack("<IHB", raw[at : at + 7])
        part = raw[at + 7 : at + 7 + size]
        assert zlib.crc32(part, zlib.crc32(bytes([kind]))) == crc
        at += 7 + size
        whole = part if kind in {1, 2} else whole + part  # 1: whole, 2: first, 3: middle, 4: last part
        if kind in {1, 4}:
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record


def wandb_run(folder):
    """(run record, config, history, summary, number of other records that tell of the machine) of a run's folder."""
    (path,) = folder.glob("*.wandb")
    header, history, summary, told = None, [], {}, 0
    for record in wandb_records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            header = record.run
        elif kind == "history":
            history.append(
                {item.nested_key[0] or item.key: json.loads(item.value_json) for item in record.history.item}
            )
        elif kind == "summary":
            summary |= {item.key: json.loads(item.value_json) for item in record.summary.update}
        told += kind in {"environment", "stats", "output", "output_raw", "files"}
    config = {item.key: json.loads(item.value_json) for item in header.config.update}
    return header, config, history, summary, told


@pytest.mark.parametrize("every", [1, 7])
def test_wandb_offline_runs_hold_every_number_exactly(run, tmp_path, every, monkeypatch, capfd):
    pytest.importorskip("wandb")
    monkeypatch.setattr(exporting, "_ROWS", 4)  # several blocks
    monkeypatch.chdir(tmp_path)
    environment, here = dict(os.environ), set(tmp_path.iterdir())
    with open_trace(run) as trace:
        rows = exporting.export(trace, "wandb-offline", tmp_path / "log", every=every)
        wanted, (start, end), recipe, started = series(trace, every), span_of(trace), trace.recipe, trace["lr"]
    assert rows == 3 * -(-60 // every)
    assert capfd.readouterr() == ("", "")
    assert dict(os.environ) == environment
    assert set(tmp_path.iterdir()) - here == {tmp_path / "log"}
    found = {}
    for folder in (tmp_path / "log" / "wandb").glob("offline-run-*"):
        header, config, history, summary, told = wandb_run(folder)
        found[header.display_name] = history, config, summary
        assert (header.project, header.run_group, header.host, told) == ("rhotrace", run.stem, "", 0)
    assert sorted(found) == ["member-0", "member-1", "member-2"]
    for member, numbers in enumerate(wanted):
        history, config, summary = found[f"member-{member}"]
        assert [row["step"] for row in history] == [row["_step"] for row in history] == list(range(0, 60, every))
        held = {}
        for row in history:
            assert start <= row["_timestamp"] <= end
            for name in row.keys() - {"step", "_step", "_timestamp", "_runtime"}:
                held.setdefault(name, []).append((row["step"], row[name]))
        assert held == numbers
        assert {name: summary[name] for name in numbers} == {name: values[-1][1] for name, values in numbers.items()}
        assert {name: config[name] for name in recipe} == recipe
        assert (config["member"], config["seed"], config["lr"]) == (member, member, started[member])


@pytest.mark.parametrize(("kind", "size"), [("tensorboard", "48k"), ("wandb-offline", "100k")])
def test_a_disk_that_is_full_leaves_nothing_behind(run, tmp_path, kind, size, command):
    pytest.importorskip(kind.partition("-")[0])
    disk = tmp_path / "disk"
    disk.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "rhotrace", disk]
    if not shutil.which("mount") or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        code, out, err = command("export", run, "--to", kind, "-o", disk / "log")
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture
def trap():
    """A proxy that nobody should ask: (its address, the list of who did)."""
    callers = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def listen():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(5)
                    callers.append(connection.recv(200))

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", callers
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


LISTENER = """\
import os, sys
def hear(event, words):
    far = event == "socket.connect" and isinstance(words[1], tuple) and words[1][0] != "127.0.0.1"
    if far or event in ("socket.getaddrinfo", "socket.gethostbyname"):
        with open(os.environ["HEARD"], "a") as file:
            print(event, words[1:], file=file)
sys.addaudithook(hear)
"""


def test_wandb_never_asks_the_network_whatever_the_user_has_set(run, tmp_path, rhotrace, trap):
    pytest.importorskip("wandb")
    proxy, callers = trap
    (tmp_path / "hooks").mkdir()
    (tmp_path / "hooks" / "sitecustomize.py").write_text(LISTENER, encoding="utf-8")
    settings = tmp_path / "home" / ".config" / "wandb" / "settings"
    settings.parent.mkdir(parents=True)
    settings.write_text("[default]\nmode = online\nproject = mine\nentity = me\n", encoding="utf-8")
    theirs = {
        "MODE": "online",
        "API_KEY": "0" * 40,
        "RUN_ID": "mine",
        "PROJECT": "mine",
        "ENTITY": "me",
        "TAGS": "mine",
    }
    done = rhotrace(
        "export",
        run,
        "--to",
        "wandb-offline",
        "-o",
        "log",
        HOME=str(tmp_path / "home"),
        PYTHONPATH=os.pathsep.join(filter(None, [str(tmp_path / "hooks"), os.environ.get("PYTHONPATH")])),
        HEARD=str(tmp_path / "heard"),
        **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"), proxy),
        **dict.fromkeys(("NO_PROXY", "no_proxy"), ""),
        **{f"WANDB_{name}": value for name, value in theirs.items()},
    )
    assert callers == []
    assert not (tmp_path / "heard").exists()
    assert (done.returncode, done.stdout) == (0, "log: 180 rows\n"), done.stderr
    assert done.stderr == "upload it with: wandb sync log/wandb/offline-run-*\n"
    assert [path for path in (tmp_path / "home").rglob("*") if path.is_file()] == [settings]
    headers = [wandb_run(folder)[0] for folder in (tmp_path / "log" / "wandb").iterdir()]
    assert {(h.project, h.entity, tuple(h.tags)) for h in headers} == {("rhotrace", "", ())}
    assert len({h.run_id for h in headers} - {"mine"}) == 3


def test_wandb_is_told_to_report_nothing_about_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "true")
    monkeypatch.setenv("WANDB_SERVICE", "theirs")
    told = wandb_export._environment(tmp_path, tmp_path)
    assert told["WANDB_ERROR_REPORTING"] == "false"  # what it would send, it sends only after some time
    assert "WANDB_SERVICE" not in told


def test_wandb_works_where_there_is_no_network(run, tmp_path):
    pytest.importorskip("wandb")
    alone = ["unshare", "--map-root-user", "--net"]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no network namespaces here")
    words = [*alone, sys.executable, "-m", "rhotrace", "export", str(run), "--to", "wandb-offline", "-o", "log"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120)
    assert (done.returncode, done.stdout) == (0, "log: 180 rows\n"), done.stderr


@pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "stop"])
@pytest.mark.parametrize("kind", ["tensorboard", "wandb-offline"])
def test_a_folder_is_there_whole_or_as_it_was(run, tmp_path, kind, problem, monkeypatch):
    pytest.importorskip(kind.partition("-")[0])
    there, whole = tmp_path / "log", exporting.columns

    def fails(*words, **options):
        yield next(whole(*words, **options))
        raise problem

    monkeypatch.setattr(exporting, "_ROWS", 12)
    with open_trace(run) as trace:
        before = set(tmp_path.iterdir())
        monkeypatch.setattr(exporting, "columns", fails)
        with pytest.raises(KeyboardInterrupt if isinstance(problem, KeyboardInterrupt) else RhoTraceError):
            exporting.export(trace, kind, there)
        assert set(tmp_path.iterdir()) == before
        monkeypatch.setattr(exporting, "columns", whole)
        if kind == "tensorboard":  # the rest is the same for both
            (tmp_path / ".log.half").mkdir()  # of an export that was killed
            exporting.export(trace, kind, there)
            files = {path: path.stat().st_mtime_ns for path in there.rglob("*")}
            monkeypatch.setattr(exporting, "columns", fails)
            with pytest.raises((RhoTraceError, KeyboardInterrupt)):
                exporting.export(trace, kind, there, force=True)
            assert {path: path.stat().st_mtime_ns for path in there.rglob("*")} == files
            assert set(tmp_path.iterdir()) == before | {there}


def test_a_folder_is_replaced_only_where_it_is_an_export_and_nothing_else(run, tmp_path):
    pytest.importorskip("tensorboard")
    there = tmp_path / "log"
    with open_trace(run) as trace:

        def again(kind="tensorboard", **options):
            return exporting.export(trace, kind, there, every=30, **options)

        again()
        with pytest.raises(RhoTraceError, match="exists already"):
            again()
        (there / "member-0" / "stale").touch()
        again(force=True)
        assert not (there / "member-0" / "stale").exists()
        assert not (tmp_path / ".log.old").exists()
        for kind, why in (("wandb-offline", "it is an export to tensorboard"), ("csv", "it is a folder")):
            with pytest.raises(RhoTraceError, match=why):
                again(kind, force=True)
        mine = there / "mine" / "events.out.tfevents.1"
        mine.parent.mkdir()
        mine.touch()
        with pytest.raises(RhoTraceError, match="it also contains mine/events"):
            again(force=True)
        assert mine.exists()
        mine.unlink()
        again(force=True)  # an empty folder is nobody's
        for content in ("[]", "{}", "no JSON"):
            (there / "rhotrace-export.json").write_text(content, encoding="utf-8")
            with pytest.raises(RhoTraceError, match="does not contain rhotrace-export"):
                again(force=True)
        shutil.rmtree(there)
        there.write_text("mine", encoding="utf-8")
        with pytest.raises(RhoTraceError, match="not replaced"):
            again(force=True)
    assert there.read_text(encoding="utf-8") == "mine"


def test_the_folder_that_was_there_comes_back_where_the_new_one_cannot_take_its_place(run, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    there, replace = tmp_path / "log", exporting.Path.replace

    def refuses(path, target):
        if path.name == ".log.half":
            raise OSError(13, "Permission denied")
        return replace(path, target)

    with open_trace(run) as trace:
        exporting.export(trace, "tensorboard", there, every=30)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        monkeypatch.setattr(exporting.Path, "replace", refuses)
        with pytest.raises(RhoTraceError, match="Permission denied"):
            exporting.export(trace, "tensorboard", there, every=30, force=True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path != there} == {
        path: time for path, time in before.items() if path != there
    }


@pytest.mark.parametrize(
    ("kind", "package", "extra"),
    [
        ("parquet", "pyarrow", "parquet"),
        ("netcdf", "h5netcdf", "netcdf"),
        ("netcdf", "xarray", "netcdf"),
        ("tensorboard", "tensorboard", "tensorboard"),
        ("wandb-offline", "wandb", "wandb"),
    ],
)
def test_what_is_not_installed_is_named_with_the_remedy(run, kind, package, extra, command, monkeypatch):
    loaded = [name for name in sys.modules if name.partition(".")[0] == package]
    for name in {package, *loaded}:
        monkeypatch.setitem(sys.modules, name, None)
    code, out, err = command("export", run, "--to", kind)
    assert (code, out) == (2, "")
    assert err.endswith(f"python -m pip install 'rhotrace[{extra}]'\n")
    assert err.count("\n") == 1
    assert [path for path in run.parent.iterdir() if path != run] == []


def test_to_xarray_names_the_remedy_where_there_is_no_xarray(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    with open_trace(run) as trace, pytest.raises(RhoTraceError, match=r"install 'rhotrace\[netcdf\]'"):
        to_xarray(trace)


def test_a_failure_of_wandb_is_a_line_with_its_last_words(run, tmp_path, command, monkeypatch):
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "wandb.py").write_text("raise RuntimeError('no core for this machine')", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"), prepend=os.pathsep)
    monkeypatch.syspath_prepend(tmp_path / "fake")
    code, out, err = command("export", run, "--to", "wandb-offline")
    assert (code, out) == (2, "")
    assert err == "error: --to wandb-offline: wandb failed: RuntimeError: no core for this machine\n"
    assert not run.with_suffix(".wandb-offline").exists()


def test_a_folder_named_wandb_is_not_the_package(tmp_path, monkeypatch):
    (tmp_path / "nowandb").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not wandb_export._is_installed("nowandb")
    assert wandb_export._is_installed("json")


def test_a_damaged_start_is_a_line(run, tmp_path):
    pytest.importorskip("tensorboard")
    with open_trace(run) as trace:
        trace.attributes["started"] = "yesterday"
        with pytest.raises(RhoTraceError, match="attribute started is not a time"):
            exporting.export(trace, "tensorboard", tmp_path / "log")


@pytest.mark.parametrize("kind", ["csv", "netcdf", "tensorboard"])
def test_json_says_where_what_and_how_much(run, kind, command):
    pytest.importorskip({"csv": "csv", "netcdf": "xarray"}.get(kind, kind))
    code, out, err = command("export", run, "--to", kind, "--every", "10", "--json")
    assert (code, err) == (0, "")
    path = run.with_suffix(exporting.ENDINGS[kind])
    assert json.loads(out) == {"path": str(path), "format": kind, "rows": 6 if kind == "netcdf" else 18}
    assert path.exists()


def test_the_command_says_how_to_look_at_a_tensorboard_folder(run, command):
    pytest.importorskip("tensorboard")
    folder = run.with_suffix(".tensorboard")
    code, out, err = command("export", run, "--to", "tensorboard", "--every", "30")
    assert (code, out, err) == (0, f"{folder}: 6 rows\n", f"look at it with: tensorboard --logdir {folder}\n")
