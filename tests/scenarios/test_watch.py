"""Following a run while it trains: what is read of it, how it looks in terminals and pipes, and its page in a browser."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import io
import json
import os
import pty
import queue
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
import weakref
from dataclasses import replace
from functools import partial
from html import unescape
from http.server import ThreadingHTTPServer
from pathlib import Path

import h5py
import inside
import numpy as np
import pytest
from browser import open_page
from crashing import contents
from rich.cells import cell_len
from rich.console import Console
from small import SMALL

from rhotrace.analysis.run_series import RunSeries
from rhotrace.analysis.transient import live_follower as watching
from rhotrace.analysis.transient.live_follower import CURVES, TRAINING, Follower
from rhotrace.analysis.transient.transient_time import Outcome
from rhotrace.config import recipe
from rhotrace.display.figures.style import narrow
from rhotrace.display.html import watch_server
from rhotrace.display.terminal.watch import view, wait_for, watch, words
from rhotrace.errors import RhoTraceError, TraceError
from rhotrace.runfile.reader import Trace, open_trace
from rhotrace.runfile.run_lock import RunLock
from rhotrace.runfile.writer import TraceWriter
from rhotrace.statistics.extremes import over_members
from rhotrace.training import train as training

BLOCK = 16  # steps between two commits
SGD = "optimizer={kind: sgd, lr: 0.1, batch_size: 8}"
RUNS = {  # the last member of the first two starts above rho_eq/2, and those of the last one die at once
    "gd": ["steps=80", "optimizer.lr=0.1", "members={seeds: [0, 1, 0, 1], rho_k: [1.2, 1.2, 0.8, 5.0]}"],
    "sgd": ["steps=80", SGD, "record.full_every=7", "members={seeds: [0, 1, 0], rho_k: [1.2, 1.2, 5.0]}"],
    "alone": ["steps=80", SGD, "record.full_every=3", "members={seeds: 1}"],
    "diverged": ["optimizer.lr=1e9", "network.depth=1"],
    "dead": ["optimizer.lr=1e6"],
}
KEYS = {"path", "state", "steps", "planned_steps", "members", "seconds"}
KEYS |= {"steps_per_second", "seconds_left", "T", "last"}
ESCAPES = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")


@pytest.fixture(scope="module", autouse=True)
def _quick():
    """Trains in blocks of a few steps, independent of the clock, without reading the data again each time."""
    content = recipe.parse(SMALL)
    data = content.load_data("float64")
    with pytest.MonkeyPatch.context() as patch:
        inside.data_at_hand(patch.setattr, data)
        inside.small_blocks(patch.setattr, BLOCK)
        yield


def trained(path: Path, *overrides: str, **options) -> Path:
    training.train(recipe.parse(SMALL, list(overrides)), path, device="cpu", **options)
    return path


def stopped(path: Path, *overrides: str, after: int = BLOCK, **options) -> Path:
    """A run whose training was killed after ``after`` steps; 0 is before the first."""

    def kill(steps: int) -> None:
        if steps >= after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(path, *overrides, begin=kill, watch=lambda block: kill(block.last), **options)
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """Finished runs, one stopped after 16 steps, and one before the first."""
    folder = tmp_path_factory.mktemp("runs")
    found = {name: trained(folder / f"{name}.h5", *overrides) for name, overrides in RUNS.items()}
    found["stopped"] = stopped(folder / "stopped.h5", "steps=64")
    found["empty"] = stopped(folder / "empty.h5", after=0)
    return found


@pytest.fixture
def run(runs, tmp_path) -> Path:
    """A copy of the stopped one."""
    return Path(shutil.copy(runs["stopped"], tmp_path / "run.h5"))


def same_curves(one, other) -> bool:
    return all(np.array_equal(one.curves[n], other.curves[n], equal_nan=True) for n in CURVES)


def facts(glimpse) -> str:
    """What is known of a run besides its curves, as text, because NaN is not equal to NaN."""
    return f"{glimpse.T} {glimpse.last} {glimpse.transient}"


def medians(trace: Trace, name: str) -> np.ndarray:
    return over_members(trace[name])[1]


# --- what is read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gd", "sgd", "alone"])
def test_a_run_followed_while_it_grows_shows_what_is_in_the_file(tmp_path, name):
    path, seen = tmp_path / "run.h5", []
    follower, short = Follower(path), Follower(path, stretches=3)

    def look(_: object = None) -> None:
        glimpse, coarse = follower.look(), short.look()
        seen.append(glimpse)
        assert facts(glimpse) == facts(coarse)
        if len(seen) in {3, 6}:  # while it trains, and at the end
            at_once = Follower(path).look()
            assert facts(glimpse) == facts(at_once)
            assert same_curves(glimpse, at_once)
        with open_trace(path) as trace:
            assert glimpse.steps == trace.steps
            for quantity, (steps, values) in glimpse.curves.items():
                expected, every = medians(trace, quantity), trace.step_of(quantity)
                assert np.array_equal(steps, every)
                assert np.array_equal(values, expected, equal_nan=True)
                some, kept = coarse.curves[quantity]
                assert len(some) <= 2 * 3 + 4
                assert (some[0], some[-1]) == (0, every[-1])
                assert np.isin(some, every).all()
                assert np.array_equal(kept, expected[np.searchsorted(every, some)], equal_nan=True)
                assert (np.nanmin(kept), np.nanmax(kept)) == (np.nanmin(expected), np.nanmax(expected))
            for quantity, value in glimpse.last.items():
                assert value == medians(trace, quantity)[-1]
            for T, passed in zip(glimpse.T, RunSeries(trace).passages, strict=True):
                assert (T > 0) == (passed.outcome is Outcome.LEFT)
                assert (T == 0) == (passed.outcome is Outcome.NONE)
                if T > 0:
                    assert T - trace.strides["full"] < passed.T <= T

    trained(path, *RUNS[name], watch=look)
    steps = recipe.parse(SMALL, RUNS[name]).steps
    assert [glimpse.steps for glimpse in seen] == [*range(BLOCK, steps, BLOCK), steps]
    assert {glimpse.state for glimpse in seen} == {TRAINING}
    look()
    assert len(seen) == 6
    assert seen[-1].state == "finished"
    assert np.isfinite(seen[-1].T).all()
    assert not np.isfinite(seen[0].T).all()
    assert set(seen[-1].last) == {"log_rho", "log_rho_eq", "rho_eq_over_rho", "loss", "error"}


@pytest.mark.parametrize("name", ["gd", "sgd"])
def test_a_long_run_is_read_in_pieces(runs, name, monkeypatch):
    whole = Follower(runs[name]).look()
    monkeypatch.setattr(watching, "SLAB_BYTES", 1)  # a step at a time
    pieces = Follower(runs[name]).look()
    assert same_curves(whole, pieces)
    assert facts(whole) == facts(pieces)


def test_only_what_is_new_is_read(tmp_path, monkeypatch):
    path, read, looks = tmp_path / "run.h5", [], []
    rows = Trace.rows

    def note(self, name, which):
        if name == "loss":
            read.append((which.start, which.stop))
        return rows(self, name, which)

    monkeypatch.setattr(Trace, "rows", note)
    follower = Follower(path)

    def look(_: object) -> None:
        read.clear()
        follower.look()
        looks.append([(first, last) for first, last in read if last - first > 1])  # the others are the last values

    trained(path, "steps=48", watch=look)
    assert looks == [[(0, 16)], [(16, 32)], [(32, 48)]]


@pytest.mark.parametrize(("name", "state"), [("gd", "finished"), ("diverged", "diverged"), ("stopped", "interrupted")])
def test_the_state_of_a_run_that_no_process_is_training(runs, name, state):
    glimpse = Follower(runs[name]).look()
    assert glimpse.state == state
    assert np.isnan(glimpse.steps_per_second)
    assert np.isnan(glimpse.seconds_left)
    assert words(glimpse)[0] == f"{state}: step {glimpse.steps} of {glimpse.planned_steps}"


def test_a_training_that_ends_while_its_file_is_read_was_not_interrupted(run, monkeypatch):
    lock = RunLock(run)
    lock.__enter__()

    def end_after_opening(path):
        trace = open_trace(path)
        lock.__exit__(None, None, None)
        return trace

    monkeypatch.setattr(watching, "open_trace", end_after_opening)
    assert Follower(run).look().state == TRAINING
    monkeypatch.setattr(watching, "open_trace", open_trace)
    assert Follower(run).look().state == "interrupted"


def test_a_training_that_begins_while_its_file_is_read_is_seen(run, monkeypatch):
    with contextlib.ExitStack() as stack:

        def begin_before_opening(path):
            stack.enter_context(RunLock(path))
            return open_trace(path)

        monkeypatch.setattr(watching, "open_trace", begin_before_opening)
        assert Follower(run).look().state == TRAINING


def test_a_run_before_its_first_step(tmp_path, runs):
    seen = []
    path = tmp_path / "run.h5"
    trained(path, "steps=20", begin=lambda _: seen.append(Follower(path).look()))
    for glimpse, state in [(seen[0], TRAINING), (Follower(runs["empty"]).look(), "interrupted")]:
        assert (glimpse.state, glimpse.steps, glimpse.T, glimpse.last) == (state, 0, (), {})
        assert all(len(steps) == len(values) == 0 for steps, values in glimpse.curves.values())
        assert words(glimpse) == [f"{state}: step 0 of {glimpse.planned_steps}", "T not yet reached"]


@pytest.mark.parametrize("steps", [64, BLOCK])
def test_another_run_under_the_same_name_is_followed_from_its_start(run, steps):
    follower = Follower(run)
    before = follower.look()
    trained(run, f"steps={steps}", "members.seeds=[7]", force=True)
    after, afresh = follower.look(), Follower(run).look()
    assert same_curves(after, afresh)
    assert facts(after) == facts(afresh)
    assert after.members == 1
    assert after.run != before.run


def test_a_run_that_starts_again_is_followed_from_its_start(tmp_path):
    path = stopped(tmp_path / "run.h5", "steps=64", after=32)
    follower = Follower(path)
    assert follower.look().steps == 32
    stopped(path, "steps=64", force=True)  # the same recipe, perhaps within the same second
    again = follower.look()
    assert again.steps == BLOCK
    assert same_curves(again, Follower(path).look())


def test_a_look_that_fails_does_not_affect_later_ones(tmp_path, monkeypatch):
    path, rows, follower = tmp_path / "run.h5", Trace.rows, Follower(tmp_path / "run.h5")

    def fail(self, name, which):
        if name == "loss":
            raise TraceError("cannot be read just now")
        return rows(self, name, which)

    def look(block) -> None:
        if block.last != 2 * BLOCK:
            assert same_curves(follower.look(), Follower(path).look())
            return
        with monkeypatch.context() as patch:
            patch.setattr(Trace, "rows", fail)
            with pytest.raises(TraceError):
                follower.look()

    trained(path, "steps=64", watch=look)


def test_speed_and_time_left_are_recent_ones(tmp_path, monkeypatch):
    path, clock, follower = tmp_path / "run.h5", [1.6], Follower(tmp_path / "run.h5")
    monkeypatch.setattr(TraceWriter, "seconds", property(lambda _: clock[0]))
    said = []

    def look(block) -> None:
        for _ in range(12 if block.last == 32 else 2):  # at the same block
            glimpse = follower.look()
            said.append((block.last, round(glimpse.steps_per_second, 9), round(glimpse.seconds_left, 9)))
        clock[0] += 0.16

    trained(path, "steps=64", watch=look)
    assert said[0] == (16, 10, 4.8)  # since the start, where there is nothing else
    assert sorted({*said}) == [(16, 10, 4.8), (32, 100, 0.32), (48, 100, 0.16), (64, 100, 0)]
    assert np.isnan(follower.look().steps_per_second)


def test_speed_in_words(runs):
    glimpse = Follower(runs["stopped"]).look()
    for rate, left, text in [
        (1234.5, 59.6, "1234 steps/s, 1 min 0 s left"),
        (0.25, 7260.0, "0.250 steps/s, 2 h 1 min left"),
        (12.0, 3.0, "12.0 steps/s, 3 s left"),
        (12.0, np.nan, "12.0 steps/s"),
    ]:
        assert words(replace(glimpse, steps_per_second=rate, seconds_left=left))[1] == text


# --- how it looks ------------------------------------------------------------------------------------------


def terminal(width: int = 80, height: int = 24, *, encoding: str = "utf-8", term: str = "xterm", **how) -> Console:
    """A terminal that keeps its output; without colours unless asked."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    how = {"force_terminal": True, "color_system": None, **how}
    return Console(file=file, width=width, height=height, _environ={"TERM": term}, **how)


