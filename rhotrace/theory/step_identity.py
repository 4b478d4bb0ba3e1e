"""The audit: what one discrete step must do exactly, held against every step that was recorded.

For gradient descent on ``L = mean ||g - y||^2`` of a bias-free ReLU network, ``<W_k, dL/dW_k> = 2 (q - a)``
(homogeneity, CBMM Memo 112, equation (2)), so a step of size eta obeys, without any approximation,

    rho_k^2(t+1) = rho_k^2(t) + 4 eta (a_b - q_b) + eta^2 ||G_k||^2

and weight normalisation ``gamma_k(t+1) = gamma_k + (2 eta / gamma_k)(a_b - q_b)``, gamma_k = rho_k.
The first two terms are the memo's flow, equation (3) and Lemma 1; the last is what finite steps add.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Largest residual relative to rho_k^2 that the rounding of weights and gradients explains.
ROUNDING = {"float32": 2e-6, "float64": 4e-14}


@dataclass(frozen=True)
class Audit:
    """The identity and the balance over a whole run, worst member and layer.

    Attributes:
        residual: largest |left - right| of the identity over all steps, relative to its largest term, which is
            rho_k^2 but for the wildest steps.
        where: (step, member, layer) of it, layers counted from 1.
        rounding: what rounding explains in this floating-point type.
        holds: residual within rounding.
        flow: sum of the absolute values of the memo's flow term over that of both terms; the
            finite-step term has the rest. NaN under weight normalisation, which has no such term.
        balance: largest |rho_k^2 - rho_j^2 - (their start)| / rho_k^2 over the run (Lemma 1 says 0).
        balance_start: largest relative difference of layer norms at the start.
        checked: number of (step, member, layer) identities checked.
    """

    residual: float
    where: tuple[int, int, int]
    rounding: float
    holds: bool
    flow: float
    balance: float
    balance_start: float
    checked: int


def audit(
    rho_k: Floats,
    grad_norm: Floats,
    batch_a: Floats,
    batch_q: Floats,
    lr: Floats,
    *,
    dtype: str,
    weight_norm: bool,
) -> Audit | None:
    """Checks the discrete identity at every recorded step.

    Args:
        rho_k: (steps, M, L).
        grad_norm: ||G_k||, (steps, M, L).
        batch_a: (steps, M).
        batch_q: (steps, M).
        lr: (M,).
        dtype: of the weights; the step was taken with lr rounded to it.
        weight_norm: whether the steps were weight normalisation's.

    Returns:
        The audit, or None where fewer than two steps are finite.
    """
    residual, flows, finite_step = identity(
        rho_k, grad_norm, batch_a, batch_q, lr, dtype=dtype, weight_norm=weight_norm
    )
    good = np.isfinite(residual)
    if not good.any():
        return None
    worst = np.unravel_index(int(np.argmax(np.where(good, residual, -1))), residual.shape)
    largest = float(residual[worst])
    flow = np.nan
    if not weight_norm:
        with np.errstate(all="ignore"):  # the last steps of a member that diverges overflow
            moved, added = (float(np.abs(np.where(good, x, 0)).sum()) for x in (flows, finite_step))
        flow = moved / (moved + added) if moved + added else np.nan
    drift, start = balance_drift(rho_k), _spread(rho_k[0] ** 2)
    return Audit(
        residual=largest,
        where=(int(worst[0]), int(worst[1]), int(worst[2]) + 1),
        rounding=ROUNDING[dtype],
        holds=largest <= ROUNDING[dtype],
        flow=flow,
        balance=float(np.nanmax(drift)),
        balance_start=float(np.nanmax(start)),
        checked=int(good.sum()),
    )


def identity(
    rho_k: Floats,
    grad_norm: Floats,
    batch_a: Floats,
    batch_q: Floats,
    lr: Floats,
    *,
    dtype: str,
    weight_norm: bool,
) -> tuple[Floats, Floats, Floats]:
    """The identity at every step; arguments as in ``audit``.

    Returns:
        |left - right| relative to its largest term, the memo's flow term and the finite-step term (zero under weight
        normalisation), each (steps - 1, M, L).
    """
    eta = np.asarray(lr).astype(dtype).astype(np.float64)[:, None]  # (M, 1)
    square = rho_k**2
    with np.errstate(all="ignore"):
        drive = (batch_a - batch_q)[:-1, :, None]
        flows = np.broadcast_to(4 * eta * drive, square[1:].shape)
        if weight_norm:
            finite_step = np.zeros_like(square[1:])
            grown = (rho_k[:-1] + 2 * eta / rho_k[:-1] * drive) ** 2
            scale = np.maximum(square[:-1], square[1:])
        else:
            finite_step = (eta * grad_norm[:-1]) ** 2
            grown = square[:-1] + flows + finite_step
            scale = np.maximum(np.maximum(square[:-1], square[1:]), np.maximum(np.abs(flows), finite_step))
        # A step may be far larger than what it starts from; its rounding is that of its largest term.
        return np.abs(square[1:] - grown) / scale, flows, finite_step


def balance_drift(rho_k: Floats) -> Floats:
    """How far rho_k^2 - rho_j^2 has moved from its start, largest pair of layers, relative to rho_k^2, (steps, M)."""
    square = rho_k**2
    with np.errstate(all="ignore"):
        return np.asarray(np.ptp(square - square[0], axis=2) / square.mean(axis=2))


def _spread(square: Floats) -> Floats:
    """Largest relative difference over layers, (M,)."""
    return np.asarray(np.ptp(square, axis=1) / square.mean(axis=1))
