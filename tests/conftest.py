"""What the tests share: a recipe small enough for the test run, and the command line as a user drives it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

# Networks this small gain nothing from threads, and on a busy machine threads that wait for each other lose much.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell script sets it for what it runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from command_line import run_inside
from small import SMALL
from spread import WaitingTogether, waiting_then_long_first

from rhotrace.config import recipe
from rhotrace.training.train import train as train_recipe

if TYPE_CHECKING:
    from damaging import Undamaged


def pytest_collection_modifyitems(items):
    """The long files come first."""
    waiting_then_long_first(items)


@pytest.hookimpl(wrapper=True)
def pytest_xdist_auto_num_workers():
    """One process more than there are processors: it waits most of the time."""
    processors = yield
    return processors if os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS") else processors + 1


def pytest_xdist_make_scheduler(config, log):
    """Files go to the processes whole, as pyproject.toml asks for it."""
    return WaitingTogether(config, log) if config.getvalue("dist") == "loadfile" else None


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


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Runs the command line inside this process from ``tmp_path``; returns (exit code, stdout, stderr)."""

    def run(*words: object) -> tuple[int, str, str]:
        return run_inside(monkeypatch, capsys, tmp_path, words, 200)

    return run


@pytest.fixture
def strict():
    """Every warning, matplotlib's too, is an error here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved while the test runs."""
    from matplotlib.figure import Figure

    saved = []
    plain = Figure.savefig

    def keep(self, *args, **kwargs):
        saved.append(self)
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


@pytest.fixture
def quick_pictures(monkeypatch):
    """Pictures that the test does not look at: built in every width, and rendered once, small and without a layout.

    ``tests/display`` renders those of every kind and of the report as users get them.
    """
    from html import escape

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    def sketch(self, path, **_):
        if self.get_figwidth() > 5:  # the report draws each a second time for a phone
            self.set_dpi(40)
            FigureCanvasAgg(self).draw()
        about = escape(str(self.get_label()))
        Path(path).write_text(f"<?xml version='1.0'?><svg><dc:description>{about}</dc:description></svg>", "utf-8")

    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", lambda *_: None)
    monkeypatch.setattr(Figure, "savefig", sketch)


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> dict[str, Undamaged]:
    """A small finished run and one that was stopped twice, both sound: ``files["sealed"]`` and ``files["live"]``."""
    from damaging import make_files

    return make_files(tmp_path_factory.mktemp("undamaged"))


@pytest.fixture
def copies(files, tmp_path) -> dict[str, Path]:
    """A copy of each, to be damaged."""
    return {kind: Path(shutil.copy(file.path, tmp_path)) for kind, file in files.items()}