def output(console: Console) -> str:
    return console.file.buffer.getvalue().decode(console.file.encoding)


def lines_of(glimpse, *size: int, **how) -> list[str]:
    """The view of a run, as lines."""
    console = terminal(*size, **how)
    console.print(view(console, glimpse))
    return output(console).splitlines()


def dots(lines: list[str]) -> list[np.ndarray]:
    """The dots of each plot among lines, the top row first."""
    plots = [[]]
    for line in lines:
        cells = [ord(letter) - 0x2800 for letter in line if 0x2800 <= ord(letter) < 0x2900]
        if cells:
            plots[-1].append(cells)
        elif plots[-1]:
            plots.append([])
    bits = np.array([[1, 8], [2, 16], [4, 32], [64, 128]])
    blocks = [np.array(plot)[:, None, :, None] & bits[None, :, None, :] for plot in plots if plot]
    return [(block > 0).reshape(block.shape[0] * 4, -1) for block in blocks]


def drawn(glimpse, height: int = 24, **curves) -> list[np.ndarray]:
    """The dots of curves, given as (steps, values) with rho and the loss by their logarithms to base 10."""
    none = np.array([0]), np.array([np.nan])
    natural = {name: (curves.get(name, none)[0], curves.get(name, none)[1] * np.log(10)) for name in CURVES[:2]}
    steps, values = curves.get("loss", none)
    lines = lines_of(replace(glimpse, steps=101, curves={**natural, "loss": (steps, 10.0**values)}), 108, height)
    return dots(lines)


