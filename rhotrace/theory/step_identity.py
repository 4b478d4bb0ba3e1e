"""The audit: what one discrete step must do exactly, compared with every step that was recorded.

For the square loss ``L = mean ||g - y||^2`` of a bias-free network whose outputs are homogeneous of degree d_k in the
weights of layer k, ``<W_k, dL/dW_k> = 2 d_k (q - a)`` (CBMM Memo 112, equation (2), where d_k = 1). So a step of size
eta obeys, without any approximation, under gradient descent on the full set or on batches

    rho_k^2(t+1) = rho_k^2(t) + 4 eta d_k (a_b - q_b) + eta^2 ||G_k||^2

and under weight normalisation ``gamma_k(t+1) = gamma_k + (2 eta d_k / gamma_k)(a_b - q_b)``, gamma_k = rho_k.
The first two terms are the memo's flow, equation (3) and Lemma 1; the last is what finite steps add.
"""

from __future__ import annotations

from collections.abc import Callable
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


@dataclass(frozen=True)
class Step:
    """What a law says of every step but the last, each broadcastable to (steps - 1, M, L).

    Attributes:
        square: rho_k^2 after the step.
        flow: the memo's flow term of its change.
        finite: the term that finite steps add; zero where there is none.
        scale: the largest term, to which rounding is relative.
    """

    square: Floats
    flow: Floats
    finite: Floats
    scale: Floats


@dataclass(frozen=True)
class StepLaw:
    """What one step of an optimizer does to rho_k, exactly.

    Attributes:
        name: key in ``LAWS``.
        says: the law as a formula.
        finite_term: whether finite steps add a term to the flow.
        predict: ``(rho_k, grad_norm, batch_a, batch_q, lr, degree) -> Step``: layer norms and gradient norms
            (steps, M, L), the sums of each step's batch (steps, M), learning rates (M,), and the degree of
            homogeneity of the outputs in each layer (L,).
    """

    name: str
    says: str
    finite_term: bool
    predict: Callable[[Floats, Floats, Floats, Floats, Floats, Floats], Step]


def _descent(rho_k: Floats, grad_norm: Floats, batch_a: Floats, batch_q: Floats, lr: Floats, degree: Floats) -> Step:
    eta, square = lr[:, None], rho_k**2
    flow = np.broadcast_to(4 * eta * _drive(batch_a, batch_q, degree), square[1:].shape)
    finite = (eta * grad_norm[:-1]) ** 2
    # A step may be far larger than what it starts from; its rounding is that of its largest term.
    scale = np.maximum(np.maximum(square[:-1], square[1:]), np.maximum(np.abs(flow), finite))
    return Step(square[:-1] + flow + finite, flow, finite, scale)


def _weight_norm(rho_k: Floats, _: Floats, batch_a: Floats, batch_q: Floats, lr: Floats, degree: Floats) -> Step:
    eta, square, drive = lr[:, None], rho_k**2, _drive(batch_a, batch_q, degree)
    grown = (rho_k[:-1] + 2 * eta / rho_k[:-1] * drive) ** 2
    flow = np.broadcast_to(4 * eta * drive, square[1:].shape)
    return Step(grown, flow, np.zeros_like(square[1:]), np.maximum(square[:-1], square[1:]))


def _drive(batch_a: Floats, batch_q: Floats, degree: Floats) -> Floats:
    """d_k (a_b - q_b), (steps - 1, M, 1 or L)."""
    drive = (batch_a - batch_q)[:-1, :, None]
    return drive if (degree == 1).all() else drive * degree


LAWS: dict[str, StepLaw] = {
    law.name: law
    for law in (
        StepLaw("descent", "rho_k^2(t+1) = rho_k^2(t) + 4 eta d_k (a_b - q_b) + eta^2 ||G_k||^2", True, _descent),
        StepLaw("weight-norm", "gamma_k(t+1) = gamma_k + (2 eta d_k / gamma_k)(a_b - q_b)", False, _weight_norm),
    )
}


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
) -> Audit | None:
    """Checks the discrete identity at every recorded step.

    Args:
        rho_k: (steps, M, L).
        grad_norm: ||G_k||, (steps, M, L).
        batch_a: (steps, M).
        batch_q: (steps, M).
        lr: (M,).
        dtype: of the weights; the step was taken with lr rounded to it.
        law: of the optimizer's steps.
        degree: of homogeneity of the outputs in each layer, (L,); 1 by default.

    Returns:
        The audit, or None where fewer than two steps are finite.
    """
    residual, flow_term, finite_term = identity(
        rho_k, grad_norm, batch_a, batch_q, lr, dtype=dtype, law=law, degree=degree
    )
    good = np.isfinite(residual)
    if not good.any():
        return None
    worst = np.unravel_index(int(np.argmax(np.where(good, residual, -1))), residual.shape)
    largest = float(residual[worst])
    flow = np.nan
    if law.finite_term:
        with np.errstate(all="ignore"):  # the last steps of a member that diverges overflow
            moved, added = (float(np.abs(np.where(good, x, 0)).sum()) for x in (flow_term, finite_term))
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
    law: StepLaw,
    degree: Floats | None = None,
) -> tuple[Floats, Floats, Floats]:
    """The identity at every step; arguments as in ``audit``.

    Returns:
        |left - right| relative to its largest term, the memo's flow term and the finite-step term (zero under a law
        that has none), each (steps - 1, M, L).
    """
    eta = np.asarray(lr).astype(dtype).astype(np.float64)
    degree = np.ones(rho_k.shape[2]) if degree is None else np.asarray(degree, dtype=np.float64)
    with np.errstate(all="ignore"):
        step = law.predict(rho_k, grad_norm, batch_a, batch_q, eta, degree)
        return np.abs(rho_k[1:] ** 2 - step.square) / step.scale, step.flow, step.finite


def balance_drift(rho_k: Floats) -> Floats:
    """How far rho_k^2 - rho_j^2 has moved from its start, largest pair of layers, relative to rho_k^2, (steps, M)."""
    square = rho_k**2
    with np.errstate(all="ignore"):
        return np.asarray(np.ptp(square - square[0], axis=2) / square.mean(axis=2))


def _spread(square: Floats) -> Floats:
    """Largest relative difference over layers, (M,)."""
    return np.asarray(np.ptp(square, axis=1) / square.mean(axis=1))
