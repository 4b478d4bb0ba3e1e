"""Remark 4 of the memo: has weight normalisation the norm dynamics of gradient descent?"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rhotrace.analysis.claims.evidence import Evidence
from rhotrace.analysis.claims.flow import layer_growth
from rhotrace.analysis.run_series import RunSeries
from rhotrace.display.blocks import Figure, table
from rhotrace.display.figures.curves import Curve, curves_figure
from rhotrace.display.numbers import ranged
from rhotrace.statistics.intervals import Interval, geometric_mean
from rhotrace.studies.measures import Floats
from rhotrace.studies.study import Answer, Runs, Study, Training, Verdict

SCALES = ("0.5", "1", "2")
NEAR = 1.25  # factor within which two transient times count as the same


def transients(run: RunSeries) -> Floats:
    """T of each member, (M,); NaN where it has none."""
    return np.array([passage.T for passage in run.passages])


def answer(runs: Runs) -> Answer:
    """T under weight normalisation over that of GD, seed by seed, for three lengths of v at the start."""
    gd = runs["weightnorm-gd"]
    of = {scale: runs[f"weightnorm-{scale}"] for scale in SCALES}
    ratio = {scale: geometric_mean(transients(run) / transients(gd)) for scale, run in of.items()}
    law = {scale: layer_growth(Evidence(run)) for scale, run in of.items()}
    holds = all(found.outcome == "holds" for found in law.values())

    def draw(path: Path) -> None:
        curves = [Curve("GD", gd.steps, gd.log_rho)]
        curves += [Curve(f"||v(0)|| = {scale} ||W||", run.steps, run.log_rho) for scale, run in of.items()]
        curves_figure(curves, path, x="step", y="log rho", title="Weight normalisation", log="x")

    rows = [("GD", ranged(geometric_mean(transients(gd))), "1", "–")]
    rows += [
        (f"||v(0)|| = {scale} ||W||", ranged(geometric_mean(transients(run))), ranged(ratio[scale]), law[scale].outcome)
        for scale, run in of.items()
    ]
    said = ", ".join(f"{ranged(ratio[scale])} for ||v(0)|| = {scale} ||W||" for scale in SCALES)
    return Answer(
        verdict=verdict(list(ratio.values()), holds=holds),
        words=f"equation (3) {'holds' if holds else 'fails'} at every step of every run, whatever the length of v. The transient time "
        f"over that of GD is {said}: the directions turn at a speed that equation (3) does not know.",
        limits="one pair of digits, L = 4, one width, one start and one learning rate, full batches.",
        would_change=f"transient times that do not depend on ||v(0)||, to within a factor {NEAR:g}.",
        details=(
            table("<run | T, steps | over that of GD | <equation (3)", rows),
            Figure("log rho: medians over seeds, bands over all.", draw),
        ),
        values={"ratio": ratio, "law_holds": holds},
    )


def verdict(ratios: list[Interval], *, holds: bool) -> Verdict:
    """Yes where the law of the norms holds and T is that of GD; in part where the law holds and T is not."""
    if not holds:
        return "no"
    if all(one.low > 1 / NEAR and one.high < NEAR for one in ratios):
        return "yes"
    return "in part" if any(one.high < 1 / NEAR or one.low > NEAR for one in ratios) else "undecided"


_LARGE = ("data.train=2000", "network.width=256", "steps=10000")
_RUNS = (
    Training("weightnorm-gd", "studies/weight-norm"),
    *(
        Training(
            f"weightnorm-{scale}",
            "studies/weight-norm",
            (f"optimizer={{kind: weight-norm, lr: 0.05, v_scale: {scale}}}",),
        )
        for scale in SCALES
    ),
)

STUDY = Study(
    name="weight-norm",
    question="Has rho the same dynamics under weight normalisation as under gradient descent?",
    source="memo, section 3.1, fourth remark",
    trainings={
        "small": _RUNS,
        "gpu": tuple(Training(run.name, run.recipe, (*run.overrides, *_LARGE)) for run in _RUNS),
    },
    answer=answer,
)
