"""The transient time T: how long rho stays far below rho_eq, by several definitions, with what is known of each.

Plain functions of arrays, no files: rows are evaluations in time, columns are members.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from rhotrace.analysis.transient.closed_form_fit import ClosedFormFit, Driven, Series, constant_T, fit_closed_form
from rhotrace.statistics.correlated_fit import root_interval
from rhotrace.statistics.intervals import (
    NONE,
    Interval,
    bootstrapped_geometric_mean,
    by_unit,
    geometric_centre,
    geometric_mean,
)
from rhotrace.theory.norm_dynamics import THETA

Floats = NDArray[np.float64]
Steps = NDArray[np.int64]

DWELL_STEPS = 10
DWELL_FRACTION = 0.2
_FEW = 10
_AROUND = 0.35  # of log(rho/rho_eq) on each side of the crossing, for the cubic
_ALTERNATES = 0.8
_ESTIMATED = 1e-9  # relative error of an estimate of the growth, at most
_PRECISE = 1e-290  # above which a number has all its digits


class Outcome(StrEnum):
    """What became of a member's transient; only ``LEFT`` has a T."""

    LEFT = "left the transient"
    NONE = "no transient: started at or above theta rho_eq"
    NEVER = "never left the transient"
    SPARSE = "too few evaluations to tell; lower record.full_every or train for longer"
    TOO_SHORT = "too short: crossed, but the run ends within the dwell"
    UNSETTLED = "unsettled: crossed, but never for the whole dwell"
    OSCILLATING = "oscillating: crosses at every other step; lower the learning rate"
    DECAYED = "decayed towards zero"
    DEAD = "died: every output became zero"
    DIVERGED = "diverged"
    INAPPLICABLE = "does not apply"


@dataclass(frozen=True)
class Passage:
    """How one member's transient ended; see ``MemberTransient``."""

    outcome: Outcome
    T: float
    dwell: int
    crossing: Interval
    caution: str = ""


@dataclass(frozen=True)
class MemberTransient:
    """T of one member by each definition, in steps; NaN where a definition has none.

    Attributes:
        member: its number.
        outcome: what became of the transient.
        T: first step from which rho >= theta rho_eq for the dwell, interpolated in log(rho/rho_eq).
        crossing: the same crossing. Under minibatches it is read off a cubic through log(rho/rho_eq) around it, with the
            interval that stationary noise leaves, and none where the noise is so large that the crossing is not one.
            In a full-batch run, or where too few rows are near, its interval is the steps between which T lies.
        dwell: steps for which the crossing had to hold.
        T_loss: first step from which the loss is below half its value for g = 0, for the same dwell.
        T_inflection: step of the fastest growth of log rho, 2 S (a - q) at its largest.
        T_constant: T if A and B stayed as they are at the start; the memo's simplification.
        driven: equation (5) with the measured A and B, or None where there is nothing to integrate.
        fit: the closed form, or None where it cannot be fitted.
        no_fit: why not.
        caution: what happened after the dwell that a reader of T must know; empty where rho stayed.
    """

    member: int
    outcome: Outcome
    T: float
    dwell: int
    T_loss: float
    T_inflection: float
    crossing: Interval = NONE
    T_constant: float = np.nan
    driven: Driven | None = None
    fit: ClosedFormFit | None = None
    no_fit: str = ""
    caution: str = ""


@dataclass(frozen=True)
class Pool:
    """T over the members that share learning rate and initial scale.

    Attributes:
        label: what they share.
        members: how many there are.
        left: how many have a T.
        T: geometric mean over the distinct seeds of those, with Student's t interval on log T; members that share a
            seed are not independent, and count once, with their geometric mean.
        bootstrap: the same mean with an interval from resampling the seeds; none for fewer than 8.
        mean: arithmetic mean of T over distinct seeds.
        std: sample standard deviation of T over distinct seeds.
        seeds: how many distinct seeds have a T.
    """

    label: str
    members: int
    left: int
    T: Interval
    bootstrap: Interval
    mean: float
    std: float
    seeds: int


@dataclass(frozen=True)
class TransientFit:
    """All of ``analyze``'s answer about the transient.

    Attributes:
        theta: the transient ends at rho = theta rho_eq.
        each: T of each member.
        pools: T over members.
        inapplicable: why the run has no T by its definition; empty where it may have one.
    """

    theta: float
    each: tuple[MemberTransient, ...]
    pools: tuple[Pool, ...]
    inapplicable: str = ""


def inapplicable(theta: float, why: str, labels: Sequence[str], seeds: Sequence[int]) -> TransientFit:
    """The answer about a run that has no rho_eq."""
    each = tuple(
        MemberTransient(m, Outcome.INAPPLICABLE, np.nan, 0, np.nan, np.nan, no_fit=why) for m in range(len(labels))
    )
    return TransientFit(theta, each, pool(each, labels, seeds), why)


