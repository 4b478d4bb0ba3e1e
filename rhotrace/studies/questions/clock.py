"""Section 3 of the memo: why T ~ rho_k(0)^-(L-2) although A and B, which it takes to be constant, are not.

The claim under test: while the outputs are small, equation (7) is ``dV_k/dt = rho_k^(L-2)`` times a function of the directions. So
the directions V turn on the clock tau = sum lr rho_k^(L-2), and from one V(0) they take the same way for every rho_k(0). The transient ends
when V has turned far enough, at a tau that does not depend on rho_k(0); so T ~ rho_k(0)^-(L-2), with any A and B.

What would count as a yes was fixed before the runs were looked at; at every depth,

1. directions: when the first of a seed's networks comes to its T, the distance between the V of different starts at equal tau is less
   than a quarter of that at equal time, and less than a quarter of that between seeds (intervals over seeds);
2. norms held: where rho_k cannot grow and V turns alone, A comes to the same value at a tau within 10 % of that of free norms;
3. directions held: where V cannot turn, A and B are constant and equation (5) has a closed form: its T is off by more than a factor 2.

A part fails where its interval is wholly beyond the bound, and is undecided where it contains it. No: the first part fails at every depth.

What was added after looking, and is no part of the verdict: the first part at half of that tau, because at T the outputs are not small any more,
which the claim needs, and for the two smallest starts alone; and L = 12, by the same rule. At equal time only the largest start has turned, so the
bound against it is a quarter of what that one has turned, which is little in deep networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from rhotrace.analysis.run_series import RunSeries
from rhotrace.analysis.scaling.clock import clock_of
from rhotrace.analysis.scaling.members import slopes
from rhotrace.analysis.scaling.with_start import scaling
from rhotrace.display.blocks import Block, Figure, Paragraph, table
from rhotrace.display.figures.curves import Curve, curves_figure
from rhotrace.display.numbers import count, number, ranged
from rhotrace.statistics.intervals import NONE, Interval, geometric_mean, mean
from rhotrace.studies.measures import Floats
from rhotrace.studies.snapshots import Directions, Weights, distance
from rhotrace.studies.study import Answer, Runs, Study, Training, Verdict

NEAR, SAME, OFF = 0.25, 1.1, 2.0  # the bounds of the three parts

# Tau of one step and the three starts at each depth, so that T is a few hundred steps; learning rates are tau/rho_k(0)^(L-2).
_DEPTHS = {
    3: (0.01, (0.35, 0.7, 1.4)),
    4: (0.04, (0.5, 1, 2)),
    6: (1.7, (2.25, 3, 4)),
    8: (68, (3.2, 4, 5)),
    12: (1.15e5, (4.5, 5.2, 6)),
}
_LONGER = {12: ("steps=6000",)}
_CONV = (3, 4, 5)


@dataclass(frozen=True)
class Depth:
    """What the networks of one depth say.

    Attributes:
        exponent: of T in rho_k(0) with free norms, with its systematic errors, and the law -(L - 2).
        held_exponent: of the time to equal A, with norms held.
        against_time: distance between the V of different starts at equal tau over that at equal time.
        against_seeds: the same over that between seeds at equal tau.
        turned: distance at equal tau over that from V(0).
        early: the same at half of this tau.
        smaller: the same at this tau, of the two smallest starts.
        clock: tau at T, largest over smallest start.
        T: the same in time.
        held: tau of held norms over that of free norms at equal A.
        frozen: T of equation (5) with A and B of the start over T.
        without: networks that with their directions held would have no T.
        interpolation: error of a straight line over two snapshots, relative to the distance at equal tau.
    """

    law: float
    exponent: Interval
    held_exponent: Interval
    against_time: Interval
    against_seeds: Interval
    turned: Interval
    early: Interval
    smaller: Interval
    clock: Interval
    T: Interval
    held: Interval
    frozen: Interval
    without: int
    interpolation: float

    def parts(self) -> tuple[Verdict, Verdict, Verdict]:
        """Whether each of the three parts is met."""
        near = _all([below(self.against_time, NEAR), below(self.against_seeds, NEAR)])
        held = _all([below(self.held, SAME), below(inverse(self.held), SAME)])
        far = {"yes": "no", "no": "yes"}
        frozen: Verdict = far.get(_all([below(self.frozen, OFF), below(inverse(self.frozen), OFF)]), "undecided")  # type: ignore[assignment]
        return near, held, frozen if np.isfinite(self.frozen.value) else "yes"


def below(ratio: Interval, bound: float) -> Verdict:
    """Whether a ratio is below a bound: undecided where its interval contains it."""
    if ratio.high < bound:
        return "yes"
    return "no" if ratio.low > bound else "undecided"


def inverse(ratio: Interval) -> Interval:
    """One over a ratio."""
    return Interval(1 / ratio.value, 1 / ratio.high, 1 / ratio.low)


def _all(parts: Sequence[Verdict]) -> Verdict:
    return "no" if "no" in parts else "undecided" if "undecided" in parts else "yes"


def verdict(depths: Sequence[Depth]) -> Verdict:
    """See the module."""
    parts = [depth.parts() for depth in depths]
    found = _all([part for each in parts for part in each])
    if found != "no":
        return found
    return "no" if all(near == "no" for near, _, _ in parts) else "in part"


# --- one depth -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Networks:
    """A run with its directions, and each member's tau and time at the snapshots, (S, M)."""

    run: RunSeries
    V: Directions
    tau: Floats
    time: Floats

    @classmethod
    def of(cls, run: RunSeries) -> _Networks:
        V, depth = Directions.of(run.trace), run.trace.depth
        rate = run.lr * np.exp((depth - 2) / depth * run.every_step("log_rho"))
        tau = np.concatenate([np.zeros((1, run.trace.members)), np.cumsum(rate, axis=0)])
        return cls(run, V, tau[V.steps], V.steps[:, None] * run.lr)

    def at(self, m: int, tau: float) -> Weights | None:
        """Directions of a member at a tau."""
        return self.V.at(m, self.tau[:, m], tau)


