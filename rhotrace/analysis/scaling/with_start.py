"""``rhotrace scaling``: how T depends on rho_k(0) at each depth, against the law of the memo's equation (5).

With constant A, equation (5) gives ``T ~ rho_k(0)^-(L-2) / (2 A (L-2))`` for small starts, and at L = 2
``T ~ log(1/rho_k(0)) / (2 A)``. Whether it holds in trained networks, whose A grows, is what is measured.

The seed is the unit of chance: members of one seed start in the same directions at every rho_k(0), so a
slope is fitted to each seed, and the interval is Student's t over the seeds' slopes. What moves the exponent beside chance is
in ``systematic``, and what the transient's clock is, in ``clock``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from rhotrace.analysis.run_series import RunSeries, require_steps
from rhotrace.analysis.run_summary import comparable_recipes
from rhotrace.analysis.scaling.against import Against, compared
from rhotrace.analysis.scaling.clock import Clocks, clocks
from rhotrace.analysis.scaling.members import Members, pooled, read, slopes
from rhotrace.analysis.scaling.systematic import Systematic, systematic
from rhotrace.config.recipe import differences
from rhotrace.errors import AnalysisError
from rhotrace.runfile.reader import Trace
from rhotrace.statistics.intervals import NONE, Interval, geometric_mean, mean, student_t
from rhotrace.statistics.numbers import written

Floats = NDArray[np.float64]

TARGET = 0.1
_NEAR = 0.1  # of the law: the exponent of equation (5) itself reaches it only as the start goes to zero
_NO_TRANSIENT = 2.0  # |rho_eq/rho| before the first step: below this, rho is not below rho_eq/2 to begin with
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
        distance: median of |rho_eq/rho| before the first step.
    """

    start: float
    members: int
    left: int
    T: Interval
    distance: float


@dataclass(frozen=True)
class Phases:
    """In how many steps the loss comes down, and where rho has made half of its way.

    Attributes:
        members: how many.
        several: in how many the loss comes down in two steps or more, with a plateau between.
        exponent: d log t / d log rho_k(0) of the time t at which half of the final rise of rho is reached.
    """

    members: int
    several: int
    exponent: Interval


@dataclass(frozen=True)
class DepthScaling:
    """T against rho_k(0) at one depth.

    Where a seed was trained from one start at several learning rates, all but ``points`` and ``systematic`` are of the largest.

    Attributes:
        depth: L.
        points: by start, largest first.
        seeds: from which the slopes are.
        law: -(L - 2), the exponent of equation (5) for small starts; 0 at L = 2, where T is a logarithm, and at L = 1,
            where T does not depend on them.
        exponent: d log T / d log rho_k(0) over all starts.
        local: the same between the two smallest starts, where the law should be nearest.
        systematic: what finite steps, finite starts and theta make of it, and the exponent without them.
        per_efold: at L = 2, growth of T for each e-fold by which rho_k(0) is smaller, learning rate x steps.
        local_per_efold: the same between the two smallest starts: equal where T is a logarithm.
        residual: root mean square of log T about each seed's line.
        raw_factor: largest over smallest T of the points.
        collapsed_factor: the same of T rho_k(0)^(L-2): 1 where the law holds.
        phases: T belongs to the first of them.
        clock: how well the integral of rho_k^(L-2) dt keeps time over starts; None below two starts of a seed.
        seeds_needed: for an interval of the exponent of plus or minus ``target``, at this scatter.
        cautions: what the numbers do not say.
    """

    depth: int
    points: tuple[Point, ...]
    seeds: int
    law: float
    exponent: Interval
    local: Interval
    systematic: Systematic
    per_efold: Interval
    local_per_efold: Interval
    residual: float
    raw_factor: float
    collapsed_factor: float
    phases: Phases
    clock: Clocks | None
    seeds_needed: int
    cautions: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """Whether the law is within all the errors, or how near the exponent comes to it, in words."""
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
        found, whole = self.systematic.extrapolated, self.systematic.whole
        half = (whole.high - whole.low) / 2
        inside = whole.low <= self.law <= whole.high
        where = f"extrapolated to {self._limits()}"
        if inside and half <= near:
            return f"the law holds, {where}, to ± {written(half, 2)}"
        if inside:
            return f"too uncertain to tell: {where} the interval contains the law but is ± {written(half, 2)}"
        off = abs(found.value - self.law)
        if off <= near:
            how = f"{100 * off / abs(self.law):.1f} %" if self.law else f"{written(off, 2)}"
            return f"the law is met to {how}, {where}, though it is outside the interval with all errors"
        return f"the law is not met: {'steeper' if found.value < self.law else 'shallower'}"

    def _limits(self) -> str:
        steps = "lr -> 0" if self.systematic.step_from != "not tested" else ""
        starts = "rho_k(0) -> 0" if np.isfinite(self.systematic.start) else ""
        return " and ".join(limit for limit in (steps, starts) if limit) or "nothing"


