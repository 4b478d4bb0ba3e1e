"""Equation (9) and Figure 2 of the memo: is the network at the end of the transient that of a regularised problem?

How C and lambda are matched. Ivanov's problem is min mean((rho f - y)^2) over rho <= C and the directions V. Where the bound is
active, its Lagrange function is that plus lambda (rho^2 - C^2), lambda >= 0, which is Tikhonov's problem with the penalty lambda rho^2 but for a
constant. Stationary in rho at rho = C: 2 (C B - A) + 2 lambda C = 0, so lambda = (A - C B)/C, Figure 2, with A = mean(y f) and
B = mean(f^2) of the solution. Stationary in V: the right-hand side of equation (7) is zero for both, at the same rho. So their stationary points are the same.
(Minima need not be: Tikhonov's problem has its minima where the smallest loss as a function of rho^2 is convex.) The
transient is matched by its norm: the free network when rho passes C, with C near rho(T).

The distance between networks is the angle between their outputs on the test set, which is that between their f. What would count as a yes was
fixed before distances were looked at, with rho(T), the norms and the losses known: at C = 4, the nearest to rho(T) of 4, 8 and
16, the angle from the free network to the constrained one of the same seed is less than half of that between free networks of different
seeds at that norm, under Ivanov's and under Tikhonov's regularisation (95 % intervals over seeds). No: it is more than half under
both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rhotrace.analysis.run_series import RunSeries
from rhotrace.display.blocks import Block, Figure, table
from rhotrace.display.figures.curves import Curve, curves_figure
from rhotrace.display.numbers import number, ranged, span
from rhotrace.statistics.intervals import Interval, geometric_mean, mean
from rhotrace.studies.measures import Floats
from rhotrace.studies.snapshots import angle, between, bracket, outputs_on_test_set
from rhotrace.studies.study import Answer, Runs, Study, Training, Verdict

MATCHED, HALF = 4, 0.5
_BOUNDS = {4: 0.0116, 8: 0.00144, 16: 0.000126}  # C, and lambda = (A - C B)/C of the networks that come to rest there


@dataclass(frozen=True)
class Match:
    """The networks of one regularised problem against the free ones at the same norm.

    Attributes:
        rho: at the end, geometric mean over seeds.
        own: angle from the free network to the constrained one of its seed, degrees.
        seeds: between free networks of different seeds at this norm.
        ratio: of the two.
        end: from the free network at this norm to its end.
        solutions: between constrained networks of different seeds.
        multiplier: lambda of Figure 2 of the free network at this norm, over that of the constrained one at rest.
        moving: angle between the last two snapshots of the constrained network, its largest.
        interpolation: error of a straight line between two snapshots of the free network, degrees, mean.
        missing: free networks that never pass this norm.
    """

    rho: Interval
    own: Interval
    seeds: Interval
    ratio: Interval
    end: Interval
    solutions: Interval
    multiplier: Interval
    moving: float
    interpolation: float
    missing: int


@dataclass(frozen=True, eq=False)
class Outputs:
    """A run with its normalised outputs on the test set at its snapshots, (S, M, N), and log rho there, (S, M)."""

    run: RunSeries
    f: Floats
    log_rho: Floats

    @classmethod
    def of(cls, run: RunSeries) -> Outputs:
        """Reads the snapshots of a run and evaluates them on the test set."""
        steps, g = run.trace.snapshot_steps(), outputs_on_test_set(run.trace)
        rows = np.minimum(np.array(steps), len(run.trace["log_rho"]) - 1)  # the last snapshot is after the last step
        log_rho = run.trace["log_rho"][rows]
        return cls(run, g / np.exp(log_rho)[:, :, None], log_rho)

    def passing(self, member: int, log_rho: float) -> Floats | None:
        """f of a free network when it first passes a norm, on a straight line in log rho between snapshots; None where it never does."""
        rising = np.maximum.accumulate(self.log_rho[:, member])
        low, high, share = bracket(rising, log_rho)
        return None if np.isnan(share) else between(self.f[low, member], self.f[high, member], share)

    def error(self, member: int, log_rho: float) -> float:
        """Angle of the snapshot before this norm from the line through its neighbours, over 4: half the step has a quarter of it."""
        rising = np.maximum.accumulate(self.log_rho[:, member])
        place = int(np.clip(np.searchsorted(rising, log_rho) - 1, 1, len(rising) - 2))
        share = (rising[place] - rising[place - 1]) / (rising[place + 1] - rising[place - 1])
        line = between(self.f[place - 1, member], self.f[place + 1, member], share)
        return angle(line, self.f[place, member]) / 4


def _lambda(run: RunSeries) -> Floats:
    """(A - rho B)/rho of equation (6)'s A and B, (n, M)."""
    return np.asarray((run.a - run.q) * np.exp(-2 * run.log_rho))


