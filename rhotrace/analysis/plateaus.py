"""The plateaus of a loss: the staircase by which it comes down, as in saddle-to-saddle dynamics.

Training from a small start passes near saddles: the loss stays at one level for long, falls fast, and stays again.
Here a plateau is a level

- which takes at least ``SLOWER`` times as long to cross as the levels above and below it, through which the loss falls;
- which lies at least ``APART`` of the whole fall, and ``CLEAR`` times the noise, below the plateau before it;
- at which the loss stays at least as long as the fall to it took; at the first, as long as half the next fall takes.

So the definition needs no unit of time and no derivative. A steady decay, however slow it becomes, has no plateau but
the one at its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Steps = NDArray[np.int64]

SLOWER = 5.0  # times as long for one level as in the fastest part of the falls beside it
APART = 0.05  # of the whole fall: least distance between neighbouring plateaus
CLEAR = 4.0  # times the noise: the same
LEFT = 0.1  # of the smaller fall beside a plateau, or twice the noise: within this of its level the loss is on it
_LEVELS = 100
_FEW = 10
_BLOCK = 1 << 14  # rows whose intermediate values stay in the processor's cache
_NORMAL = 0.6744897501960817  # median of the absolute deviation of a standard normal variable


@dataclass(frozen=True)
class Plateau:
    """A level at which the loss stays.

    Attributes:
        level: median of the loss on the plateau.
        first: step at which the loss comes within a tenth of the smaller fall beside it, or
            twice the noise where that is more.
        last: step at which it has left by as much; the run's last step where it has not.
        error: median of the training error on the plateau; NaN where it is not known.
    """

    level: float
    first: int
    last: int
    error: float = np.nan


def plateaus(steps: Steps, loss: Floats, error: Floats | None = None) -> tuple[Plateau, ...]:
    """The plateaus of one member's loss, from the first to the last; none where the loss never falls.

    The loss is first replaced by a running median and then by the nearest curve that never rises (isotonic regression):
    this removes the noise of minibatches and follows a fall without delay.

    Args:
        steps: of each row, ascending.
        loss: on the training set.
        error: on the training set.
    """
    whole = np.isfinite(loss)
    rows = len(loss) if whole.all() else int(np.argmin(whole))
    if rows < _FEW:
        return ()
    steps, loss = steps[:rows], loss[:rows]
    from scipy.optimize import isotonic_regression

    falling = np.asarray(isotonic_regression(without_spikes(loss), increasing=False).x)
    noise = _scatter(loss - falling)
    levels = _levels(steps, falling, noise)
    rising = np.negative(falling, out=falling)
    while True:
        spans = _spans(rising, levels, noise)
        worst = _least_of_a_plateau(steps, rising, levels, spans, noise)
        if worst is None:
            break
        del levels[worst]
    return tuple(
        Plateau(
            level=median(loss[first : last + 1]),
            first=int(steps[first]),
            last=int(steps[last]),
            error=np.nan if error is None else median(error[first : last + 1]),
        )
        for first, last in spans
    )


def arrival(found: Sequence[Plateau], step: float, end: int) -> Plateau | None:
    """The plateau to which the fall at this step leads, where the loss falls again later; None where it does not.

    Args:
        found: the plateaus of one member.
        step: of the fall, such as T.
        end: the last step of the run.
    """
    reached = next((plateau for plateau in found[1:] if plateau.last > step), None)
    return reached if reached and reached.last < end else None


def without_spikes(x: Floats) -> Floats:
    """The median of each value and the two on either side, where the ends stand for what is beyond them: two in a row are passed over."""
    if len(x) < 2:
        return x
    out = np.empty_like(x)
    ends = np.concatenate([x[:1], x[:1], x, x[-1:], x[-1:]])
    for first in range(0, len(x), _BLOCK):
        a, b, c, d, e = (ends[first + k : min(first + _BLOCK, len(x)) + k] for k in range(5))
        # The smallest and the largest of four cannot be the median of five; it is that of the middle two and the fifth.
        low = np.maximum(np.minimum(a, b), np.minimum(c, d))
        high = np.minimum(np.maximum(a, b), np.maximum(c, d))
        low, high = np.minimum(low, high), np.maximum(low, high)
        out[first : first + _BLOCK] = np.maximum(low, np.minimum(e, high))
    return out


def median(x: Floats) -> float:
    """The median, as ``numpy.median`` in a sixth of its time: numpy looks for several places at once, which is slow."""
    middle = len(x) // 2
    parted = np.partition(x, middle)
    high, top = parted[middle], parted[middle:].max()
    if np.isnan(top):
        return np.nan
    return float(high if len(x) % 2 else (parted[:middle].max() + high) / 2)


def _scatter(x: Floats) -> float:
    """Standard deviation of normal noise, from the median of the absolute deviation from the median."""
    x = x - median(x)
    return median(np.abs(x, out=x)) / _NORMAL


def prominent(x: Floats, least: float) -> list[int]:
    """The local maxima of a short series that stand out by at least so much, the middle of each that is flat.

    A maximum stands out by its height above the higher of the two lowest values between it and what is higher on either
    side. It is written out here because ``scipy.signal.find_peaks`` takes longer to import than an analysis to run.
    """
    found = []
    turns = np.flatnonzero(np.append(True, np.diff(x) != 0))  # where each run of equal values begins
    ends = np.append(turns[1:], len(x)) - 1
    heights = x[turns]
    for k in range(1, len(heights) - 1):
        if heights[k - 1] < heights[k] > heights[k + 1]:
            higher = np.flatnonzero(heights > heights[k])
            before, after = higher[higher < k], higher[higher > k]
            left = heights[before[-1] if len(before) else 0 : k].min()
            right = heights[k + 1 : after[0] + 1 if len(after) else None].min()
            if heights[k] - max(left, right) >= least:
                found.append(int(turns[k] + ends[k]) // 2)
    return found


def _levels(steps: Steps, falling: Floats, noise: float) -> list[float]:
    """The levels at which a curve that never rises stays longest, from high to low."""
    top, bottom = float(falling[0]), float(falling[-1])
    if not top > bottom:
        return []
    edges = np.linspace(top, bottom, _LEVELS + 1)
    passed = steps[np.minimum(np.searchsorted(-falling, -edges[:-1]), len(falling) - 1)]
    spent = np.diff(np.append(passed, steps[-1])).astype(np.float64)
    around = max(1, round(CLEAR / 2 * noise / (edges[0] - edges[1])))  # levels on each side that noise confuses
    smooth = np.convolve(np.pad(spent, around, mode="edge"), np.ones(2 * around + 1), mode="valid")
    log_spent = np.log(np.maximum(smooth, float(np.median(np.diff(steps))) * (2 * around + 1)))
    padded = np.pad(log_spent, 1, constant_values=log_spent.min() - np.log(SLOWER))  # the ends may be plateaus
    peaks = np.array(prominent(padded, np.log(SLOWER)), dtype=np.int64) - 1
    firsts = np.maximum(peaks - around, 0)
    longest = [
        first + int(np.argmax(spent[first : peak + around + 1])) for first, peak in zip(firsts, peaks, strict=True)
    ]
    return [float(level) for level in (edges[:-1] + edges[1:])[sorted(set(longest))] / 2]


def _spans(rising: Floats, levels: Sequence[float], noise: float) -> list[tuple[int, int]]:
    """First and last row of the plateau at each level; ``rising`` is minus the curve that never rises."""
    top, bottom = -rising[0], -rising[-1]
    gaps = [above - below for above, below in pairwise(levels)]
    spans = []
    for place, level in enumerate(levels):
        gap = min(gaps[max(place - 1, 0) : place + 1], default=max(top - level, level - bottom))
        slack = max(LEFT * gap, min(2 * noise, gap / 2))
        arrives = level + (slack if place else max(slack, CLEAR * noise))
        leaves = level - (slack if place < len(gaps) else max(slack, CLEAR * noise))
        last = _row_below(rising, leaves) if bottom <= leaves else len(rising) - 1
        spans.append((_row_below(rising, arrives), last))
    return spans


def _least_of_a_plateau(
    steps: Steps, rising: Floats, levels: Sequence[float], spans: Sequence[tuple[int, int]], noise: float
) -> int | None:
    """The level that is least of a plateau; None where all are plateaus."""
    if len(levels) < 2:
        return None
    lasts = [float(steps[last] - steps[first]) for first, last in spans]
    falls = [float(steps[own[0]] - steps[above[1]]) for above, own in pairwise(spans)]
    half = float(steps[_row_below(rising, (levels[0] + levels[1]) / 2)] - steps[spans[0][1]])
    ratios = [last / max(fall, 1.0) for last, fall in zip(lasts, [half, *falls], strict=True)]
    for place, (above, below) in enumerate(pairwise(levels), 1):
        if above - below < max(APART * (levels[0] - levels[-1]), CLEAR * noise):
            ratios[place] = 0.0
    return int(np.argmin(ratios)) if min(ratios) < 1 else None


def _row_below(rising: Floats, level: float) -> int:
    """The first row at which the curve is at a level or below; ``rising`` is minus the curve."""
    return min(int(np.searchsorted(rising, -level)), len(rising) - 1)