@dataclass(frozen=True)
class Deeper:
    """T of one depth against that of the next at one start.

    Attributes:
        depths: the shallower and the deeper one.
        start: rho_k(0), one that both have, or else the middle of the starts that both span; T is interpolated in logarithms.
        ratio: T of the deeper over T of the shallower, geometric mean over the seeds that both have.
        seeds: how many these are.
        distance: |rho_eq/rho| before the first step, the smaller of the two depths' medians.
    """

    depths: tuple[int, int]
    start: float
    ratio: Interval
    seeds: int
    distance: float

    @property
    def verdict(self) -> str:
        """Whether the deeper network's T is longer at this start, in words."""
        if self.distance < _NO_TRANSIENT:
            return f"hardly a transient: |rho_eq/rho| is {written(self.distance, 2)} before the first step"
        return "longer" if self.ratio.low > 1 else "shorter" if self.ratio.high < 1 else "not shown"


@dataclass(frozen=True)
class Scaling:
    """All of ``rhotrace scaling``'s answer.

    Attributes:
        paths: of the runs.
        theta: the transient ends at rho = theta rho_eq.
        target: half-width of the interval for which ``seeds_needed`` is given.
        each: by depth.
        deeper: each depth against the next, at the starts that both have.
        against: T of other runs over T of these, member by member.
    """

    paths: tuple[str, ...]
    theta: float
    target: float
    each: tuple[DepthScaling, ...]
    deeper: tuple[Deeper, ...]
    against: tuple[Against, ...] = ()


def scaling(
    runs: Sequence[Trace | RunSeries],
    *,
    theta: float | None = None,
    target: float = TARGET,
    against: Sequence[Trace | RunSeries] = (),
) -> Scaling:
    """Fits T against rho_k(0) at each depth that the runs have.

    Args:
        runs: the runs; a ``RunSeries`` has a theta of its own.
        theta: the transient ends at rho = theta rho_eq; 1/2 by default.
        target: half-width of the interval of the exponent to plan seeds for.
        against: runs whose T is compared with that of the members with the same depth, start, seed and learning rate; they may
            differ in anything else.

    Raises:
        AnalysisError: a run has no steps, was not initialised with equal norms or is given twice, or the runs differ
            in more than depth, rho_k(0), learning rate and seeds, or none of the other runs' members has a partner.
    """
    first = RunSeries.of(runs[0], theta)
    paths: list[str] = []
    seen: set[tuple[float, ...]] = set()
    found: dict[int, list[Members]] = {}
    for one in runs:
        run = RunSeries.of(one, theta)  # read one by one, so that the series of many runs are not kept
        trace = run.trace
        paths.append(str(trace.path))
        _require_starts(run)
        _refuse_strangers(first.trace, trace)
        same = {(trace.depth, *member) for member in zip(*(trace[n].tolist() for n in _MEMBER), strict=True)}
        if same & seen:
            raise AnalysisError(f"{trace.path}: has members that another of the runs has too; give each run once")
        seen |= same
        for name in set(trace.per_member) - set(_MEMBER):
            if len(set(trace[name].tolist())) > 1:
                raise AnalysisError(f"{trace.path}: its members differ in {name}; give runs of one {name}")
        found.setdefault(trace.depth, []).append(read(run))
    depths = {depth: pooled(found[depth]) for depth in sorted(found)}
    others: list[Against] = []
    for one in against:
        run = RunSeries.of(one, first.theta)
        _require_starts(run)
        others += compared(run, read(run), depths.get(run.trace.depth))
    return Scaling(
        tuple(paths),
        first.theta,
        target,
        tuple(_scaling_of(depth, members, target) for depth, members in depths.items()),
        tuple(d for pair in pairwise(depths) for d in _deeper(pair, depths[pair[0]], depths[pair[1]])),
        tuple(others),
    )


def _require_starts(run: RunSeries) -> None:
    """Raises AnalysisError where a run has no steps, no rho_eq, or no rho_k(0) of its own."""
    trace = run.trace
    require_steps(trace)
    if run.no_equilibrium:
        raise AnalysisError(f"{trace.path}: T against rho_k(0) {run.no_equilibrium}")
    if "init_rho_k" not in trace:
        raise AnalysisError(
            f"{trace.path}: got init.kind {trace.recipe['init']['kind']}, expected equal-norms: the law is one in rho_k(0)"
        )


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


