"""Interrupted runs: nothing committed is lost, and the finished file has the bits of one that was never interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import SMALL

from rhotrace import recipe
from rhotrace import train as training
from rhotrace.audit import audit
from rhotrace.errors import RecipeError, TraceError
from rhotrace.lock import RunLock, is_locked, lock_path
from rhotrace.trace import open_trace

SOAK_STEPS = os.environ.get("RHOTRACE_SOAK_STEPS", "40000")
OPTIMIZERS = {
    "gd": "optimizer={kind: gd, lr: 0.05}",
    "shuffled": "optimizer={kind: sgd, lr: 0.05, batch_size: 7}",
    "replaced": "optimizer={kind: sgd, lr: 0.05, batch_size: 7, sampling: with-replacement}",
    "weight norm": "optimizer={kind: weight-norm, lr: 0.05, batch_size: 7}",
}


def contents(path: Path) -> dict[str, bytes]:
    """The raw bytes of every dataset of a file."""
    found: dict[str, bytes] = {}
    with h5py.File(path, "r") as file:
        file.visititems(
            lambda name, item: found.update({name: item[()].tobytes()}) if isinstance(item, h5py.Dataset) else None
        )
    return found


def train_until(steps: int, content: recipe.Recipe, path: Path) -> None:
    """Trains until at least ``steps`` steps, in small blocks, then stops as Ctrl-C would."""

    def watch(block):
        if block.last >= steps:
            signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rhotrace.recorder.BLOCK_STEPS", 9)
        assert training.train(content, path, device="cpu", watch=watch).ended == "interrupted"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_run_stopped_twice_and_continued_has_the_bits_of_one_never_stopped(tmp_path, optimizer, dtype):
    content = recipe.parse(SMALL, [optimizer, f"network.dtype={dtype}", "record.full_every=4", "steps=100"])
    whole, parts = tmp_path / "whole.h5", tmp_path / "parts.h5"
    training.train(content, whole, device="cpu")
    train_until(20, content, parts)
    with open_trace(parts) as trace:
        assert 20 <= trace.steps < 40
    train_until(60, content, parts)
    began = []
    outcome = training.train(content, parts, device="cpu", begin=began.append)
    assert began[0] >= 60
    assert outcome.ended == "finished"
    assert contents(parts) == contents(whole)


@pytest.mark.parametrize("seed", range(8))
def test_a_killed_run_keeps_its_commits_and_continues_to_the_same_bits(tmp_path, seed):
    optimizer = list(OPTIMIZERS.values())[seed % 4]
    text = SMALL.replace("optimizer: {kind: gd, lr: 0.05}", optimizer.replace("=", ": ", 1)).replace("60", "1500")
    (tmp_path / "recipe.yaml").write_text(text)
    run = tmp_path / "run.h5"
    assert kill(run, np.random.default_rng(seed).uniform(0, 0.3))
    check_committed(run)
    content = recipe.parse(text)
    training.train(content, run, device="cpu")
    training.train(content, tmp_path / "whole.h5", device="cpu")
    assert contents(run) == contents(tmp_path / "whole.h5")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["recipe.yaml", "run.h5", "whole.h5"]


@pytest.mark.soak
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_run_killed_again_and_again_comes_to_the_same_bits(tmp_path, optimizer):
    text = SMALL.replace("optimizer: {kind: gd, lr: 0.05}", optimizer.replace("=", ": ", 1)).replace("60", SOAK_STEPS)
    (tmp_path / "recipe.yaml").write_text(text)
    run, kills, before = tmp_path / "run.h5", 0, 0
    rng = np.random.default_rng(0)
    while kills < 500 and kill(run, rng.uniform(0, 0.5), after=before):
        kills += 1
        steps = check_committed(run)
        assert steps >= before, "committed steps were lost"
        before = steps
    content = recipe.parse(text)
    with open_trace(run) as trace:
        finished = trace.complete
    if not finished:
        training.train(content, run, device="cpu")
    training.train(content, tmp_path / "whole.h5", device="cpu")
    assert contents(run) == contents(tmp_path / "whole.h5")
    print(f"{kills} kills")


def kill(run: Path, delay: float, after: int = 0) -> bool:
    """Trains in a process that is killed a while after its first commit; False where it finished before."""
    slow = "import rhotrace.train as t; t.BLOCK_SECONDS = 0.01\nfrom rhotrace.cli import main; main()"
    command = [sys.executable, "-c", slow, "train", "recipe.yaml", "-o", run.name]
    process = subprocess.Popen(command, cwd=run.parent, stderr=subprocess.PIPE, start_new_session=True)
    finished = not wait_for_steps(run, process, after)
    if not finished:
        time.sleep(delay)
        finished = process.poll() is not None
    if not finished:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return not finished


def check_committed(run: Path) -> int:
    """Every committed step of a killed run is whole; returns their number."""
    assert not is_locked(run)
    with open_trace(run) as trace:
        assert trace.steps > 0
        for name in ("rho_k", "grad_norm", "log_rho", "loss", "margin_quantile"):
            assert np.isfinite(trace[name]).all(), name
            assert len(trace[name]) == trace.steps
        assert np.array_equal(trace["step"], np.arange(trace.steps))
        assert np.array_equal(trace["test_step"], np.arange(0, trace.steps, 10))
        checked = audit(
            trace["rho_k"], trace["grad_norm"], trace["batch_a"], trace["batch_q"], trace["lr"],
            dtype="float64", weight_norm="v_norm" in trace,
        )  # fmt: skip
        assert checked is None or checked.holds
        return trace.steps


def wait_for_steps(run: Path, process: subprocess.Popen, after: int) -> bool:
    """Waits until more than ``after`` steps are committed; False where the process ended first."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            assert process.returncode == 0, process.stderr.read()
            return False
        try:
            with open_trace(run) as trace:
                if trace.steps > after:
                    return True
        except TraceError:
            pass
        time.sleep(0.02)
    raise AssertionError("no step was committed within a minute")