def of_depth(free: RunSeries, held: RunSeries) -> Depth:
    """Measures one depth; both runs have the same members."""
    networks, seeds = _Networks.of(free), list(dict.fromkeys(free.seeds))
    T = [passage.T for passage in free.passages]
    order = np.argsort(free.trace["init_rho_k"], kind="stable").tolist()  # smaller starts first
    members = [[m for m in order if free.seeds[m] == own and T[m] > 0] for own in seeds]
    members = [own for own in members if len(own) == max(map(len, members))]  # with a T at every start
    ends = [min(clock_of(free.members[m], T[m]).end for m in own) for own in members]
    soonest = [min(free.time_of(m, T[m]) for m in own) for own in members]
    at_T = [[networks.at(m, end) for m in own] for own, end in zip(members, ends, strict=True)]
    halfway = [[networks.at(m, end / 2) for m in own] for own, end in zip(members, ends, strict=True)]
    begin = [[networks.at(m, 0.0) for m in own] for own in members]
    later = [[networks.V.at(m, networks.time[:, m], t) for m in own] for own, t in zip(members, soonest, strict=True)]
    near = _between(at_T)
    others = [
        np.mean([distance(a, b) for j, other in enumerate(at_T) if j != i for a, b in zip(mine, other, strict=True)])
        for i, mine in enumerate(at_T)
    ]
    result = scaling([free]).each[0]
    frozen = np.array([each.T_constant / each.T for each in free.transient.each])
    frozen[~(frozen > 0)] = np.nan
    held_ratio, held_exponent = _held(free, held, members)
    return Depth(
        law=result.law,
        exponent=result.systematic.whole,
        held_exponent=held_exponent,
        against_time=geometric_mean(near / _between(later)),
        against_seeds=geometric_mean(near / others),
        turned=geometric_mean(near / _turned(at_T, begin)),
        early=geometric_mean(_between(halfway) / _turned(halfway, begin)),
        smaller=geometric_mean(_between(_first_two(at_T)) / _turned(_first_two(at_T), _first_two(begin))),
        clock=result.clock.to_end if result.clock else NONE,
        T=result.clock.T if result.clock else NONE,
        held=held_ratio,
        frozen=_of_seeds(frozen, members),
        without=int(np.isnan(frozen).sum()),
        interpolation=_interpolation(networks, members, ends) / float(near.mean()),
    )


_Each = list[list[Weights | None]]  # directions of each seed's networks, one for each start


def _between(V: _Each) -> Floats:
    """Distance between different starts, mean over pairs, for each seed."""
    return np.array([np.mean([distance(a, b) for a, b in combinations(own, 2)]) for own in V])


def _first_two(V: _Each) -> _Each:
    return [own[:2] for own in V]


def _turned(V: _Each, begin: _Each) -> Floats:
    """Distance from V(0), mean over starts, for each seed."""
    return np.array(
        [np.mean([distance(a, b) for a, b in zip(*own, strict=True)]) for own in zip(V, begin, strict=True)]
    )


