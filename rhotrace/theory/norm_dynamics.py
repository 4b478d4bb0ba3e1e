"""The memo's scalar dynamics of equal layer norms: closed forms for constant A and B, and integrators for the rest.

With ``r = rho_k``, ``rho = r^L`` and ``r_eq = (A/B)^(1/L)``, equation (5) of CBMM Memo 112 becomes
``dr/dt = 2 r^(L-1) (A - B r^L)``. Time is learning rate times steps throughout.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

THETA = 0.5

_GRID = 3000
_NEAR, _TERMS = 0.3, 26  # 0.3^26 is below the rounding of 1
_LONG, _BLOCK = 1 << 16, 1 << 11  # rows from which ``driven`` is solved in blocks, and the rows of a block
_CORRECTIONS, _CONVERGED = 8, 1e-8  # Newton's; the error after the last is about its square


def elapsed(u: ArrayLike, depth: int) -> Floats:
    """The antiderivative F with ``t = (F(u) - F(u_0)) / (2 A r_eq^(L-2))``, for ``u = r/r_eq`` on one side of 1.

    Substituting ``r = r_eq u`` in equation (5) leaves ``du / (u^(L-1) (1 - u^L)) = 2 A r_eq^(L-2) dt``.
    At L = 1 and 2 a logarithm solves it. For L > 2 the fraction is expanded in powers of u^L below 1 and
    of u^-L above 1; term by term that gives ``u^(2-L)/(2-L) 2F1(1, (2-L)/L; 2/L; u^L)`` and
    ``u^(2-2L)/(2L-2) 2F1(1, (2L-2)/L; (3L-2)/L; u^-L)``.

    Args:
        u: norm of one layer over its equilibrium value, any shape, positive.
        depth: number of layers L >= 1.
    """
    u = np.asarray(u, dtype=np.float64)
    L = depth
    if L == 1:
        return np.asarray(-np.log(np.abs(1 - u)))
    if L == 2:
        return np.asarray(0.5 * (2 * np.log(u) - np.log(np.abs(1 - u**2))))
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # the branch that is not taken
        log_z = -L * np.abs(np.log(u))
        rising = u ** (2 - L) / (2 - L) * _gauss((2 - L) / L, log_z)
        falling = u ** (2.0 - 2 * L) / (2 * L - 2) * _gauss((2 * L - 2) / L, log_z)
    return np.asarray(np.where(u < 1, rising, falling))


def _gauss(b: float, log_z: Floats) -> Floats:
    """2F1(1, b; b + 1; z) for 0 < z < 1, given log z.

    scipy's loses its digits where z nears 1. There stands the expansion in 1 - z of Abramowitz and Stegun, 15.3.10,
    which at a = 1 is ``-b sum_n (b)_n/n! (1-z)^n [log(1-z) - psi(n+1) + psi(b+n)]``.
    """
    from scipy.special import digamma, factorial, hyp2f1, poch

    rest = np.asarray(-np.expm1(log_z))  # 1 - z
    out = np.empty(rest.shape)
    close = rest < _NEAR
    out[~close] = hyp2f1(1.0, b, b + 1.0, 1 - rest[~close])
    x, n = rest[close], np.arange(_TERMS)
    weights, shifts = poch(b, n) / factorial(n), digamma(b + n) - digamma(n + 1.0)
    total = np.zeros(x.shape)
    with np.errstate(divide="ignore"):
        logarithm = np.log(x)
    for weight, shift in zip(weights[::-1], shifts[::-1], strict=True):  # Horner's scheme
        total = total * x + weight * (logarithm + shift)
    out[close] = -b * total
    return out


def time_to_reach(r: ArrayLike, r_start: ArrayLike, *, A: ArrayLike, B: ArrayLike, depth: int) -> Floats:
    """Time at which one layer's norm, started at ``r_start``, equals ``r`` (equation (5), constant A, B > 0).

    Args:
        r: norms to reach, between ``r_start`` and ``r_eq``.
        r_start: norm of each layer at time 0, on the same side of ``r_eq``.
        A: ``mean(y f)``.
        B: ``mean(f^2)``.
        depth: number of layers L.

    Returns:
        Times (learning rate x steps), NaN where ``r`` and ``r_start`` are not on one side of r_eq.
    """
    A, B = np.asarray(A, dtype=np.float64), np.asarray(B, dtype=np.float64)
    r_eq = (A / B) ** (1 / depth)
    with np.errstate(all="ignore"):
        u, u_start = np.asarray(r) / r_eq, np.asarray(r_start) / r_eq
        t = (elapsed(u, depth) - elapsed(u_start, depth)) / (2 * A * r_eq ** (depth - 2))
        one_side = (u > 0) & (u_start > 0) & (u != 1) & ((u < 1) == (u_start < 1))
        return np.asarray(np.where(one_side, t, np.nan))


def transient_time(
    r_start: ArrayLike, *, depth: int, A: ArrayLike = 1.0, B: ArrayLike = 1.0, theta: float = THETA
) -> Floats:
    """Time T at which ``rho = theta rho_eq`` for constant A and B; grows as ``r_start^-(L-2)`` for L > 2.

    Zero where the start is above that already.
    """
    r_T = (theta * np.asarray(A) / np.asarray(B)) ** (1 / depth)
    t = time_to_reach(r_T, r_start, A=A, B=B, depth=depth)
    return np.asarray(np.where(np.asarray(r_start) >= r_T, 0.0, t))


def norm_trajectory(t: ArrayLike, r_start: ArrayLike, *, A: float, B: float, depth: int) -> Floats:
    """Norm of one layer at times ``t >= 0``, by inverting the closed form, which is monotone in ``u``.

    All starts on one side of the equilibrium follow one curve, each from its own place on it, so
    thousands of trajectories cost one inversion. The inverse is read off a grid that is even in
    ``log u`` far from equilibrium and even in ``log|1 - u|`` near it; its relative error is below 5e-5.

    Args:
        t: times, shape (n,).
        r_start: one or many positive starts, any shape.
        A: ``mean(y f)`` > 0.
        B: ``mean(f^2)`` > 0.
        depth: number of layers L.

    Returns:
        Norms, the shape of ``r_start`` followed by (n,).

    Raises:
        ValueError: a start that is not positive, or A or B that is not: there is no closed form then.
    """
    starts, t = np.asarray(r_start, dtype=np.float64), np.asarray(t, dtype=np.float64)
    if not (starts > 0).all() or not (A > 0 and B > 0):
        raise ValueError(f"the closed form needs positive starts, A and B; got {starts.min():.3g}, {A:.3g}, {B:.3g}")
    r_eq = (A / B) ** (1 / depth)
    u = starts.reshape(-1) / r_eq
    out = np.full((u.size, t.size), r_eq)
    for side in (u < 1, u > 1):
        if side.any():
            out[side] = r_eq * np.exp(_inverted(t * 2 * A * r_eq ** (depth - 2), u[side], depth))
    return out.reshape(*starts.shape, t.size)


def _inverted(t: Floats, u_start: Floats, depth: int) -> Floats:
    """log u at the rescaled times ``t``, for starts on one side of 1, (starts, times)."""
    if u_start[0] < 1:
        low = u_start.min()
        middle = max(0.5, (1 + low) / 2)
        settle = 1 - np.geomspace(1 - middle, 1e-12, _GRID)[1:]
    else:
        low = u_start.max()
        middle = min(2.0, (1 + low) / 2)
        settle = 1 + np.geomspace(middle - 1, 1e-12, _GRID)[1:]
    u = np.concatenate([np.geomspace(low, middle, _GRID), settle])
    t_grid = np.maximum.accumulate(elapsed(u, depth))  # ordered but for rounding
    at_start = elapsed(u_start, depth)
    return np.asarray(np.interp(t + at_start[:, None], t_grid, np.log(u)))


def integrate(t: ArrayLike, r_start: ArrayLike, *, A: float, B: float, depth: int) -> Floats:
    """As ``norm_trajectory``, by a general integrator, for any sign of A and B; it checks the closed form, and replaces it.

    Raises:
        ValueError: a start that is not positive, or a norm that leaves the range of floating point.
    """
    from scipy.integrate import solve_ivp

    starts, t = np.asarray(r_start, dtype=np.float64), np.asarray(t, dtype=np.float64)
    if not (starts > 0).all():
        raise ValueError(f"expected positive starts, got {starts.min():.3g}")

    def flow(_t: float, log_r: Floats) -> Floats:
        return np.asarray(2 * np.exp((depth - 2) * log_r) * (A - B * np.exp(depth * log_r)))

    def slope(_t: float, log_r: Floats) -> Floats:
        rising = (depth - 2) * A * np.exp((depth - 2) * log_r)
        return np.asarray([2 * (rising - (2 * depth - 2) * B * np.exp((2 * depth - 2) * log_r))]).reshape(1, 1)

    def one(start: float) -> Floats:
        span, begin = (0.0, float(t[-1])), [np.log(start)]
        with np.errstate(over="ignore", invalid="ignore"):
            solved = solve_ivp(flow, span, begin, "Radau", t_eval=t, rtol=1e-8, atol=1e-10, jac=slope)
        if not solved.success or not np.isfinite(solved.y).all():
            raise ValueError(f"the norm leaves the range of floating point ({solved.message})")
        return np.asarray(np.exp(solved.y[0]))

    # One by one: together, the steps of the fastest would be forced on all, in different stiff regimes.
    return np.array([one(start) for start in starts.reshape(-1)]).reshape(*starts.shape, t.size)


def tikhonov_lambda(rho: ArrayLike, *, A: ArrayLike, B: ArrayLike) -> Floats:
    """The lambda for which ``mean((rho f - y)^2) + lambda rho^2`` is stationary in rho (CBMM Memo 112, Figure 2).

    Setting its derivative ``2 (rho B - A) + 2 lambda rho`` to zero gives ``lambda = (A - rho B)/rho``: large while
    rho is small, zero at rho_eq, negative above.
    """
    rho = np.asarray(rho, dtype=np.float64)
    return np.asarray((np.asarray(A) - rho * np.asarray(B)) / rho)


def driven(t: Floats, log_rho: Floats, a: Floats, q: Floats, *, depth: int) -> Floats:
    """Equation (5) integrated from the measured start with the measured A(t) and B(t): log rho at the times ``t``.

    With ``d`` the departure of the solution from the measured log rho m, ``A = a e^-m`` and ``B = q e^-2m`` turn
    equation (5) into ``d log rho/dt = 2 L e^(-2m/L) e^((L-2)d/L) (a - q e^d)``, in which nothing overflows.
    Heun's method, one step from row to row. A long series is solved in blocks by Newton's method, all rows of a block at
    once; its last bits differ from those of one step after the other.

    Args:
        t: times of the rows (learning rate x steps), (n,).
        log_rho: measured, (n,).
        a: mean(y g), measured, (n,).
        q: mean(g^2), measured, (n,).
        depth: number of layers L.

    Returns:
        log rho of the solution, (n,); NaN from where it leaves the range of floating point.
    """
    n, y = len(log_rho), np.full(len(log_rho), np.nan)
    y[0] = log_rho[0]
    first = 0
    while first < n - 1 and not np.isnan(y[first]):
        last = min(first + _BLOCK, n - 1) if n > _LONG else n - 1
        rows = slice(first, last + 1)
        own = t[rows], log_rho[rows], a[rows], q[rows]
        solved = _heun_at_once(*own, y[first], depth) if n > _LONG else None
        y[rows] = _heun(*own, y[first], depth) if solved is None else solved
        first = last
    return y


def _heun(t: Floats, log_rho: Floats, a: Floats, q: Floats, start: float, depth: int) -> Floats:
    """As ``driven``, from a start, one step after the other."""
    speed = (2 * depth * np.exp(-2 / depth * log_rho)).tolist()
    m, ups, downs, times = log_rho.tolist(), a.tolist(), q.tolist(), t.tolist()
    share = (depth - 2) / depth
    y = np.full(len(m), np.nan)
    here = float(start)
    try:
        for i in range(len(m) - 1):
            y[i] = here
            h, d = times[i + 1] - times[i], here - m[i]
            first = speed[i] * math.exp(share * d) * (ups[i] - downs[i] * math.exp(d))
            d = here + h * first - m[i + 1]
            second = speed[i + 1] * math.exp(share * d) * (ups[i + 1] - downs[i + 1] * math.exp(d))
            here += h / 2 * (first + second)
        y[-1] = here
    except OverflowError:
        pass
    return y


def _heun_at_once(t: Floats, log_rho: Floats, a: Floats, q: Floats, start: float, depth: int) -> Floats | None:
    """As ``_heun``, all steps at once; None where that does not converge.

    A step takes y_i to Phi_i(y_i). Newton's correction e of a guess obeys e_(i+1) = Phi_i'(y_i) e_i + Phi_i(y_i) - y_(i+1)
    from e_0 = 0: a system with two diagonals, the main one of ones.
    """
    from scipy.linalg import lapack

    recurrence = np.zeros((2, len(t) - 1), order="F")
    share, h = (depth - 2) / depth, np.diff(t)
    with np.errstate(all="ignore"):
        speed = 2 * depth * np.exp(-2 / depth * log_rho)
        y = log_rho + (start - log_rho[0])
        for _ in range(_CORRECTIONS):
            first, slope = _flow(speed[:-1], y[:-1] - log_rho[:-1], a[:-1], q[:-1], share)
            second, later = _flow(speed[1:], y[:-1] + h * first - log_rho[1:], a[1:], q[1:], share)
            recurrence[1, :-1] = -(1 + h / 2 * (slope + later * (1 + h * slope)))[1:]
            off = y[:-1] + h / 2 * (first + second) - y[1:]
            correction = lapack.dtbtrs(recurrence, off, uplo="L", diag="U")[0]
            y[1:] += correction
            largest = float(np.abs(correction).max())
            if not np.isfinite(largest):
                return None
            if largest < _CONVERGED:
                return np.asarray(y)
    return None


def _flow(speed: Floats, d: Floats, a: Floats, q: Floats, share: float) -> tuple[Floats, Floats]:
    """d log rho/dt at a departure d, and its derivative by d."""
    moving, falling = speed * np.exp(share * d), q * np.exp(d)
    rate = moving * (a - falling)
    return rate, share * rate - moving * falling
