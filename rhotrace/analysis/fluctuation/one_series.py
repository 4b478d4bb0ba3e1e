"""How far rho stays from rho_eq after the transient: offset, fluctuation, autocorrelation time, and intervals of each.

The series is ``delta = log(rho/rho_eq) = -log(a/q)`` on the full training set at frozen weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rhotrace.statistics.autocorrelation import forget_lengths, integrated_time, integrated_time_interval
from rhotrace.statistics.intervals import NONE, Interval, by_unit, mean, student_t

Floats = NDArray[np.float64]

FEWEST = 50  # evaluations in a window
LONG_ENOUGH = 50  # autocorrelation times, below which the estimate of tau is itself doubtful
LEVELS = (0.025, 0.25, 0.5, 0.75, 0.975)
FASTEST = 0.8  # of the Nyquist frequency: periods under 2.5 evaluations

SETTLED = 0.01  # |mean delta| and its drift below which rho is at rest at rho_eq, as in the claim of equation (6)
MOVING = 0.05  # change of log rho in the window above which it is not
SHARES = (0.0, 0.25, 0.5, 0.75)  # of a window, where the shorter windows of ``choices`` start
TRENDS = ("mean", "line", "cubic", "running mean")  # which may be taken from delta

_STARTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
_RESAMPLES = 1000
_FEWEST_BLOCKS, _MOST_BLOCKS = 4, 2000
_RUNNING = 10  # running means are over this part of a window
_DIRECT = 1 << 28  # products of a sum that is written out
_PIECES = 12  # of the window, to see whether the fluctuation dies


@dataclass(frozen=True)
class Decay:
    """How the fluctuation's size changes after T, from its jumps in twelve equal pieces.

    The size of a piece is the standard deviation of the change of delta from one evaluation to the next, in which the
    relaxation to rho_eq just after T, slow beside it, hardly counts.

    Attributes:
        rate: slope of log size against steps; negative where the fluctuation dies.
        power: slope of log size against log step.
        against_loss: slope of log size against log loss; 1/2 where residuals and fluctuation die together, because
            the noise of a sample's gradient is in proportion to its residual.
        straighter: whether size against step is nearer to an ``exponential`` or to a ``power`` law.
        fall: size in the last piece over that in the first.
        steps: middle of each piece; empty for a mean over members, as is ``sizes``.
        sizes: of the pieces.
    """

    rate: Interval
    power: Interval
    against_loss: Interval
    straighter: str
    fall: float
    steps: tuple[float, ...] = ()
    sizes: tuple[float, ...] = ()


@dataclass(frozen=True)
class Fluctuation:
    """One member's delta in its window after T. Standard deviations are about a line, intervals of blocks of time.

    Attributes:
        member: its number.
        window: first and last step.
        stationary: whether a linear trend in the window is insignificant.
        offset: mean of delta; 0 is rho = rho_eq.
        distance: root mean square of delta, its distance from 0 by offset, drift and fluctuation together.
        drift: change of delta along its line, from the first to the last step of the window.
        rise: the same of log rho; NaN where log rho was not given.
        std: standard deviation of delta.
        std_rho: of log rho; NaN, with the three that follow, where log rho was not given.
        std_rho_eq: of log rho_eq.
        correlation: of log rho and log rho_eq at the same step.
        lag: steps by which log rho comes after log rho_eq where they agree most.
        lag_correlation: their correlation there.
        skew: third standardised moment of delta; 0 where it strays as far up as down.
        quantiles: of delta, at ``LEVELS``.
        jump: standard deviation of the change of delta from one evaluation to the next.
        tau: integrated autocorrelation time, in steps.
        effective: number of independent values that the window is worth.
        long_enough: window of at least 50 tau; below that tau and the intervals are too optimistic.
        period_two: share of the variance at the highest frequencies (periods under 2.5 evaluations);
            above 0.5 it is an oscillation from step to step, not noise.
        swell: std in the window's second half over that in its first; far from 1, std depends on where the
            run ends.
        decay: of the fluctuation from T to the window's end; None where it is too short to tell.
    """

    member: int
    window: tuple[int, int]
    stationary: bool
    offset: Interval
    distance: float
    drift: float
    rise: float
    std: Interval
    std_rho: Interval
    std_rho_eq: Interval
    correlation: float
    lag: float
    lag_correlation: float
    skew: float
    quantiles: tuple[float, ...]
    jump: float
    tau: Interval
    effective: float
    long_enough: bool
    period_two: float
    swell: float
    decay: Decay | None

    @property
    def settled(self) -> bool:
        """Whether rho is at rest at rho_eq in the window, apart from fluctuation."""
        at_rest = abs(self.offset.value) < SETTLED and abs(self.drift) < SETTLED
        return at_rest and not abs(self.rise) >= MOVING  # the rise is NaN where log rho was not given


def measure(
    member: int,
    steps: NDArray[np.int64],
    delta: Floats,
    after: float,
    *,
    until: float = np.inf,
    find_window: bool = True,
    log_rho: Floats | None = None,
    loss: Floats | None = None,
    transient: float | None = None,
) -> Fluctuation | str:
    """The fluctuation of one member after its transient, or why there is none.

    Args:
        member: its number.
        steps: step of each value, (n,).
        delta: log(rho/rho_eq), (n,).
        after: T; the window starts there or later.
        until: last step to look at.
        find_window: start where no trend is left; otherwise at ``after`` itself.
        log_rho: (n,), to tell whether rho moves or rho_eq.
        loss: (n,), to compare a dying fluctuation with.
        transient: T, from where the decay is measured, where ``after`` is later.
    """
    rows = slice(int(np.searchsorted(steps, after)), int(np.searchsorted(steps, until, side="right")))
    if not np.isfinite(series := delta[rows]).all():
        return "delta is not finite everywhere after T (a <= 0 or divergence)"
    if len(series) < FEWEST:
        return f"only {len(series)} evaluations after T and in the window, expected at least {FEWEST}"
    start, stationary = settled_from(series, _STARTS if find_window else _STARTS[:1])
    rows = slice(rows.start + start, rows.stop)
    series, window = delta[rows], (int(steps[rows][0]), int(steps[rows][-1]))
    detrended = detrend(series)
    tau, per_row = integrated_time(detrended), float(window[1] - window[0]) / (len(series) - 1)
    memory = integrated_time_interval(tau, len(series))
    std, skew = _blocked_std(detrended, tau), _skew(detrended)
    del detrended  # a run may be long
    own = np.full_like(series, np.nan) if log_rho is None else log_rho[rows]
    return Fluctuation(
        member=member,
        window=window,
        stationary=stationary,
        offset=_blocked_mean(series, tau),
        distance=float(np.sqrt(np.mean(series**2))),
        drift=_climb(series),
        rise=_climb(own),
        std=std,
        **_of_norms(own, series, tau, per_row),
        skew=skew,
        quantiles=tuple(np.quantile(series, LEVELS).tolist()),
        jump=float(np.diff(series).std()),
        tau=Interval(tau * per_row, memory.low * per_row, memory.high * per_row),
        effective=len(series) / max(tau, 1.0),
        long_enough=len(series) >= LONG_ENOUGH * tau,
        period_two=_fast_share(detrend(series)),
        swell=_swell(series),
        decay=_decay_since(after if transient is None else transient, until, steps, delta, loss),
    )


def _of_norms(log_rho: Floats, delta: Floats, tau: float, per_row: float) -> dict[str, Any]:
    """What log rho and log rho_eq do in a window, by the names of the fields of ``Fluctuation``."""
    rho, rho_eq = detrend(log_rho), detrend(log_rho - delta)
    product, scale = float(np.mean(rho * rho_eq)), float(rho.std() * rho_eq.std())
    found = {"std_rho": _blocked_std(rho, tau), "std_rho_eq": _blocked_std(rho_eq, tau)}
    del rho, rho_eq  # computed again for the lag, which needs their memory
    lag, lag_correlation = _lag(log_rho, delta, scale)
    return {**found, "correlation": _ratio(product, scale), "lag": lag * per_row, "lag_correlation": lag_correlation}


def _decay_since(
    first: float, until: float, steps: NDArray[np.int64], delta: Floats, loss: Floats | None
) -> Decay | None:
    """The decay of the fluctuation from a step on; None where delta is not finite throughout."""
    begins, ends = np.searchsorted(steps, first), np.searchsorted(steps, until, side="right")
    dying = slice(int(begins), int(ends))  # views, not copies: a run may be long
    if not np.isfinite(delta[dying]).all():
        return None
    return _decay(steps[dying], delta[dying], None if loss is None else loss[dying])


def choices(delta: Floats) -> tuple[float, ...]:
    """The fluctuation by each choice of window and trend: for each of ``SHARES``, by each of ``TRENDS``.

    The part of delta that is noise has one size by all of them. That of a drift depends on them.
    """
    windows = (delta[int(share * len(delta)) :] for share in SHARES)
    return tuple(float(_without(trend, window).std()) for window in windows for trend in TRENDS)


def _without(trend: str, x: Floats) -> Floats:
    if trend == "running mean":
        width = max(2, len(x) // _RUNNING)
        means = _running_means(x, width)
        return np.asarray(x[width // 2 :][: len(means)] - means)
    degree = {"mean": 0, "line": 1, "cubic": 3}[trend]
    time = np.linspace(-1, 1, len(x))
    return np.asarray(x - np.polynomial.Polynomial.fit(time, x, degree)(time))


def _running_means(x: Floats, width: int) -> Floats:
    """Means of ``width`` neighbours; those of a long series by Fourier transforms, whose last digits differ."""
    kernel = np.full(width, 1 / width)
    if len(x) * width <= _DIRECT:
        return np.convolve(x, kernel, mode="valid")
    from scipy import signal

    return np.asarray(signal.oaconvolve(x, kernel, mode="valid"))


def _climb(x: Floats) -> float:
    """Change of a series along its line, from its first value to its last."""
    return float(_line(x)[1] * 2 * np.sqrt(3))


def detrend(x: Floats) -> Floats:
    """What is left of a series about its own line, (n,)."""
    return _line(x)[0]


def spectrum(x: Floats, per_row: float, segment: int) -> tuple[Floats, Floats]:
    """(frequency in cycles per step, one-sided power density) of a series about its line, by Welch's method.

    Summed over frequencies times their spacing it gives the variance. Zero frequency is left out, for the line took it.

    Args:
        x: the series, (n,).
        per_row: steps from one value to the next.
        segment: values in one segment; at most n.
    """
    from scipy import signal

    found = signal.welch(detrend(x), fs=1 / per_row, nperseg=segment)
    frequency, density = (np.asarray(values, dtype=np.float64) for values in found)
    return frequency[1:], density[1:]


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 else np.nan


def settled_from(delta: Floats, starts: tuple[float, ...] = _STARTS) -> tuple[int, bool]:
    """Earliest row after which a linear trend is not significant at 1 %; else the last half, not stationary.

    Noise and memory are those of the last third: a relaxation in the series would pass for noise with
    a long memory if they were taken from the candidate window itself. A window that was given is kept.
    """
    late, _ = _line(delta[-max(FEWEST, len(delta) // 3) :])
    tau, spread = max(integrated_time(late), 1.0), float(late.std())
    for share in starts:
        start = int(share * len(delta))
        effective = (len(delta) - start) / tau
        if len(delta) - start < FEWEST or effective < 5:
            break
        _, slope = _line(delta[start:])
        if abs(slope) <= student_t(max(effective - 2, 1), 0.995) * spread / np.sqrt(effective):
            return start, True
    return (len(delta) // 2 if len(starts) > 1 else 0), False


def _line(x: Floats) -> tuple[Floats, float]:
    """Residuals of a line, and its slope per standard deviation of time."""
    time = np.linspace(-np.sqrt(3), np.sqrt(3), len(x))  # mean 0, variance 1
    slope = float(np.mean(time * x) / np.mean(time**2))
    time *= slope
    left = x - x.mean()
    left -= time
    return left, slope


def _lag(log_rho: Floats, delta: Floats, scale: float) -> tuple[float, float]:
    """Rows by which log rho comes after log rho_eq where their correlation is largest in size, and that correlation.

    Both are about their lines; ``scale`` is the product of their standard deviations.
    """
    if not scale > 0:
        return np.nan, np.nan
    from scipy import fft

    forget_lengths()
    n = len(delta)
    most = n // 4  # beyond that too few pairs are left
    size = fft.next_fast_len(2 * n - 1, real=True)
    product = fft.rfft(detrend(log_rho), size)
    product *= fft.rfft(detrend(log_rho - delta)[::-1], size)
    correlation = fft.irfft(product, size)[n - 1 - most : n + most] / (scale * n)
    at = int(np.argmax(np.abs(correlation)))
    return float(at - most), float(correlation[at])


# --- intervals ---------------------------------------------------------------------------------------------


def _blocked_std(x: Floats, tau: float) -> Interval:
    """Standard deviation of a series of mean 0, with the interval of its mean square.

    The squares of a series that alternates or oscillates have a longer autocorrelation time than the series itself.
    """
    memory = max(tau, integrated_time(x**2)) if np.isfinite(x).all() else tau
    low, high = np.sqrt(_bootstrap(x**2, memory))
    return Interval(float(np.sqrt(np.mean(x**2))), float(low), float(high))


def _blocked_mean(x: Floats, tau: float) -> Interval:
    return Interval(float(x.mean()), *_bootstrap(x, tau))


def _bootstrap(x: Floats, tau: float) -> tuple[float, float]:
    """95 % interval of a mean from resampled blocks of several autocorrelation times; NaN for too few blocks.

    Percentiles of so few blocks are too narrow; their level is widened as that of Student's t is against a normal
    (Hesterberg, The American Statistician 69, 2015, section 5.2).
    """
    from scipy.special import ndtr

    length = int(np.ceil(max(5 * tau, len(x) / _MOST_BLOCKS, 1)))
    blocks = len(x) // length
    if blocks < _FEWEST_BLOCKS or not np.isfinite(x).all():
        return np.nan, np.nan
    means = x[: blocks * length].reshape(blocks, length).mean(axis=1)
    drawn = np.random.default_rng(0).integers(blocks, size=(_RESAMPLES, blocks))
    level = float(ndtr(student_t(blocks - 1, 0.025) * np.sqrt(blocks / (blocks - 1))))
    low, high = np.quantile(means[drawn].mean(axis=1), [level, 1 - level])
    return float(low), float(high)


# --- what tells noise from other things --------------------------------------------------------------------


def _skew(x: Floats) -> float:
    from scipy import stats

    return float(stats.skew(x)) if x.std() > 0 else 0.0


def _swell(series: Floats) -> float:
    first, second = np.split(series, [len(series) // 2])
    return _ratio(float(detrend(second).std()), float(detrend(first).std()))


def _fast_share(x: Floats) -> float:
    from scipy import fft

    forget_lengths()
    power = np.abs(fft.rfft(x)) ** 2
    forget_lengths()
    total = power[1:].sum()
    return float(power[int(FASTEST * len(power)) :].sum() / total) if total > 0 else 0.0


def _decay(steps: NDArray[np.int64], delta: Floats, loss: Floats | None) -> Decay | None:
    """The fluctuation's size in pieces of the window, against step, its logarithm, and the loss."""
    pieces = np.array_split(np.arange(len(delta)), _PIECES)
    if len(pieces[-1]) < FEWEST // 2:
        return None
    size = np.array([np.diff(delta[piece]).std() for piece in pieces])
    if not (size > 0).all():
        return None
    log_size = np.log(size)
    middle = np.array([steps[piece].mean() for piece in pieces])
    rate, residual = _slope(middle, log_size)
    power, power_residual = _slope(np.log(np.maximum(middle, 1)), log_size)
    with_loss = NONE
    if loss is not None:
        means = np.array([loss[piece].mean() for piece in pieces])
        if (means > 0).all():
            with_loss, _ = _slope(np.log(means), log_size)
    straighter = "exponential" if residual <= power_residual else "power"
    fall = float(size[-1] / size[0])
    return Decay(rate, power, with_loss, straighter, fall, tuple(middle.tolist()), tuple(size.tolist()))


