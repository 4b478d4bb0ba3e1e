"""``rhotrace scaling``: how T depends on rho_k(0) at each depth, against the law of the memo's equation (5).

With constant A, equation (5) gives ``T ~ rho_k(0)^-(L-2) / (2 A (L-2))`` for small starts, and at L = 2
``T ~ log(1/rho_k(0)) / (2 A)``. Whether it holds in trained networks, whose A grows, is what is measured.

The seed is the unit of chance: members of one seed start in the same directions at every rho_k(0), so a
slope is fitted to each seed, and the interval is Student's t over the seeds' slopes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from rhotrace.analysis.run_series import RunSeries, require_steps
from rhotrace.analysis.run_summary import comparable_recipes
from rhotrace.config.recipe import differences
from rhotrace.errors import AnalysisError
from rhotrace.runfile.reader import Trace
from rhotrace.statistics.intervals import NONE, Interval, geometric_mean, mean

Floats = NDArray[np.float64]

TARGET = 0.1
_NEAR = 0.1  # of the law: the exponent of equation (5) itself reaches it only as the start goes to zero
_MOST_SEEDS = 100_000
_MEMBER = ("seed", "batch_seed", "init_rho_k", "lr")  # what makes a member one of its own
_MAY_DIFFER = (
    "network.depth",
    "network.channels",
    "init.rho_k",
    "optimizer.lr",
    "members.",
    "steps",
    "record.",
    "data.root",
)


@dataclass(frozen=True)
class Point:
    """T of the members that share a start.

    Attributes:
        start: rho_k(0).
        members: how many.
        left: how many left the transient.
        T: geometric mean over their seeds, learning rate x steps.
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
        law: -(L - 2), the exponent of equation (5) for small starts; 0 at L = 2, where T is a logarithm, and at L = 1,
            where T does not depend on them.
        exponent: d log T / d log rho_k(0) over all starts.
        local: the same between the two smallest starts, where the law should be nearest.
        at_zero: the exponent extrapolated to rho_k(0) -> 0 by its change over the starts; NaN below three starts or L = 3.
        per_efold: at L = 2, growth of T for each e-fold by which rho_k(0) is smaller, learning rate x steps.
        local_per_efold: the same between the two smallest starts: equal where T is a logarithm.
        residual: root mean square of log T about each seed's line.
        raw_factor: largest over smallest T of the points.
        collapsed_factor: the same of T rho_k(0)^(L-2): 1 where the law holds.
        seeds_needed: for an interval of the exponent of plus or minus ``target``, at this scatter.
        cautions: what the numbers do not say.
    """

    depth: int
    points: tuple[Point, ...]
    seeds: int
    law: float
    exponent: Interval
    local: Interval
    at_zero: Interval
    per_efold: Interval
    local_per_efold: Interval
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
        return self._logarithm() if self.depth == 2 else self._power()

    def _logarithm(self) -> str:
        if not self.per_efold.low > 0:
            return "no growth found"
        straight = abs(self.local_per_efold.value / self.per_efold.value - 1) <= _NEAR
        return "T grows with log(1/rho_k(0))" if straight else "T grows, but not as log(1/rho_k(0))"

    def _power(self) -> str:
        near = _NEAR * max(abs(self.law), 1)
        among = ((self.exponent, "over all starts"), (self.local, "between the two smallest starts"))
        inside = [(e, where) for e, where in among if e.low <= self.law <= e.high]
        for found, where in inside:
            if (found.high - found.low) / 2 <= near:
                return f"the law holds {where}, to ± {(found.high - found.low) / 2:.2g}"
        off = abs(self.local.value - self.law)
        if off <= near and not inside:
            how = f"{100 * off / abs(self.law):.1f} %" if self.law else f"{off:.2g}"
            return f"the law is met to {how} between the two smallest starts, though it is outside the interval"
        if inside:
            found, where = inside[0]
            return f"too few seeds to tell: {where} the interval contains the law but is ± {(found.high - found.low) / 2:.2g}"
        return f"the law is not met: {'steeper' if self.local.value < self.law else 'shallower'}"


@dataclass(frozen=True)
class Deeper:
    """T of one depth against that of the next at one start.

    Attributes:
        depths: the shallower and the deeper one.
        start: rho_k(0), the middle of the starts that both have; T is interpolated in logarithms.
        ratio: T of the deeper over T of the shallower, geometric mean over the seeds that both have.
    """

    depths: tuple[int, int]
    start: float
    ratio: Interval


@dataclass(frozen=True)
class Scaling:
    """All of ``rhotrace scaling``'s answer.

    Attributes:
        paths: of the runs.
        theta: the transient ends at rho = theta rho_eq.
        target: half-width of the interval for which ``seeds_needed`` is given.
        each: by depth.
        deeper: each depth against the next, where their starts overlap.
    """

    paths: tuple[str, ...]
    theta: float
    target: float
    each: tuple[DepthScaling, ...]
    deeper: tuple[Deeper, ...]


@dataclass(frozen=True)
class _Members:
    """Seed, rho_k(0) and T (NaN where none) of every member at one depth."""

    seed: NDArray[np.int64]
    start: Floats
    T: Floats


def scaling(runs: Sequence[Trace | RunSeries], *, theta: float | None = None, target: float = TARGET) -> Scaling:
    """Fits T against rho_k(0) at each depth that the runs have.

    Args:
        runs: the runs; a ``RunSeries`` has a theta of its own.
        theta: the transient ends at rho = theta rho_eq; 1/2 by default.
        target: half-width of the interval of the exponent to plan seeds for.

    Raises:
        AnalysisError: a run has no steps, was not initialised with equal norms or is given twice, or the runs differ
            in more than depth, rho_k(0), learning rate and seeds.
    """
    first = RunSeries.of(runs[0], theta)
    paths: list[str] = []
    seen: set[tuple[float, ...]] = set()
    found: dict[int, list[_Members]] = {}
    for one in runs:
        run = RunSeries.of(one, theta)  # read one by one, so that the series of many runs are not kept
        trace = run.trace
        paths.append(str(trace.path))
        require_steps(trace)
        if run.no_equilibrium:
            raise AnalysisError(f"{trace.path}: T against rho_k(0) {run.no_equilibrium}")
        if "init_rho_k" not in trace:
            raise AnalysisError(
                f"{trace.path}: got init.kind {trace.recipe['init']['kind']}, expected equal-norms: the law is one in rho_k(0)"
            )
        _refuse_strangers(first.trace, trace)
        same = {(trace.depth, *member) for member in zip(*(trace[n].tolist() for n in _MEMBER), strict=True)}
        if same & seen:
            raise AnalysisError(f"{trace.path}: has members that another of the runs has too; give each run once")
        seen |= same
        for name in set(trace.per_member) - set(_MEMBER):
            if len(set(trace[name].tolist())) > 1:
                raise AnalysisError(f"{trace.path}: its members differ in {name}; give runs of one {name}")
        T = [run.time_of(m, passed.T) for m, passed in enumerate(run.passages)]
        found.setdefault(trace.depth, []).append(_Members(trace["seed"], trace["init_rho_k"], np.array(T)))
    pooled = {
        depth: _Members(*(np.concatenate([getattr(p, n) for p in found[depth]]) for n in ("seed", "start", "T")))
        for depth in sorted(found)
    }
    each = tuple(_scaling_of(depth, members, target) for depth, members in pooled.items())
    deeper = tuple(d for pair in pairwise(pooled) if (d := _deeper(pair, pooled[pair[0]], pooled[pair[1]])))
    return Scaling(tuple(paths), first.theta, target, each, deeper)


def _refuse_strangers(first: Trace, other: Trace) -> None:
    """Raises AnalysisError where two runs differ in what moves T beside depth, rho_k(0), learning rate and seeds."""
    old, new = comparable_recipes([first, other])
    unlike = {k: v for k, v in differences(old, new).items() if not k.startswith(_MAY_DIFFER)}
    if not unlike and first.attributes["data_digest"] != other.attributes["data_digest"]:
        unlike = {"data": (first.attributes["data_digest"][:12], other.attributes["data_digest"][:12])}
    if unlike:
        words = "; ".join(f"{key}: {own} and {others}" for key, (own, others) in unlike.items())
        raise AnalysisError(
            f"{first.path} and {other.path} cannot be pooled, for they differ in {words}; "
            "give runs that differ in nothing but depth, rho_k(0), lr and seeds"
        )


def _deeper(depths: tuple[int, int], shallow: _Members, deep: _Members) -> Deeper | None:
    """None where the starts do not overlap, or no seed is common."""
    low = max(float(members.start.min()) for members in (shallow, deep))
    high = min(float(members.start.max()) for members in (shallow, deep))
    if low > high:
        return None
    start, ratios = float(np.sqrt(low * high)), []
    for seed in np.intersect1d(shallow.seed, deep.seed):
        at = []
        for members in (shallow, deep):
            mine = (members.seed == seed) & (members.T > 0)
            order = np.argsort(members.start[mine])
            x, y = np.log(members.start[mine][order]), np.log(members.T[mine][order])
            at.append(np.interp(np.log(start), x, y, left=np.nan, right=np.nan) if len(x) else np.nan)
        ratios.append(np.exp(at[1] - at[0]))
    known = np.array([ratio for ratio in ratios if np.isfinite(ratio)])
    return Deeper(depths, start, geometric_mean(known)) if len(known) else None


def _scaling_of(depth: int, members: _Members, target: float) -> DepthScaling:
    points = []
    for start in sorted(set(members.start.tolist()), reverse=True):
        here = members.start == start
        left = here & (members.T > 0)
        seeds = [np.exp(np.log(members.T[left & (members.seed == s)]).mean()) for s in np.unique(members.seed[left])]
        points.append(Point(start, int(here.sum()), int(left.sum()), geometric_mean(np.array(seeds))))
    slopes, residual = _slopes(members, np.log)
    used = [p for p in points if p.left]
    centres = np.array([p.T.value for p in used])
    collapsed = centres * np.array([p.start for p in used]) ** max(depth - 2.0, 0.0)
    local = local_per_efold = NONE
    if len(used) >= 2:
        smallest = members.start <= used[-2].start
        near = _Members(*(v[smallest] for v in vars(members).values()))
        local = mean(_slopes(near, np.log)[0])
        local_per_efold = mean(-_slopes(near, np.asarray)[0]) if depth == 2 else NONE
    return DepthScaling(
        depth=depth,
        points=tuple(points),
        seeds=len(slopes),
        law=float(min(2 - depth, 0)),
        exponent=mean(slopes),
        local=local,
        at_zero=_at_zero(depth, members),
        per_efold=mean(-_slopes(members, np.asarray)[0]) if depth == 2 else NONE,
        local_per_efold=local_per_efold,
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


def _at_zero(depth: int, members: _Members) -> Interval:
    """The exponent for a start that goes to zero, mean over seeds.

    With constant A and B, T is ``a r^(2-L) + b`` but for smaller terms, so one over the exponent at r is a line in
    r^(L-2). That line through the exponents between neighbouring starts leads to the limit.
    """
    limits = []
    for seed in np.unique(members.seed) if depth > 2 else []:
        mine = (members.seed == seed) & (members.T > 0)
        x, level = np.log(members.start[mine]), np.log(members.T[mine])
        starts = np.unique(x)
        if len(starts) < 3:
            continue
        T = np.array([level[x == start].mean() for start in starts])
        middle = (starts[1:] + starts[:-1]) / 2
        if (np.diff(T) < 0).all():
            inverse = np.polyfit(np.exp((depth - 2) * middle), np.diff(starts) / np.diff(T), 1)[1]
            limits.append(float(1 / inverse))
    return mean(np.array(limits)) if limits else NONE


def _factor(values: Floats) -> float:
    return float(values.max() / values.min()) if len(values) > 1 else np.nan


def _seeds_needed(slopes: Floats, target: float) -> int:
    """Smallest number of seeds whose Student interval is within plus or minus ``target``; 0 where it is not known."""
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
