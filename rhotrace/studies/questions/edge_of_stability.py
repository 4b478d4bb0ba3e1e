"""Does a series that alternates from step to step show the edge of stability? Inference against measurement.

``compare`` sees alternation in the share of the variance of log(rho/rho_eq) at the highest frequencies. Training is at the
edge of stability where learning rate times sharpness is near 2, which is measured here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rhotrace.analysis.fluctuation.comparison import alone
from rhotrace.analysis.run_series import RunSeries
from rhotrace.analysis.stability import EDGE, stability
from rhotrace.display.blocks import Figure, table
from rhotrace.display.figures.curves import Curve, curves_figure
from rhotrace.display.numbers import number, ranged
from rhotrace.statistics.intervals import Interval, mean
from rhotrace.studies.measures import Floats, over_seeds
from rhotrace.studies.study import Answer, Runs, Study, Training, Verdict

ALTERNATES = 0.5  # share of the variance at periods under 2.5 evaluations, from which a series is said to alternate
OFTEN = 0.1  # of the networks: a share of errors with which an inference is not worth making


@dataclass(frozen=True)
class Seen:
    """What is seen of the members that have a fluctuation, (n,) each.

    Attributes:
        seeds: of each.
        lr: of each.
        share: of the variance at periods under 2.5 evaluations.
        lr_sharpness: learning rate times sharpness, in the last tenth of the run.
        flips: activations that flip at a step, likewise.
    """

    seeds: list[int]
    lr: Floats
    share: Floats
    lr_sharpness: Floats
    flips: Floats

    @property
    def alternates(self) -> np.ndarray:
        """What is inferred from."""
        return np.asarray(self.share > ALTERNATES)

    @property
    def at_edge(self) -> np.ndarray:
        """What is measured: within a tenth of 2."""
        return np.asarray(np.abs(self.lr_sharpness - EDGE) <= EDGE / 10)


def seen(run: RunSeries) -> Seen:
    """The members of a run that left their transient and did not diverge."""
    members = sorted((one for side in alone(run).sides for one in side.each), key=lambda one: one.fluctuation.member)
    own = stability(run, [one.fluctuation.member for one in members])
    return Seen(
        [one.seed for one in members],
        np.array([one.lr for one in members]),
        np.array([one.fluctuation.period_two for one in members]),
        np.array([one.lr_sharpness for one in own]),
        np.array([one.flips for one in own]),
    )


def answer(runs: Runs) -> Answer:
    """How often alternation and the edge of stability go together, over learning rates and seeds."""
    run = runs["edge-of-stability"]
    of = seen(run)
    wrong = over_seeds((of.alternates != of.at_edge).astype(float), of.seeds)
    below, silent = of.alternates & ~of.at_edge, ~of.alternates & of.at_edge
    there = {name: int(mask.sum()) for name, mask in (("alternate", of.alternates), ("at_edge", of.at_edge))}
    rates = sorted(set(of.lr.tolist()))

    def draw(path: Path) -> None:
        steps, sharp = run.trace.step_of("sharpness"), run.trace["sharpness"] * run.lr
        curves = [Curve(f"lr {lr:g}", steps, sharp[:, run.lr == lr]) for lr in rates]
        curves_figure(curves, path, x="step", y="lr x sharpness", title="The edge of stability is 2")

    rows = []
    for lr in rates:
        mine = of.lr == lr
        rows.append(
            (
                number(lr),
                f"{mine.sum()} of {(run.lr == lr).sum()}",
                str(int(of.alternates[mine].sum())),
                str(int(of.at_edge[mine].sum())),
                *(ranged(mean(values[mine])) for values in (of.share, of.lr_sharpness, of.flips)),
            )
        )
    said = f"learning rate times sharpness is {_span(of.lr_sharpness[below])} in these" if below.any() else ""
    return Answer(
        verdict=verdict(wrong),
        words=f"of {len(of.seeds)} networks {there['alternate']} alternate from step to step (more than half of the variance of "
        f"log(rho/rho_eq) at periods under 2.5 steps) and {there['at_edge']} end with learning rate times sharpness within a "
        f"tenth of 2. {int(below.sum())} alternate below the edge{'; ' + said if said else ''}. {int(silent.sum())} are at the edge "
        f"and do not alternate. So the inference errs in {ranged(wrong)} of the networks.",
        limits="one pair of digits, one network of three layers, GD. Sharpness is that of every 125th step, in the last tenth of the "
        f"run; {run.trace.members - len(of.seeds)} networks never left the transient, diverged, or have too short a window. The "
        "share of errors depends on the mix of learning rates.",
        would_change="other learning rates, deeper networks, or minibatches.",
        details=(
            table(
                "lr | networks with a fluctuation | alternate | at the edge | share at period 2 | lr x sharpness | flips",
                rows,
            ),
            Figure("Learning rate times sharpness: medians over seeds, bands over all.", draw),
        ),
        values={"wrong": wrong, "alternate_below": int(below.sum()), "silent_at_edge": int(silent.sum()), **there},
    )


def verdict(wrong: Interval) -> Verdict:
    """Whether the inference errs in less than a tenth of the networks."""
    return "yes" if wrong.high < OFTEN else "no" if wrong.low > OFTEN else "undecided"


def _span(values: Floats) -> str:
    return " to ".join(dict.fromkeys(number(float(value)) for value in (values.min(), values.max())))


_LARGE = ("data.train=2000", "data.test=1900", "network.width=256", "steps=20000", "record.every.sharpness=1000")

STUDY = Study(
    name="edge-of-stability",
    question="Does a norm that alternates from step to step under GD show that training is at the edge of stability?",
    source="RhoTrace; the memo assumes gradient flow, section 2.2",
    trainings={
        "small": (Training("edge-of-stability", "studies/edge-of-stability"),),
        "gpu": (Training("edge-of-stability", "studies/edge-of-stability", _LARGE),),
    },
    answer=answer,
)
