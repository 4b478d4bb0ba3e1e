"""What the tests of run files share: finished runs, and live files of known numbers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from run_files import PER_MEMBER, RUNS, live_layout, values, weights_of
from small import SMALL

from rhotrace.config import recipe
from rhotrace.runfile import writer as trace_writer
from rhotrace.training.train import train as train_recipe


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Finished runs of the small recipe under three optimizers, trained once."""
    folder = tmp_path_factory.mktemp("runs")
    paths = {}
    for name, overrides in RUNS.items():
        paths[name] = folder / f"{name}.h5"
        train_recipe(recipe.parse(SMALL, list(overrides)), paths[name], device="cpu")
    return paths


@pytest.fixture
def run(runs, tmp_path) -> Path:
    """A copy of the finished GD run, to be damaged."""
    return Path(shutil.copy(runs["gd"], tmp_path / "run.h5"))


@pytest.fixture
def live(tmp_path):
    """Makes a live file with the given blocks appended and committed; returns the writer, still open."""
    opened = []

    def make(*ends: int) -> trace_writer.TraceWriter:
        attributes = {"recipe_json": "{}"}
        members = PER_MEMBER
        writer = trace_writer.create(tmp_path / f"live{len(opened)}.h5", live_layout(), attributes, members)
        opened.append(writer)
        for first, last in zip((0, *ends), ends, strict=False):
            writer.append(first, last, values(writer.layout, first, last))
            writer.commit(last, {"weights": weights_of(last)})
        return writer

    yield make
    for writer in opened:
        writer.close()
