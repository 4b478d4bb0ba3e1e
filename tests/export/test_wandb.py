from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import zlib

import pytest
from exported import series, span_of

from rhotrace.export import tables as exporting
from rhotrace.export import wandb as wandb_export
from rhotrace.runfile.reader import open_trace


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
    """(run record, config, history, summary, number of records about the machine) of a run's folder."""
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


@pytest.fixture
def trap():
    """A proxy that must not be used: (its address, the requests that it got)."""
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
    assert done.stderr == "to upload it: wandb sync log/wandb/offline-run-*\n"
    assert [path for path in (tmp_path / "home").rglob("*") if path.is_file()] == [settings]
    headers = [wandb_run(folder)[0] for folder in (tmp_path / "log" / "wandb").iterdir()]
    assert {(h.project, h.entity, tuple(h.tags)) for h in headers} == {("rhotrace", "", ())}
    assert len({h.run_id for h in headers} - {"mine"}) == 3


def test_wandb_is_told_to_report_nothing_about_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "true")
    monkeypatch.setenv("WANDB_SERVICE", "theirs")
    told = wandb_export._environment(tmp_path, tmp_path)
    assert told["WANDB_ERROR_REPORTING"] == "false"  # otherwise it would send reports after some time
    assert "WANDB_SERVICE" not in told


def test_wandb_works_where_there_is_no_network(run, tmp_path):
    pytest.importorskip("wandb")
    alone = ["unshare", "--map-root-user", "--net"]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no network namespaces here")
    words = [*alone, sys.executable, "-m", "rhotrace", "export", str(run), "--to", "wandb-offline", "-o", "log"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120)
    assert (done.returncode, done.stdout) == (0, "log: 180 rows\n"), done.stderr


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
