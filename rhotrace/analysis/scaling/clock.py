"""The clock of the transient: the integral of rho_k^(L-2) dt, by which the directions turn while the outputs are small.

There dL/dW_k = -2 mean(y dg/dW_k), and equation (4) gives ``dV_k/dt`` a factor rho_k^(L-2) and otherwise the
directions alone. So networks that differ in rho_k(0) pass through the same directions at the same reading of this
clock, whatever rho does, and the same reading of it at the same A = mean(y f) is a test of this.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rhotrace.analysis.transient.closed_form_fit import Series
from rhotrace.statistics.intervals import Interval, geometric_mean

Floats = NDArray[np.float64]

_EARLY = 0.1  # of A at T


@dataclass(frozen=True, eq=False)
class Clock:
    """One member's clock until T.

    Attributes:
        levels: log of the smallest A from each row to T, rising; only where that is positive, (n,).
        readings: integral of rho_k^(L-2) dt at these rows, (n,).
        end: the same at T.
    """

    levels: Floats
    readings: Floats
    end: float

    def at(self, level: float) -> float:
        """The reading when A reaches a level for good; NaN where it was never below it."""
        if not len(self.levels) or not self.levels[0] <= level <= self.levels[-1]:
            return np.nan
        return float(np.interp(level, self.levels, self.readings))


@dataclass(frozen=True)
class Clocks:
    """How well the clock of one depth keeps time over starts.

    Attributes:
        seeds: with a reading at two starts or more.
        early: largest over smallest reading, over the starts of a seed, at a tenth of the smallest A that any of them has at
            T: the outputs are small there; geometric mean over seeds.
        worst: the largest of these ratios.
        to_equal: the same at this smallest A, where the outputs are not small any more.
        to_end: the same at each member's own T.
        T: largest over smallest T in time, for comparison.
        grown: smallest and largest rho(T)/rho(0).
    """

    seeds: int
    early: Interval
    worst: float
    to_equal: Interval
    to_end: Interval
    T: Interval
    grown: tuple[float, float]


def clock_of(series: Series, T: float) -> Clock:
    """The clock of one member with equal layer norms, rho_k = rho^(1/L).

    Args:
        series: of the member.
        T: its transient time in steps.
    """
    depth = series.depth
    until = slice(0, int(np.searchsorted(series.steps, T, side="right")))  # rows up to T
    time, log_rho = series.times[until], series.log_rho[until]
    rate = np.exp((depth - 2) / depth * log_rho)
    reading = np.cumsum(rate * np.diff(np.append(time, series.time_at(T))))
    with np.errstate(all="ignore"):
        A = series.a * np.exp(-series.log_rho)
        to_T = np.append(A[until], np.interp(T, series.steps, A))
    lowest = np.minimum.accumulate(to_T[::-1])[::-1]
    known = lowest > 0
    return Clock(np.log(lowest[known]), np.append(0.0, reading)[known], float(reading[-1]))


def clocks(seed: NDArray[np.int64], clock: NDArray[np.object_], T: Floats, grown: Floats) -> Clocks | None:
    """The clocks of the members at one depth, one for each seed and start; None below two starts of a seed."""
    early, equal, until, times = [], [], [], []
    for own in np.unique(seed):
        mine = [m for m in np.flatnonzero(seed == own) if clock[m] is not None and len(clock[m].levels)]
        if len(mine) < 2:
            continue
        level = min(float(clock[m].levels[-1]) for m in mine)
        small, readings = (np.array([clock[m].at(at) for m in mine]) for at in (level + np.log(_EARLY), level))
        if not (small > 0).all():
            continue
        early.append(small.max() / small.min())
        equal.append(readings.max() / readings.min())
        ends = np.array([clock[m].end for m in mine])
        until.append(ends.max() / ends.min())
        times.append(T[mine].max() / T[mine].min())
    if not equal:
        return None
    known = grown[np.isfinite(grown)]
    return Clocks(
        seeds=len(equal),
        early=geometric_mean(np.array(early)),
        worst=float(max(early)),
        to_equal=geometric_mean(np.array(equal)),
        to_end=geometric_mean(np.array(until)),
        T=geometric_mean(np.array(times)),
        grown=(float(known.min()), float(known.max())),
    )
