"""Blocks that are written one block behind the steps leave the file that is written at once, through every way to end.

On a processor the copies are plain ones; streams and page-locked memory are a GPU's, and are tested in ``test_train_gpu``.
"""

from __future__ import annotations

import os
import signal
from functools import partial

import inside
import pytest
import torch
from crashing import BLOCK, OPTIMIZERS, TRAINING, Bench, contents, faults
from inside import Killed

from rhotrace.runfile.reader import open_trace
from rhotrace.training.copy_out import Filled, one_behind
from rhotrace.training.train import spacing

DIVERGES = ("network.depth=1", "optimizer.lr=1.0e+6", "steps=784", "record.snapshots=4")  # after 28 steps
BATCH_NORM = "network.batch_norm=true"


@pytest.fixture
def bench(tmp_path, monkeypatch):
    inside.small_blocks(monkeypatch.setattr, 7)
    return lambda *overrides: Bench(tmp_path, monkeypatch, overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer={kind: gd, lr: 0.05, momentum: 0.9}"],
        [OPTIMIZERS["weight norm"]],
        [OPTIMIZERS["shuffled"], BATCH_NORM],
        [OPTIMIZERS["shuffled"], "record.every.first_layer=5"],
        ["steps=7"],
        ["steps=1"],
    ],
    ids=["momentum", "weight norm", "batch norm", "followed", "one block", "one step"],
)
def test_the_file_and_the_progress_are_those_of_blocks_written_at_once(bench, tmp_path, overrides):
    at, seen = bench(*overrides), {True: [], False: []}

    def note(progress, behind):
        rows = {name: values.tobytes() for name, values in progress.block.items()}
        seen[behind].append((progress.first, progress.last, rows))

    for behind, path in ((True, at.run), (False, tmp_path / "at_once.h5")):
        at.finish(path, write_behind=behind, watch=partial(note, behind=behind))
    assert at.spoilt() == []
    assert seen[True] == seen[False]


@pytest.mark.parametrize("block", [7, 14, 27, 28, 29])
def test_a_divergence_is_found_a_block_later_and_leaves_the_same_bits(bench, monkeypatch, block):
    at = bench(*DIVERGES)
    inside.small_blocks(monkeypatch.setattr, block)
    outcome = at.finish(write_behind=True)
    assert (outcome.ended, outcome.steps) == ("diverged", 28) == (at.outcome.ended, at.outcome.steps)
    assert at.spoilt() == []


def stop_at_the_first_block(progress):
    if not progress.first:
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("overrides", [[OPTIMIZERS["shuffled"]], DIVERGES], ids=["sound", "diverges"])
def test_a_request_to_stop_commits_the_block_that_is_under_way_too(bench, tmp_path, overrides):
    at = bench(*overrides)
    outcome = at.finish(write_behind=True, watch=stop_at_the_first_block)
    assert (outcome.ended, outcome.steps) == ("interrupted", 14)
    # The same two blocks written at once: the live files are the same too, with the state to resume from.
    shorter = tmp_path / "shorter.h5"
    at.finish(shorter, watch=lambda p: os.kill(os.getpid(), signal.SIGINT) if p.last == 14 else None)
    ours, theirs = contents(at.run), contents(shorter)
    clocks = {"checkpoint/commit", "checkpoint/sessions"}
    assert {name for name in ours if ours[name] != theirs[name]} <= clocks
    assert at.finish(write_behind=True).ended == at.outcome.ended
    assert at.spoilt() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment_loses_no_step(bench, number):
    at = bench()
    with at.worker(text=at.longer(10**5), block_seconds=0.004, options={"write_behind": True}) as worker:
        worker.reach(TRAINING, lambda board: board.committed > 0)
        os.kill(worker.process.pid, number)
        assert worker.code() == 0, worker.said()
        assert worker.board.committed == worker.board.trained
        assert faults(at.run, worker.board.trained, worker.board.trained) == []


@pytest.mark.parametrize("part", ["record", "append", "commit", "seal"])
@pytest.mark.parametrize("overrides", [[OPTIMIZERS["weight norm"]], DIVERGES], ids=["weight norm", "diverges"])
def test_a_killed_run_ends_with_the_same_bits(bench, monkeypatch, overrides, part):
    at = bench(*overrides)
    with monkeypatch.context() as patch:
        inside.kill_before(patch.setattr, part, {"record": 24, "seal": 1}.get(part, 3))
        with pytest.raises(Killed):
            at.finish(write_behind=True)
    with open_trace(at.run) as trace:
        expected = {"record": 14, "append": 14, "commit": 14, "seal": at.outcome.steps}
        assert trace.steps == expected[part]
    at.finish(write_behind=True)
    assert at.spoilt() == []


def test_a_run_killed_by_the_system_keeps_its_commits_and_ends_with_the_same_bits(bench):
    at = bench(OPTIMIZERS["shuffled"])
    with at.worker(dies=(230, True), options={"write_behind": True}) as worker:
        assert worker.code() == -signal.SIGKILL
        done, known = worker.board.trained, worker.board.committed
    assert 0 < known < done
    assert done - known <= 2 * BLOCK
    assert faults(at.run, known, min(done, known + BLOCK)) + at.faults_when_finished() == []


def test_a_block_is_copied_before_the_next_begins_and_comes_before_the_error_of_a_later_step():
    made = []

    def blocks():
        rows, W = torch.zeros(2), torch.zeros(3)
        for first in (0, 5):
            rows.fill_(first), W.fill_(first + 5)
            made.append(first)
            yield Filled(first, first + 5, (rows,), {"weights": (W,)})
        rows.fill_(-1), W.fill_(-1)
        raise ValueError("a later step")

    behind, found = one_behind(blocks()), []
    found.append(next(behind))
    assert made == [0, 5]  # the first block comes when the second is full
    with pytest.raises(ValueError, match="a later step"):
        found.extend(behind)
    assert [(block.first, block.rows[0][0].item(), block.state["weights"][0][0].item()) for block in found] == [
        (0, 0, 5),
        (5, 5, 10),
    ]


@pytest.mark.parametrize(("seconds", "times"), [(0, 1), (0.001, 1), (0.02, 1), (0.04, 2), (0.1, 5), (3, 5)])
def test_blocks_that_take_long_to_write_come_less_often(seconds, times):
    assert spacing(seconds) == pytest.approx(times)
