"""Small runs with a snapshot at every step, so that what was recorded can be computed again from the weights."""

from __future__ import annotations

import numpy as np
import pytest
from recorded import TEXT, Recorded

from rhotrace.config import recipe
from rhotrace.runfile.reader import open_trace
from rhotrace.training.train import train as train_recipe


@pytest.fixture
def small_text(tmp_path):
    """Text of the recipe; ``classes(3)`` writes data of three classes in images of 6 by 6 pixels."""

    def write(classes: int = 2) -> str:
        rng = np.random.default_rng(3)
        y = np.arange(60) % classes
        x = 0.4 * rng.normal(size=(classes, 36))[y] + 0.3 * rng.normal(size=(60, 36))
        arrays = {"x": x[:40], "y": y[:40], "x_test": x[40:], "y_test": y[40:]}
        np.savez(tmp_path / "own.npz", **{k: a.reshape(-1, 1, 6, 6) if "x" in k else a for k, a in arrays.items()})
        return TEXT.replace("ROOT", str(tmp_path))

    return write


@pytest.fixture
def recorded(tmp_path, small_text):
    """Trains the recipe on data of some classes with overrides."""

    def run(*overrides: str, classes: int = 2, text: str | None = None) -> Recorded:
        given = recipe.parse(text or small_text(classes), list(overrides))
        train_recipe(given, tmp_path / "recorded.h5", device="cpu", force=True)
        with open_trace(tmp_path / "recorded.h5") as trace:
            names = [q.name for q in trace.quantities]
            return Recorded(
                given,
                given.load_data(),
                {name: trace[name] for name in names},
                {name: trace.step_of(name).tolist() for name in names},
                {int(step): list(trace.snapshot(int(step))) for step in trace.snapshot_steps()},
            )

    return run
