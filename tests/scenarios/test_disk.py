"""Disks that are full, limited, read-only or gone: one clear line, nothing left behind, and the run can be resumed later."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from functools import partial
from pathlib import Path

import inside
import pytest
from crashing import (
    BLOCK,
    Bench,
    faults,
    fill_disk,
    kill_self,
    limit_file_size,
    move,
    out_of_quota,
    remove,
    try_within,
)

from rhotrace.errors import TraceError

MOUNT, UMOUNT = shutil.which("mount"), shutil.which("umount")  # before a bench hides all programs


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return Bench(tmp_path, monkeypatch)


@pytest.fixture
def small_disk():
    """Mounts a real, small disk at a folder."""
    mounted: list[Path] = []

    def mount(folder: Path, options: str) -> None:
        words = [MOUNT or "mount", "-t", "tmpfs", "-o", options, "rhotrace", folder]
        try:
            subprocess.run(words, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as problem:
            pytest.skip(f"no disk can be mounted here: {problem}")
        if folder not in mounted:
            mounted.append(folder)

    yield mount
    for folder in mounted:
        subprocess.run([UMOUNT or "umount", "--lazy", folder], check=True)


def refusal(worker) -> str:
    """The single line in which a process refused."""
    assert worker.code() == 2
    (line,) = worker.said().splitlines()
    assert line.startswith("error: ")
    return line


# --- a disk that is full, for real -------------------------------------------------------------------------


def test_a_disk_too_small_for_the_run_is_refused_before_the_first_step(bench, small_disk):
    small_disk(bench.run.parent, "size=128k")
    with bench.worker() as worker:
        line = refusal(worker)
        assert worker.board.trained == 0
    assert f"{bench.run}: the run file cannot be created: No space left on device" in line
    assert "GB were free" in line
    assert not list(bench.run.parent.iterdir())


def test_the_space_for_the_whole_run_is_reserved_before_its_first_step(bench):
    seen = []
    bench.finish(begin=lambda _: seen.append(bench.run.stat()), watch=lambda _: seen.append(bench.run.stat()))
    assert len(seen) == 2
    for about in seen:  # a disk that fills up in the middle of a run takes nothing from it
        assert about.st_size == seen[0].st_size
        assert about.st_blocks * 512 >= about.st_size


def test_a_disk_that_fills_up_delays_only_the_sealing(bench, small_disk):
    small_disk(bench.run.parent, "size=2m")
    filler = bench.run.parent / "filler"
    with bench.worker(hooks={"begin": partial(fill_disk, filler)}) as worker:
        line = refusal(worker)
        assert worker.board.committed == 64
    assert f"{bench.run}: trained and recorded, but not compressed (No space left on device)" in line
    assert sorted(path.name for path in bench.run.parent.iterdir()) == ["filler", "run.h5"]
    assert not bench.complete()
    assert faults(bench.run, 64, 64) == []
    fill_disk(filler.with_name("more"))  # the room that the lock had had
    with bench.worker() as worker:
        assert refusal(worker) == line  # and not because there is no room for a lock
    filler.unlink()
    with bench.worker() as worker:
        assert worker.code() == 0
    assert bench.spoilt() == []


def test_a_run_resumes_though_the_disk_is_full(bench, small_disk):
    small_disk(bench.run.parent, "size=2m")
    with bench.worker(hooks={"commit": kill_self}) as worker:
        worker.code()
        assert worker.board.committed < 64
    fill_disk(bench.run.parent / "filler")
    with bench.worker() as worker:
        assert "but not compressed (No space left on device)" in refusal(worker)
        assert worker.board.committed == 64
    assert faults(bench.run, 64, 64) == []


def test_writes_that_fail_leave_what_was_committed_and_the_run_resumes_later(bench, monkeypatch):
    """As on copy-on-write disks, which cannot reserve space for a file."""
    real, calls = os.pwrite, []

    def failing(descriptor, data, place):
        calls.append(place)
        if len(calls) > 60:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data, place)

    with monkeypatch.context() as patch:
        inside.small_blocks(patch.setattr, BLOCK)
        patch.setattr(os, "pwrite", failing)
        with pytest.raises(TraceError, match=r"No space left on device\. Its first (16|32|48) steps are safe"):
            bench.finish()
    assert faults(bench.run, BLOCK, BLOCK) == []
    bench.finish()
    assert bench.spoilt() == []


# --- limits and quotas -------------------------------------------------------------------------------------


def test_sealing_under_any_limit_is_refused_and_leaves_the_live_file(bench):
    size, name = bench.whole.stat().st_size, bench.run.name
    limits = [*range(0, size, size // 12), size - 1]
    with bench.worker(hooks={"seal": partial(try_within, limits, bench.run.parent)}) as worker:
        assert worker.code() == 0, worker.said()
        said = worker.said().splitlines()
    expected = f"{bench.run}: trained and recorded, but not compressed (File too large); the file is readable"
    assert len(said) == len(limits)
    for line in said:
        assert line.startswith(expected)
        assert line.endswith(f"['.{name}.lock', '{name}']"), "something was left"
    assert bench.spoilt() == []


def test_a_new_run_under_any_limit_is_refused_and_leaves_nothing(bench):
    with bench.worker(hooks={"commit": kill_self}) as worker:
        worker.code()
    size = bench.run.stat().st_size
    bench.run.unlink()
    limits = [*range(0, size, size // 12), size - 1]
    with bench.worker(hooks={"open": partial(try_within, limits, bench.run.parent)}) as worker:
        assert worker.code() == 0, worker.said()
        said = worker.said().splitlines()
    assert len(said) == len(limits)
    for line in said:
        assert line.startswith(f"{bench.run}: the run file cannot be created: File too large")
        assert line.endswith(f"['.{bench.run.name}.lock']"), "something was left"
    assert bench.spoilt() == []


@pytest.mark.parametrize(
    ("when", "what", "said"),
    [
        ("open", partial(limit_file_size, 1 << 14), "the run file cannot be created: File too large"),
        ("open", out_of_quota, "the run file cannot be created: Disk quota exceeded"),
        ("seal", partial(limit_file_size, 1 << 14), "trained and recorded, but not compressed (File too large)"),
    ],
    ids=["limit at the start", "quota", "limit at the end"],
)
def test_a_limit_met_by_the_command_line_is_exit_code_2_and_no_traceback(bench, when, what, said):
    (bench.run.parent / "recipe.yaml").write_text(bench.text)
    words = ["train", "recipe.yaml", "-o", "run.h5", "--device", "cpu"]
    with bench.worker(words=words, hooks={when: what}) as worker:
        assert worker.code() == 2
        assert f"error: run.h5: {said}" in " ".join(worker.said().split())
        assert "Traceback" not in worker.said()
    with bench.worker(words=words) as worker:
        assert worker.code() == 0
    assert bench.spoilt() == []


# --- folders and files that cannot be written, or are gone ---------------------------------------------------


def test_a_run_in_a_folder_that_became_read_only_is_read_and_not_written(bench, small_disk):
    small_disk(bench.run.parent, "size=2m")
    with bench.worker(hooks={"commit": kill_self}) as worker:
        worker.code()
    small_disk(bench.run.parent, "remount,ro")
    assert faults(bench.run, BLOCK, BLOCK) == []
    with bench.worker() as worker:
        assert "the run file cannot be created: Read-only file system" in refusal(worker)
    with bench.worker(path=bench.run.with_name("new.h5")) as worker:
        assert "the run file cannot be created: Read-only file system" in refusal(worker)
    small_disk(bench.run.parent, "remount,rw")
    bench.finish()
    assert bench.spoilt() == []


@pytest.mark.parametrize("gone", ["run.h5", "."], ids=["the file", "its folder"])
def test_a_run_whose_file_is_removed_stops_and_says_so(bench, gone):
    with bench.worker(hooks={"commit": partial(remove, bench.run.parent / gone)}) as worker:
        line = refusal(worker)
        assert worker.board.trained <= 2 * BLOCK
    assert line == f"error: {bench.run}: training stopped, because the file was removed"
    assert not bench.run.exists()


def test_a_run_whose_file_is_removed_before_it_is_sealed_says_so(bench):
    with bench.worker(hooks={"seal": partial(remove, bench.run)}) as worker:
        assert f"{bench.run}: no such run file" in refusal(worker)
    assert not list(bench.run.parent.iterdir())


def test_a_run_whose_file_is_moved_keeps_its_steps_there(bench):
    aside = bench.run.with_name("moved.h5")
    with bench.worker(hooks={"commit": partial(move, bench.run, aside)}) as worker:
        line = refusal(worker)
    assert line.endswith(f"the file was moved; it contains the first {BLOCK} steps")
    assert faults(aside, BLOCK, BLOCK) == []
    aside.rename(bench.run)
    bench.finish()
    assert bench.spoilt() == []


def test_a_file_put_in_the_place_of_the_run_is_left_alone(bench):
    other = bench.run.with_name("other.h5")
    shutil.copy(bench.whole, other)
    with bench.worker(hooks={"commit": partial(move, other, bench.run)}) as worker:
        assert refusal(worker).endswith("because the file was removed")
    assert bench.run.read_bytes() == bench.whole.read_bytes()
