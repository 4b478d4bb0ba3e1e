"""The audit: what one discrete step must do exactly (``step_laws``), compared with every step that was recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from rhotrace.theory.step_laws import ROUNDING, Recorded, StepLaw

Floats = NDArray[np.float64]

_ESTIMATED = 1e-9  # relative error of an estimate by another order of summation, at most
_PRECISE = 1e-290  # above which a number has all its digits


@dataclass(frozen=True)
class Audit:
    """The identity and the balance over a whole run, worst member and layer.

    Attributes:
        residual: largest |left - right| of the identity over all steps, relative to its largest term, which is
            rho_k^2 except in very large steps.
        where: (step, member, layer) of it, layers counted from 1.
        rounding: what rounding explains in this floating-point type.
        holds: residual within rounding.
        flow: sum of the absolute values of the memo's flow term over that of it and of the law's other terms together.
            NaN under weight normalisation, which has no other term.
        balance: largest |rho_k^2 - rho_j^2 - (their start)| / rho_k^2 over the run (Lemma 1 says 0).
        balance_start: largest relative difference of layer norms at the start.
        checked: number of (step, member, layer) identities checked.
        rest: where the changes come from that are not the flow's.
    """

    residual: float
    where: tuple[int, int, int]
    rounding: float
    holds: bool
    flow: float
    balance: float
    balance_start: float
    checked: int
    rest: str = "finite steps"


def audit(
    rho_k: Floats,
    grad_norm: Floats,
    batch_a: Floats,
    batch_q: Floats,
    lr: Floats,
    *,
    dtype: str,
    law: StepLaw,
    degree: Floats | None = None,
    read: Mapping[str, Floats] | None = None,
) -> Audit | None:
    """Checks the discrete identity at every recorded step.

    Args:
        rho_k: (steps, M, L).
        grad_norm: ||G_k||, (steps, M, L).
        batch_a: (steps, M); -c_b/2 for a loss other than the square loss.
        batch_q: (steps, M); 0 for such a loss.
        lr: (M,); or (steps, M) under a schedule; or (steps, M, L) where layers have learning rates of their own.
        dtype: of the weights; the step was taken with lr and the other options rounded to it.
        law: of the optimizer's steps.
        degree: of homogeneity of the outputs in each layer, (L,); 1 by default.
        read: what else the law reads, by name: quantities (steps, M, L), options (M,), and those of ``optimizer.norms``.

    Returns:
        The audit, or None where fewer than two steps are finite.
    """
    tally = Tally(len(rho_k), dtype=dtype, law=law, degree=degree)
    tally.extend(rho_k, grad_norm, batch_a, batch_q, lr, read=read)
    return tally.audit()


class Tally:
    """The audit of a run whose steps come in pieces, to the same bits as of all steps at once.

    Args:
        steps: of the run, all pieces together.
        dtype: as for ``audit``.
        law: as for ``audit``.
        degree: as for ``audit``.
    """

    def __init__(self, steps: int, *, dtype: str, law: StepLaw, degree: Floats | None = None) -> None:
        self._steps, self._dtype, self._law, self._degree = steps, dtype, law, degree
        self._done = self._checked = 0
        self._largest, self._where = -1.0, (0, 0, 0)
        self._norms: Floats = np.empty(0)
        self._start: Floats = np.empty(0)
        self._drift = np.nan
        self._moved: PairwiseSum | None = None
        self._added: PairwiseSum | None = None

    def extend(
        self,
        rho_k: Floats,
        grad_norm: Floats,
        batch_a: Floats,
        batch_q: Floats,
        lr: Floats,
        *,
        read: Mapping[str, Floats] | None = None,
    ) -> None:
        """Takes the next rows, which begin with the last row of the piece before; arguments as in ``audit``."""
        if not self._done:
            self._norms = rho_k[0].copy()
            self._start = self._norms**2
            self._moved, self._added = (PairwiseSum((self._steps - 1) * self._start.size) for _ in range(2))
        residual, flow_term, finite_term = identity(
            rho_k,
            grad_norm,
            batch_a,
            batch_q,
            lr,
            dtype=self._dtype,
            law=self._law,
            degree=self._degree,
            read=read,
            first=self._done,
            start=self._norms,
        )
        good = np.isfinite(residual)
        checked = int(np.count_nonzero(good))
        self._checked += checked
        if checked < good.size:
            residual[~good] = -1
            flow_term, finite_term = (np.where(good, term, 0) for term in (flow_term, finite_term))
        row, member, layer = np.unravel_index(int(np.argmax(residual)), residual.shape) if residual.size else (0, 0, 0)
        if residual.size and residual[row, member, layer] > self._largest:
            self._largest = float(residual[row, member, layer])
            self._where = self._done + int(row), int(member), int(layer) + 1
        if self._law.rest and self._moved and self._added:
            with np.errstate(all="ignore"):  # the last steps of a member that diverges overflow
                self._moved.extend(np.abs(flow_term))
                self._added.extend(np.abs(finite_term))
        self._drift = float(np.fmax(self._drift, _largest_drift(rho_k, self._start, self._drift)))
        self._done += len(residual)

    def audit(self) -> Audit | None:
        """The audit of the steps so far; None where fewer than two are finite."""
        if not self._checked:
            return None
        flow = np.nan
        if self._law.rest and self._moved and self._added:
            with np.errstate(all="ignore"):
                moved, added = self._moved.total, self._added.total
            flow = moved / (moved + added) if moved + added else np.nan
        return Audit(
            residual=self._largest,
            where=self._where,
            rounding=ROUNDING[self._dtype],
            holds=self._largest <= ROUNDING[self._dtype],
            flow=flow,
            balance=self._drift,
            balance_start=float(np.nanmax(_spread(self._start))),
            checked=self._checked,
            rest=self._law.rest,
        )


class PairwiseSum:
    """The sum of numbers that come in pieces, to the same bits as ``numpy.sum`` of all of them, which adds by halves.

    Args:
        count: of the numbers, all pieces together.
    """

    _LEAF = 1 << 16

    def __init__(self, count: int) -> None:
        self._count = count
        self._sizes = list(self._leaves(count))[::-1]
        self._sums: list[float] = []
        self._rest: Floats = np.empty(0)

    def _leaves(self, count: int) -> Iterator[int]:
        if count <= self._LEAF:
            yield count
        else:
            half = _half(count)
            yield from self._leaves(half)
            yield from self._leaves(count - half)

    def extend(self, values: Floats) -> None:
        """Takes the next numbers, of any shape."""
        values, at = np.concatenate([self._rest, values.ravel()]), 0
        while self._sizes and len(values) - at >= self._sizes[-1]:
            size = self._sizes.pop()
            self._sums.append(float(values[at : at + size].sum()))
            at += size
        self._rest = values[at:].copy()

    @property
    def total(self) -> float:
        """The sum, once all numbers are there."""
        sums = iter(self._sums)

        def of(count: int) -> float:
            return next(sums) if count <= self._LEAF else of(half := _half(count)) + of(count - half)

        return of(self._count)


def _half(count: int) -> int:
    """How many of so many numbers numpy adds in the first half."""
    return count // 2 - count // 2 % 8


def identity(
    rho_k: Floats,
    grad_norm: Floats,
    batch_a: Floats,
    batch_q: Floats,
    lr: Floats,
    *,
    dtype: str,
    law: StepLaw,
    degree: Floats | None = None,
    read: Mapping[str, Floats] | None = None,
    first: int = 0,
    start: Floats | None = None,
) -> tuple[Floats, Floats, Floats]:
    """The identity at every step; arguments as in ``audit``.

    Of a piece of a run, ``first`` is the number of steps before it, and ``start`` are the layer norms at the run's start,
    (M, L); without them the run starts with the first row.

    Returns:
        |left - right| relative to its largest term, the memo's flow term and the law's other terms (zero under a law
        that has none), each (steps - 1, M, L).
    """

    def option(values: Floats) -> Floats:
        rounded = np.asarray(values).astype(dtype).astype(np.float64)
        return rounded[:, None] if rounded.ndim == 1 else rounded[:-1, :, None] if rounded.ndim == 2 else rounded[:-1]

    degree = np.ones(rho_k.shape[2]) if degree is None else np.asarray(degree, dtype=np.float64)
    given, none = read or {}, np.zeros(rho_k.shape[1])
    others = {name: given[name] for name in law.quantities}
    others |= {name: option(given.get(name, none)) for name in law.options}
    others |= {name: np.asarray(given[name], dtype=np.float64) for name in law.norms}
    with np.errstate(all="ignore"):
        drive = _drive(batch_a, batch_q, degree)
        step = law.predict(
            Recorded(rho_k, grad_norm, drive, option(lr), others, dtype, first, rho_k[0] if start is None else start)
        )
        residual = rho_k[1:] ** 2
        residual -= step.square
        np.abs(residual, out=residual)
        residual /= step.scale
        return residual, step.flow, step.finite


def _drive(batch_a: Floats, batch_q: Floats, degree: Floats) -> Floats:
    """d_k (a_b - q_b), (steps - 1, M, 1 or L)."""
    drive = (batch_a - batch_q)[:-1, :, None]
    return drive if (degree == 1).all() else drive * degree


def balance_drift(rho_k: Floats, start: Floats | None = None) -> Floats:
    """How far rho_k^2 - rho_j^2 has moved from its start, largest pair of layers, relative to rho_k^2, (steps, M).

    Args:
        rho_k: layer norms, (steps, M, L).
        start: rho_k^2 of the start, (M, L); that of the first row by default.
    """
    square = rho_k**2
    with np.errstate(all="ignore"):
        moved = square - (square[0] if start is None else start)
        layers = [moved[:, :, k] for k in range(moved.shape[2])]  # far faster than along a short last axis
        return np.asarray((reduce(np.maximum, layers) - reduce(np.minimum, layers)) / square.mean(axis=2))


def _largest_drift(rho_k: Floats, start: Floats, so_far: float) -> float:
    """The largest ``balance_drift``, to the same bits, where it exceeds ``so_far``.

    A mean over the last axis, which is short, takes most of the time. So it is estimated layer by layer, and computed only
    where the drift may be the largest.
    """
    square = np.square(np.moveaxis(rho_k, 2, 0), order="C")
    with np.errstate(all="ignore"):
        mean = square.sum(axis=0) / len(square)
        square -= start.T[:, None, :]
        estimate = (square.max(axis=0) - square.min(axis=0)) / mean
        least = np.fmax(so_far, estimate.max()) * (1 - _ESTIMATED)
        if not (np.isfinite(estimate).all() and mean.min() > _PRECISE):
            least = np.nan
        rows, members = np.nonzero(~(estimate < least))
        if not len(rows):
            return so_far
        return float(np.fmax.reduce(balance_drift(rho_k[rows, members][:, None], start[members][:, None]), axis=None))


def _spread(square: Floats) -> Floats:
    """Largest relative difference over layers, (M,)."""
    return np.asarray(np.ptp(square, axis=1) / square.mean(axis=1))
