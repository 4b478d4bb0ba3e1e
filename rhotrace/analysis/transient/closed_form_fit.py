"""The memo's closed form, constant A and B, fitted to one member's transient; and the driven solution beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rhotrace.statistics.autocorrelation import autocorrelation_time
from rhotrace.statistics.intervals import NONE, Interval, student_t
from rhotrace.statistics.numbers import written
from rhotrace.theory import norm_dynamics
from rhotrace.theory.norm_dynamics import THETA

Floats = NDArray[np.float64]
Steps = NDArray[np.int64]

_FIT_POINTS = 400
_FIT_HOLDS = 0.02
_CURVE_ERROR = 5e-5  # of ``theory.norm_trajectory``, relative


@dataclass(frozen=True)
class Series:
    """One member's series, as a run file holds them.

    Attributes:
        steps: step of each row, (n,).
        log_rho: (n,).
        rho_eq_over_rho: a/q, (n,).
        a: mean(y g), (n,).
        q: mean(g^2), (n,).
        depth: number of layers L.
        lr: learning rate; under a schedule the one to which it applies.
        elapsed: time of each row under a schedule, the sum of the learning rates before it; None where that is lr x steps.
    """

    steps: Steps
    log_rho: Floats
    rho_eq_over_rho: Floats
    a: Floats
    q: Floats
    depth: int
    lr: float
    elapsed: Floats | None = None

    @property
    def times(self) -> Floats:
        """Time of each row."""
        return np.asarray(self.steps * self.lr if self.elapsed is None else self.elapsed, dtype=np.float64)

    def time_at(self, step: float) -> float:
        """Time of a step; NaN beyond the last row under a schedule."""
        if self.elapsed is None:
            return step * self.lr
        return float(np.interp(step, self.steps, self.elapsed, right=np.nan))

    def step_at(self, time: float) -> float:
        """Step of a time; NaN beyond the last row under a schedule."""
        if self.elapsed is None:
            return time / self.lr
        return float(np.interp(time, self.elapsed, self.steps, right=np.nan))

    def driven(self) -> Floats:
        """log rho of equation (5) with the measured a(t) and q(t), from the measured start, at the rows of the series."""
        return norm_dynamics.driven(self.times, self.log_rho, self.a, self.q, depth=self.depth)


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
class Driven:
    """Equation (5) integrated with the measured A(t) and B(t), compared with the measured log rho.

    Attributes:
        rms: root mean square of the difference of log rho, over the run.
        largest: largest difference.
        rise: largest minus smallest measured log rho, to judge them by.
        T: first step from which the driven rho >= theta rho_eq for the dwell; NaN where there is none.
    """

    rms: float
    largest: float
    rise: float
    T: float


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
        return np.log(norm_dynamics.norm_trajectory(self.t, start, A=A, B=A / r_eq**self.depth, depth=self.depth))

    def time_to(self, p: Floats, theta: float) -> float:
        """Time at which rho = theta rho_eq; negative where that was before the window."""
        A, r_eq, start = self.unpack(p)
        reach = theta ** (1 / self.depth) * r_eq
        early, late = sorted((reach, start))
        span = float(norm_dynamics.time_to_reach(late, early, A=A, B=A / r_eq**self.depth, depth=self.depth))
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
    depth = series.depth
    # Means of neighbours: an alternation from step to step is not what is fitted.
    pairs = inside[: len(inside) // 2 * 2].reshape(-1, 2)
    rows = pairs[np.unique(np.linspace(0, len(pairs) - 1, _FIT_POINTS).astype(int))]
    log_r, steps = series.log_rho[rows].mean(axis=1) / depth, series.steps[rows].mean(axis=1)
    first, last = int(series.steps[inside[0]]), int(series.steps[inside[-1]])
    rise = float(np.max(log_r) - np.min(log_r))
    if log_r[-1] <= log_r[0] or rise < 1e-3:
        return None, f"log rho rises by {written(rise * depth, 2)} between T/2 and 2T, too little to fit"
    scheduled = series.elapsed is not None
    times = series.times[rows].mean(axis=1) if scheduled else steps * series.lr
    model = _Model(times - times[0] if scheduled else (steps - steps[0]) * series.lr, depth)

    def misfit(p: Floats) -> Floats:
        return np.asarray(model.curve(p) - log_r)

    from scipy import optimize

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

    def fitted(p: Floats) -> float:
        span = model.time_to(p, theta)
        return series.step_at(float(times[0]) + span) if scheduled else float(steps[0]) + span / series.lr

    fitted_T = _propagated(fitted, found, covariance, freedom)
    # Below _CURVE_ERROR the curve itself is not known.
    half = float(np.hypot(fitted_T.high - fitted_T.value, _CURVE_ERROR * (last - first)))
    fitted_T = Interval(fitted_T.value, fitted_T.value - half, fitted_T.value + half)
    if not first <= fitted_T.value <= last:
        fitted_T = NONE  # an extrapolation of a curve fitted elsewhere
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
    tau = autocorrelation_time(np.asarray(solved.fun), parameters)
    freedom = max(1.0, n / tau - parameters)
    variance = 2 * solved.cost / n * (n / tau) / freedom
    return np.linalg.pinv(solved.jac.T @ solved.jac) * variance * tau, freedom


def _propagated(of: Callable[[Floats], float], at: Floats, covariance: Floats, freedom: float) -> Interval:
    from scipy import optimize

    value = of(at)
    slope = optimize.approx_fprime(at, of, 1e-6)
    variance = max(float(slope @ covariance @ slope), 0.0)
    half = student_t(freedom) * variance**0.5
    return Interval(float(value), float(value - half), float(value + half))


def constant_T(series: Series, theta: float) -> float:
    """T in steps if A and B stayed what they are at the start; NaN where A is not positive there."""
    log_rho, a, q = (float(x[0]) for x in (series.log_rho, series.a, series.q))
    depth = series.depth
    if not (a > 0 and q > 0):
        return np.nan
    log_eq = log_rho + np.log(a / q)
    unit = np.exp((depth - 2) / depth * log_eq + np.log(a) - log_rho)  # A r_eq^(L-2)
    start = np.exp((log_rho - log_eq) / depth)
    return series.step_at(float(norm_dynamics.transient_time(start, depth=depth, A=unit, B=unit, theta=theta)))
