"""The transient time T: how long rho stays far below rho_eq, by several definitions, with what is known of each.

Plain functions of arrays, no files: rows are evaluations in time, columns are members.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from rhotrace import theory
from rhotrace.fluctuation import integrated_time

Floats = NDArray[np.float64]
Steps = NDArray[np.int64]

THETA = 0.5
DWELL_STEPS = 10
DWELL_FRACTION = 0.05
_FEW = 10
_FIT_POINTS = 400
_FIT_HOLDS = 0.02


class Outcome(StrEnum):
    """What became of a member's transient; only ``LEFT`` has a T."""

    LEFT = "left the transient"
    NONE = "no transient: started at or above theta rho_eq"
    NEVER = "never left the transient"
    SPARSE = "too few evaluations to tell; lower record.full_every or train for longer"
    TOO_SHORT = "too short: crossed, but the run ends within the dwell"
    UNSETTLED = "unsettled: crossed, but never for the whole dwell"
    DECAYED = "decayed towards zero"
    DEAD = "died: every output became zero"
    DIVERGED = "diverged"


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval; NaN ends where none can be given."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClosedFormFit:
    """The constant-A, constant-B solution fitted to one member's log rho on a window.

    Attributes:
        T: step at which the fitted rho reaches theta times the fitted equilibrium; NaN outside the window.
        A: fitted mean(y f), in layer-norm units; B follows from rho_eq = A/B.
        log_rho_eq: fitted equilibrium of log rho.
        window: first and last step used.
        residual: root mean square of log rho minus fit, as a fraction of the rise of log rho in the window.
        A_drift: largest over smallest measured A in the window, the reason why a fit fails.
        holds: residual below 2 % of the rise.
    """

    T: Interval
    A: Interval
    log_rho_eq: Interval
    window: tuple[int, int]
    residual: float
    A_drift: float
    holds: bool


@dataclass(frozen=True)
class MemberTransient:
    """T of one member by each definition, in steps; NaN where a definition has none.

    Attributes:
        member: its number.
        outcome: what became of the transient.
        T: first step from which rho >= theta rho_eq for the dwell, interpolated in log(rho/rho_eq).
        dwell: steps for which the crossing had to hold.
        T_loss: first step from which the loss is below half its value for g = 0, for the same dwell.
        T_inflection: step of the fastest growth of log rho, 2 S (a - q) at its largest.
        fit: the closed form, or None where it cannot be fitted.
        no_fit: why not.
    """

    member: int
    outcome: Outcome
    T: float
    dwell: int
    T_loss: float
    T_inflection: float
    fit: ClosedFormFit | None = None
    no_fit: str = ""


@dataclass(frozen=True)
class Pool:
    """T over the members that share learning rate and initial scale.

    Attributes:
        label: what they share.
        members: how many there are.
        left: how many have a T.
        T: geometric mean over those, with Student's t interval on log T.
        mean: arithmetic mean of T.
        std: sample standard deviation of T.
    """

    label: str
    members: int
    left: int
    T: Interval
    mean: float
    std: float


@dataclass(frozen=True)
class TransientFit:
    """All of ``analyze``'s answer about the transient."""

    theta: float
    each: tuple[MemberTransient, ...]
    pools: tuple[Pool, ...]


@dataclass(frozen=True)
class Series:
    """One member's series, as a run file holds them.

    Attributes:
        steps: step of each row, (n,).
        log_rho: (n,).
        rho_eq_over_rho: a/q, (n,).
        a: mean(y g), (n,).
        q: mean(g^2), (n,).
        loss: mean((g - y)^2), (n,).
        rho_k: layer norms, (n, L).
        lr: learning rate.
    """

    steps: Steps
    log_rho: Floats
    rho_eq_over_rho: Floats
    a: Floats
    q: Floats
    loss: Floats
    rho_k: Floats
    lr: float


def measure(member: int, series: Series, *, theta: float = THETA, fit: bool = True) -> MemberTransient:
    """T of one member by every definition, with the outcome's name where there is none."""
    reached = (series.rho_eq_over_rho > 0) & (series.rho_eq_over_rho <= 1 / theta)
    row, dwell = first_lasting(reached, series.steps)
    outcome = _outcome(series, reached, row, dwell)
    T = np.nan
    if outcome is Outcome.LEFT:
        with np.errstate(invalid="ignore", divide="ignore"):
            T = _interpolated(series.steps, np.log(series.rho_eq_over_rho), row, -np.log(theta))
    loss_row, _ = first_lasting(series.loss < 0.5, series.steps)
    T_loss = _interpolated(series.steps, series.loss, loss_row, 0.5) if loss_row >= 0 else np.nan
    found, why = None, f"needs a T; {outcome}"
    if fit and outcome is Outcome.LEFT:
        found, why = fit_closed_form(series, T, theta=theta)
    return MemberTransient(member, outcome, float(T), dwell, float(T_loss), _inflection(series), found, why)


