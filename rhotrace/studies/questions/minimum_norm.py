"""Section 3 of the memo: does gradient descent from a small start end at a small norm, and at a smaller one than SGD?"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rhotrace.analysis.run_series import RunSeries
from rhotrace.display.blocks import Figure, table
from rhotrace.display.figures.curves import Curve, curves_figure
from rhotrace.display.numbers import count, number, ranged
from rhotrace.statistics.intervals import mean
from rhotrace.studies.measures import Floats, each_start, first_below, over_seeds, read_at, sign, trend
from rhotrace.studies.study import Answer, Runs, Study, Training, Verdict

LEVEL = 0.05  # of the loss, at which norms are compared: 1 at the start, 0 where the labels are met


def norm_at(run: RunSeries, level: float = LEVEL) -> Floats:
    """log rho at the first step with the loss below a level, (M,); NaN where it stays above."""
    return read_at(run, run.log_rho, first_below(run, level))


def answer(runs: Runs) -> Answer:
    """Compares log rho at equal loss over the starts of each seed, and between GD and SGD start by start."""
    of = {"GD": runs["starts-gd"], "SGD": runs["starts-sgd"]}
    norms = {name: norm_at(run) for name, run in of.items()}
    slope = {name: trend(run.log_rho[0], norms[name], run.seeds) for name, run in of.items()}
    noise = over_seeds(norms["SGD"] - norms["GD"], of["GD"].seeds)
    small, smaller = sign(slope["GD"]), sign(noise)
    missing = {name: int(np.isnan(values).sum()) for name, values in norms.items()}

    def draw(path: Path) -> None:
        run = of["GD"]
        curves = [Curve(label, run.loss[:, mine], run.log_rho[:, mine]) for label, mine in each_start(run).items()]
        curves_figure(curves, path, x="loss", y="log rho", title="Norm against loss, GD", log="x")

    starts = {name: each_start(run) for name, run in of.items()}
    rows = [
        (
            label,
            ranged(mean(of["GD"].log_rho[0, mine])),
            *(ranged(mean(known(norms[name][starts[name][label]]))) for name in of),
            ranged(mean(of["GD"].log_rho[-1, mine])),
        )
        for label, mine in starts["GD"].items()
    ]
    return Answer(
        verdict=_both(small, smaller),
        words=f"at loss {LEVEL:g}, log rho grows by {ranged(slope['GD'])} per unit of log rho(0) under GD, and by "
        f"{ranged(slope['SGD'])} under SGD: 1 would be a start that is kept, 0 one that is forgotten. SGD has a log rho that is "
        f"larger by {ranged(noise)} than that of GD from the same weights at the same loss.",
        limits=f"one pair of digits, one network; SGD with batches of 32 at the learning rate of GD. {count(missing['GD'], 'network')} "
        f"of GD and {missing['SGD']} of SGD have no loss below {number(LEVEL)}. It compares norms with each other: the smallest "
        "norm at which this network has that loss is not known. The loss is that of the recorded steps, so SGD's first "
        "passage below the level can be an excursion.",
        would_change="smaller starts that end at a larger norm, or another learning rate or batch size that turns the sign of "
        "the difference between SGD and GD.",
        details=(
            table(f"<start | log rho(0) | GD at loss {LEVEL:g} | SGD at loss {LEVEL:g} | GD at the end", rows),
            Figure("log rho against the loss under GD, one line for each network.", draw),
        ),
        values={"slope": slope, "sgd_minus_gd": noise, "missing": missing},
    )


def known(values: Floats) -> Floats:
    """Without NaN."""
    return values[np.isfinite(values)]


def _both(small: Verdict, smaller: Verdict) -> Verdict:
    """Of both parts of the question: no where both are denied, in part where they differ."""
    if small == smaller:
        return small
    return "undecided" if small == "undecided" else "in part"


_SGD = "optimizer={kind: sgd, lr: 0.05, batch_size: 32, sampling: with-replacement}"
_LARGE = ("data.train=4000", "data.test=1900", "network.width=512", "steps=30000")

STUDY = Study(
    name="minimum-norm",
    question="Does GD from a small start reach the same loss at a smaller norm rho than from a large start, and than SGD?",
    source="memo, section 3, after equation (9)",
    trainings={
        "small": (Training("starts-gd", "studies/starts"), Training("starts-sgd", "studies/starts", (_SGD,))),
        "gpu": (
            Training("starts-gd", "studies/starts", _LARGE),
            Training("starts-sgd", "studies/starts", (_SGD, *_LARGE)),
        ),
    },
    answer=answer,
)
