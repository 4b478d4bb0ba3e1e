"""The integrated autocorrelation time of a series, with its interval."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rhotrace.statistics.intervals import Interval

Floats = NDArray[np.float64]

_MIN_LAGS = 10
_WINDOW = 5.0  # Sokal's c
_BLOCK = 1 << 16  # values, or lags, that are taken at a time


def integrated_time(x: Floats, *, window_factor: float = _WINDOW) -> float:
    """Integrated autocorrelation time of a series, in samples, by Sokal's self-consistent window.

    As in emcee (Foreman-Mackey et al., arXiv:1202.3665; A. Sokal, Monte Carlo methods in statistical
    mechanics, 1996): the smallest M with M >= c tau(M) ends the sum. White noise has tau = 1. At least
    ten lags are summed, so that a series which alternates in sign gets its true tau below 1.
    """
    from scipy import fft

    n = len(x)
    size = fft.next_fast_len(2 * n)
    padded = np.zeros(size)
    values = np.subtract(x, np.mean(x, dtype=np.float64), out=padded[:n])
    del x  # the series may be long: nothing is kept that is not needed
    if n < 2 or not values.any():
        return 1.0
    values /= max(values.max(), -values.min())
    transform = fft.rfft(padded)
    del values, padded
    for first in range(0, len(transform), _BLOCK):
        block = transform[first : first + _BLOCK]
        transform[first : first + _BLOCK] = block * block.conj()
    covariance = fft.irfft(transform, size)[:n]
    del transform
    sums = covariance / covariance[0]
    del covariance
    np.cumsum(sums, out=sums)
    for first in range(0, n, _BLOCK):
        tau = 2 * sums[first : first + _BLOCK] - 1
        lag = np.arange(first, first + len(tau))
        ends = np.flatnonzero((lag >= window_factor * tau) & (lag >= min(_MIN_LAGS, n - 1)))
        if len(ends):
            return float(max(tau[ends[0]], 1e-3))
    return float(max(2 * sums[-1] - 1, 1e-3))


def forget_lengths() -> None:
    """Frees what scipy.fft keeps of the last sixteen lengths that it transformed: for a long series, as much as the series."""
    from scipy import fft

    for short in range(2, 18):
        fft.rfft(np.zeros(short))


def autocorrelation_time(residuals: Floats, parameters: int) -> float:
    """Autocorrelation time of the residuals of a fit, in samples, at least 1: the larger of two estimates.

    A fit bends to slow noise, so the autocorrelation time of residuals is too short. The other estimate is
    that of a first-order process, (1 + phi)/(1 - phi), with the correlation of neighbours phi corrected to first order
    in 1/n by (1 + 3 phi + parameters (1 + phi))/n (after Kendall, and Marriott and Pope, Biometrika 41, 1954).
    """
    n = len(residuals)
    total = float(residuals @ residuals)
    if n < 10 or not total:
        return 1.0
    phi = float(residuals[1:] @ residuals[:-1]) / total
    if phi <= 2 / np.sqrt(n):
        return max(1.0, integrated_time(residuals))  # not distinguished from white noise
    phi = min(phi + (1 + 3 * phi + parameters * (1 + phi)) / n, 1 - 1 / n)
    return max(1.0, integrated_time(residuals), (1 + phi) / (1 - phi))


def integrated_time_interval(tau: float, n: int) -> Interval:
    """95 % interval of ``integrated_time`` over n samples: variance tau^2 (4 M + 2)/n, M = c tau (Madras and Sokal,
    J. Stat. Phys. 50, 1988, equation (4.19), whose tau is half of this one). It is itself too short under some hundreds
    of tau, and means nothing for a series that alternates.
    """  # noqa: D205 - the formula is the summary
    half = 1.96 * tau * np.sqrt((4 * max(_WINDOW * tau, _MIN_LAGS) + 2) / n)
    return Interval(tau, max(0.0, tau - half), tau + half)
