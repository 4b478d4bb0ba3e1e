"""The memo's fourth open question: do separability and a small norm favour large and small values of f_n?

The ratio of the L1 to the L2 norm of the values f_n of N separated samples, over sqrt(N), is R = mean(y f)/sqrt(mean f^2)
= a/sqrt(q), whatever rho is. It is 1 where all are equal, and small where a few are large. The loss that is left at the
best norm for these directions is 1 - R^2.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rhotrace.analysis.run_series import RunSeries
from rhotrace.display.blocks import Figure, table
from rhotrace.display.figures.curves import Curve, curves_figure
from rhotrace.display.numbers import ranged
from rhotrace.statistics.intervals import mean
from rhotrace.studies.measures import Floats, each_start, first_below, over_seeds, read_at, sign, trend
from rhotrace.studies.study import Answer, Runs, Study, Training

_LOW, _MIDDLE, _HIGH = 1, 3, 5  # the quantiles 5 %, 50 % and 95 %


def evenness(run: RunSeries) -> Floats:
    """R = a/sqrt(q) at each evaluation, (n, M)."""
    return np.asarray(run.a / np.sqrt(run.q))


def spread(run: RunSeries) -> Floats:
    """From the 5 % to the 95 % quantile of y f, over the median, (n, M)."""
    margins = run.trace["margin_quantile"]
    return np.asarray((margins[..., _HIGH] - margins[..., _LOW]) / margins[..., _MIDDLE])


def separated(run: RunSeries) -> Floats:
    """First step at which y f > 0 for every training sample, (M,); NaN where there is none."""
    return first_below(run, 1e-12, "error")


def answer(runs: Runs) -> Answer:
    """Follows R from the step at which all samples are on their side to the end, over starts and seeds."""
    run = runs["starts-gd"]
    ratio, wide, start = evenness(run), spread(run), separated(run)
    at = {"then": read_at(run, ratio, start), "end": np.where(np.isfinite(start), ratio[-1], np.nan)}
    width = {"then": read_at(run, wide, start), "end": np.where(np.isfinite(start), wide[-1], np.nan)}
    change = over_seeds(at["end"] - at["then"], run.seeds)
    narrowed = over_seeds(width["end"] - width["then"], run.seeds)
    with_rho = trend(run.log_rho[-1], at["end"], run.seeds)
    level = float(np.max(run.loss[-1]))
    even = read_at(run, ratio, first_below(run, level * (1 + 1e-9)))
    at_loss = trend(read_at(run, run.log_rho, first_below(run, level * (1 + 1e-9))), even, run.seeds)
    identity = float(np.nanmax(np.abs(1 - at["end"] ** 2 - run.loss[-1])))

    def draw(path: Path) -> None:
        curves = [Curve(label, run.steps, ratio[:, mine]) for label, mine in each_start(run).items()]
        curves_figure(
            curves, path, x="step", y="R = mean(y f) / sqrt(mean f^2)", title="Evenness of the values f_n", log="x"
        )

    rows = [
        (
            label,
            str(int(np.isfinite(start[mine]).sum())),
            *(
                ranged(mean(values[mine][np.isfinite(values[mine])]))
                for pair in (at, width)
                for values in pair.values()
            ),
            ranged(mean(run.log_rho[-1, mine])),
        )
        for label, mine in each_start(run).items()
    ]
    return Answer(
        verdict=sign(change, positive="no", negative="yes"),
        words=f"once every y f is positive, R = mean(y f)/sqrt(mean f^2) changes by {ranged(change)}: towards 1, where all "
        f"values are equal. The distance from the 5 % to the 95 % quantile of y f, over the median, changes by {ranged(narrowed)}. "
        "Where rho = rho_eq, 1 - R^2 is the loss itself (at the end to within "
        f"{identity:.1g}), so descent drives R up while the loss falls, whatever the norm. At the end R changes by "
        f"{ranged(with_rho)} per e-fold of rho, over the starts of each seed; at equal loss by {ranged(at_loss)}.",
        limits="one pair of digits, one network and one learning rate, GD. rho is far above 1 here, and the memo asks about "
        "rho near 1, where all |f_n| would have to be near 1 as well. "
        f"{int(np.isfinite(start).sum())} of {run.trace.members} networks separate their samples.",
        would_change="networks that separate their samples with rho near 1, or a loss that does not ask for y g = 1.",
        details=(
            table(
                "<start | separated | R then | R at the end | spread then | spread at the end | log rho at the end",
                rows,
            ),
            Figure("R for each start: medians over seeds, bands over all.", draw),
        ),
        values={"change": change, "narrowed": narrowed, "per_log_rho": with_rho, "at_equal_loss": at_loss},
    )


_LARGE = ("data.train=4000", "data.test=1900", "network.width=512", "steps=30000")

STUDY = Study(
    name="margin-spread",
    question="Do separability and a small norm rho favour large and small values of f_n?",
    source="memo, section 3.2, fourth question",
    trainings={
        "small": (Training("starts-gd", "studies/starts"),),
        "gpu": (Training("starts-gd", "studies/starts", _LARGE),),
    },
    answer=answer,
)
