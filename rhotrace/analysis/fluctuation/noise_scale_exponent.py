"""The fluctuation against the noise scale eta/b, learning rate over batch size, across runs.

In a fixed landscape std ~ (eta/b)^(1/2): a step's noise has variance eta^2/b, and the autocorrelation time of a mode is 1/eta steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from rhotrace.statistics.intervals import NONE, Interval, mean, student_t

Floats = NDArray[np.float64]

LAW = 0.5


@dataclass(frozen=True)
class Point:
    """One member: how it was trained, from which start, and the standard deviation of its delta."""

    optimizer: str
    sampling: str
    seed: int
    lr: float
    batch: int
    std: float
    start: str = ""


@dataclass(frozen=True)
class Exponent:
    """Exponents of the fluctuation over members that were trained from one start, with one optimizer and sampling.

    Attributes:
        optimizer: of the runs.
        sampling: of their minibatches.
        start: initial scale of the members, such as ``rho_k(0) 2.5``.
        scales: the values of eta/b, from small to large.
        members: number of points.
        paired: seeds whose own slopes were averaged; 0 where all points share one line.
        joint: p in std ~ (eta/b)^p.
        level: the factor before it.
        lr: p in std ~ eta^p at fixed b; NaN where the runs do not decide it.
        batch: p in std ~ b^-p at fixed eta; NaN where the runs do not decide it.
    """

    optimizer: str
    sampling: str
    start: str
    scales: tuple[float, ...]
    members: int
    paired: int
    joint: Interval
    level: float
    lr: Interval
    batch: Interval


def exponents(points: Sequence[Point]) -> tuple[Exponent, ...]:
    """One fit for each optimizer, sampling and start that has at least two values of eta/b."""
    found = []
    for (optimizer, sampling, start), group in groupby(sorted(points, key=_kind), key=_kind):
        mine = list(group)
        scales = sorted({float(f"{p.lr / p.batch:.9g}") for p in mine})  # which differ by more than rounding
        if len(scales) < 2:
            continue
        joint, paired = _slopes(mine, [[np.log(p.lr / p.batch)] for p in mine])
        logs = np.log([[p.std, p.lr / p.batch] for p in mine]).mean(axis=0)
        level = float(np.exp(logs[0] - joint[0].value * logs[1]))
        both, _ = _slopes(mine, [[np.log(p.lr), -np.log(p.batch)] for p in mine])
        found.append(Exponent(optimizer, sampling, start, tuple(scales), len(mine), paired, joint[0], level, *both))
    return tuple(found)


def _kind(point: Point) -> tuple[str, str, str]:
    return point.optimizer, point.sampling, point.start


def _slopes(points: Sequence[Point], predictors: list[list[float]]) -> tuple[list[Interval], int]:
    """Slope of log std along each predictor, and the number of seeds over which it is averaged.

    Members that share a seed share their start and often their labels' accidents, so where three or more seeds have
    lines of their own, the interval is Student's t over these; else that of one line through all points.
    """
    x, y = np.array(predictors), np.log([p.std for p in points])
    moving = np.ptp(x, axis=0) > 0
    slopes = [NONE] * len(moving)
    if np.linalg.matrix_rank(x[:, moving] - x[:, moving].mean(axis=0)) < moving.sum():
        return slopes, 0  # lr and batch changed together: their effects cannot be separated
    seeds = np.array([p.seed for p in points])
    own = [_line(x[seeds == seed][:, moving], y[seeds == seed]) for seed in np.unique(seeds)]
    each = np.array([[s.value for s in line] for line in own if line])
    paired = len(each) if len(each) >= 3 else 0
    fitted = [mean(column) for column in each.T] if paired else _line(x[:, moving], y) or []
    for k, slope in zip(np.flatnonzero(moving), fitted, strict=False):
        slopes[k] = slope
    return slopes, paired


def _line(x: Floats, y: Floats) -> list[Interval] | None:
    """Least squares with a constant: slopes with Student's t intervals; None where the points do not decide them."""
    design = np.column_stack([np.ones(len(x)), x])
    rank = np.linalg.matrix_rank(design)
    if rank < design.shape[1]:
        return None
    solution = np.linalg.lstsq(design, y, rcond=None)[0]
    left = len(y) - rank
    half = np.full(len(solution), np.nan)
    if left:
        residual = y - design @ solution
        half = student_t(left) * np.sqrt(residual @ residual / left * np.diag(np.linalg.inv(design.T @ design)))
    return [Interval(float(s), float(s - h), float(s + h)) for s, h in zip(solution[1:], half[1:], strict=True)]
