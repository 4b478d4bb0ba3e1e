"""The memo's scalar dynamics with constant A and B and equal layer norms, solved in closed form.

With ``r = rho_k``, ``rho = r^L`` and ``r_eq = (A/B)^(1/L)``, equation (5) of CBMM Memo 112 becomes
``dr/dt = 2 r^(L-1) (A - B r^L)``. Time is learning rate times steps throughout.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import hyp2f1

Floats = NDArray[np.float64]


def elapsed(u: ArrayLike, depth: int) -> Floats:
    """The antiderivative F with ``t = (F(u) - F(u_0)) / (2 A r_eq^(L-2))``, for ``u = r/r_eq`` in (0, 1).

    Substituting ``r = r_eq u`` in equation (5) leaves ``du / (u^(L-1) (1 - u^L)) = 2 A r_eq^(L-2) dt``.
    Expanding ``1/(1 - u^L)`` and integrating term by term gives, for L > 2, the hypergeometric
    series ``u^(2-L)/(2-L) 2F1(1, (2-L)/L; 2/L; u^L)``; at L = 1 and 2 a logarithm.

    Args:
        u: norm of one layer over its equilibrium value, any shape.
        depth: number of layers L >= 1.
    """
    u = np.asarray(u, dtype=np.float64)
    L = depth
    if L == 1:
        return np.asarray(-np.log1p(-u))
    if L == 2:
        return np.asarray(0.5 * (2 * np.log(u) - np.log1p(-(u**2))))
    return np.asarray(u ** (2 - L) / (2 - L) * hyp2f1(1.0, (2 - L) / L, 2 / L, u**L))


def time_to_reach(r: ArrayLike, r_start: ArrayLike, *, A: ArrayLike, B: ArrayLike, depth: int) -> Floats:
    """Time at which one layer's norm, started at ``r_start``, equals ``r`` (equation (5), constant A, B > 0).

    Args:
        r: norms to reach, between ``r_start`` and ``r_eq``.
        r_start: norm of each layer at time 0, below ``r_eq``.
        A: ``mean(y f)``.
        B: ``mean(f^2)``.
        depth: number of layers L.

    Returns:
        Times (learning rate x steps), NaN where ``r`` or ``r_start`` is outside (0, r_eq).
    """
    A, B = np.asarray(A, dtype=np.float64), np.asarray(B, dtype=np.float64)
    r_eq = (A / B) ** (1 / depth)
    with np.errstate(all="ignore"):
        u, u_start = np.asarray(r) / r_eq, np.asarray(r_start) / r_eq
        t = (elapsed(u, depth) - elapsed(u_start, depth)) / (2 * A * r_eq ** (depth - 2))
        inside = (u > 0) & (u < 1) & (u_start > 0) & (u_start < 1)
        return np.asarray(np.where(inside, t, np.nan))


def transient_time(r_start: ArrayLike, *, depth: int, A: float = 1.0, B: float = 1.0, theta: float = 0.5) -> Floats:
    """Time T at which ``rho = theta rho_eq`` for constant A and B; grows as ``r_start^-(L-2)`` for L > 2."""
    r_T = (theta * A / B) ** (1 / depth)
    return time_to_reach(r_T, r_start, A=A, B=B, depth=depth)


def norm_trajectory(t: Floats, r_start: float, *, A: float, B: float, depth: int) -> Floats:
    """Norm of one layer at times ``t >= 0`` by inverting the closed form, which is monotone in ``u``.

    The inverse is read off a grid that is even in ``log u`` far below equilibrium and even in
    ``log(1 - u)`` near it, so that both ends are resolved; its relative error is below 2e-5.

    Raises:
        ValueError: ``r_start`` is not inside (0, r_eq).
    """
    r_eq = (A / B) ** (1 / depth)
    u_start = r_start / r_eq
    if not 0 < u_start < 1:
        raise ValueError(f"r_start / r_eq is {u_start:.3g}; the closed form needs it inside (0, 1)")
    middle = max(0.5, (1 + u_start) / 2)
    rise = np.geomspace(u_start, middle, 2000)
    settle = 1 - np.geomspace(1 - middle, 1e-12, 2000)[1:]
    u = np.concatenate([rise, settle])
    t_grid = (elapsed(u, depth) - elapsed(u_start, depth)) / (2 * A * r_eq ** (depth - 2))
    # hyp2f1 loses the last digits near u = 1; the inversion only needs the grid to be ordered.
    t_grid = np.maximum.accumulate(t_grid)
    return np.asarray(r_eq * np.exp(np.interp(t, t_grid, np.log(u))))