@pytest.fixture(scope="module")
def glimpses(runs) -> dict[str, object]:
    found = {name: Follower(path).look() for name, path in runs.items()}
    found["training"] = replace(found["stopped"], state=TRAINING, steps_per_second=1234.0, seconds_left=1e6)
    found["blind"] = replace(
        found["gd"],
        last=dict.fromkeys(found["gd"].last, np.nan),
        curves={name: (steps, np.full(len(steps), np.nan)) for name, (steps, _) in found["gd"].curves.items()},
    )
    found["wide"] = replace(
        found["gd"], path=Path("n" * 130 + "[b] " + "ü" * 9 + ".h5"), steps=10**9, planned_steps=10**9 + 1
    )
    return found


@pytest.mark.parametrize("width", [100, 80, 40, 20])
def test_the_view_fits_its_terminal(glimpses, width):
    for name, glimpse in glimpses.items():
        for encoding in ("utf-8", "ascii", "latin-1"):
            lines = lines_of(glimpse, width, 24, encoding=encoding)
            assert max(map(cell_len, lines)) <= width, (name, encoding)
            assert len(lines) <= 23, (name, encoding)
            plots = dots(lines)
            assert len(plots) == (2 if encoding == "utf-8" and name not in {"empty", "blind", "wide"} else 0) or (
                name == "wide" and len(plots) in {0, 2}
            ), (name, encoding)
            assert all(plot.any() for plot in plots), name
            assert encoding == "utf-8" or "".join(lines).isascii()
            assert "nan" not in "".join(lines), name
            flat = re.sub(r"\s+", "", "".join(lines))
            assert all(re.sub(r"\s+", "", line) in flat for line in words(glimpse)[:2]), (name, encoding)


def test_a_terminal_of_few_lines_or_columns_has_words_only(glimpses):
    for size in [(80, 9), (17, 24), (3, 24)]:
        assert dots(lines_of(glimpses["gd"], *size)) == []
    assert len(dots(lines_of(glimpses["gd"], 80, 14))) == 2


def test_what_is_not_a_number_is_a_dash_and_draws_nothing(glimpses):
    text = "\n".join(lines_of(glimpses["blind"]))
    assert "medians: loss –  error –  rho –  rho_eq/rho –" in text
    assert text.count("no finite value") == 2
    assert "loss -  error -  rho -" in "\n".join(lines_of(glimpses["blind"], encoding="ascii"))
    assert "loss –" in words(glimpses["diverged"])[-1]
    assert "rho_eq/rho –" in words(glimpses["dead"])[-1]
    alone = replace(glimpses["alone"], last={**glimpses["alone"].last, "log_rho": -np.inf, "loss": np.inf})
    assert words(alone)[-1].startswith("loss ∞")
    assert "rho 0  " in words(alone)[-1]


