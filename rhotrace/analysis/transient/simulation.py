"""``rhotrace simulate``: the memo's equation (5) without a network, for its figures and for the law of T.

A and B are constant, or those that a run had at one of its steps; time is learning rate times steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rhotrace.analysis.applicability import no_equilibrium
from rhotrace.errors import AnalysisError
from rhotrace.runfile.reader import Trace
from rhotrace.statistics.numbers import written
from rhotrace.theory import norm_dynamics

Floats = NDArray[np.float64]

_POINTS = 600
_CHECKED = 12  # trajectories of each depth that the integrator computes too
_MOST, _DEEPEST = 10_000, 100
_LONGEST = 2.5  # times the longest T that is drawn


@dataclass(frozen=True)
class Constants:
    """A = mean(y f) and B = mean(f^2), where they are from, and log of the unit in which norms are given.

    f of a deep network is tiny, so A and B of a run are those of norms in units of the run's own rho_eq^(1/L):
    then A = B, and log_unit takes norms back.
    """

    A: float
    B: float
    log_unit: float
    origin: str


@dataclass(frozen=True)
class Trajectory:
    """One solution of equation (5).

    Attributes:
        depth: L.
        start: rho_k(0).
        T: time at which rho = theta rho_eq; NaN where it never is.
        slope: d log T / d log rho_k(0) at this start; -(L - 2) for small starts, by the memo's dynamics.
        error: largest relative difference between closed form and integrator; NaN where not compared, or where the
            integrator cannot follow.
    """

    depth: int
    start: float
    T: float
    slope: float
    error: float


@dataclass(frozen=True)
class Simulation:
    """Solutions for every depth and start, on one time axis per depth.

    Attributes:
        constants: A and B.
        theta: the transient ends at rho = theta rho_eq.
        each: in order of depth, then start.
        t: times by depth, (n,).
        rho_k: norms by depth, (starts, n).
    """

    constants: Constants
    theta: float
    each: tuple[Trajectory, ...]
    t: dict[int, Floats]
    rho_k: dict[int, Floats]


def simulate(
    depths: Sequence[int],
    starts: Sequence[float],
    constants: Constants,
    *,
    theta: float = 0.5,
    until: float | None = None,
) -> Simulation:
    """Solves equation (5) for every depth and start.

    Args:
        depths: numbers of layers.
        starts: values of rho_k(0), positive.
        constants: A and B; with A <= 0 there is no equilibrium and rho decays.
        theta: the transient ends at rho = theta rho_eq.
        until: last time; 2.5 times the longest T of a depth by default.

    Raises:
        AnalysisError: a start, B or ``until`` is not positive, or a solution leaves the range of floating point.
    """
    _refuse(depths, starts, constants, until)
    A, B = constants.A, constants.B
    r = np.array(sorted(starts), dtype=np.float64)
    each: list[Trajectory] = []
    times, norms = {}, {}
    for depth in dict.fromkeys(depths):
        with np.errstate(all="ignore"):  # what is not finite is looked for
            T = (
                norm_dynamics.transient_time(r, depth=depth, A=A, B=B, theta=theta)
                if A > 0
                else np.full(len(r), np.nan)
            )
            top = float(r.max())
            span = _LONGEST * max(*T, 1 / A) if A > 0 else 1 / (top ** (depth - 2) * (-A + B * top**depth))
            end = until or float(span)
            if not (0 < end < np.inf) or (A > 0 and not np.isfinite(T).all()):
                raise AnalysisError(
                    f"L = {depth}, rho_k(0) = {r[0]:g} to {top:g}: T leaves the range of floating point"
                )
            t = _times(end, T)
            try:
                solved = norm_dynamics.norm_trajectory if A > 0 else norm_dynamics.integrate
                norms[depth] = solved(t, r, A=A, B=B, depth=depth)
            except ValueError:
                found = "reaches zero in finite time" if depth == 1 else "leaves the range of floating point"
                raise AnalysisError(f"L = {depth}: rho_k {found}") from None
            if not np.isfinite(norms[depth]).all() or not np.allclose(norms[depth][:, 0], r, rtol=1e-3, atol=0):
                raise AnalysisError(f"L = {depth}: rho_k leaves the range of floating point")
            errors = _errors(t, r, norms[depth], constants, depth)
        times[depth] = t
        slopes = _slopes(r, constants, depth, theta)
        each += [Trajectory(depth, *(float(v) for v in row)) for row in zip(r, T, slopes, errors, strict=True)]
    return Simulation(constants, theta, tuple(each), times, norms)


def _times(end: float, T: Floats) -> Floats:
    """Even times, and log-spaced ones from well before the shortest T, which the others would pass over."""
    early = T[(T > 0) & (end > T)]
    shortest = float(early.min()) / 50 if len(early) else end / _POINTS
    return np.unique(np.concatenate([np.linspace(0, end, _POINTS), np.geomspace(shortest, end, _POINTS // 2)[:-1]]))


def _refuse(depths: Sequence[int], starts: Sequence[float], constants: Constants, until: float | None) -> None:
    A, B = constants.A, constants.B
    if not len(starts) or not all(0 < start < np.inf for start in starts):
        raise AnalysisError(f"got starts {list(starts)}, expected them positive")
    if not (np.isfinite(A) and 0 < B < np.inf):
        raise AnalysisError(f"got A = {A:g} and B = {B:g}, expected finite numbers, B positive")
    with np.errstate(all="ignore"):
        if A > 0 and not 1e-200 < np.float64(A) / B < 1e200:
            raise AnalysisError(f"got A = {A:g} and B = {B:g}: rho_eq = A/B leaves the range of floating point")
    if until is not None and not 0 < until < np.inf:
        raise AnalysisError(f"got the last time {until:g} (--until), expected a positive number")
    if len(depths) * len(starts) > 2 * _MOST:
        raise AnalysisError(
            f"got {len(depths)} depths and {len(starts)} starts, expected at most {2 * _MOST} combinations"
        )


def _slopes(r: Floats, constants: Constants, depth: int, theta: float) -> Floats:
    """d log T / d log r, from dT/dr = -1/(2 r^(L-1) (A - B r^L)) exactly."""
    A, B = constants.A, constants.B
    with np.errstate(all="ignore"):
        T = norm_dynamics.transient_time(r, depth=depth, A=A, B=B, theta=theta) if A > 0 else np.full(len(r), np.nan)
        return np.where(T > 0, -r / (2 * r ** (depth - 1) * (A - B * r**depth)) / T, np.nan)


def _errors(t: Floats, r: Floats, norms: Floats, constants: Constants, depth: int) -> Floats:
    """Closed form against integrator, for the first starts; NaN for the others."""
    errors = np.full(len(r), np.nan)
    if constants.A > 0:
        few = slice(0, len(r), -(-len(r) // _CHECKED))
        for number in range(*few.indices(len(r))):
            with suppress(ValueError):
                other = norm_dynamics.integrate(t, r[number], A=constants.A, B=constants.B, depth=depth)
                errors[number] = np.abs(norms[number] / other - 1).max()
    return errors


Setting = tuple[Constants, list[int], list[float]]


def given(A: float, B: float) -> Setting:
    """Constants that the user gave, and the depth and starts of the memo's Figure 1."""
    return Constants(A, B, 0.0, "given"), [4], [0.1, 0.15, 0.2, 0.3, 0.5]


