"""What the tests share: a recipe small enough for the test run, and the command line as a user drives it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# Networks this small gain nothing from threads, and on a busy machine threads that wait for each other lose much.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from rhotrace import recipe
from rhotrace.train import train as train_recipe

SMALL = """\
data: {dataset: mnist, classes: [0, 1], train: 40, test: 20}
network: {kind: mlp, depth: 3, width: 8, dtype: float64}
init: {kind: equal-norms, rho_k: 1.0}
optimizer: {kind: gd, lr: 0.05}
members: {seeds: 3}
steps: 60
record: {test_every: 10, snapshots: 6}
"""


@pytest.fixture
def small() -> str:
    """Text of a small recipe: MNIST 0 against 1, three members, depth 3, float64, 60 steps of GD."""
    return SMALL


@pytest.fixture
def train(tmp_path):
    """Trains the small recipe with overrides such as ``"steps=10"``; returns the path of the run file."""
    made = 0

    def run(*overrides: str, text: str = SMALL, name: str | None = None) -> Path:
        nonlocal made
        made += 1
        path = tmp_path / (name or f"run{made}.h5")
        train_recipe(recipe.parse(text, list(overrides)), path, device="cpu")
        return path

    return run


@pytest.fixture
def rhotrace(tmp_path):
    """Runs the command line in a fresh process from ``tmp_path``; returns the finished process."""

    def run(
        *words: object, cwd: Path | None = None, timeout: float = 120, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "rhotrace", *map(str, words)],
            capture_output=True,
            text=True,
            cwd=cwd or tmp_path,
            timeout=timeout,
            check=False,
            env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1", **environment},
        )

    return run