def test_how_much_is_done_shows_without_colours(glimpses):
    for steps, full, share in [(0, 0, 0), (50, 10, 50), (99.9, 19, 99), (100, 20, 100)]:
        glimpse = replace(glimpses["gd"], steps=int(steps * 10), planned_steps=1000)
        assert lines_of(glimpse)[1] == "━" * full + "─" * (20 - full) + f" {share} %"
        assert lines_of(glimpse, encoding="ascii")[1] == "#" * full + "." * (20 - full) + f" {share} %"


@pytest.mark.parametrize("height", range(13, 42, 4))
def test_plots_reach_from_their_smallest_to_their_largest_value(glimpses, height):
    rising = np.array([0, 100]), np.array([-2.0, 3.0])
    for plot in drawn(glimpses["gd"], height, log_rho=rising, loss=rising):
        assert plot.any(axis=0).all()
        for corner in (plot[-1, 0], plot[0, -1]):
            assert corner
        assert not plot[0, 0]


def test_gaps_stay_gaps_and_single_values_are_dots(glimpses):
    steps, values = np.arange(101), np.linspace(0, 1, 101)
    values[20:80] = np.nan
    values[50] = 0.5
    for plot in drawn(glimpses["gd"], log_rho=(steps, values), loss=(steps, values)):
        columns = np.flatnonzero(plot.any(axis=0))
        assert columns.min() == 0
        assert columns.max() == plot.shape[1] - 1
        assert len(columns[(columns > 0.2 * plot.shape[1]) & (columns < 0.79 * plot.shape[1])]) == 1


def test_a_curve_recorded_seldom_ends_where_its_last_row_is(glimpses):
    every_step, seldom = (np.arange(101), np.linspace(0, 1, 101)), (np.array([0, 30, 60]), np.zeros(3))
    norms, loss = drawn(glimpses["gd"], log_rho=every_step, loss=seldom)
    assert norms.any(axis=0).all()
    assert abs(np.flatnonzero(loss.any(axis=0)).max() / (loss.shape[1] - 1) - 0.6) < 0.01


def test_the_second_curve_is_dashed_however_few_points_it_has(glimpses):
    for count in (2, 5, 101, 1001):
        steps = np.unique(np.linspace(0, 100, count).astype(int))
        plot, _ = drawn(glimpses["gd"], log_rho_eq=(steps, np.zeros(len(steps))), loss=(steps, np.zeros(len(steps))))
        covered = plot.any(axis=0)
        assert 0.4 < covered.mean() < 0.8, count
        assert (np.diff(covered.astype(int)) == 1).sum() > 20


@pytest.mark.parametrize("value", [0.0, 0.30103, -123.4, 5e-324])
def test_constant_curves_are_level_lines_with_their_value_beside(glimpses, value):
    curve = np.arange(101), np.full(101, value)
    nearly = np.arange(101), np.where(np.arange(101) % 2, value, np.nextafter(value, 1e300))
    for each in (curve, nearly):
        plot, *_ = drawn(glimpses["gd"], log_rho=each, loss=(np.arange(101), np.zeros(101)))
        assert plot.sum() == plot.any(axis=0).sum() == plot.shape[1]


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.30103, 0.30103, ["0.30", "0.30"]),
        (-0.001, -0.001, ["0.00", "0.00"]),
        (4.35, 8.87, ["8.87", "4.35"]),
        (0.3010, 0.3045, ["0.304", "0.301"]),
        (-4e-5, 9e-7, ["9e-07", "-4e-05"]),
        (-1234.567, 2.5, ["2.5", "-1234.6"]),
        (-123456.7, 2.5, ["2", "-123457"]),
    ],
)
def test_the_ends_of_an_axis_are_distinguishable_and_fit(glimpses, low, high, labels):
    curve = np.array([0, 79]), np.array([low, high]) * np.log(10)
    lines = lines_of(replace(glimpses["gd"], curves={**glimpses["gd"].curves, "log_rho": curve, "log_rho_eq": curve}))
    beside = [found[1] for line in lines if (found := re.match(r" *(\S*) [⠀-⣿]+$", line)) and found[1]]
    assert beside[:2] == labels
    assert max(map(cell_len, lines)) == 80