def refuse_both(A: float | None, B: float | None, run: Path | None) -> None:
    """Raises AnalysisError where constants are given beside a run that has its own."""
    got = [f"{option} {value:g}" for option, value in (("--A", A), ("--B", B)) if value is not None]
    if run and got:
        raise AnalysisError(f"{' '.join(got)}: got constants beside --from {run}, which has its own; leave out either")


def numbers(option: str, text: str, *, whole: bool = False) -> list[float]:
    """Positive numbers from ``0.1,0.2`` or, log-spaced, ``low:high:count``.

    Raises:
        AnalysisError: something else.
    """
    try:
        if ":" in text:
            low, high, count = text.split(":")
            found = [float(value) for value in np.geomspace(float(low), float(high), int(count))]
        else:
            found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = [-1.0]
    if text and not found:
        found = [-1.0]
    good = [0 < n < np.inf and (not whole or (n == int(n) and n <= _DEEPEST)) for n in found]
    if len(found) > _MOST or not all(good):
        wanted = (
            f"whole numbers of layers up to {_DEEPEST}, such as 2,3,4"
            if whole
            else f"at most {_MOST} positive numbers, such as 0.1,0.2 or 0.05:0.8:20"
        )
        raise AnalysisError(f"{option}: got {text!r}, expected {wanted}")
    return found


def constants_of(trace: Trace, *, step: int, member: int = 0) -> Setting:
    """A and B of a run at a step, in units in which rho_eq at that step is 1; its depth, and its norm as a start.

    Raises:
        AnalysisError: the run has no rho_eq, no such step or member, or a <= 0 or q = 0 there.
    """
    if why := no_equilibrium(trace):
        raise AnalysisError(f"{trace.path}: --from: {why}")
    steps = trace.step_of("a")
    if not 0 <= member < trace.members or not len(steps) or not 0 <= step <= steps[-1]:
        raise AnalysisError(
            f"{trace.path}: got step {step}, member {member}; expected up to step {steps[-1] if len(steps) else 0} "
            f"and member {trace.members - 1}"
        )
    row = int(np.searchsorted(steps, step, side="right") - 1)
    a, q = float(trace["a"][row, member]), float(trace["q"][row, member])
    log_rho = float(trace["log_rho"][int(steps[row]), member])
    if not (a > 0 and q > 0):
        good = np.flatnonzero((trace["a"][:, member] > 0) & (trace["q"][:, member] > 0))
        later = good[good > row]
        nearest = later[0] if len(later) else good[-1] if len(good) else None
        hint = "the member has one at no step" if nearest is None else f"--step {steps[nearest]} has one"
        raise AnalysisError(
            f"{trace.path}: a = {written(a)} and q = {written(q)} at step {steps[row]}: no equilibrium there; {hint}"
        )
    log_unit = (log_rho + np.log(a / q)) / trace.depth  # log of rho_eq^(1/L)
    # A r_eq^(L-2): in units of r_eq, equation (5) keeps its form with A and B replaced by A rho_eq^((L-2)/L).
    A = float(np.exp(np.log(a) - log_rho + (trace.depth - 2) * log_unit))
    origin = f"{trace.path}, step {steps[row]}, member {member}; norms in units of rho_eq^(1/L) = {written(np.exp(log_unit), 4)}"
    start = float(np.exp(log_rho / trace.depth - log_unit))
    return Constants(A, A, float(log_unit), origin), [trace.depth], [start]
