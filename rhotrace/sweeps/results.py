"""The result of a sweep: the transient time of every point, over its seeds, from the run files alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rhotrace.analysis.run_series import RunSeries
from rhotrace.analysis.transient.transient_time import Outcome
from rhotrace.errors import TraceError
from rhotrace.runfile.reader import open_trace
from rhotrace.statistics.intervals import NONE, Interval, geometric_mean
from rhotrace.sweeps.index import INDEX, read_index
from rhotrace.theory.norm_dynamics import THETA


@dataclass(frozen=True)
class PointResult:
    """One point of a sweep.

    Attributes:
        values: of the axes.
        members: networks, one per seed.
        steps: committed in all of them.
        left: how many have left their transient.
        T: transient time, learning rate x steps, geometric mean over those with Student's t interval.
        outcomes: how many ended in each way.
    """

    values: dict[str, Any]
    members: int
    steps: int
    left: int
    T: Interval
    outcomes: dict[str, int]


@dataclass(frozen=True)
class SweepResult:
    """All points of a sweep, in its order, and the files that could not be read."""

    folder: str
    axes: tuple[str, ...]
    points: tuple[PointResult, ...]
    missing: tuple[str, ...]


def collect(folder: Path, *, theta: float = THETA) -> SweepResult:
    """T of every point of a sweep.

    Args:
        folder: of the sweep, or its index.
        theta: the transient ends at rho = theta rho_eq.

    Raises:
        TraceError: there is no index of a sweep.
    """
    index = read_index(folder)
    folder = folder.parent if folder.name == INDEX else folder
    runs: list[tuple[list[tuple[str, float]], int]] = []
    missing = []
    for run in index["runs"]:
        try:
            runs.append(_members(folder / run["file"], theta))
        except TraceError as problem:
            missing.append(str(problem))
            runs.append(([], 0))
    points = tuple(_point(point["values"], point["members"], runs) for point in index["points"])
    return SweepResult(str(folder), tuple(index["axes"]), points, tuple(missing))


def _members(path: Path, theta: float) -> tuple[list[tuple[str, float]], int]:
    """(outcome, T in learning rate x steps) of each member of a run, and its steps."""
    with open_trace(path) as trace:
        if trace.steps < 2:
            return [("not begun", np.nan)] * trace.members, trace.steps
        run = RunSeries(trace, theta)
        return [(str(e.outcome), run.time_of(m, e.T)) for m, e in enumerate(run.passages)], trace.steps


def _point(
    values: dict[str, Any], where: list[list[int]], runs: list[tuple[list[tuple[str, float]], int]]
) -> PointResult:
    found = [runs[run][0][member] if member < len(runs[run][0]) else ("missing", np.nan) for run, member in where]
    T = np.array([T for outcome, T in found if outcome == str(Outcome.LEFT)])
    return PointResult(
        values=values,
        members=len(where),
        steps=min(runs[run][1] for run, _ in where),
        left=len(T),
        T=geometric_mean(T) if len(T) else NONE,
        outcomes=dict(Counter(outcome for outcome, _ in found)),
    )
