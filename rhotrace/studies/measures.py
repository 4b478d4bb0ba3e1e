"""What several studies measure in a run: when something happens, contrasts between runs seed by seed, and trends."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rhotrace.analysis.run_series import RunSeries
from rhotrace.statistics.intervals import Interval, mean
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


def lowest(run: RunSeries, name: str = "test_error") -> tuple[Floats, Floats]:
    """The smallest value of a quantity along the run, and the step at which it is first reached, (M,) each."""
    values = run.trace[name]
    return values.min(axis=0), np.asarray(run.trace.step_of(name)[values.argmin(axis=0)], dtype=float)


def trend(x: Floats, y: Floats, seeds: Sequence[int]) -> Interval:
    """Slope of y against x among the members of each seed, mean over seeds with its interval."""
    of = np.array(seeds)
    slopes = [np.polyfit(x[mine], y[mine], 1)[0] for seed in dict.fromkeys(seeds) if np.ptp(x[mine := of == seed]) > 0]
    return mean(np.array(slopes))


def sign(difference: Interval, positive: Verdict = "yes", negative: Verdict = "no") -> Verdict:
    """The verdict on a difference: undecided while its interval contains 0."""
    if not np.isfinite(difference.low) or difference.low <= 0 <= difference.high:
        return "undecided"
    return positive if difference.value > 0 else negative
