"""Kills and power cuts at any moment: every file is intact, no committed step is lost, and the finished run has the same bits."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import shutil
import signal
import threading
import time
from collections import Counter
from functools import partial

import h5py
import inside
import numpy as np
import pytest
import xarray as xr
from crashing import (
    BLOCK,
    DONE,
    OPENING,
    OPTIMIZERS,
    SEALING,
    TRAINING,
    Bench,
    count_calls,
    faults,
    kill_self,
    pause,
    send_signal,
)
from inside import Killed
from powercut import Disk, History

from rhotrace.analysis.analyze import analyze
from rhotrace.errors import TraceError
from rhotrace.runfile.live_checksums import damaged_block, damaged_snapshots
from rhotrace.runfile.reader import open_trace
from rhotrace.runfile.run_lock import RunLock, is_locked, lock_path
from rhotrace.runfile.writer import reopen

SOAK_KILLS = int(os.environ.get("RHOTRACE_SOAK_KILLS", "500"))
DTYPES = ("float32", "float64")


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return lambda *overrides: Bench(tmp_path, monkeypatch, overrides)


# --- kills at random moments -------------------------------------------------------------------------------


def kill_repeatedly(bench: Bench, kills: int, rng: np.random.Generator) -> Counter[str]:
    """Kills the training of a run repeatedly, while it opens, trains and seals the file.

    Returns:
        The number of kills in each phase, and of each fault found after them.
    """
    with bench.worker(block_seconds=0.004) as calm:
        assert calm.code() == 0, calm.said()
        lasts = np.diff(calm.board.since[OPENING:]) / 1e9  # of opening, training, sealing
    bench.run.unlink()
    tally: Counter[str] = Counter()
    committed = 0
    aims = itertools.cycle([OPENING, TRAINING, TRAINING, TRAINING, SEALING])
    while tally["kills"] < kills or not tally["training"]:
        aim = next(aims)
        with bench.worker(block_seconds=0.004) as worker:
            worker.reach(aim)
            time.sleep(rng.uniform(0, lasts[aim - OPENING] * (0.3 if aim == TRAINING else 1)))
            if worker.kill():
                tally.update(["kills", ("opening", "training", "sealing", "sealed")[worker.board.phase - OPENING]])
            committed = max(committed, worker.board.committed)
            found = faults(bench.run, committed, worker.board.trained) + bench.faults_when_finished()
        tally.update({fault.split(":")[0] for fault in found})
        tally.update(f"({fault})" for fault in found)
        if committed == bench.content.steps:  # start another run: otherwise most kills would hit the sealing
            bench.run.unlink()
            committed = 0
    return tally


def wrong(tally: Counter[str]) -> dict[str, int]:
    return {
        what: count
        for what, count in tally.items()
        if what not in {"kills", "opening", "training", "sealing", "sealed"}
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_run_killed_at_any_moment_keeps_its_commits_and_ends_with_the_same_bits(bench, optimizer, dtype):
    at = bench(optimizer, f"network.dtype={dtype}", "steps=130")
    tally = kill_repeatedly(at, 5, np.random.default_rng())
    assert tally["kills"] >= 5
    assert not wrong(tally)


@pytest.mark.soak
def test_hundreds_of_kills_lose_nothing(tmp_path, monkeypatch, capsys):
    tally, began = Counter(), time.monotonic()
    configurations = list(itertools.product(OPTIMIZERS.values(), DTYPES))
    for number, (optimizer, dtype) in enumerate(configurations):
        (tmp_path / str(number)).mkdir()
        with monkeypatch.context() as patch:
            at = Bench(tmp_path / str(number), patch, [optimizer, f"network.dtype={dtype}", "steps=400"])
            share = SOAK_KILLS * (number + 1) // len(configurations) - SOAK_KILLS * number // len(configurations)
            tally += kill_repeatedly(at, share, np.random.default_rng())
    with capsys.disabled():
        print(
            f"\n{tally['kills']} kills ({tally['opening']} while opening, {tally['training']} training, "
            f"{tally['sealing']} sealing, {tally['sealed']} just after): {tally['unreadable']} unreadable files, "
            f"{tally['torn']} torn blocks, {tally['lost']} losses beyond a block, {tally['differing']} with differing "
            f"bits after resuming; {time.monotonic() - began:.0f} s"
        )
    assert tally["kills"] >= SOAK_KILLS
    assert not wrong(tally)


# --- a kill at every call that changes the disk ------------------------------------------------------------

DIVERGES = ("network.depth=1", "optimizer.lr=1.0e+6")  # after 28 steps
SCENARIOS = {  # overrides, how an earlier process was killed, and every how many calls of os.pwrite the quick test kills
    "a new run": ([OPTIMIZERS["weight norm"]], None, 10),
    "a resumed run": ([OPTIMIZERS["shuffled"]], {"dies": (250, False)}, 19),
    "a run that diverges": ([OPTIMIZERS["gd"], *DIVERGES], None, 19),
}


def killed_at_calls(bench: Bench, before: dict | None, stride: dict[str, int]) -> Counter[str]:
    """Kills a training before each of its calls that change the disk, or in the middle of what they write.

    Args:
        bench: with the run.
        before: how a first process is killed; nothing for a new run.
        stride: every how many calls of a name to kill; 1 where none is given.

    Returns:
        The kills by name of the call.
    """
    if before:
        with bench.worker(**before) as first:
            assert first.code() == -signal.SIGKILL
            assert 0 < first.board.committed < 64
    start = bench.run.parent.rename(bench.folder / "start")

    def begin() -> None:
        shutil.rmtree(bench.run.parent, ignore_errors=True)
        shutil.copytree(start, bench.run.parent)

    begin()
    steps = committed(bench)
    with bench.worker(logs=True) as calm:
        assert calm.code() == 0, calm.said()
        names = (calm.job.aside / "calls").read_text().split()
    met: Counter[str] = Counter()
    kills: Counter[str] = Counter()
    for number, name in enumerate(names):
        met[name] += 1
        record = names[max(0, number - 1) : number + 2] == ["sync", "pwrite", "sync"]  # of a commit
        if met[name] % stride.get(name, 1) and not record:
            continue
        begin()
        half = record or (name in {"pwrite", "write"} and number % 2 == 0)
        with bench.worker(dies=(number, half)) as worker:
            assert worker.code() == -signal.SIGKILL
            known = max(steps, worker.board.committed)
            found = faults(bench.run, known, worker.board.trained, calm=bench.outcome.ended == "finished")
        found += bench.faults_when_finished()
        assert not found, f"killed at call {number}, {name}"
        kills[name] += 1
    return kills


def committed(bench: Bench) -> int:
    if not bench.run.exists():
        return 0
    with open_trace(bench.run) as trace:
        return trace.steps


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_kill_at_any_call_leaves_an_intact_file_that_ends_with_the_same_bits(bench, scenario):
    overrides, before, stride = SCENARIOS[scenario]
    kills = killed_at_calls(bench(*overrides), before, {"pwrite": stride, "write": 80, "sync": stride // 9})
    assert {"pwrite", "write", "sync", "replace", "fsync", "unlink"} <= {*kills}


@pytest.mark.soak
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_kill_at_every_single_call_leaves_an_intact_file_that_ends_with_the_same_bits(bench, scenario):
    overrides, before, _ = SCENARIOS[scenario]
    killed_at_calls(bench(*overrides), before, {})


@pytest.mark.parametrize("optimizer", [OPTIMIZERS["gd"], OPTIMIZERS["weight norm"]], ids=["gd", "weight norm"])
def test_a_run_killed_between_its_divergence_and_its_sealing_ends_as_the_undisturbed_one(bench, optimizer):
    at = bench(optimizer, *DIVERGES)
    assert at.outcome.ended == "diverged"
    assert at.outcome.steps % BLOCK, "a divergence within a block is cut out of it"
    with at.worker(hooks={"seal": kill_self}) as worker:
        assert worker.code() == -signal.SIGKILL
    assert committed(at) == at.outcome.steps
    assert not at.complete()
    outcome = at.finish()
    assert (outcome.ended, outcome.steps) == ("diverged", at.outcome.steps)
    assert at.spoilt() == []


@pytest.mark.parametrize("block", [7, 27, 29])
def test_a_divergence_at_any_place_in_a_block_leaves_the_same_bits(bench, monkeypatch, block):
    at = bench(*DIVERGES, "steps=784", "record.snapshots=4")
    with open_trace(at.whole) as whole:
        assert at.outcome.steps == 28
        assert whole.snapshot_steps() == [0, 1, 28]  # with a snapshot at that very step
    inside.small_blocks(monkeypatch.setattr, block)
    at.finish()
    assert at.spoilt() == []


# --- power cuts --------------------------------------------------------------------------------------------


def record(bench: Bench, patch: pytest.MonkeyPatch, kills: list[tuple[str, int]]) -> History:
    """The history of a run file that processes train in short blocks, each but the last killed before a call."""
    inside.small_blocks(patch.setattr, 8)
    with pytest.MonkeyPatch.context() as recording:
        disk = Disk(recording)
        for kill in kills:
            calls: Counter[str] = Counter()

            def die(name, _, calls=calls, kill=kill):
                calls[name] += 1
                if (name, calls[name]) == kill:
                    raise Killed

            with pytest.MonkeyPatch.context() as killing:
                count_calls(die, killing.setattr)
                with pytest.raises(Killed):
                    bench.finish()
        bench.finish()
    assert bench.spoilt() == []
    return next(history for history in disk.histories.values() if len(history.events) > 100)


# The 7th call of sync follows the second record of a commit. Killed there, a process leaves it for the next one to
# read, though it is not on the disk.
@pytest.mark.parametrize(
    ("optimizer", "kills"),
    [
        ("gd", []),
        ("weight norm", []),
        ("shuffled", [("sync", 7)]),
        ("replaced", [("pwrite", 60), ("sync", 3), ("sync", 5)]),
        ("weight norm", [("sync", 9), ("pwrite", 40), ("pwrite", 7)]),
    ],
    ids=str,
)
@pytest.mark.parametrize("cuts", [40, pytest.param(400, marks=pytest.mark.soak)])
def test_any_file_that_a_power_cut_leaves_is_an_intact_run(bench, monkeypatch, optimizer, kills, cuts):
    at, rng = bench(OPTIMIZERS[optimizer]), np.random.default_rng(cuts)
    history = record(at, monkeypatch, kills)
    at.run.write_bytes(history.image)
    with h5py.File(at.run) as file, open_trace(at.whole) as whole:
        records = {file["checkpoint/commit"].id.get_offset() + slot * 4096 for slot in (0, 1)}
        rows = {q.name: whole[q.name] for q in whole.quantities}
        snapshots = dict(whole.snapshots())
    for number, (now, held) in enumerate(history.cuts(cuts, rng)):
        at.run.write_bytes(held)
        sure, perhaps = (int(np.frombuffer(r, "<i8")[0]) if r else 0 for r in history.written_at(records, now))
        with open_trace(at.run) as trace:
            steps = trace.steps
            assert steps in {sure, perhaps or sure}
            for name, expected in rows.items():
                found = trace[name]
                assert found.tobytes() == expected[: len(found)].tobytes(), name
            assert damaged_block(trace) is None
            assert damaged_snapshots(trace) == []
            for step, weights in trace.snapshots():
                assert all(map(np.array_equal, weights, snapshots[step])), step
            shown = trace.rows("step", slice(None))  # to those who read without RhoTrace
            assert set(np.flatnonzero(shown >= 0)) <= set(range(steps))
            assert set(shown[shown >= 0]) <= set(range(steps))
        if steps:
            writer, _ = reopen(at.run)  # raises unless a state has its checksum
            writer.close()
            assert writer.committed == steps, "the state of the last commit is damaged"
        if number % 15 == 0:
            at.finish()
            assert at.spoilt() == []


def test_no_file_takes_its_name_before_it_is_on_the_disk(bench):
    at = bench()
    with pytest.MonkeyPatch.context() as recording:
        disk = Disk(recording)
        at.finish()
    assert disk.log == ["run.h5 named, on the disk", "folder synced"] * 2  # made, and sealed


def test_a_process_that_died_while_it_noted_its_session_hides_no_other(bench, monkeypatch):
    at, pwrite = bench(), os.pwrite
    with at.worker(hooks={"commit": kill_self}) as first:
        first.code()

    def torn(descriptor, data, place):
        if b"from_step" not in bytes(data):
            return pwrite(descriptor, data, place)
        pwrite(descriptor, data[: len(data) // 2], place)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", torn)
        with pytest.raises(Killed):
            at.finish()
    at.finish()
    with open_trace(at.run) as trace:
        assert [session["from_step"] for session in trace.sessions] == [BLOCK]


# --- two processes -----------------------------------------------------------------------------------------


def test_a_second_process_is_refused_while_the_first_lives_and_not_after_it_was_killed(bench):
    at = bench()
    endless = {"text": at.longer(10**5)}
    with at.worker(**endless) as first:
        first.reach(TRAINING, lambda board: board.committed > 0)
        for options in ({}, {"force": True}):
            with at.worker(**endless, options=options) as second:
                assert second.code() == 2
                assert f"another process (pid {first.process.pid}) is training into this file" in second.said()
        assert is_locked(at.run)
        steps = first.board.committed
        first.reach(TRAINING, lambda board: board.committed > steps)  # it was not disturbed
        assert first.kill()
        steps = first.board.committed
    assert not is_locked(at.run)
    with at.worker(**endless) as second:
        second.reach(TRAINING, lambda board: board.committed > steps)
        assert second.kill()


def test_asking_whether_a_run_is_locked_does_not_keep_a_process_from_training(bench):
    at = bench()
    looking = os.open(lock_path(at.run), os.O_RDONLY | os.O_CREAT)
    fcntl.flock(looking, fcntl.LOCK_SH)  # as is_locked does, for an instant
    timer = threading.Timer(0.03, os.close, [looking])
    timer.start()
    assert at.finish().ended == "finished"
    timer.join()


def test_a_process_that_lost_its_folder_leaves_the_lock_of_the_one_that_trains_there_now(tmp_path):
    run = tmp_path / "runs" / "run.h5"
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        first.enter_context(RunLock(run))
        shutil.rmtree(run.parent)
        second.enter_context(RunLock(run))
        first.close()
        assert is_locked(run)
        with pytest.raises(TraceError, match=f"pid {os.getpid()}"), RunLock(run):
            pass
    assert not list(run.parent.iterdir())


def assert_same_rows(found, whole):
    """That rows, by name, are the beginning of those of the finished run, bit for bit."""
    for name, rows in found.items():
        expected = whole[name][: len(rows)]
        assert np.asarray(rows).tobytes() == expected.tobytes(), name


def test_every_reader_sees_whole_blocks_at_every_moment_of_the_training(bench):
    at = bench("steps=1300")
    steps, looks = 0, 0
    with open_trace(at.whole) as whole, at.worker(hooks={"commit": partial(pause, 0.025)}) as worker:
        worker.reach(TRAINING, lambda board: board.committed > 1)
        while worker.board.phase < DONE and worker.process.is_alive():
            with open_trace(at.run) as trace:
                assert steps <= trace.steps
                steps = trace.steps
                assert_same_rows({q.name: trace[q.name] for q in trace.quantities}, whole)
                assert analyze(trace).audit.holds
            with xr.open_dataset(at.run, engine="h5netcdf") as live:
                axes = {axis: np.flatnonzero(live[axis].values >= 0) for axis in ("step", "test_step")}
                cut = live.isel(axes)
                assert_same_rows({name: cut[name].values for name in [*axes, "log_rho", "rho_k", "test_loss"]}, whole)
                assert cut.sizes["step"] >= steps - BLOCK  # a block shows there an instant after its commit
            looks += 1
        assert worker.code() == 0, worker.said()
    assert looks > 3
    assert at.spoilt() == []


# --- signals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_training_with_every_step_committed(bench, number):
    at = bench()
    (at.run.parent / "recipe.yaml").write_text(at.longer(10**5))
    with at.worker(words=["train", "recipe.yaml", "-o", "run.h5", "--device", "cpu"]) as worker:
        worker.reach(TRAINING, lambda board: board.committed > 0)
        os.kill(worker.process.pid, number)
        assert worker.code() == 130
        assert "Traceback" not in worker.said()
        assert committed(at) == worker.board.committed == worker.board.trained
        assert faults(at.run, worker.board.trained, worker.board.trained) == []
    assert sorted(path.name for path in at.run.parent.iterdir()) == ["recipe.yaml", "run.h5"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_file_is_made_or_sealed_leaves_it_whole(bench, number):
    at = bench()
    with at.worker(hooks={"open": partial(send_signal, number)}) as worker:
        assert worker.code() == 0
    assert committed(at) == 1, "the file is made, and training stops at once"
    with at.worker(hooks={"seal": partial(send_signal, number)}) as worker:
        assert worker.code() == 0
    assert at.spoilt() == []
