"""SGD on the network linearised at one point: what its minibatches should do to ``delta = log(rho/rho_eq)``.

To first order in the learning rate a step on the batch B changes the outputs on the training set by

    g(x) <- g(x) - (2 eta/b) sum_(n in B) K(x, x_n) (g(x_n) - y_n),     K = sum_k K_k,
    K_k(x, x') = <dg(x)/dW_k, dg(x')/dW_k>

with the tangent kernel K (Jacot, Gabriel and Hongler, arXiv:1806.07572). Of each K_k the part along W_k is
g(x) g(x')/rho_k^2, because <W_k, dg/dW_k> = g (CBMM Memo 112, equation (2)); the rest turns V_k. With factors t_k on
that rest, one kernel serves three cases:

    gradient descent       t_k = 1
    weight normalisation   t_k = (rho_k/||v_k||)^2
    V frozen               t_k = 0,  K = S g g^T with S = sum_k rho_k^-2

A step uses the rows of its own batch, so the curvature that differs from batch to batch is in it exactly. What is left
out is that K moves with the weights.

Arrays are flat over outputs and samples: index c N + n of a vector is output c of sample n.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_LOST = 5.0  # in |delta|: the linearised network has left the neighbourhood of rho_eq for good


def frozen_std(*, lr: float, S: float, q: float, step_variance: float) -> float:
    """Standard deviation of log rho around log rho_eq if V stood still and each batch were drawn with replacement.

    A first-order process: each step relaxes by kappa = 2 S q and adds noise of variance (2 lr S)^2 Var(a_b - q_b).

    Args:
        lr: learning rate eta.
        S: sum over layers of rho_k^-2.
        q: mean(g^2) over the training set.
        step_variance: variance of a_b - q_b over batches, Var(y g - g^2)/b.

    Returns:
        The standard deviation; infinite where a step of eta kappa is more than 2, NaN where kappa is 0.
    """
    memory = 1 - lr * 2 * S * q
    if not abs(memory) < 1:
        return np.inf if abs(memory) > 1 else np.nan
    return float(np.sqrt((2 * lr * S) ** 2 * step_variance / (1 - memory**2)))


def tangent_factors(rho_k: Floats, v_norm: Floats | None = None) -> Floats:
    """Factors t_k on what turns V_k, (L,): 1 under gradient descent, (rho_k/||v_k||)^2 under weight normalisation."""
    return np.ones_like(rho_k) if v_norm is None else (rho_k / v_norm) ** 2


def whole_kernel(turning: Floats, g: Floats, rho_k: Floats, factors: Floats) -> Floats:
    """K from ``turning = sum_k t_k K_k``: what the factors took from the part along W_k is put back.

    Args:
        turning: (CN, CN); zeros, with zeros for factors, where V stands still.
        g: outputs on the training set, (C, N).
        rho_k: layer norms, (L,).
        factors: t_k, (L,).

    Returns:
        K, (CN, CN).
    """
    return np.asarray(turning + float(np.sum((1 - factors) / rho_k**2)) * np.outer(g, g))


def sharpness(kernel: Floats, samples: int, lr: float) -> float:
    """Learning rate times the largest eigenvalue of 2 K/N, the curvature of the linearised loss; descent needs it below 2."""
    from scipy.sparse.linalg import eigsh

    start = np.random.default_rng(0).standard_normal(
        len(kernel)
    )  # a fixed one, so that it gives the same bits each time
    top = eigsh(kernel, k=1, v0=start, return_eigenvectors=False, tol=1e-6)[0] if len(kernel) > 1 else kernel[0, 0]
    return float(lr * 2 * top / samples)


class Replay(NamedTuple):
    """SGD on the linearised network.

    Attributes:
        delta: before each step, (steps,); NaN from where the network has no equilibrium, or is far from it (|delta| > 5).
        drive: sum over the steps of 2 eta/b times the residuals of the batch, (CN,): the outputs end at ``g - K drive``.
            None where they end without an equilibrium, or far from it.
    """

    delta: Floats
    drive: Floats | None


def replay(kernel: Floats, g: Floats, y: Floats, batches: NDArray[np.int64], lr: float) -> Replay:
    """SGD on the linearised network, under given batches.

    Args:
        kernel: K, (CN, CN), symmetric.
        g: outputs on the training set at the start, (C, N).
        y: targets, (C, N).
        batches: sample numbers of each step, (steps, b).
        lr: learning rate eta.
    """
    offsets = np.arange(len(g)) * g.shape[1]
    g, y = g.flatten(), y.ravel()
    delta, drive = np.full(len(batches), np.nan), np.zeros_like(g)
    scale = 2 * lr / batches.shape[1]
    with np.errstate(all="ignore"):  # what overflows is NaN from there on
        for step, batch in enumerate(batches):
            delta[step] = _delta(g, y)
            if np.isnan(delta[step]):
                break
            index = (offsets[:, None] + batch).ravel()
            residual = g[index] - y[index]
            np.add.at(drive, index, scale * residual)  # a sample can be in a batch twice
            g -= scale * (residual @ kernel[index])  # rows, for K is symmetric
        return Replay(delta, None if np.isnan(_delta(g, y)) else drive)


def _delta(g: Floats, y: Floats) -> float:
    a, q = y @ g, g @ g
    delta = float(np.log(q / a)) if a > 0 else np.nan
    return delta if abs(delta) < _LOST else np.nan