def measure(
    member: int,
    series: Series,
    *,
    theta: float = THETA,
    fit: bool = True,
    passed: Passage | None = None,
    T_loss: float = np.nan,
    T_inflection: float = np.nan,
) -> MemberTransient:
    """T of one member by every definition, with the outcome's name where there is none.

    Args:
        member: its number.
        series: its series.
        theta: the transient ends at rho = theta rho_eq.
        fit: also fit the closed form.
        passed: its ``passage`` at this theta, where the caller has it.
        T_loss: its ``loss_time``.
        T_inflection: its step of fastest growth; see ``FastestGrowth``.
    """
    if passed is None:
        passed = passage(series.steps, series.rho_eq_over_rho, series.q, series.log_rho, theta=theta)
    found = MemberTransient(
        member=member,
        outcome=passed.outcome,
        T=passed.T,
        dwell=passed.dwell,
        T_loss=T_loss,
        T_inflection=T_inflection,
        crossing=passed.crossing,
        T_constant=constant_T(series, theta),
        driven=_driven(series, theta),
        no_fit=f"needs a T; {passed.outcome}",
        caution=passed.caution,
    )
    return with_fit(found, series, theta=theta) if fit else found


def same_rise(steps: Steps, rho_eq_over_rho: Floats, thetas: Sequence[float]) -> list[float]:
    """Where the rise that takes rho past rho_eq/2 for good crosses other thresholds, in steps; NaN where it does not.

    A threshold above 1/2 is crossed for the first time after T, one below for the last time before it. A dwell of its own
    would choose another rise where rho falls back a little.
    """
    row, _ = first_lasting((rho_eq_over_rho > 0) & (rho_eq_over_rho <= 1 / THETA), steps)
    found = []
    for theta in thetas:
        reached = (rho_eq_over_rho > 0) & (rho_eq_over_rho <= 1 / theta)
        own = -1
        if row > 0 and theta >= THETA and reached[row:].any():
            own = row + int(np.argmax(reached[row:]))
        elif row > 0 and theta < THETA:
            own = int(np.flatnonzero(np.append(True, ~reached[:row]))[-1])
        with np.errstate(invalid="ignore", divide="ignore"):
            distance = np.log(rho_eq_over_rho) + np.log(theta)
        found.append(_interpolated(steps, distance, own, 0.0) if own > 0 else np.nan)
    return found


def loss_time(steps: Steps, loss: Floats) -> float:
    """First step from which the loss is below half its value for g = 0, for the dwell; NaN where there is none."""
    row, _ = first_lasting(loss < 0.5, steps)
    return float(_interpolated(steps, loss, row, 0.5)) if row >= 0 else np.nan


def with_fit(found: MemberTransient, series: Series, *, theta: float = THETA) -> MemberTransient:
    """What was measured of a member with the closed form fitted, where it has a T."""
    if found.outcome is not Outcome.LEFT:
        return found
    fit, why = fit_closed_form(series, found.T, theta=theta)
    return replace(found, fit=fit, no_fit=why)


