"""One network trained the slow way: what a run file must contain, computed again from the equations.

Plain float64 numpy, one network, no member axis, nothing of the package but the fractions of its margin
quantiles. Samples are rows here: x is (N, d), y and g(x) are (N, C). The loss is L = mean_n ||g(x_n) - y_n||^2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rhotrace.recording.quantities import QUANTILES


@dataclass(frozen=True)
class Trajectory:
    """Row t of every quantity at the weights before update t, and the weights after the last update."""

    rows: dict[str, np.ndarray]
    weights: list[np.ndarray]


def preactivations(weights, x):
    """z_1 .. z_L with z_k = W_k relu(z_(k-1)) and z_0 = x, each (N, out); z_L is g."""
    z = []
    h = x
    for W in weights:
        z.append(h @ W.T)
        h = np.where(z[-1].real > 0, z[-1], 0)  # the real part decides, so that complex-step derivatives pass
    return z


def loss(weights, x, y):
    """L itself; not its modulus, so that it can be differentiated along the imaginary axis."""
    return ((preactivations(weights, x)[-1] - y) ** 2).sum() / len(x)


def gradients(weights, x, y):
    """dL/dW_k, for each k afresh by the chain rule through the layers above it."""
    z = preactivations(weights, x)
    h = [x, *(np.maximum(pre, 0) for pre in z[:-1])]
    found = []
    for k in range(len(weights)):
        signal = 2 * (z[-1] - y) / len(x)  # dL/dz_L
        for above in range(len(weights) - 1, k, -1):
            signal = (signal @ weights[above]) * (z[above - 1] > 0)
        found.append(signal.T @ h[k])
    return found


def hessian(weights, x, y):
    """Of ``loss``, column by column: the imaginary part of the gradient a tiny imaginary way off is exact."""
    sizes, h = [W.size for W in weights], 1e-30
    columns = []
    for n in range(sum(sizes)):
        kick = np.zeros(sum(sizes))
        kick[n] = h
        parts = np.split(kick, np.cumsum(sizes)[:-1])
        moved = [W + 1j * part.reshape(W.shape) for W, part in zip(weights, parts, strict=True)]
        z = preactivations(moved, x)
        active = [x, *(np.where(pre.real > 0, pre, 0) for pre in z[:-1])]
        signal, found = 2 * (z[-1] - y) / len(x), [None] * len(weights)
        for k in range(len(weights) - 1, -1, -1):
            found[k] = signal.T @ active[k]
            if k:
                signal = (signal @ moved[k]) * (z[k - 1].real > 0)
        columns.append(np.concatenate([G.imag.ravel() for G in found]) / h)
    return np.array(columns)


def margins(g, y):
    """From small to large: y g for one output, g of the true class minus the best of the others for several."""
    if y.shape[1] == 1:
        return np.sort(g[:, 0] * y[:, 0])
    samples, true = np.arange(len(y)), y.argmax(axis=1)
    rivals = g.copy()
    rivals[samples, true] = -np.inf
    return np.sort(g[samples, true] - rivals.max(axis=1))


def norm(W):
    return np.sqrt((W * W).sum())


def measured(weights, x, y, batch, test):
    """Every quantity of the weights alone and of the batch (x, y of it) that the next update will use."""
    g, g_batch, g_test = (preactivations(weights, inputs)[-1] for inputs in (x, batch[0], test[0]))
    rho_k = np.array([norm(W) for W in weights])
    a, q = (y * g).sum() / len(x), (g * g).sum() / len(x)
    order = margins(g, y)
    with np.errstate(all="ignore"):
        log_rho = np.log(rho_k).sum()
        log_rho_eq = log_rho + np.log(a / q) if a > 0 else np.nan
    return {
        "rho_k": rho_k,
        "grad_norm": np.array([norm(G) for G in gradients(weights, *batch)]),
        "batch_a": (batch[1] * g_batch).sum() / len(g_batch),
        "batch_q": (g_batch * g_batch).sum() / len(g_batch),
        "log_rho": log_rho,
        "a": a,
        "q": q,
        "log_rho_eq": log_rho_eq,
        "rho_eq_over_rho": a / q,
        "loss": loss(weights, x, y),
        "error": (order <= 0).mean(),
        "margin_min": order[0],
        "margin_quantile": np.array([order[int(np.floor(f * (len(order) - 1)))] for f in QUANTILES]),
        "test_loss": loss(weights, *test),
        "test_error": (margins(g_test, test[1]) <= 0).mean(),
    }


def descend(weights, found, lr):
    """W_k <- W_k - lr dL/dW_k: gradient descent, and SGD where the gradient is a batch's."""
    return [W - lr * G for W, G in zip(weights, found, strict=True)]


def descend_normalised(v, gamma, found, lr):
    """The same step in the coordinates (gamma_k, v_k) of W_k = gamma_k v_k / ||v_k||; ``found`` is dL/dW_k.

    dW/d gamma = v/||v||, and the differential of v/||v|| is (dv - V <V, dv>)/||v|| with V = v/||v||.
    """
    v_next, gamma_next = [], []
    for direction, scale, G in zip(v, gamma, found, strict=True):
        length = norm(direction)
        V = direction / length
        v_next.append(direction - lr * (scale / length) * (G - V * (V * G).sum()))
        gamma_next.append(scale - lr * (V * G).sum())
    return v_next, gamma_next


def trajectory(weights, x, y, test, *, lr, steps, batches=None, weight_norm=False):
    """Trains one network.

    Args:
        weights: before the first step.
        x: (N, d).
        y: (N, C).
        test: (x, y) of the test set.
        lr: learning rate.
        steps: number of updates.
        batches: sample numbers of each step's batch, (steps, batch); None for the full training set.
        weight_norm: descend in (gamma_k, v_k) rather than in W_k.
    """
    weights = [np.array(W, dtype=np.float64) for W in weights]
    v, gamma = [W.copy() for W in weights], [norm(W) for W in weights]
    rows = []
    for step in range(steps):
        batch = (x, y) if batches is None else (x[batches[step]], y[batches[step]])
        row = measured(weights, x, y, batch, test)
        found = gradients(weights, *batch)
        if weight_norm:
            row["v_norm"] = np.array([norm(direction) for direction in v])
            v, gamma = descend_normalised(v, gamma, found, lr)
            weights = [scale * direction / norm(direction) for scale, direction in zip(gamma, v, strict=True)]
        else:
            weights = descend(weights, found, lr)
        rows.append(row)
    return Trajectory({name: np.array([row[name] for row in rows]) for name in rows[0]}, weights)
