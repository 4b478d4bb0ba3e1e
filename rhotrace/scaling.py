"""``rhotrace scaling``: how T depends on rho_k(0) at each depth, against the law of the memo's equation (5).

With constant A, equation (5) gives ``T ~ rho_k(0)^-(L-2) / (2 A (L-2))`` for small starts, and at L = 2
``T ~ log(1/rho_k(0)) / (2 A)``. Whether it holds in trained networks, whose A grows, is what is measured.

The seed is the unit of chance: members of one seed start in the same directions whatever their rho_k(0), so a
slope is fitted to each seed, and the interval is Student's t over the seeds' slopes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from rhotrace.analyze import require_steps, series_of
from rhotrace.errors import AnalysisError
from rhotrace.intervals import NONE, Interval, geometric_mean, mean
from rhotrace.theory import THETA
from rhotrace.trace import Trace
from rhotrace.transient import measure

Floats = NDArray[np.float64]

TARGET = 0.1
_NEAR = 0.1  # of the law: the exponent of equation (5) itself reaches it only as the start goes to zero
_MOST_SEEDS = 100_000


@dataclass(frozen=True)
class Point:
    """T of the members that share a start.

    Attributes:
        start: rho_k(0).
        members: how many.
        left: how many left the transient.
        T: geometric mean over those, learning rate x steps.
    """

    start: float
    members: int
    left: int
    T: Interval


@dataclass(frozen=True)
class DepthScaling:
    """T against rho_k(0) at one depth.

    Attributes:
        depth: L.
        points: by start, largest first.
        seeds: from which the slopes are.
        law: -(L - 2), the exponent of equation (5) for small starts; 0 at L = 2, where T is a logarithm.
        exponent: d log T / d log rho_k(0) over all starts.
        local: the same between the two smallest starts, where the law should be nearest.
        per_efold: at L <= 2, growth of T for each e-fold by which rho_k(0) is smaller, learning rate x steps.
        residual: root mean square of log T about each seed's line.
        raw_factor: largest over smallest T of the points.
        collapsed_factor: the same of T rho_k(0)^(L-2): 1 where the memo's units make all starts alike.
        seeds_needed: for an interval of the exponent of plus or minus ``target``, at this scatter.
        cautions: what the numbers do not say.
    """

    depth: int
    points: tuple[Point, ...]
    seeds: int
    law: float
    exponent: Interval
    local: Interval
    per_efold: Interval
    residual: float
    raw_factor: float
    collapsed_factor: float
    seeds_needed: int
    cautions: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """Whether the law is inside the intervals, or how near it the smallest starts come, in words."""
        if not np.isfinite(self.exponent.low):
            return "no interval: fewer than two seeds with two starts"
        if self.depth == 2:
            return "T grows with log(1/rho_k(0))" if self.per_efold.low > 0 else "no growth found"
        if self.exponent.low <= self.law <= self.exponent.high:
            return "the law holds over all starts"
        if self.local.low <= self.law <= self.local.high:
            return "the law holds between the two smallest starts"
        off = abs(self.local.value - self.law)
        if off <= _NEAR * abs(self.law):
            return f"the law is met to {100 * off / abs(self.law):.1f} % between the two smallest starts"
        return f"the law is not met: {'steeper' if self.local.value < self.law else 'shallower'}"


@dataclass(frozen=True)
class Scaling:
    """All of ``rhotrace scaling``'s answer.

    Attributes:
        paths: of the runs.
        theta: the transient ends at rho = theta rho_eq.
        target: half-width of the interval for which ``seeds_needed`` is given.
        each: by depth.
    """

    paths: tuple[str, ...]
    theta: float
    target: float
    each: tuple[DepthScaling, ...]


@dataclass(frozen=True)
class _Members:
    """Seed, rho_k(0) and T (NaN where none) of every member at one depth."""

    seed: NDArray[np.int64]
    start: Floats
    T: Floats


def scaling(traces: Sequence[Trace], *, theta: float = THETA, target: float = TARGET) -> Scaling:
    """Fits T against rho_k(0) at each depth that the runs have.

    Raises:
        AnalysisError: a run has no steps, was not initialised with equal norms, or runs of one depth differ in data.
    """
    digests: dict[int, str] = {}
    found: dict[int, list[_Members]] = {}
    for trace in traces:
        require_steps(trace)
        if "init_rho_k" not in trace:
            raise AnalysisError(
                f"{trace.path}: got init.kind {trace.recipe['init']['kind']}, expected equal-norms: the law is one in rho_k(0)"
            )
        kind = f"{trace.attributes['data_digest']} {trace.recipe['network']} {trace.recipe['optimizer']['kind']}"
        if digests.setdefault(trace.depth, kind) != kind:
            raise AnalysisError(
                f"{trace.path}: differs in data, network or optimizer from another run of depth {trace.depth}; "
                "give runs that differ in nothing but rho_k(0), lr and seeds"
            )
        T = [measure(m, one, theta=theta, fit=False).T * one.lr for m, one in enumerate(series_of(trace))]
        found.setdefault(trace.depth, []).append(_Members(trace["seed"], trace["init_rho_k"], np.array(T)))
    each = []
    for depth in sorted(found):
        parts = found[depth]
        members = _Members(*(np.concatenate([getattr(p, n) for p in parts]) for n in ("seed", "start", "T")))
        each.append(_scaling_of(depth, members, target))
    return Scaling(tuple(str(t.path) for t in traces), theta, target, tuple(each))


def _scaling_of(depth: int, members: _Members, target: float) -> DepthScaling:
    points = []
    for start in sorted(set(members.start.tolist()), reverse=True):
        T = members.T[members.start == start]
        left = T[T > 0]
        points.append(Point(start, len(T), len(left), geometric_mean(left)))
    slopes, residual = _slopes(members, np.log)
    used = [p for p in points if p.left]
    centres = np.array([p.T.value for p in used])
    collapsed = centres * np.array([p.start for p in used]) ** (depth - 2)
    local = NONE
    if len(used) >= 2:
        smallest = members.start <= used[-2].start
        local = mean(_slopes(_Members(*(v[smallest] for v in vars(members).values())), np.log)[0])
    return DepthScaling(
        depth=depth,
        points=tuple(points),
        seeds=len(slopes),
        law=float(2 - depth),
        exponent=mean(slopes),
        local=local,
        per_efold=mean(-_slopes(members, np.asarray)[0]) if depth <= 2 else NONE,
        residual=residual,
        raw_factor=_factor(centres),
        collapsed_factor=_factor(collapsed),
        seeds_needed=_seeds_needed(slopes, target) if depth != 2 else 0,
        cautions=tuple(_cautions(points, members)),
    )


def _slopes(members: _Members, of_T: Callable[[Floats], Floats]) -> tuple[Floats, float]:
    """Slope of ``of_T(T)`` on log rho_k(0) of each seed with two starts or more, and the residuals' rms over all."""
    slopes, squares, freedom = [], 0.0, 0
    for seed in np.unique(members.seed):
        mine = (members.seed == seed) & (members.T > 0)
        x, y = np.log(members.start[mine]), of_T(members.T[mine])
        if len(np.unique(x)) < 2:
            continue
        slope, level = np.polyfit(x, y, 1)
        slopes.append(float(slope))
        squares += float(np.sum((y - slope * x - level) ** 2))
        freedom += len(x) - 2
    return np.array(slopes), float(np.sqrt(squares / freedom)) if freedom > 0 else np.nan