def passage(
    steps: Steps,
    rho_eq_over_rho: Floats,
    q: Floats,
    log_rho: Floats,
    *,
    theta: float = THETA,
    noisy: bool = True,
) -> Passage:
    """Whether and when one member left its transient, without what ``measure`` adds; arguments as in ``Series``.

    Without noise, as in a full-batch run, the interval of T is that of the two rows between which it lies.
    """
    reached = (rho_eq_over_rho > 0) & (rho_eq_over_rho <= 1 / theta)
    row, dwell = first_lasting(reached, steps)
    if row == 0:
        return Passage(Outcome.NONE, np.nan, dwell, NONE)
    if row < 0:
        return Passage(_why_not(steps, reached, dwell, rho_eq_over_rho, q, log_rho), np.nan, dwell, NONE)
    around = slice(None) if noisy else slice(row - 1, row + 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        distance = np.log(rho_eq_over_rho[around]) + np.log(theta)  # zero at T, falling
    if noisy:
        T, crossing = _interpolated(steps, distance, row, 0.0), _crossing(steps, distance, row)
    else:
        crossing = _bracket(steps[around], distance, 1)
        T = crossing.value
    finite = np.isfinite(q) & np.isfinite(log_rho)
    return Passage(Outcome.LEFT, T, dwell, crossing, _afterwards(steps, reached, finite, row, theta))


def _afterwards(steps: Steps, reached: NDArray[np.bool_], finite: NDArray[np.bool_], row: int, theta: float) -> str:
    """What became of a member after T, where it did not stay: it diverged, or fell back to the end of the run."""
    lost = np.flatnonzero(~finite[row:])
    if len(lost):
        return f"it diverged after T: its numbers are not finite from step {steps[row + lost[0]]}"
    last_hit = len(reached) - 1 - int(np.argmax(reached[::-1]))
    if last_hit + 1 < len(steps):
        since = int(steps[last_hit + 1])
        if steps[-1] + 1 - since >= max(DWELL_STEPS, DWELL_FRACTION * since):
            return f"rho is not at or above {theta:g} rho_eq from step {since} to the end"
    return ""


def _driven(series: Series, theta: float) -> Driven | None:
    if len(series.steps) < 2 or not all(np.isfinite(x).all() for x in (series.log_rho, series.a, series.q)):
        return None
    off = series.driven()
    if not np.isfinite(off).all():
        return None
    off -= series.log_rho
    largest = float(max(off.max(), -off.min()))
    if not np.isfinite(largest):
        return None
    with np.errstate(invalid="ignore", divide="ignore"):  # in place: a long run has many members
        distance = np.log(series.rho_eq_over_rho)
        distance -= off
        distance += np.log(theta)  # zero at T; rho itself may overflow
    row, _ = first_lasting((series.rho_eq_over_rho > 0) & (distance <= 0), series.steps)
    T = _interpolated(series.steps, distance, row, 0.0) if row > 0 else np.nan
    if largest:
        off /= largest
    rms = largest * float(np.sqrt(np.mean(np.square(off, out=off))))
    return Driven(rms, largest, float(np.ptp(series.log_rho)), T)


def _bracket(steps: Steps, distance: Floats, row: int) -> Interval:
    """Where ``distance`` falls through zero by interpolation, and the rows between which it does."""
    return Interval(_interpolated(steps, distance, row, 0.0), float(steps[row - 1]), float(steps[row]))


def _crossing(steps: Steps, distance: Floats, row: int) -> Interval:
    """Where ``distance`` falls through zero near ``row``: root of a cubic through the rows around, with its interval."""
    before = np.flatnonzero(~(distance[:row] <= _AROUND))
    after = np.flatnonzero(~(distance[row:] >= -_AROUND))
    first = int(before[-1]) + 1 if len(before) else 0
    last = row + int(after[0]) if len(after) else len(steps)
    t, z = (steps[first:last] - steps[row]).astype(np.float64), distance[first:last]
    bracket = _bracket(steps, distance, row)
    if len(t) < _FEW or not np.isfinite(z).all():
        return bracket
    scale = float(np.abs(t).max())
    design = np.vander(t / scale, 4)
    solution, *_ = np.linalg.lstsq(design, z, rcond=None)
    residual = z - design @ solution
    roots = np.roots(solution)
    real = roots[np.isreal(roots)].real
    if not len(real):
        return bracket
    x = float(real[np.argmin(np.abs(real))])
    slope = float(np.polyval(np.polyder(solution), x))
    if float(residual.std()) > _AROUND / 5 or slope >= 0:  # the noise has chosen the ends of the window, or the root
        return Interval(bracket.value, np.nan, np.nan)
    low, high = root_interval(design, z, x, slope, memory=float(row))
    value = float(steps[row])
    return Interval(value + x * scale, value + low * scale, value + high * scale)


def first_lasting(condition: NDArray[np.bool_], steps: Steps) -> tuple[int, int]:
    """First row from which a condition holds without a break for the dwell, and that dwell in steps.

    The dwell is 10 steps or a fifth of the step itself, whichever is longer, so that the chance passage
    of a/q through (0, 2) while A changes sign after a random start does not count: it takes longer at a smaller
    learning rate, but its share of the time until then does not change (one in a shipped recipe takes 13 %).

    Returns:
        (row, dwell); row is -1 where there is none.
    """
    rows = len(steps)
    if not rows:
        return -1, DWELL_STEPS
    # A row within a stretch lasts less long than the first one and has a longer dwell, so the first rows decide.
    turns = np.flatnonzero(condition[1:] != condition[:-1]) + 1
    begins = np.append(0, turns) if condition[0] else turns
    firsts, ends = begins[::2], begins[1::2]
    step_after = steps[ends] if len(ends) == len(firsts) else np.append(steps[ends], steps[-1] + 1)
    dwell = np.maximum(DWELL_STEPS, np.ceil(DWELL_FRACTION * steps[firsts])).astype(int)
    good = np.flatnonzero(step_after - steps[firsts] >= dwell)
    if len(good):
        return int(firsts[good[0]]), int(dwell[good[0]])
    return -1, max(DWELL_STEPS, int(np.ceil(DWELL_FRACTION * steps[-1])))


def _why_not(
    steps: Steps, reached: NDArray[np.bool_], dwell: int, rho_eq_over_rho: Floats, q: Floats, log_rho: Floats
) -> Outcome:
    if not (np.isfinite(q) & np.isfinite(log_rho)).all():
        return Outcome.DIVERGED
    if q[-1] == 0 or len(reached) < _FEW:
        return Outcome.DEAD if q[-1] == 0 else Outcome.SPARSE
    late = slice(-max(4, len(reached) // 4), None)
    turns = np.diff(np.sign(np.diff(rho_eq_over_rho[late])))
    turning = bool(np.mean(turns != 0) > _ALTERNATES)
    if turning and np.mean(reached[late][1:] != reached[late][:-1]) > 0.5:  # before the last row, which may be a hit
        return Outcome.OSCILLATING
    last_miss = int(np.flatnonzero(np.append(True, ~reached))[-1])  # 0 is before the first row
    if last_miss < len(reached) and steps[-1] - steps[last_miss] < dwell:
        return Outcome.TOO_SHORT
    if reached[late].any():
        return Outcome.OSCILLATING if turning else Outcome.UNSETTLED
    return Outcome.DECAYED if log_rho[-1] - log_rho[0] < -np.log(100) else Outcome.NEVER


def _interpolated(steps: Steps, values: Floats, row: int, level: float) -> float:
    """Where a falling series crosses a level just before ``row``; the row's own step where it is not known."""
    if row <= 0 or not values[row - 1] > level:
        return float(steps[max(row, 0)])
    share = (values[row - 1] - level) / (values[row - 1] - values[row])
    return float(steps[row - 1] + share * (steps[row] - steps[row - 1]))


class FastestGrowth:
    """Finds the step at which each member's log rho grows fastest, in rows that come in pieces.

    d log rho/dt = 2 S (a - q) per unit of learning rate x steps, S = sum_k rho_k^-2 (equation (3) summed).

    Args:
        members: M.
    """

    def __init__(self, members: int) -> None:
        self._largest = np.full(members, -np.inf)
        self._at: list[int | None] = [None] * members
        self._grows = np.zeros(members, np.bool_)

    def extend(self, steps: Steps, rho_k: Floats, a: Floats, q: Floats) -> None:
        """Takes the next rows: steps (n,), layer norms (n, M, L), and mean(y g) and mean(g^2), (n, M)."""
        with np.errstate(all="ignore"):
            excess = a - q
            square = rho_k**2
            speed = np.einsum("nml->nm", 1 / square)  # a power, and a sum over a short axis, take far longer
            estimate = 2 * speed * excess
            best = np.maximum(self._largest, estimate.max(axis=0))
            near = estimate >= best - _ESTIMATED * np.abs(best)
            precise = min(square.min(), speed.min(), np.abs(best).min()) > _PRECISE
            if not (precise and np.isfinite(estimate).all()):
                near[:] = True
            rows, members = np.nonzero(near)
            rate = 2 * (rho_k[rows, members] ** -2.0).sum(axis=1) * excess[rows, members]
        self._grows[members[rate > 0]] = True
        rate[~np.isfinite(rate)] = -np.inf
        for m in range(len(self._at)):
            own = np.flatnonzero(members == m)
            if not len(own):
                continue
            first = own[rate[own].argmax()]
            if self._at[m] is None or rate[first] > self._largest[m]:
                self._largest[m], self._at[m] = rate[first], int(steps[rows[first]])

    @property
    def steps(self) -> list[float]:
        """Of each member; NaN where it never grows."""
        return [
            float(at) if grows and at is not None else np.nan for at, grows in zip(self._at, self._grows, strict=True)
        ]


# --- over members ------------------------------------------------------------------------------------------


def pool(each: Sequence[MemberTransient | Passage], labels: Sequence[str], seeds: Sequence[int]) -> tuple[Pool, ...]:
    """T over the members with the same label; members that never left are counted, not averaged.

    Args:
        each: the members.
        labels: what distinguishes each apart from its seed.
        seeds: of each; only distinct ones are independent.
    """
    pools = []
    for label in dict.fromkeys(labels):
        group = [(m, seed) for m, own, seed in zip(each, labels, seeds, strict=True) if own == label]
        left = [(m.T, seed) for m, seed in group if m.outcome is Outcome.LEFT]
        T = by_unit(np.array([T for T, _ in left]), [seed for _, seed in left], geometric_centre)
        pools.append(
            Pool(
                label,
                members=len(group),
                left=len(left),
                T=geometric_mean(T),
                bootstrap=bootstrapped_geometric_mean(T),
                mean=float(T.mean()) if len(T) else np.nan,
                std=float(T.std(ddof=1)) if len(T) > 1 else np.nan,
                seeds=len(T),
            )
        )
    return tuple(pools)
