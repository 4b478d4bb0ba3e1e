"""A least-squares fit in noise of unknown memory, and the interval of what is computed from it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_MEMORIES = 24  # values of the correlation of neighbours on each side of zero
_DRAWS = 4000


def root_interval(design: Floats, values: Floats, near: float, slope: float, memory: float) -> tuple[float, float]:
    """95 % interval of where a fitted polynomial is zero, for noise that is a stationary first-order process.

    The correlation of neighbours phi is not estimated but averaged over: each of a grid of values, from a strong
    alternation to a memory as long as the series behind it, weighs by its restricted likelihood (Harville, J. Am. Stat.
    Assoc. 72, 1977), which takes into account that a fit bends to slow noise. Given phi, the coefficients have Student's
    t distribution by generalised least squares.

    Args:
        design: columns x^3, x^2, x, 1 or fewer, (n, p).
        values: what is fitted, (n,).
        near: x near which the zero is.
        slope: of the polynomial there.
        memory: rows beyond which the noise has no memory; at least 1.

    Returns:
        (low, high), in the units of x.
    """
    from scipy import linalg, special

    n, p = design.shape
    gaps = np.geomspace(1.0, 0.5 / max(memory, 1.0), _MEMORIES)
    phis = np.unique(np.concatenate([1 - gaps, -1 + gaps[gaps > 0.5 / n]]))
    at = near ** np.arange(p - 1, -1, -1)
    weights, centres, spreads = np.empty(len(phis)), np.empty(len(phis)), np.empty(len(phis))
    for k, phi in enumerate(phis):
        x, y = _whitened(design, phi), _whitened(values, phi)
        q, r = linalg.qr(x, mode="economic")
        residual = y - q @ (q.T @ y)
        rss = max(float(residual @ residual), 1e-300)
        at_r = linalg.solve_triangular(r.T, at, lower=True)
        centres[k] = near - float(at_r @ (q.T @ y)) / slope
        spreads[k] = np.sqrt(rss / (n - p) * float(at_r @ at_r)) / abs(slope)
        weights[k] = 0.5 * np.log(1 - phi**2) - np.log(np.abs(np.diag(r))).sum() - (n - p) / 2 * np.log(rss)
    weights += np.log(np.gradient(phis)) - 0.5 * np.log(1 - phis**2)  # the prior of Jeffreys
    shares = np.exp(weights - special.logsumexp(weights))
    levels = (np.arange(_DRAWS) + 0.5) / _DRAWS
    quantiles = special.stdtrit(n - p, levels)
    points = (centres[:, None] + spreads[:, None] * quantiles).ravel()
    order = np.argsort(points)
    below = np.cumsum(np.repeat(shares / _DRAWS, _DRAWS)[order])
    low, high = (points[order][np.searchsorted(below, level)] for level in (0.025, 0.975))
    return float(low), float(high)


def _whitened(x: Floats, phi: float) -> Floats:
    """A first-order process as white noise: x_t - phi x_(t-1), and the first value in proportion."""
    return np.concatenate([np.sqrt(1 - phi**2) * x[:1], x[1:] - phi * x[:-1]])