def test_another_recipe_is_refused_with_the_difference(tmp_path):
    path = tmp_path / "run.h5"
    train_until(20, recipe.parse(SMALL), path)
    with pytest.raises(RecipeError, match=r"optimizer\.lr: 0\.05 there, 0\.1 now"):
        training.train(recipe.parse(SMALL, ["optimizer.lr=0.1"]), path, device="cpu")
    with open_trace(path) as trace:
        assert trace.steps >= 20


def test_a_reworded_claim_is_no_other_recipe(tmp_path):
    path = tmp_path / "run.h5"
    train_until(20, recipe.parse(SMALL), path)
    assert training.train(recipe.parse(SMALL, ["claim=other words"]), path, device="cpu").ended == "finished"


def test_force_starts_an_interrupted_run_again(tmp_path):
    path = tmp_path / "run.h5"
    train_until(20, recipe.parse(SMALL), path)
    began = []
    training.train(recipe.parse(SMALL), path, device="cpu", force=True, begin=began.append)
    assert began == [0]


def test_a_second_writer_is_refused_while_the_first_lives(tmp_path):
    path = tmp_path / "run.h5"
    for force in (False, True):
        with RunLock(path), pytest.raises(TraceError, match=f"pid {os.getpid()}"):
            training.train(recipe.parse(SMALL), path, device="cpu", force=force)
    assert not is_locked(path)
    assert not lock_path(path).exists()
    training.train(recipe.parse(SMALL), path, device="cpu")


def test_a_lock_left_by_a_dead_process_holds_nobody_up(tmp_path):
    path = tmp_path / "run.h5"
    lock_path(path).write_text("4194304")
    assert not is_locked(path)
    assert training.train(recipe.parse(SMALL), path, device="cpu").ended == "finished"


def test_a_disk_that_fills_up_leaves_what_was_committed_and_the_run_goes_on_later(tmp_path, monkeypatch):
    path, content = tmp_path / "run.h5", recipe.parse(SMALL, ["steps=100"])
    real, calls = os.pwrite, []

    def failing(descriptor, data, place):
        calls.append(place)
        if len(calls) > 150:
            raise OSError(28, "No space left on device")
        return real(descriptor, data, place)

    monkeypatch.setattr("rhotrace.recorder.BLOCK_STEPS", 9)
    monkeypatch.setattr("os.pwrite", failing)
    with pytest.raises(TraceError, match=r"No space left on device\. Its first \d+ steps are safe"):
        training.train(content, path, device="cpu")
    monkeypatch.undo()
    with open_trace(path) as trace:
        assert 0 < trace.steps < 100
        assert np.isfinite(trace["loss"]).all()
    training.train(content, path, device="cpu")
    training.train(content, tmp_path / "whole.h5", device="cpu")
    assert contents(path) == contents(tmp_path / "whole.h5")
