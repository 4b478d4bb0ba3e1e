from __future__ import annotations

import shutil
import subprocess

import pytest

from rhotrace.errors import RhoTraceError
from rhotrace.export import tables as exporting
from rhotrace.runfile.reader import open_trace


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
        again(force=True)  # an empty folder is no obstacle
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