def _slope(x: Floats, y: Floats) -> tuple[Interval, float]:
    """Slope of a line with Student's t interval, and the residuals' sum of squares."""
    if np.ptp(x) <= 1e-9 * np.abs(x).max():  # nothing but rounding
        return NONE, float(np.sum((y - y.mean()) ** 2))
    from scipy import stats

    fit = stats.linregress(x, y)
    half = float(student_t(len(x) - 2) * fit.stderr)
    residual = y - fit.intercept - fit.slope * x
    return Interval(float(fit.slope), float(fit.slope) - half, float(fit.slope) + half), float(residual @ residual)


def pooled_decay(each: Sequence[Decay], seeds: Sequence[int]) -> Decay:
    """The decay over members: Student's t over distinct seeds for every slope, geometric mean of the falls."""
    falls = np.array([d.fall for d in each])
    exponential = sum(d.straighter == "exponential" for d in each)

    def pooled(slopes: list[Interval]) -> Interval:
        if len(slopes) == 1:
            return slopes[0]
        return mean(by_unit(np.array([s.value for s in slopes]), seeds, lambda same: float(same.mean())))

    return Decay(
        rate=pooled([d.rate for d in each]),
        power=pooled([d.power for d in each]),
        against_loss=pooled([d.against_loss for d in each]),
        straighter="exponential" if 2 * exponential >= len(each) else "power",
        fall=float(np.exp(np.log(falls).mean())),
    )