def match(free: Outputs, other: Outputs) -> Match:
    """Each constrained network at its end, and the free ones of all seeds when they pass its norm."""
    members, ends = range(free.run.trace.members), other.log_rho[-1]
    passing = [[free.passing(m, end) for m in members] for end in ends]  # [seed of the norm][free network]
    known = [m for m in members if all(f is not None for f in passing[m])]
    own = np.array([angle(passing[m][m], other.f[-1, m]) for m in known])
    seeds = np.array([np.mean([angle(passing[m][m], passing[m][n]) for n in members if n != m]) for m in known])
    solutions = [np.mean([angle(other.f[-1, m], other.f[-1, n]) for n in members if n != m]) for m in members]
    figure, rest = _lambda(free.run), _lambda(other.run)[-1]
    first = [int(np.argmax(free.run.log_rho[:, m] >= ends[m])) for m in known]
    return Match(
        rho=geometric_mean(np.exp(ends)),
        own=mean(own),
        seeds=mean(seeds),
        ratio=geometric_mean(own / seeds),
        end=mean(np.array([angle(passing[m][m], free.f[-1, m]) for m in known])),
        solutions=mean(np.array(solutions)),
        multiplier=geometric_mean(np.array([figure[row, m] / rest[m] for row, m in zip(first, known, strict=True)])),
        moving=max(angle(other.f[-2, m], other.f[-1, m]) for m in members),
        interpolation=mean(np.array([free.error(m, ends[m]) for m in known])).value,
        missing=len(members) - len(known),
    )


def nearest(free: Outputs, other: Outputs) -> tuple[Interval, Interval]:
    """The smallest angle between a snapshot of the free network and the constrained one of its seed, and rho of the free one there."""
    angles = np.array([[angle(f, end) for f, end in zip(at, other.f[-1], strict=True)] for at in free.f])
    rho = np.exp(np.take_along_axis(free.log_rho, angles.argmin(axis=0)[None], axis=0)[0])
    return mean(angles.min(axis=0)), geometric_mean(rho)


def verdict(ivanov: Interval, tikhonov: Interval) -> Verdict:
    """See the module; of the ratios under both."""
    if all(ratio.high < HALF for ratio in (ivanov, tikhonov)):
        return "yes"
    if all(ratio.low > HALF for ratio in (ivanov, tikhonov)):
        return "no"
    return "in part" if any(ratio.high < HALF for ratio in (ivanov, tikhonov)) else "undecided"