def _factor(values: Floats) -> float:
    return float(values.max() / values.min()) if len(values) else np.nan


def _seeds_needed(slopes: Floats, target: float) -> int:
    """Smallest number of seeds whose Student interval is within plus or minus ``target``; 0 where it cannot be told."""
    if len(slopes) < 2:
        return 0
    spread = float(slopes.std(ddof=1))
    n = max(2, int((stats.norm.ppf(0.975) * spread / target) ** 2))  # a little too few: Student's t is wider
    while n < _MOST_SEEDS and stats.t.ppf(0.975, n - 1) * spread / np.sqrt(n) > target:
        n += 1
    return min(n, _MOST_SEEDS)


def _cautions(points: Sequence[Point], members: _Members) -> list[str]:
    cautions = []
    stayed = [p for p in points if p.left < p.members]
    if stayed:
        where = ", ".join(f"{p.members - p.left} of {p.members} at rho_k(0) = {p.start:g}" for p in stayed)
        cautions.append(
            f"no T: {where}; where they are slow ones, T is a lower bound there and the exponent too shallow"
        )
    if len(points) < 3:
        cautions.append("fewer than three starts: a line through two points has no residual")
    if len(np.unique(members.seed)) < 5:
        cautions.append("fewer than five seeds: the interval rests on few slopes")
    return cautions