def test_colours_are_used_only_where_wanted(glimpses, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # the curves ask whether this process has a terminal
    monkeypatch.delenv("NO_COLOR", raising=False)

    def codes(**how) -> set[str]:
        return {code for line in lines_of(glimpses["gd"], **how) for code in ESCAPES.findall(line)}

    assert {"\x1b[34m", "\x1b[33m"} <= codes(color_system="standard")
    assert codes() == set()
    assert codes(color_system="standard", no_color=True) <= {"\x1b[1m", "\x1b[0m"}  # bold is no colour


# --- in terminals and pipes, step by step ------------------------------------------------------------------


class Scripted:
    """Stands for a follower, with what each look finds."""

    def __init__(self, *found) -> None:
        self.found = list(found)

    def look(self):
        return self.found.pop(0)


@pytest.fixture
def story(glimpses, monkeypatch):
    """Looks at a run that moves, then not, and then is finished."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    first = glimpses["training"]
    moved = replace(first, steps=32)
    replaced = replace(moved, run="another")
    return [first, first, moved, moved, moved, replaced, replaced, replace(replaced, state="finished")]


@pytest.mark.parametrize("how", [{"force_terminal": False}, {"term": "dumb"}])
def test_a_pipe_or_a_dumb_terminal_gets_a_line_whenever_the_run_has_moved(story, how):
    console = terminal(60, **how)
    assert watch(console, Scripted(*story), every=1.0, once=False, as_json=False) is story[-1]
    text = output(console)
    assert ESCAPES.findall(text) == []
    if not console.is_terminal:
        assert all(len(line) > 60 for line in text.splitlines())  # a pipe wraps nothing
    expected = ["  ".join(words(story[n])) for n in (0, 2, 5, 7)]
    assert text.split() == " ".join(expected).split()


@pytest.mark.parametrize("how", [{"force_terminal": False}, {"color_system": "standard"}])
def test_json_is_a_line_whenever_the_run_has_moved(story, how):
    console = terminal(40, **how)
    watch(console, Scripted(*story), every=1.0, once=False, as_json=True)
    found = [json.loads(line) for line in output(console).splitlines()]
    assert [(one["state"], one["steps"]) for one in found] == [
        (TRAINING, 16), (TRAINING, 32), (TRAINING, 32), ("finished", 32),
    ]  # fmt: skip
    assert all(set(one) == KEYS for one in found)
    assert found[0]["T"] == [None, None, None]
    assert found[0]["seconds_left"] == 1e6


def test_one_look_in_a_terminal_moves_no_cursor(story):
    console = terminal()
    assert watch(console, Scripted(*story), every=1.0, once=True, as_json=False) is story[0]
    assert output(console).startswith("stopped.h5  training now: step 16 of 64\n")
    assert "\x1b" not in output(console)
    assert len(dots(output(console).splitlines())) == 2


def test_a_terminal_is_drawn_anew_in_place_and_keeps_the_last_view(story):
    console = terminal()
    watch(console, Scripted(*story), every=1.0, once=False, as_json=False)
    text = output(console)
    assert text.count("training now") == 7
    assert len(re.findall(r"\x1b\[\d*A", text)) > 7  # up again, before each next view
    assert text.rindex("finished: step 32 of 64") > text.rindex("training now")
    assert text.endswith("\x1b[?25h")  # the cursor is back


def test_ctrl_c_in_the_middle_of_a_look_is_not_lost(story, monkeypatch):
    class Dropping(Scripted):
        """Ctrl-C arrives in a callback whose exceptions Python drops, as h5py has many."""

        def look(self):
            if len(self.found) < len(story):
                freed = set()
                watched = weakref.ref(freed, lambda _: signal.raise_signal(signal.SIGINT))
                del freed
                assert watched() is None
            return super().look()

    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    follower, console = Dropping(*story), terminal(force_terminal=False)
    with pytest.raises(KeyboardInterrupt):
        watch(console, follower, every=1.0, once=False, as_json=False)
    assert len(follower.found) == len(story) - 2


@pytest.mark.parametrize(("encoding", "spinner"), [("utf-8", "⠋"), ("ascii", "-")])
def test_the_file_of_a_training_that_is_about_to_begin_is_waited_for(tmp_path, monkeypatch, encoding, spinner):
    path, slept = tmp_path / "[b] ü.h5", []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        assert len(slept) <= 3
        if len(slept) == 3:
            path.touch()

    monkeypatch.setattr(time, "sleep", sleep)
    console = terminal(200, encoding=encoding)
    wait_for(console, path, patience=1e9)
    assert len(slept) == 3
    assert spinner in output(console)
    assert "[b] " in output(console)
    wait_for(console, path)
    path.unlink()
    wait_for(terminal(force_terminal=False), path)  # a pipe does not wait
    wait_for(console, path, patience=0.0)
    assert len(slept) == 3


# --- the command -------------------------------------------------------------------------------------------


@pytest.fixture
def refused(command):
    """Runs a command that must be refused with one line; returns it."""

    def run(*words: object) -> str:
        code, out, err = command(*words)
        assert (code, out) == (2, ""), err
        assert len(err.splitlines()) == 1, err
        assert err.startswith("error: ")
        return err

    return run


@pytest.mark.parametrize("options", [[], ["--once"], ["--json"], ["--web", "--port", "0"]])
def test_what_cannot_be_read_is_refused(refused, runs, tmp_path, options):
    (tmp_path / "words.h5").write_text("no run")
    (tmp_path / "folder.h5").mkdir()
    whole = runs["gd"].read_bytes()
    (tmp_path / "short.h5").write_bytes(whole[: len(whole) // 2])
    with h5py.File(runs["gd"]) as file:
        place = file["loss"].id.get_chunk_info(0).byte_offset
    (tmp_path / "spoilt.h5").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    for name, why in {
        "absent.h5": "no such run file",
        "words.h5": "not HDF5",
        "folder.h5": "got a folder",
        "short.h5": "damaged or cut short",
        "spoilt.h5": "dataset loss is damaged",
    }.items():
        assert why in refused("watch", name, *options)


def test_one_look_at_a_missing_run_does_not_wait(refused, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as if in a terminal
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("waited"))
    assert "no such run file" in refused("watch", "absent.h5", "--once")


def test_one_look_says_what_an_interrupted_run_needs(command, runs):
    code, out, err = command("watch", runs["stopped"], "--once")
    assert code == 0
    assert out.startswith("stopped.h5  interrupted: step 16 of 64\n")
    assert len(dots(out.splitlines())) == 2
    assert err == "No process is training this run; the same `rhotrace train` command resumes it.\n"
    code, out, err = command("watch", runs["gd"], "--once")
    assert (code, err) == (0, "")
    assert "finished: step 80 of 80\n" in out
    code, out, err = command("watch", runs["empty"], "--once")
    assert code == 0
    assert "interrupted: step 0 of 60\n" in out
    assert dots(out.splitlines()) == []


@pytest.mark.parametrize(
    ("name", "once"),
    [("gd", []), ("stopped", []), ("stopped", ["--once"]), ("diverged", []), ("dead", []), ("empty", ["--once"])],
)
def test_json_of_a_run_that_no_process_is_training_is_one_line(command, runs, name, once):
    code, out, err = command("watch", runs[name], "--json", *once)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert len(out.splitlines()) == 1
    assert set(found) == KEYS
    with open_trace(runs[name]) as trace:
        assert (found["steps"], found["planned_steps"]) == (trace.steps, trace.layout.steps)
        if trace.steps:
            assert len(found["T"]) == found["members"] == trace.members
            last = medians(trace, "loss")[-1]
            assert found["last"]["loss"] == (last if np.isfinite(last) else None)
    assert found["steps_per_second"] is found["seconds_left"] is None


@pytest.mark.parametrize("moment", ["import", "look", "sleep"])
def test_leaving_is_no_error_at_any_moment(command, run, monkeypatch, moment):
    def leave(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    where, name = {"import": (watching, "Follower"), "look": (Follower, "look"), "sleep": (time, "sleep")}[moment]
    with RunLock(run):
        monkeypatch.setattr(where, name, leave)
        code, out, err = command("watch", run)
    assert (code, err) == (0, "stopped watching; training continues\n")
    assert len(out.splitlines()) == (moment == "sleep")


# --- the command beside a training in another process ------------------------------------------------------


class Training:
    """A training of 64 steps in a thread, which waits after its first block until its gate is opened."""

    def __init__(self, path: Path) -> None:
        self.gate, self._faults = threading.Event(), []
        self._thread = threading.Thread(target=self._train, args=(path,))
        self._held = threading.Event()

    def _train(self, path: Path) -> None:
        try:
            trained(path, "steps=64", watch=self._hold)
        except Exception as fault:
            self._faults.append(fault)

    def _hold(self, _: object) -> None:
        self._held.set()
        self.gate.wait(60)

    def __enter__(self) -> Training:
        self._thread.start()
        assert self._held.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        assert self._faults == []

    @property
    def waits(self) -> bool:
        return self._thread.is_alive() and not self.gate.is_set()


@pytest.fixture(scope="module")
def unwatched(tmp_path_factory) -> dict[str, bytes]:
    """What such a training records when it is not watched."""
    return contents(trained(tmp_path_factory.mktemp("unwatched") / "run.h5", "steps=64"))


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_pipe_follows_a_training_until_it_ends(command, tmp_path, monkeypatch, options):
    path, slept, sleep = tmp_path / "run.h5", [], time.sleep

    def look_again(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            training.gate.set()
        sleep(0.01)

    with Training(path) as training:
        monkeypatch.setattr(time, "sleep", look_again)
        code, out, err = command("watch", path, "--every", "0.7", *options)
        monkeypatch.setattr(time, "sleep", sleep)
    assert (code, err) == (0, "")
    assert {*slept} == {0.7}
    lines = out.splitlines()
    if options:
        seen = [(one["state"], one["steps"]) for one in map(json.loads, lines)]
    else:
        seen = [(found[1], int(found[2])) for found in (re.match(r"(.+?): step (\d+) of 64  ", each) for each in lines)]
    assert seen[0] == (TRAINING, BLOCK)
    assert seen[-1] == ("finished", 64)
    steps = [at for state, at in seen if state == TRAINING]
    assert steps == sorted({*steps})  # the first was seen three times or more, and said once


PATIENCE = 60  # seconds until a command that does not end counts as hanging; nothing else depends on it

IN_ITS_TERMINAL = """\
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # whose Ctrl-C is for this process
from rhotrace.cli.app import main
main()
"""


class Screen:
    """The command in a terminal of 80 columns and 24 lines."""

    def __init__(self, folder: Path, *words: object, **environment: str) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        without = {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", IN_ITS_TERMINAL, "watch", *map(str, words)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=folder,
            start_new_session=True,
            env={
                **{name: value for name, value in os.environ.items() if name not in without},
                "TERM": "xterm",
                "PYTHONUTF8": "1",
                **environment,
            },
        )
        os.close(theirs)
        self._bytes = b""

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

    @property
    def raw(self) -> str:
        return self._bytes.decode(errors="replace")

    @property
    def text(self) -> str:
        return ESCAPES.sub("", self.raw).replace("\r\n", "\n").replace("\r", "\n")

    def read(self, ends: float) -> bool:
        """Takes in what comes next; False once the other end is closed. Fails where that takes too long."""
        left = ends - time.monotonic()
        assert left > 0, f"still running after {PATIENCE} s: {self.text[-2000:]}"
        if not select.select([self._ours], [], [], left)[0]:
            return True
        try:
            more = os.read(self._ours, 1 << 16)
        except OSError:  # how Linux says that the other end is closed
            return False
        self._bytes += more
        return bool(more)

    def wait_for(self, words: str) -> None:
        ends = time.monotonic() + PATIENCE
        while words not in self.text:
            assert self.read(ends), f"ended without {words!r}: {self.text[-2000:]}"

    def press(self, key: bytes) -> None:
        os.write(self._ours, key)

    def code(self) -> int:
        """Waits for the end; a command that never stops drawing fails here and does not hang."""
        ends = time.monotonic() + PATIENCE
        while self.read(ends):
            pass
        return self.process.wait(PATIENCE)


def test_a_terminal_waits_for_a_training_and_follows_it_until_it_ends(tmp_path, unwatched):
    path = tmp_path / "run.h5"
    with Screen(tmp_path, "run.h5", "--every", "0.1") as screen:
        screen.wait_for("waiting for run.h5")
        with Training(path) as training:
            screen.wait_for(f"training now: step {BLOCK} of 64")
            training.gate.set()
            assert screen.code() == 0
        ending = screen.text[screen.text.rindex("finished: step 64 of 64") :].strip("\n")
        assert len(dots(ending.splitlines())) == 2
        assert ending.splitlines()[-1].split() == ["0", "63"]
        assert max(map(cell_len, screen.text.splitlines())) == 80
        assert {"\x1b[34m", "\x1b[33m"} <= {*ESCAPES.findall(screen.raw)}
        assert screen.raw.rstrip().endswith("\x1b[?25h")  # the cursor is back
    assert contents(path) == unwatched


def test_ctrl_c_leaves_a_training_alone(tmp_path, unwatched):
    path = tmp_path / "run.h5"
    with Training(path) as training:
        with Screen(tmp_path, "run.h5", NO_COLOR="1") as screen:
            screen.wait_for(f"{'0':<70}15")  # the last line of the view
            screen.press(b"\x03")
            assert screen.code() == 0
            assert re.search(r"\s15\n+(\^C)?\s*stopped watching; training continues\n+$", screen.text), screen.text[
                -300:
            ]
            colours = {code for code in ESCAPES.findall(screen.raw) if code.endswith("m")}
            assert colours <= {"\x1b[1m", "\x1b[0m"}
        assert training.waits
    assert contents(path) == unwatched


# --- the page ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(monkeypatch, run: Path | Follower, every: float = 1.0):
    """Serves a run in a thread, at an address of its own."""
    servers, said, loop = queue.Queue(), [], ThreadingHTTPServer.serve_forever

    def forever(self, poll_interval: float) -> None:
        servers.put(self)
        loop(self, min(poll_interval, 0.01))

    with monkeypatch.context() as patch:
        patch.setattr(ThreadingHTTPServer, "serve_forever", forever)
        follower = run if isinstance(run, Follower) else Follower(run)
        call = partial(watch_server.serve, follower, 0, every=every, announce=said.append)
        thread = threading.Thread(target=call)
        thread.start()
        server = servers.get(timeout=60)
    try:
        yield said[0]
    finally:
        server.shutdown()
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture
def serve(monkeypatch, capsys):
    """Serves runs as ``serving`` does until the test ends; nothing may be said meanwhile."""
    with contextlib.ExitStack() as stack:
        yield lambda *what, **how: stack.enter_context(serving(monkeypatch, *what, **how))
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def drawings(monkeypatch) -> list[int]:
    """How far each picture goes that is asked for, for desktops; they are not drawn, which takes longer than all else."""
    asked = []

    def note(curves, _: object, path: Path) -> None:
        if not narrow(7.2):  # the same follows for phones
            asked.append(int(curves["log_rho"][0][-1]) + 1)
        path.write_text("<svg/>")

    monkeypatch.setattr(watch_server, "watch_figure", note)
    return asked


def get(url: str, path: str = "/", host: str | None = None) -> tuple[int, str, dict[str, str]]:
    """(status, body, headers)."""
    with contextlib.closing(http.client.HTTPConnection(url.split("/")[2], timeout=60)) as connection:
        connection.request("GET", path, headers={"Host": host} if host else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), dict(answer.headers)


def test_the_page_has_the_words_and_one_described_picture(serve, runs):
    url = serve(runs["gd"])
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
    status, page, headers = get(url)
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Cache-Control"] == "no-store"
    glimpse = Follower(runs["gd"]).look()
    assert [unescape(line) for line in re.findall("<p>(.*)</p>", page)] == words(glimpse)
    assert len(re.findall("<img ", page)) == 1
    alt = re.search('<img src="data:image/svg[+]xml;base64,[^"]+" alt="([^"]+)"', page)[1]
    assert "up to step 79" in alt
    assert "<title>100 % gd.h5</title>" in page
    assert "refresh" not in page


def test_only_the_page_is_served_and_only_to_this_machine(serve, runs):
    url = serve(runs["empty"])
    port = url.rstrip("/").rpartition(":")[2]
    for path in ("/favicon.ico", "/?x", "/../gd.h5", "/gd.h5"):
        assert get(url, path)[0] == 404, path
    for host in (
        "example.org",
        f"example.org:{port}",
        "127.0.0.1",
        f"127.0.0.1:{int(port) + 1}",
        f"localhost.x:{port}",
    ):
        assert get(url, host=host)[0] == 404, host
    for host in (f"127.0.0.1:{port}", f"localhost:{port}"):
        assert get(url, host=host)[0] == 200, host


def test_the_page_reloads_itself_only_while_the_run_trains(serve, run, drawings):
    url = serve(run, every=2.5)
    with RunLock(run):
        page = get(url)[1]
        assert re.findall("<meta http-equiv=.refresh.*?>", page) == ['<meta http-equiv="refresh" content="3">']
        assert "training now: step 16 of 64" in page
        assert "<title>25 % run.h5</title>" in page
    assert "refresh" not in get(url)[1]
    assert drawings == [16, 16, 16]  # the first before any request


def test_the_page_of_a_run_without_steps_has_no_picture(serve, runs):
    status, page, _ = get(serve(runs["empty"]))
    assert status == 200
    assert "<img" not in page
    assert "interrupted: step 0 of 60" in page


@pytest.mark.parametrize("name", ["diverged", "dead"])
def test_a_page_is_drawn_for_runs_of_every_kind(serve, runs, name):
    status, page, _ = get(serve(runs[name]))
    assert status == 200
    assert page.count("<img ") == 1
    assert "nan" not in re.sub("<img .*?>", "", page)


def test_the_page_is_drawn_again_only_when_the_run_has_moved(serve, tmp_path, drawings):
    path, pages = tmp_path / "run.h5", []

    def load() -> None:
        pages.append(get(url)[1])
        assert get(url)[1] == get(url)[1] == pages[-1]

    stopped(path, "steps=64")
    url = serve(path)
    load()
    assert drawings == [16]
    trained(path, "steps=64", watch=lambda block: load() if block.last == 32 else None)
    assert drawings == [16, 32]
    load()
    assert drawings == [16, 32, 64]
    trained(path, "steps=64", "members.seeds=[7]", force=True)  # as many steps, in the same state
    load()
    assert drawings == [16, 32, 64, 64]
    shown = [re.search(r"(training now|interrupted|finished): step (\d+)", page).groups() for page in pages]
    assert shown == [("interrupted", "16"), (TRAINING, "32"), ("finished", "64"), ("finished", "64")]
    assert pages[2] != pages[3]


def test_a_run_that_vanishes_is_reported_and_served_again_when_it_is_back(serve, run, tmp_path, drawings):
    url = serve(run)
    run.rename(tmp_path / "elsewhere.h5")
    status, text, headers = get(url)
    assert status == 503
    assert "no such run file" in text
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    (tmp_path / "elsewhere.h5").rename(run)
    assert get(url)[0] == 200
    assert drawings == [16]


def test_a_name_cannot_become_part_of_the_page(serve, runs, tmp_path):
    for name in ("<script>x.h5", '">&amp;.h5', "\udcff.h5"):  # the last is no text at all
        copy = tmp_path / name
        try:
            shutil.copy(runs["empty"], copy)
        except OSError:  # a disk that wants names in UTF-8
            continue
        page = get(serve(copy))[1]
        assert "<script>" not in page
        assert unescape(re.search("<h1>(.*)</h1>", page)[1]) == name.replace("\udcff", "\\xff")


def test_a_port_that_is_taken_is_reported_in_one_line(refused, runs):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RhoTraceError, match=rf"^--port: {port} is not available \(.*\); choose another, or 0$"):
            watch_server.serve(Follower(runs["empty"]), port, every=1.0, announce=pytest.fail)
        assert f"--port: {port} is not available" in refused("watch", runs["empty"], "--web", "--port", port)


def test_300_browsers_at_once_are_all_answered_beside_some_that_say_nothing(monkeypatch, serve, runs, drawings):
    """Silent connections take every place; they are closed after their time, and everyone else gets the page."""
    monkeypatch.setattr(watch_server, "PATIENCE", 0.2)
    url = serve(runs["gd"])
    port = int(url.rstrip("/").rpartition(":")[2])
    with contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            for _ in range(2 * watch_server.AT_ONCE)
        ]
        asking = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60)) for _ in range(300)]
        for each in asking:
            each.sendall(f"GET / HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        answers = [each.makefile("rb").read() for each in asking]
        assert (
            sum(answer.startswith(b"HTTP/1.0 200 ") and answer.rstrip().endswith(b"</html>") for answer in answers)
            == 300
        )
        assert [each.recv(1) for each in silent] == [b""] * len(silent)
    assert drawings == [80]


def test_the_command_prints_the_address_and_ctrl_c_leaves_it(command, runs, monkeypatch):
    def leave(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", leave)
    code, out, err = command("watch", runs["empty"], "--web", "--port", 0)
    assert (code, err) == (0, "stopped watching; training continues\n")
    assert re.fullmatch(rf"http://127\.0\.0\.1:\d+/ shows {re.escape(str(runs['empty']))}; Ctrl-C stops\n", out)


@pytest.mark.parametrize(
    ("fault", "said"), [(BrokenPipeError, False), (ConnectionResetError, False), (ValueError, True)]
)
def test_a_browser_that_leaves_early_is_no_error(runs, monkeypatch, capsys, fault, said):
    class Failing(Follower):
        def look(self):
            if failing:
                raise fault
            return super().look()

    failing = []
    with serving(monkeypatch, Failing(runs["empty"])) as url:
        failing.append(1)
        with pytest.raises(http.client.RemoteDisconnected):
            get(url)
        failing.clear()
        assert get(url)[0] == 200
    assert (fault.__name__ in capsys.readouterr().err) == said


def test_a_real_browser_shows_the_page_and_loads_it_again_until_the_run_ends(serve, run):
    with RunLock(run):
        url = serve(run)
        with open_page(url) as opened:
            page = opened.page
            page.get_by_text("training now: step 16 of 64").wait_for()
            picture = page.get_by_role("img")
            assert picture.count() == 1
            assert "up to step 15" in picture.get_attribute("alt")
            assert picture.evaluate("image => image.complete && image.naturalWidth") > 0
            assert page.get_by_role("progressbar", name="steps done").get_attribute("value") == "16"
            trained(run.with_name("whole.h5"), "steps=64").replace(run)
            page.get_by_text("finished: step 64 of 64").wait_for()
            picture = page.get_by_role("img")
            assert "up to step 63" in picture.get_attribute("alt")
            assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            page.set_viewport_size({"width": 360, "height": 700})
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            assert opened.messages == []
            assert len(opened.requests) > 1
            assert {*opened.requests} == {url}