def answer(runs: Runs) -> Answer:
    """Angles between outputs on the test set: free at rho = C, constrained at the end, and between seeds."""
    free = Outputs.of(runs["ivanov-free"])
    outputs = {name: Outputs.of(run) for name, run in runs.items() if name != "ivanov-free"}
    found = {name: match(free, other) for name, other in outputs.items()}
    ivanov, tikhonov = found[f"ivanov-{MATCHED}"], found[f"tikhonov-{MATCHED}"]
    at_T = np.exp(
        [np.interp(p.T, free.run.steps, free.run.log_rho[:, m]) for m, p in enumerate(free.run.passages) if p.T > 0]
    )
    members = range(free.run.trace.members)

    def apart(name: str) -> Interval:
        """From the constrained networks at the matched C to those of another run, seed by seed."""
        return mean(np.array([angle(outputs[f"ivanov-{MATCHED}"].f[-1, m], outputs[name].f[-1, m]) for m in members]))

    close, nearest_at = nearest(free, outputs[f"ivanov-{MATCHED}"])
    starts, both = apart(f"ivanov-{MATCHED}-start"), apart(f"tikhonov-{MATCHED}")

    return Answer(
        verdict=verdict(ivanov.ratio, tikhonov.ratio),
        words=f"rho(T) is {number(at_T.min())} to {number(at_T.max())}. Where rho passes C = {MATCHED}, the outputs of the free network on the test set are at "
        f"{ranged(ivanov.own)} degrees from those of the same seed trained under rho <= C, and {ranged(ivanov.seeds)} from those of other "
        f"free networks at this norm: a ratio of {ranged(ivanov.ratio)}. Under the penalty lambda rho^2 with the matching lambda, whose networks are at {ranged(both)} degrees from these, the ratio is "
        f"{ranged(tikhonov.ratio)}. Networks of different seeds under rho <= C are at {ranged(ivanov.solutions)} degrees from each "
        f"other, and at {ranged(starts)} from those that start at rho = C. lambda of Figure 2, in the free network at this norm, is {ranged(ivanov.multiplier)} times the Lagrange "
        f"multiplier of the constrained one. From here the free network moves by {ranged(ivanov.end)} degrees until its end. Along its run it is nearest to "
        f"the constrained one where rho is {ranged(nearest_at)}, at {ranged(close)} degrees (added after looking).",
        limits="one pair of digits, 400 samples, one network of three layers, one start and one learning rate, GD. Constrained training is the free one "
        "until rho is near C, so what is compared is how far the directions turn from there at this norm. In the last fifth of the run the constrained networks "
        f"turn by {number(max(ivanov.moving, tikhonov.moving), 2)} degrees or less. Angles between seeds share networks, so the intervals of ratios are too short by a "
        f"little. Outputs of the free network are on a straight line between snapshots, to about {number(ivanov.interpolation, 2)} degrees.",
        would_change="free networks that at rho = C are nearer to the constrained ones than half the distance between seeds, of another shape or on other data.",
        details=_details(free, outputs, found),
        values={
            "nearest": close,
            "nearest_at": nearest_at,
            "rho_at_T": span(mean(at_T)),
            "starts": starts,
            "tikhonov_from_ivanov": both,
            **{name: vars(m) for name, m in found.items()},
        },
    )


def _details(free: Outputs, outputs: dict[str, Outputs], found: dict[str, Match]) -> tuple[Block, ...]:
    def draw(path: Path) -> None:
        curves = []
        for name in (f"ivanov-{MATCHED}", f"tikhonov-{MATCHED}", "ivanov-16"):
            angles = [[angle(f, end) for f, end in zip(at, outputs[name].f[-1], strict=True)] for at in free.f[1:]]
            curves.append(Curve(f"to {name}", np.exp(free.log_rho[1:]), np.array(angles)))
        curves_figure(
            curves,
            path,
            x="rho of the free network",
            y="angle (degrees)",
            title="From the free to the constrained networks",
            log="x",
        )

    return (
        table(
            "<trained under | rho at the end | free at this rho to it | free, other seed | ratio | to other seeds under it | free at this rho to its end | lambda free / rest",
            [
                (name, *(ranged(v) for v in (m.rho, m.own, m.seeds, m.ratio, m.solutions, m.end, m.multiplier)))
                for name, m in found.items()
            ],
        ),
        Figure(
            "Angle between outputs on the test set, from the free network along its run to the constrained one at its end.",
            draw,
        ),
    )


_RECIPE = "studies/ivanov"


def _trainings(*more: str) -> tuple[Training, ...]:
    found = [Training("ivanov-free", _RECIPE, ("optimizer={kind: gd, lr: 0.05}", *more))]
    for C, penalty in _BOUNDS.items():
        found += [
            Training(f"ivanov-{C}", _RECIPE, (f"optimizer.norms={{kind: ivanov, C: {C}}}", *more)),
            Training(f"tikhonov-{C}", _RECIPE, (f"optimizer.norms={{kind: tikhonov, penalty: {penalty:g}}}", *more)),
        ]
    return (*found, Training("ivanov-4-start", _RECIPE, ("init.rho_k=1.5874", *more)))


STUDY = Study(
    name="equivalent-regularisation",
    question="Is the network at the end of the transient that of Ivanov's problem, rho <= C, or of Tikhonov's, with the matching lambda?",
    source="memo, section 3, equation (9) and Figure 2",
    trainings={
        "small": _trainings(),
        "gpu": _trainings("data.train=4000", "data.test=1900", "steps=6000"),  # C and lambda are of this width
    },
    answer=answer,
)
