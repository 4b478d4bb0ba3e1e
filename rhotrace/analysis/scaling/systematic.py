"""What moves an exponent of T beside chance: finite steps, finite starts, and the threshold theta that defines T.

The limits lr -> 0 and rho_k(0) -> 0 are extrapolated at each theta up to ``FOLLOWS``. Above it rho already follows rho_eq, and where
it falls back a little, T jumps: at theta = 0.9 one seed of the shipped recipes has T 1.05 times that at 1/2 from one start, and 1.6
times from another. Such a T has no limit in rho_k(0).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rhotrace.analysis.scaling.members import DEFINITIONS, THETAS, Members, at_zero, slopes
from rhotrace.statistics.intervals import NONE, Interval, mean

Floats = NDArray[np.float64]
StepTest = Literal["measured", "estimated", "not tested"]

FOLLOWS = 0.7
_OF_THETA = slice(0, 1 + len(THETAS))  # rows of ``Members.times`` with a threshold
_EXTRAPOLATED = slice(0, 2 + THETAS.index(FOLLOWS))


@dataclass(frozen=True)
class Systematic:
    """The systematic errors of the exponent of T in rho_k(0) at one depth; each is a shift of the exponent.

    Attributes:
        step: to lr -> 0.
        step_from: between learning rates of the same seed and start, by the first-order estimate, or not at all.
        late: steps by which finite steps make T too long, mean over seeds.
        start: to rho_k(0) -> 0.
        theta: the lowest and the highest, over theta from 0.1 to 0.9.
        loss: to T by the loss, which is below half its start from then on.
        extrapolated: the exponent for lr -> 0 and rho_k(0) -> 0, with the interval over seeds; where there are fewer than
            three starts, for lr -> 0 alone.
        whole: from the lowest to the highest end of this interval, over theta from 0.1 to 0.7 and over the interval of
            ``late``.
    """

    step: float
    step_from: StepTest
    late: Interval
    start: float
    theta: tuple[float, float]
    loss: float
    extrapolated: Interval
    whole: Interval


def systematic(depth: int, members: Members) -> Systematic:
    """The systematic errors at one depth, from all its members."""
    main = members.one_for_each_start(largest=True)
    exponents = [mean(slopes(main.seed, main.start, T)[0]).value for T in main.times]
    raw, by_theta = exponents[0], [e for e in exponents[_OF_THETA] if np.isfinite(e)]
    own, late, step_from = _late(members, main, 0)
    corrected = main.times[0] - own * main.lr
    stepless = mean(slopes(main.seed, main.start, corrected)[0])
    zero = at_zero(depth, main.seed, main.start, main.times[0])
    extrapolated = _extrapolated(depth, main, corrected)
    ends = [extrapolated]
    for row in range(*_EXTRAPOLATED.indices(len(DEFINITIONS))):
        steps, spread, _ = _late(members, main, row)
        for shift in (0.0, spread.low - spread.value, spread.high - spread.value):
            if np.isfinite(shift):
                ends.append(_extrapolated(depth, main, main.times[row] - (steps + shift) * main.lr))
    lows, highs = ([v for e in ends if np.isfinite(v := getattr(e, end))] for end in ("low", "high"))
    return Systematic(
        step=stepless.value - raw,
        step_from=step_from,
        late=late,
        start=zero.value - raw,
        theta=(min(by_theta) - raw, max(by_theta) - raw) if by_theta else (np.nan, np.nan),
        loss=exponents[-1] - raw,
        extrapolated=extrapolated,
        whole=Interval(extrapolated.value, min(lows), max(highs)) if lows else NONE,
    )


def _extrapolated(depth: int, main: Members, T: Floats) -> Interval:
    zero = at_zero(depth, main.seed, main.start, T)
    return zero if np.isfinite(zero.value) else mean(slopes(main.seed, main.start, T)[0])


def _late(members: Members, main: Members, row: int) -> tuple[Floats, Interval, StepTest]:
    """Steps by which finite steps make T too long: of each member of ``main``, mean over seeds, and how they are known.

    T in time is a line in the learning rate. Its slope is measured where a seed and start were trained at several; the
    slope's dependence on the start, a line in log rho_k(0), is the mean of the seeds that have several starts, and carries
    over to the members that were trained at one learning rate.
    """
    measured = _measured(members, row)
    if measured:
        x, y, seeds = (np.array(values) for values in zip(*measured, strict=True))
        tilts, _ = slopes(seeds, np.exp(x), np.exp(y))  # y on x; both as they are
        tilt = float(tilts.mean()) if len(tilts) else 0.0
        level = {own: float((y - tilt * x)[seeds == own].mean()) for own in np.unique(seeds).tolist()}
        other = float(np.mean(list(level.values())))
        logs = np.log(main.start)
        steps = np.array([level.get(own, other) for own in main.seed.tolist()]) + tilt * logs
        centre = tilt * logs.mean()
        return steps, mean(np.array(list(level.values())) + centre), "measured"
    known = main.late[row]
    if not np.isfinite(known).any():
        return np.zeros(len(main.seed)), NONE, "not tested"
    each = [known[(main.seed == own) & np.isfinite(known)] for own in np.unique(main.seed)]
    return np.nan_to_num(known), mean(np.array([own.mean() for own in each if len(own)])), "estimated"


def _measured(members: Members, row: int) -> list[tuple[float, float, int]]:
    """(log rho_k(0), slope of T on the learning rate, seed) of each seed and start with several learning rates."""
    found = []
    T = members.times[row]
    for seed in np.unique(members.seed).tolist():
        for start in np.unique(members.start[members.seed == seed]).tolist():
            mine = (members.seed == seed) & (members.start == start) & (T > 0)
            if len(np.unique(members.lr[mine])) > 1:
                found.append((float(np.log(start)), float(np.polyfit(members.lr[mine], T[mine], 1)[0]), seed))
    return found
