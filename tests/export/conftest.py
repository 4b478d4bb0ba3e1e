from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from small import SMALL

from rhotrace.config import recipe
from rhotrace.training.train import train

SGD = ("optimizer={kind: sgd, lr: 0.05, batch_size: 8}", "record={full_every: 3, test_every: 10, snapshots: 2}")


@pytest.fixture(scope="package")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "run1.h5"
    train(recipe.parse(SMALL, list(SGD)), path, device="cpu")
    return path


@pytest.fixture
def run(trained, tmp_path):
    """A copy of a run, which is trained once."""
    return Path(shutil.copy(trained, tmp_path))
