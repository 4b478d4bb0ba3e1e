"""Estimates with their 95 % intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_RESAMPLES = 10_000
_FEWEST = 8  # members from which a bootstrap over them means something


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval; NaN ends where none can be given."""

    value: float
    low: float
    high: float


NONE = Interval(np.nan, np.nan, np.nan)


def student_t(freedom: float, level: float = 0.975) -> float:
    """Quantile of Student's t distribution; that of ``scipy.stats``, whose import takes longer than most analyses."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, level))


def geometric_mean(values: Floats) -> Interval:
    """Geometric mean of positive values with Student's t interval on their logarithm.

    Transient times scatter by factors, not by differences, and a handful of seeds is too few for a
    percentile bootstrap, whose intervals are then too short.
    """
    logs = mean(np.log(values))
    return Interval(float(np.exp(logs.value)), float(np.exp(logs.low)), float(np.exp(logs.high)))


def mean(values: Floats) -> Interval:
    """Arithmetic mean with Student's t interval; NaN ends for a single value, NaN for none."""
    if len(values) < 2:
        return Interval(float(values[0]) if len(values) else np.nan, np.nan, np.nan)
    centre = float(values.mean())
    half = float(student_t(len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Interval(centre, centre - half, centre + half)


def bootstrapped_geometric_mean(values: Floats) -> Interval:
    """As ``geometric_mean``, by resampling the values (BCa); no interval for fewer than 8, where it would be too short."""
    if len(values) < _FEWEST or np.ptp(values) == 0:
        return Interval(float(np.exp(np.log(values).mean())) if len(values) else np.nan, np.nan, np.nan)
    from scipy import stats

    logs = np.log(values)
    found = stats.bootstrap(
        (logs,), np.mean, n_resamples=_RESAMPLES, method="BCa", rng=np.random.default_rng(0), vectorized=True
    ).confidence_interval
    return Interval(float(np.exp(logs.mean())), float(np.exp(found.low)), float(np.exp(found.high)))


def by_unit(values: Floats, units: Sequence[int], centre: Callable[[Floats], float]) -> Floats:
    """One value for each independent unit, such as a seed: that of its only one, or the centre of several.

    Members that share a seed start in the same directions, so they are not independent, and an interval over members
    that counted each of them would be too short.
    """
    distinct = list(dict.fromkeys(units))
    if len(distinct) == len(values):
        return values
    of = np.array(units)
    return np.array([float(mine[0]) if len(mine := values[of == u]) == 1 else centre(mine) for u in distinct])


def geometric_centre(values: Floats) -> float:
    """Geometric mean of positive values, without an interval."""
    return float(np.exp(np.log(values).mean()))