def first_lasting(condition: NDArray[np.bool_], steps: Steps) -> tuple[int, int]:
    """First row from which a condition holds without a break for the dwell, and that dwell in steps.

    The dwell is 10 steps or 5 % of the step itself, whichever is longer, so that the chance passage
    of a/q through (0, 2) while A changes sign at a random start does not count.

    Returns:
        (row, dwell); row is -1 where there is none.
    """
    rows = len(steps)
    breaks = np.where(condition, rows, np.arange(rows))
    next_break = np.minimum.accumulate(breaks[::-1])[::-1] if rows else breaks
    step_after = np.append(steps, steps[-1] + 1 if rows else 0)
    lasts = step_after[next_break] - steps
    dwell = np.maximum(DWELL_STEPS, np.ceil(DWELL_FRACTION * steps)).astype(int)
    good = np.flatnonzero(condition & (lasts >= dwell))
    if len(good):
        return int(good[0]), int(dwell[good[0]])
    return -1, int(dwell[-1]) if rows else DWELL_STEPS


def _outcome(series: Series, reached: NDArray[np.bool_], row: int, dwell: int) -> Outcome:
    if row >= 0:
        return Outcome.LEFT if row > 0 else Outcome.NONE
    return _why_not(series, reached, dwell)


def _why_not(series: Series, reached: NDArray[np.bool_], dwell: int) -> Outcome:
    finite = np.isfinite(series.q) & np.isfinite(series.log_rho)
    if not finite.all():
        return Outcome.DIVERGED
    if series.q[-1] == 0:
        return Outcome.DEAD
    if len(reached) < _FEW:
        return Outcome.SPARSE
    last_miss = int(np.flatnonzero(np.append(True, ~reached))[-1])  # 0 is before the first row
    if last_miss < len(reached) and series.steps[-1] - series.steps[last_miss] < dwell:
        return Outcome.TOO_SHORT
    if reached[-(len(reached) // 4) :].any():
        return Outcome.UNSETTLED
    decayed = series.log_rho[-1] - series.log_rho[0] < -np.log(100)
    return Outcome.DECAYED if decayed else Outcome.NEVER


def _interpolated(steps: Steps, values: Floats, row: int, level: float) -> float:
    """Where a falling series crosses a level just before ``row``; the row's own step where it cannot be told."""
    if row <= 0 or not values[row - 1] > level:
        return float(steps[max(row, 0)])
    share = (values[row - 1] - level) / (values[row - 1] - values[row])
    return float(steps[row - 1] + share * (steps[row] - steps[row - 1]))


def growth_rate(series: Series) -> Floats:
    """d log rho/dt = 2 S (a - q), S = sum_k rho_k^-2, per unit of learning rate x steps (equation (3) summed)."""
    with np.errstate(all="ignore"):
        return np.asarray(2 * (series.rho_k**-2.0).sum(axis=1) * (series.a - series.q))


def _inflection(series: Series) -> float:
    rate = growth_rate(series)
    if not (rate > 0).any():
        return np.nan
    return float(series.steps[np.nanargmax(np.where(np.isfinite(rate), rate, -np.inf))])


# --- closed form -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Model:
    """The closed form as a curve of log r with parameters p = (log A, log r_eq, logit-like start below r_eq)."""

    t: Floats
    depth: int

    def unpack(self, p: Floats) -> tuple[float, float, float]:
        r_eq = float(np.exp(p[1]))
        return float(np.exp(p[0])), r_eq, float(r_eq / (1 + np.exp(p[2])))

    def curve(self, p: Floats) -> Floats:
        A, r_eq, start = self.unpack(p)
        return np.log(theory.norm_trajectory(self.t, start, A=A, B=A / r_eq**self.depth, depth=self.depth))

    def time_to(self, p: Floats, theta: float) -> float:
        """Time at which rho = theta rho_eq; negative where that was before the window."""
        A, r_eq, start = self.unpack(p)
        reach = theta ** (1 / self.depth) * r_eq
        early, late = sorted((reach, start))
        span = float(theory.time_to_reach(late, early, A=A, B=A / r_eq**self.depth, depth=self.depth))
        return span if reach > start else -span

    def guess(self, log_r: Floats) -> Floats:
        rise = float(np.max(log_r)) - float(log_r[0])
        top = float(np.max(log_r)) + 0.05 * rise
        speed = max(float(np.max(np.gradient(log_r, self.t))), 1e-12)
        return np.array([np.log(speed) - (self.depth - 2) * top, top, np.log(np.expm1(max(top - log_r[0], 1e-3)))])


def fit_closed_form(series: Series, T: float, *, theta: float = THETA) -> tuple[ClosedFormFit | None, str]:
    """Fits equation (5) with constant A and B to log rho between T/2 and 2 T.

    The parameters are log A, log r_eq and the norm at the window's start; residuals are of a smooth
    curve and hence correlated, so the number of points is divided by their autocorrelation time.

    Returns:
        (fit, "") or (None, reason).
    """
    inside = np.flatnonzero((series.steps >= T / 2) & (series.steps <= 2 * T))
    if len(inside) < 20:
        return None, f"only {len(inside)} evaluations between T/2 and 2T, expected at least 20"
    rows = inside[np.unique(np.linspace(0, len(inside) - 1, _FIT_POINTS).astype(int))]
    first, last = int(series.steps[rows[0]]), int(series.steps[rows[-1]])
    depth = series.rho_k.shape[1]
    log_r = series.log_rho[rows] / depth
    rise = float(np.max(log_r) - np.min(log_r))
    if log_r[-1] <= log_r[0] or rise < 1e-3:
        return None, f"log rho rises by {rise * depth:.2g} between T/2 and 2T, too little to fit"
    model = _Model((series.steps[rows] - first) * series.lr, depth)

    def misfit(p: Floats) -> Floats:
        return np.asarray(model.curve(p) - log_r)

    try:
        solved = optimize.least_squares(misfit, model.guess(log_r), x_scale=[1.0, max(rise, 0.01), 1.0], max_nfev=200)
    except (ValueError, FloatingPointError) as problem:
        return None, f"the least squares failed ({problem})"
    if not solved.success:
        return None, "the least squares did not converge"
    found = np.asarray(solved.x)
    covariance, freedom = _covariance(solved)
    residual = float(np.sqrt(np.mean(solved.fun**2)) / rise)
    with np.errstate(all="ignore"):
        A = np.exp(-series.log_rho[rows]) * series.a[rows]
    fitted_T = _propagated(lambda p: first + model.time_to(p, theta) / series.lr, found, covariance, freedom)
    if not first <= fitted_T.value <= last:
        fitted_T = Interval(np.nan, np.nan, np.nan)  # an extrapolation of a curve fitted elsewhere
    return ClosedFormFit(
        T=fitted_T,
        A=_propagated(lambda p: float(np.exp(p[0])), found, covariance, freedom),
        log_rho_eq=_propagated(lambda p: float(depth * p[1]), found, covariance, freedom),
        window=(first, last),
        residual=residual,
        A_drift=float(np.max(A) / np.min(A)) if (A > 0).all() else np.inf,
        holds=residual < _FIT_HOLDS,
    ), ""


def _covariance(solved: Any) -> tuple[Floats, float]:  # noqa: ANN401 - scipy's OptimizeResult
    """Covariance of the parameters and degrees of freedom, for residuals with an autocorrelation time."""
    n, parameters = solved.jac.shape
    tau = max(1.0, integrated_time(solved.fun))
    freedom = max(1.0, n / tau - parameters)
    variance = 2 * solved.cost / n * (n / tau) / freedom
    return np.linalg.pinv(solved.jac.T @ solved.jac) * variance * tau, freedom


def _propagated(of: Callable[[Floats], float], at: Floats, covariance: Floats, freedom: float) -> Interval:
    value = of(at)
    slope = optimize.approx_fprime(at, of, 1e-6)
    variance = max(float(slope @ covariance @ slope), 0.0)
    half = float(stats.t.ppf(0.975, freedom)) * variance**0.5
    return Interval(float(value), float(value - half), float(value + half))


# --- over members ------------------------------------------------------------------------------------------


def pool(each: Sequence[MemberTransient], labels: Sequence[str]) -> tuple[Pool, ...]:
    """T over the members with the same label; members that never left are counted, not averaged."""
    pools = []
    for label in dict.fromkeys(labels):
        group = [m for m, own in zip(each, labels, strict=True) if own == label]
        T = np.array([m.T for m in group if m.outcome is Outcome.LEFT])
        std = float(T.std(ddof=1)) if len(T) > 1 else np.nan
        pools.append(Pool(label, len(group), len(T), geometric_mean(T), float(T.mean()) if len(T) else np.nan, std))
    return tuple(pools)


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
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Interval(centre, centre - half, centre + half)
