"""A long series reduced to what can be seen: the extremes of each stretch of rows and the two ends; members to a band."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Curve = tuple[Rows, Floats]  # steps and values

_PIECE = 1 << 16  # rows of a series that are taken at a time


class Envelope:
    """Takes a series in pieces and keeps its extremes in bounded memory.

    Each stretch of rows is kept as two of them: where it is smallest and where it is largest; where it holds no finite
    number, its first row, so that gaps show. When there are too many stretches, neighbours are joined.

    Args:
        stretches: at most this many are kept; there are at least half as many once the series is long.
        expected: length of the series, where it is known; stretches are then of one length.
    """

    def __init__(self, stretches: int = 2000, expected: int = 0) -> None:
        self._most = max(2, stretches)
        self._width = max(1, -(-expected // self._most))
        self._rows: Rows = np.empty((0, 2), np.int64)  # (stretch, smallest and largest)
        self._values: Floats = np.empty((0, 2))
        self._pending: Floats = np.empty(0)  # rows that do not fill a stretch yet
        self._ends: list[tuple[int, float]] = []
        self.count = 0

    def extend(self, values: Floats) -> None:
        """Takes the next values of the series, (n,)."""
        if not len(values):
            return
        if not self.count:
            self._ends.append((0, float(values[0])))
        first = self.count - len(self._pending)
        self.count += len(values)
        self._ends[1:] = [(self.count - 1, float(values[-1]))]
        self._pending = np.concatenate([self._pending, values])
        whole = len(self._pending) // self._width
        block = self._pending[: whole * self._width].reshape(whole, self._width)
        self._pending = self._pending[whole * self._width :]
        rows, kept = _extremes(block)
        rows += first + self._width * np.arange(whole)[:, None]
        self._rows, self._values = np.concatenate([self._rows, rows]), np.concatenate([self._values, kept])
        while len(self._rows) > self._most:
            self._join()

    def _join(self) -> None:
        """Joins neighbours two by two; a last one without a partner stays as it is."""
        even = len(self._rows) // 2 * 2
        rows = self._rows[:even].reshape(-1, 4)
        values = self._values[:even].reshape(-1, 4)
        at, best = _extremes(values)
        self._rows = np.concatenate([np.take_along_axis(rows, at, axis=1), self._rows[even:]])
        self._values = np.concatenate([best, self._values[even:]])
        self._width *= 2

    def curve(self) -> tuple[Rows, Floats]:
        """Rows that are kept, in order, and the values there; those of a stretch that is not full yet among them."""
        at, last = _extremes(self._pending[None]) if len(self._pending) else (self._rows[:0], self._values[:0])
        ends = np.array([row for row, _ in self._ends], np.int64), np.array([value for _, value in self._ends])
        rows = np.concatenate([self._rows.ravel(), (at + self.count - len(self._pending)).ravel(), ends[0]])
        values = np.concatenate([self._values.ravel(), last.ravel(), ends[1]])
        rows, first = np.unique(rows, return_index=True)
        return rows, values[first]


def _extremes(block: Floats) -> tuple[Rows, Floats]:
    """Place of the smallest and of the largest finite number in each row, and those numbers; NaN where there is none."""
    finite = np.isfinite(block)
    low = np.where(finite, block, np.inf).argmin(axis=1) if block.size else np.empty(len(block), np.int64)
    high = np.where(finite, block, -np.inf).argmax(axis=1) if block.size else np.empty(len(block), np.int64)
    at = np.stack([low, high], axis=1)
    values = np.take_along_axis(block, at, axis=1)
    return at, np.where(np.isfinite(values), values, np.nan)


def thinned(values: Floats, most: int = 4000) -> Rows:
    """Rows of a series to draw: all of them where there are few, else at most about ``most``."""
    return thinned_pieces(values.__getitem__, len(values), most)[0]


def thinned_pieces(values: Callable[[slice], Floats], rows: int, most: int = 4000) -> Curve:
    """As ``thinned``, of a series that is computed piece by piece; its rows and the values there.

    Args:
        values: the values of some rows, given without a stride.
        rows: how many there are.
        most: as for ``thinned``.
    """
    if rows <= most:
        return np.arange(rows), values(slice(0, rows))
    envelope = Envelope(most // 2, expected=rows)
    for first in range(0, rows, _PIECE):
        envelope.extend(values(slice(first, min(first + _PIECE, rows))))
    return envelope.curve()


def ends_over_members(values: Floats) -> tuple[Floats, Floats]:
    """Smallest and largest finite number of each row, (n,) each; NaN where a row has none."""
    if values.shape[1] == 1:
        return values[:, 0], values[:, 0]
    columns = [np.where(np.isfinite(column), column, np.nan) for column in values.T]
    return reduce(np.fmin, columns), reduce(np.fmax, columns)


def over_members(values: Floats) -> tuple[Floats, Floats, Floats]:
    """Smallest, median and largest finite number of each row, (n,) each; NaN where a row has none."""
    if values.shape[1] == 1:
        return values[:, 0], values[:, 0], values[:, 0]
    ordered = np.sort(np.where(np.isfinite(values), values, np.nan), axis=1)  # NaN last
    count = np.isfinite(ordered).sum(axis=1)
    row, last = np.arange(len(ordered)), np.maximum(count - 1, 0)
    middle = (ordered[row, last // 2] + ordered[row, -(-last // 2)]) / 2
    return ordered[:, 0], middle, ordered[row, last]