def _of_seeds(values: Floats, members: list[list[int]]) -> Interval:
    """Geometric mean over seeds of each seed's own; without members that have no value."""
    logs = [np.log(values[own]) for own in members]
    return geometric_mean(np.array([np.exp(own[np.isfinite(own)].mean()) for own in logs if np.isfinite(own).any()]))


def _held(free: RunSeries, held: RunSeries, members: list[list[int]]) -> tuple[Interval, Interval]:
    """Tau of held over tau of free norms at equal A, and the exponent of the time to it with norms held.

    A is the smallest that any network of the seed has at T with free norms, or comes to with held norms.
    """
    one = {m: clock_of(free.members[m], free.passages[m].T) for own in members for m in own}
    other = {m: clock_of(held.members[m], float(held.steps[-1])) for m in one}
    ratio, time = np.full((2, free.trace.members), np.nan)
    for own in members:
        level = min(float(clock[m].levels[-1]) for m in own for clock in (one, other))
        for m in own:
            ratio[m] = other[m].at(level) / one[m].at(level)
            depth = held.trace.depth
            time[m] = other[m].at(level) * np.exp(-(depth - 2) / depth * held.log_rho[0, m])
    exponent = mean(slopes(np.array(held.seeds), held.trace["init_rho_k"], np.nan_to_num(time))[0])
    return _of_seeds(ratio, members), exponent


def _interpolation(networks: _Networks, members: list[list[int]], ends: list[float]) -> float:
    """Distance of V at the snapshot before ``ends`` from the line through its neighbours, over 4: half the step has a quarter of it."""
    found = []
    for own, end in zip(members, ends, strict=True):
        for m in own:
            tau = networks.tau[:, m]
            place = int(np.clip(np.searchsorted(tau, end) - 1, 1, len(tau) - 2))
            sparse = Directions(
                networks.V.steps[[place - 1, place + 1]], tuple(V[[place - 1, place + 1]] for V in networks.V.V)
            )
            line = sparse.at(m, tau[[place - 1, place + 1]], float(tau[place]))
            found.append(distance(line, networks.V.at(m, tau, float(tau[place]))) / 4)
    return float(np.mean(found))


# --- the answer ------------------------------------------------------------------------------------------------


def answer(runs: Runs) -> Answer:
    """Compares directions at equal tau and equal time, held norms with free ones, and T with that of frozen directions."""
    depths = {L: of_depth(runs[f"clock-free-L{L}"], runs[f"clock-held-L{L}"]) for L in _DEPTHS}
    conv = {L: scaling([runs[f"scaling-conv-L{L}"]]).each[0] for L in _CONV if f"scaling-conv-L{L}" in runs}
    parts = {L: depth.parts() for L, depth in depths.items()}
    decided = [", ".join(f"{v} at L = {L}" for L, each in parts.items() if (v := each[place])) for place in range(3)]
    conv_words = (
        f" In convolutional networks on CIFAR-10 (L = {', '.join(map(str, conv))}) it is "
        + ", ".join(f"{ranged(one.systematic.whole)} (law {one.law:g})" for one in conv.values())
        + ", and tau at equal A, largest over smallest start, is "
        + ", ".join(ranged(one.clock.to_equal if one.clock else NONE) for one in conv.values())
        + "."
        if conv
        else " Convolutional networks were not trained, because CIFAR-10 is not available."
    )

    def over(of: Callable[[Depth], Interval]) -> str:
        values = [of(depth).value for depth in depths.values()]
        return f"{number(min(values))} to {number(max(values))}"

    met = [sum(part[place] == "yes" for part in parts.values()) for place in range(3)]
    return Answer(
        verdict=verdict(list(depths.values())),
        words=f"directions from different starts are the same at equal tau, up to T, at {met[0]} of {len(depths)} depths (L = "
        f"{', '.join(map(str, depths))}), held norms keep the clock at {met[1]}, and with held directions T would be another at {met[2]}. From depth to "
        "depth (intervals are in the study's table): when the first of a seed's networks comes to its T, the directions of different starts at equal "
        f"tau are {over(lambda d: d.against_time)} times as far apart as at equal time, and {over(lambda d: d.against_seeds)} times as far as those of "
        f"different seeds; both were to be below {NEAR:g}. At half of that tau, where the outputs are smaller (added after looking), they are apart by "
        f"{over(lambda d: d.early)} of what they have turned. With the norms held, A comes to the same value at {over(lambda d: d.held)} times the tau of free "
        f"norms. With the directions held, T would be {over(lambda d: d.frozen)} times as long. From the largest to the smallest start, tau at T grows by a factor "
        f"{over(lambda d: d.clock)}, and T by {over(lambda d: d.T)}. The exponents of T, with systematic errors, are "
        f"{', '.join(f'{ranged(d.exponent)} (law {d.law:g})' for d in depths.values())}.{conv_words}",
        limits="one pair of digits, 200 samples, one width, three starts at each depth, eight seeds. Directions between snapshots are on a "
        f"straight line; its error is up to {number(max(d.interpolation for d in depths.values()), 2)} of the distance at equal tau. Near T the directions "
        "turn fast, so that a small difference in tau is a large distance. With the directions held, "
        f"{count(sum(d.without for d in depths.values()), 'network')} would have no T, because A(0) is not positive or rho(0) is not below half of "
        "rho_eq(0); the ratio is of the others.",
        would_change="smaller starts, whose outputs stay small for more of the transient, if their directions were the same at equal tau up to T.",
        details=tuple(_details(runs, depths, decided)),
        values={
            "depths": {str(L): vars(depth) for L, depth in depths.items()},
            "parts": parts,
            "conv": {str(L): one.systematic.whole for L, one in conv.items()},
        },
    )


