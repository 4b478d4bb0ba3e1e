"""The memo's third open question: do residual networks, mixtures of depths, control the norm more gradually?"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rhotrace.analysis.run_series import RunSeries
from rhotrace.display.blocks import Figure, table
from rhotrace.display.figures.curves import Curve, curves_figure
from rhotrace.display.numbers import ranged
from rhotrace.statistics.intervals import geometric_mean
from rhotrace.studies.measures import Floats
from rhotrace.studies.study import Answer, Runs, Study, Training, Verdict

DEPTHS = (2, 3, 4, 5)


def rise(run: RunSeries, values: Floats) -> tuple[Floats, Floats]:
    """When a series has made half of its way from its first to its last value, and how long 10 to 90 % take, (M,) each.

    Steps are interpolated between rows, and each is the first one.
    """
    way = (values - values[0]) / (values[-1] - values[0])
    at = np.array([[_first(run, way[:, m], share) for m in range(way.shape[1])] for share in (0.1, 0.5, 0.9)])
    return at[1], at[2] - at[0]


def _first(run: RunSeries, way: Floats, share: float) -> float:
    row = int((way >= share).argmax())
    if row == 0:
        return float(run.steps[0])
    before = (share - way[row - 1]) / (way[row] - way[row - 1])
    return float(run.steps[row - 1] + before * (run.steps[row] - run.steps[row - 1]))


def answer(runs: Runs) -> Answer:
    """Compares the rise time over T of a residual network with plain networks of each depth, seed by seed."""
    of = {f"plain, L = {depth}": runs[f"plain-{depth}"] for depth in DEPTHS} | {"residual, L = 5": runs["residual-5"]}
    by_loss = {name: rise(run, run.loss) for name, run in of.items()}
    by_norm = {name: rise(run, np.sqrt(run.q)) for name, run in of.items()}
    gradual = {name: took / T for name, (T, took) in by_loss.items()}
    scale = {name: took / T for name, (T, took) in by_norm.items()}
    *plain, mixture = of
    against = {name: geometric_mean(gradual[mixture] / gradual[name]) for name in plain}
    with_norm = {name: geometric_mean(scale[mixture] / scale[name]) for name in plain}
    said = ", ".join(
        f"{ranged(against[name])} times that of L = {depth}" for name, depth in zip(plain, DEPTHS, strict=True)
    )
    norms = ", ".join(
        f"{ranged(with_norm[name])} times that of L = {depth}" for name, depth in zip(plain, DEPTHS, strict=True)
    )

    def draw(path: Path) -> None:
        curves = [Curve(name, run.steps / np.median(by_loss[name][0]), run.loss) for name, run in of.items()]
        curves_figure(curves, path, x="step / T", y="loss", title="Transients of plain and residual networks", log="x")

    rows = [
        (name, *(ranged(geometric_mean(v)) for v in (by_loss[name][0], by_loss[name][1], gradual[name], scale[name])))
        for name in of
    ]
    return Answer(
        verdict=verdict([against[name].low for name in plain], [against[name].high for name in plain]),
        words="the time in which the loss makes 10 to 90 % of its fall, over the time T of half of it, is "
        f"{ranged(geometric_mean(gradual[mixture]))} in the residual network with layers 2 to L = 5: {said}. The same for the "
        f"scale of the outputs, sqrt(mean g^2): {norms}.",
        limits="one pair of digits, one width, one start (every layer has norm 2) and one learning rate, GD. The residual network "
        "has no single norm rho, so the fall of the loss and the scale of the outputs stand for it. Layers of equal norm give "
        "the paths of different length a weight that depends on that norm.",
        would_change="a start at which the deep paths of the residual network weigh more or less against the shallow ones.",
        details=(
            table("<network | T, steps | 10 to 90 %, steps | over T | of the outputs' scale, over its T", rows),
            Figure("Loss against step over T: medians over seeds, bands over all.", draw),
        ),
        values={"loss": against, "scale": with_norm},
    )


def verdict(low: list[float], high: list[float]) -> Verdict:
    """More gradual than plain networks of every depth, of none, or of some; undecided where no interval excludes 1."""
    more, less = [end > 1 for end in low], [end < 1 for end in high]
    if all(more):
        return "yes"
    if any(more):
        return "in part"
    return "no" if any(less) else "undecided"


_LARGE = ("data.train=4000", "data.test=1900", "network.width=512", "steps=10000")
_RUNS = (
    *(Training(f"plain-{depth}", "studies/depth-mixture", (f"network.depth={depth}",)) for depth in DEPTHS),
    Training("residual-5", "studies/depth-mixture", ("network.kind=residual",)),
)

STUDY = Study(
    name="residual",
    question="Do residual networks, mixtures of networks of depths 2 to L, have a more gradual transient than plain networks?",
    source="memo, section 3.2, third question",
    trainings={
        "small": _RUNS,
        "gpu": tuple(Training(run.name, run.recipe, (*run.overrides, *_LARGE)) for run in _RUNS),
    },
    answer=answer,
)
