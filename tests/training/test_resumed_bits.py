"""Interrupted runs: nothing committed is lost, and the finished file has the bits of one that was never interrupted."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from crashing import OPTIMIZERS, contents
from small import SMALL

from rhotrace.config import recipe
from rhotrace.errors import RecipeError
from rhotrace.runfile.reader import open_trace
from rhotrace.training import train as training


def train_until(steps: int, content: recipe.Recipe, path: Path) -> None:
    """Trains until at least ``steps`` steps, in small blocks, then stops as Ctrl-C would."""

    def watch(block):
        if block.last >= steps:
            signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rhotrace.training.recorder.BLOCK_STEPS", 9)
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