def _details(runs: Runs, depths: dict[int, Depth], decided: list[str]) -> list[Block]:
    rows = [
        (
            str(L),
            *(
                ranged(value)
                for value in (
                    d.exponent,
                    d.held_exponent,
                    d.against_time,
                    d.against_seeds,
                    d.turned,
                    d.early,
                    d.smaller,
                    d.clock,
                    d.held,
                    d.frozen,
                )
            ),
        )
        for L, d in depths.items()
    ]
    names = ("Directions are the same at equal tau", "Held norms keep the clock", "Held directions have another T")

    def draw(L: int) -> Callable[[Path], None]:
        def figure(path: Path) -> None:
            run = runs[f"clock-free-L{L}"]
            networks, groups = _Networks.of(run), run.groups()
            start = [networks.V.at(m, networks.tau[:, m], 0.0) for m in range(run.trace.members)]
            curves = []
            for label, mine in groups.items():
                turned = [
                    [distance([V[s, m] for V in networks.V.V], start[m]) for m in mine]
                    for s in range(1, len(networks.V.steps))
                ]
                curves.append(Curve(label.split(",")[0], networks.tau[1:, mine], np.array(turned)))
            curves_figure(
                curves, path, x="tau", y="distance from V(0)", title=f"Directions on the clock, L = {L}", log="x"
            )

        return figure

    return [
        *(Paragraph(f"{name}: {words}.") for name, words in zip(names, decided, strict=True)),
        table(
            "L | exponent of T | of held norms | V at equal tau / equal time | / other seed | / turned | / turned, at half of tau | / turned, two smallest starts | tau at T over starts | tau held/free | T frozen / T",
            rows,
        ),
        *(
            Figure("How far the directions have turned against tau; one line for each network.", draw(L))
            for L in depths
        ),
    ]


def _starts(depth: int) -> str:
    tau, starts = _DEPTHS[depth]
    grid = ", ".join(f"{{rho_k: [{r:g}], lr: [{tau / r ** (depth - 2):.4g}], seeds: 8}}" for r in starts)
    return f"members={{grid: [{grid}]}}"


def _trainings(*more: str) -> tuple[Training, ...]:
    found = []
    for kind, optimizer in (("free", "{kind: gd, lr: 0.02}"), ("held", "{kind: norm-control, lr: 0.02}")):
        for depth in _DEPTHS:
            own = (f"network.depth={depth}", _starts(depth), f"optimizer={optimizer}", *_LONGER.get(depth, ()))
            found.append(Training(f"clock-{kind}-L{depth}", "studies/clock", (*own, *more)))
    conv = (Training(f"scaling-conv-L{L}", f"cifar/scaling-conv-L{L}", optional=True) for L in _CONV)
    return (*found, *conv)


STUDY = Study(
    name="clock",
    question="Does T ~ rho_k(0)^-(L-2) hold, although A and B are not constant, because the directions V_k turn on the clock "
    "tau = sum lr rho_k^(L-2)?",
    source="memo, section 3; RhoTrace's reading of equation (7)",
    trainings={
        "small": _trainings(),
        "gpu": _trainings("data.train=4000", "data.test=1900"),  # starts and learning rates are of this width
    },
    answer=answer,
)
