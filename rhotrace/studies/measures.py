"""What several studies measure in a run: when something happens, contrasts between runs seed by seed, and trends."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rhotrace.analysis.run_series import RunSeries
from rhotrace.statistics.intervals import Interval, by_unit, mean
from rhotrace.studies.study import Verdict

Floats = NDArray[np.float64]


def fastest_growth(run: RunSeries) -> Floats:
    """Step at which log rho grows fastest, (M,): the end of the transient under losses that have no rho_eq too."""
    steps, log_rho = run.steps, run.log_rho
    rate = np.diff(log_rho, axis=0)
    return np.asarray(steps[np.where(np.isfinite(rate), rate, -np.inf).argmax(axis=0)], dtype=float)


def first_below(run: RunSeries, level: float, name: str = "loss") -> Floats:
    """First step at which a full-set quantity is below a level, (M,); NaN where it never is."""
    below = run.trace[name] < level
    return np.where(below.any(axis=0), run.steps[below.argmax(axis=0)], np.nan)


def read_at(run: RunSeries, values: Floats, steps: Floats, name: str = "loss") -> Floats:
    """A quantity at a step of each member's own, from the last row at or before it, (M,); NaN where there is no step.

    Args:
        run: the run.
        values: rows of the quantity, (n, M).
        steps: of each member, (M,).
        name: a quantity with the rows of ``values``: ``loss`` for full-set ones, ``test_error`` for those on the test set.
    """
    known = np.isfinite(steps)
    rows = np.searchsorted(run.trace.step_of(name), np.where(known, steps, 0), side="right") - 1
    return np.where(known, values[rows, np.arange(values.shape[1])], np.nan)


def each_start(run: RunSeries) -> dict[str, list[int]]:
    """The members that differ in nothing but their seeds, by what they share, those with a smaller start first."""
    groups = run.groups()
    return dict(sorted(groups.items(), key=lambda item: float(np.mean(run.log_rho[0, item[1]]))))


def lowest(run: RunSeries, name: str = "test_error") -> tuple[Floats, Floats]:
    """The smallest value of a quantity along the run, and the step at which it is first reached, (M,) each."""
    values = run.trace[name]
    return values.min(axis=0), np.asarray(run.trace.step_of(name)[values.argmin(axis=0)], dtype=float)


def trend(x: Floats, y: Floats, seeds: Sequence[int]) -> Interval:
    """Slope of y against x among the members of each seed, mean over seeds with its interval; without NaN."""
    of, known = np.array(seeds), np.isfinite(x) & np.isfinite(y)
    own = [known & (of == seed) for seed in dict.fromkeys(seeds)]
    slopes = [np.polyfit(x[mine], y[mine], 1)[0] for mine in own if mine.any() and np.ptp(x[mine]) > 0]
    return mean(np.array(slopes))


def over_seeds(values: Floats, seeds: Sequence[int]) -> Interval:
    """Mean over seeds with its interval; members of one seed are averaged first, and those without a value left out."""
    known = np.isfinite(values)
    kept = [seed for seed, one in zip(seeds, known, strict=True) if one]
    return mean(by_unit(values[known], kept, lambda own: float(np.mean(own))))


def sign(difference: Interval, positive: Verdict = "yes", negative: Verdict = "no") -> Verdict:
    """The verdict on a difference: undecided while its interval contains 0."""
    if not np.isfinite(difference.low) or difference.low <= 0 <= difference.high:
        return "undecided"
    return positive if difference.value > 0 else negative
