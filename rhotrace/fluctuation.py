"""How far rho stays from rho_eq after the transient: offset, fluctuation, memory, and what is sure about each.

The series is ``delta = log(rho/rho_eq) = -log(a/q)`` on the full training set at frozen weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, stats

Floats = NDArray[np.float64]

_STARTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
_MIN_LAGS = 10
_MIN_POINTS = 50
_LONG_ENOUGH = 50  # autocorrelation times, below which the estimate of tau is itself doubtful
_RESAMPLES = 1000


@dataclass(frozen=True)
class Fluctuation:
    """One member's delta in its window after T.

    Attributes:
        member: its number.
        window: first and last step.
        stationary: whether a linear trend in the window is insignificant.
        offset: mean of delta; 0 is rho = rho_eq.
        std: standard deviation of delta about its linear trend.
        low: lower end of the 95 % block-bootstrap interval of std.
        high: upper end.
        tau: integrated autocorrelation time, in steps.
        effective: number of independent values that the window is worth.
        long_enough: window of at least 50 tau; below that tau and the interval are too optimistic.
        period_two: share of the variance at the highest frequencies (periods under 2.5 evaluations);
            above 0.5 it is an oscillation from step to step, not noise.
        swell: std in the window's second half over that in its first; far from 1, std depends on where the
            run ends.
        std_rho: standard deviation of log rho about its line in the same window.
        std_rho_eq: the same of log rho_eq; NaN with std_rho where log rho was not given.
        correlation: of log rho and log rho_eq about their lines.
    """

    member: int
    window: tuple[int, int]
    stationary: bool
    offset: float
    std: float
    low: float
    high: float
    tau: float
    effective: float
    long_enough: bool
    period_two: float
    swell: float
    std_rho: float
    std_rho_eq: float
    correlation: float


def integrated_time(x: Floats, *, window_factor: float = 5.0) -> float:
    """Integrated autocorrelation time of a series, in samples, by Sokal's self-consistent window.

    As in emcee (Foreman-Mackey et al., arXiv:1202.3665; A. Sokal, Monte Carlo methods in statistical
    mechanics, 1996): the smallest M with M >= c tau(M) ends the sum. White noise has tau = 1. At least
    ten lags are summed, so that a series which alternates in sign gets its true tau below 1.
    """
    x = np.asarray(x, dtype=np.float64)
    n = len(x)
    x = x - x.mean()
    if n < 2 or not np.any(x):
        return 1.0
    size = fft.next_fast_len(2 * n)
    transform = fft.rfft(x / np.abs(x).max(), size)
    covariance = fft.irfft(transform * transform.conj(), size)[:n]
    tau = 2 * np.cumsum(covariance / covariance[0]) - 1
    lag = np.arange(n)
    ends = np.flatnonzero((lag >= window_factor * tau) & (lag >= min(_MIN_LAGS, n - 1)))
    return float(max(tau[ends[0] if len(ends) else n - 1], 1e-3))


def autocorrelation_time(residuals: Floats, parameters: int) -> float:
    """Autocorrelation time of the residuals of a fit, in samples, at least 1: the larger of two estimates.

    A fit bends to slow noise, so residuals forget sooner than the noise did. Beside ``integrated_time`` stands
    that of a first-order process, (1 + phi)/(1 - phi), with the correlation of neighbours phi mended to first order
    in 1/n by (1 + 3 phi + parameters (1 + phi))/n (after Kendall, and Marriott and Pope, Biometrika 41, 1954).
    """
    n = len(residuals)
    total = float(residuals @ residuals)
    if n < 10 or not total:
        return 1.0
    phi = float(residuals[1:] @ residuals[:-1]) / total
    if phi <= 2 / np.sqrt(n):
        return max(1.0, integrated_time(residuals))  # not told from white noise
    phi = min(phi + (1 + 3 * phi + parameters * (1 + phi)) / n, 1 - 1 / n)
    return max(1.0, integrated_time(residuals), (1 + phi) / (1 - phi))


def measure(
    member: int, steps: NDArray[np.int64], delta: Floats, after: float, log_rho: Floats | None = None
) -> Fluctuation | str:
    """The fluctuation of one member after its transient.

    Args:
        member: its number.
        steps: step of each value, (n,).
        delta: log(rho/rho_eq), (n,).
        after: T; the window starts there or later.
        log_rho: (n,), to tell whether rho moves or rho_eq.

    Returns:
        The measurement, or why there is none.
    """
    rows = np.flatnonzero(steps >= after)
    if not np.isfinite(delta[rows]).all():
        return "delta is not finite everywhere after T (a <= 0 or divergence)"
    if len(rows) < _MIN_POINTS:
        return f"only {len(rows)} evaluations after T, expected at least {_MIN_POINTS}"
    start, stationary = _window(delta[rows])
    rows = rows[start:]
    series = delta[rows]
    detrended, _, _ = _detrend(series)
    per_row = float(steps[rows[-1]] - steps[rows[0]]) / (len(rows) - 1)
    tau = integrated_time(detrended)
    low, high = _bootstrap_std(detrended, tau)
    half = len(series) // 2
    swell = _ratio(_detrend(series[half:])[2], _detrend(series[:half])[2])
    std_rho = std_rho_eq = correlation = np.nan
    if log_rho is not None:
        rho, _, std_rho = _detrend(log_rho[rows])
        rho_eq, _, std_rho_eq = _detrend(log_rho[rows] - series)
        correlation = _ratio(float(np.mean(rho * rho_eq)), std_rho * std_rho_eq)
    return Fluctuation(
        member=member,
        window=(int(steps[rows[0]]), int(steps[rows[-1]])),
        stationary=stationary,
        offset=float(series.mean()),
        std=float(detrended.std()),
        low=low,
        high=high,
        tau=tau * per_row,
        effective=len(series) / max(tau, 1.0),
        long_enough=len(series) >= _LONG_ENOUGH * tau,
        period_two=_fast_share(detrended),
        swell=swell,
        std_rho=std_rho,
        std_rho_eq=std_rho_eq,
        correlation=correlation,
    )


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 else np.nan


def _window(delta: Floats) -> tuple[int, bool]:
    """Earliest start after which a linear trend is not significant at 1 %; else the last half, not stationary.

    Noise and memory are those of the last third: a relaxation in the series would pass for noise with
    a long memory if they were taken from the candidate window itself.
    """
    late, _, spread = _detrend(delta[-max(_MIN_POINTS, len(delta) // 3) :])
    tau = max(integrated_time(late), 1.0)
    for share in _STARTS:
        start = int(share * len(delta))
        effective = (len(delta) - start) / tau
        if len(delta) - start < _MIN_POINTS or effective < 5:
            break
        _, slope, _ = _detrend(delta[start:])
        if abs(slope) <= stats.t.ppf(0.995, max(effective - 2, 1)) * spread / np.sqrt(effective):
            return start, True
    return len(delta) // 2, False


def _detrend(x: Floats) -> tuple[Floats, float, float]:
    """Residuals of a line, its slope per standard deviation of time, and the residuals' spread."""
    time = np.linspace(-np.sqrt(3), np.sqrt(3), len(x))  # mean 0, variance 1
    slope = float(np.mean(time * x) / np.mean(time**2))
    residual = x - x.mean() - slope * time
    return residual, slope, float(residual.std())


def _bootstrap_std(x: Floats, tau: float) -> tuple[float, float]:
    """95 % interval of the standard deviation from resampled blocks of several autocorrelation times."""
    length = int(np.ceil(max(5 * tau, 1)))
    blocks = len(x) // length
    if blocks < 4:
        return np.nan, np.nan
    squares = (x[: blocks * length] ** 2).reshape(blocks, length).mean(axis=1)
    drawn = np.random.default_rng(0).integers(blocks, size=(_RESAMPLES, blocks))
    low, high = np.quantile(np.sqrt(squares[drawn].mean(axis=1)), [0.025, 0.975])
    return float(low), float(high)


def _fast_share(x: Floats) -> float:
    power = np.abs(fft.rfft(x)) ** 2
    total = power[1:].sum()
    return float(power[int(0.8 * len(power)) :].sum() / total) if total > 0 else 0.0