def _deeper(depths: tuple[int, int], shallow: Members, deep: Members) -> list[Deeper]:
    """At the starts that both depths have, or else in the middle of those that both span; none where no seed is common."""
    low = max(float(members.start.min()) for members in (shallow, deep))
    high = min(float(members.start.max()) for members in (shallow, deep))
    if low > high:
        return []
    starts = np.intersect1d(shallow.start, deep.start)
    found = []
    for start in starts[::-1] if len(starts) else np.sqrt([low * high]):
        each = [np.exp(_log_T(deep, seed, start) - _log_T(shallow, seed, start)) for seed in np.unique(shallow.seed)]
        known = np.array([ratio for ratio in each if np.isfinite(ratio)])
        if len(known):
            distance = min(_distance(members, start) for members in (shallow, deep))
            found.append(Deeper(depths, float(start), geometric_mean(known), len(known), distance))
    return found


def _log_T(members: Members, seed: int, start: float) -> float:
    """log T of a seed, interpolated in log rho_k(0); NaN outside its starts."""
    mine = members.where((members.seed == seed) & (members.T > 0))
    if start in mine.start:
        return float(np.log(mine.T[mine.start == start]).mean())
    order = np.argsort(mine.start)
    x, y = np.log(mine.start[order]), np.log(mine.T[order])
    outside = not len(x) or not x[0] <= np.log(start) <= x[-1]
    return np.nan if outside else float(np.interp(np.log(start), x, y))


def _distance(members: Members, start: float) -> float:
    """Median of |rho_eq/rho| before the first step at a start, or at the nearest."""
    near = members.start[np.argmin(np.abs(np.log(members.start / start)))]
    return float(np.median(members.distance[members.start == near]))


def _scaling_of(depth: int, members: Members, target: float) -> DepthScaling:
    points = []
    for start in sorted(set(members.start.tolist()), reverse=True):
        here = members.start == start
        left = here & (members.T > 0)
        seeds = [np.exp(np.log(members.T[left & (members.seed == s)]).mean()) for s in np.unique(members.seed[left])]
        T = geometric_mean(np.array(seeds))
        points.append(Point(start, int(here.sum()), int(left.sum()), T, _distance(members, start)))
    main = members.one_for_each_start(largest=True)
    fitted, residual = slopes(main.seed, main.start, main.T)
    used = [p for p in points if p.left]
    centres = np.array([p.T.value for p in used])
    collapsed = centres * np.array([p.start for p in used]) ** max(depth - 2.0, 0.0)
    local = local_per_efold = NONE
    if len(used) >= 2:
        near = main.where(main.start <= used[-2].start)
        local = mean(slopes(near.seed, near.start, near.T)[0])
        local_per_efold = mean(-slopes(near.seed, near.start, near.T, np.asarray)[0]) if depth == 2 else NONE
    fine = members.one_for_each_start(largest=False)
    return DepthScaling(
        depth=depth,
        points=tuple(points),
        seeds=len(fitted),
        law=float(min(2 - depth, 0)),
        exponent=mean(fitted),
        local=local,
        systematic=systematic(depth, members),
        per_efold=mean(-slopes(main.seed, main.start, main.T, np.asarray)[0]) if depth == 2 else NONE,
        local_per_efold=local_per_efold,
        residual=residual,
        raw_factor=_factor(centres),
        collapsed_factor=_factor(collapsed),
        phases=Phases(len(main.seed), int((main.falls > 1).sum()), mean(slopes(main.seed, main.start, main.half)[0])),
        clock=clocks(fine.seed, fine.clock, fine.T, fine.grown),
        seeds_needed=_seeds_needed(fitted, target) if depth != 2 else 0,
        cautions=tuple(_cautions(points, members)),
    )


def _factor(values: Floats) -> float:
    return float(values.max() / values.min()) if len(values) > 1 else np.nan


def _seeds_needed(slopes: Floats, target: float) -> int:
    """Smallest number of seeds whose Student interval is within plus or minus ``target``; 0 where it is not known."""
    if len(slopes) < 2:
        return 0
    from scipy.special import ndtri

    spread = float(slopes.std(ddof=1))
    n = max(2, int((ndtri(0.975) * spread / target) ** 2))  # a little too few: Student's t is wider
    while n < _MOST_SEEDS and student_t(n - 1) * spread / np.sqrt(n) > target:
        n += 1
    return min(n, _MOST_SEEDS)


def _cautions(points: Sequence[Point], members: Members) -> list[str]:
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
