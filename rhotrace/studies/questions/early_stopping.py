"""The memo's first open question: do deep nets overfit more under the square loss than under the exponential loss?"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rhotrace.display.blocks import Figure, table
from rhotrace.display.figures.curves import Curve, curves_figure
from rhotrace.display.numbers import ranged
from rhotrace.statistics.intervals import geometric_mean, mean
from rhotrace.studies.measures import fastest_growth, lowest, sign
from rhotrace.studies.study import Answer, Runs, Study, Training

_LOSSES = ("square", "exponential")


def answer(runs: Runs) -> Answer:
    """Compares, seed by seed, the best test error along the run with that at its end, under both losses."""
    of = {loss: runs[f"early-stopping-{loss}"] for loss in _LOSSES}
    growth = {loss: fastest_growth(run) for loss, run in of.items()}
    best = {loss: lowest(run)[0] for loss, run in of.items()}
    when = {loss: lowest(run)[1] / growth[loss] for loss, run in of.items()}
    last = {loss: run.trace["test_error"][-1] for loss, run in of.items()}
    rise = {loss: mean(last[loss] - best[loss]) for loss in _LOSSES}
    more = mean((last["square"] - best["square"]) - (last["exponential"] - best["exponential"]))
    slower = geometric_mean(growth["exponential"] / growth["square"])
    stopped = mean(best["exponential"] - best["square"])
    margin = of["exponential"].trace["log_margin"]
    gained = mean(margin[-1] - margin[len(margin) * 9 // 10])

    def draw(path: Path) -> None:
        found = [
            Curve(loss, run.trace.step_of("test_error") / np.median(growth[loss]), run.trace["test_error"])
            for loss, run in of.items()
        ]
        curves_figure(
            found, path, x="step / step of the fastest growth of rho", y="test error", title="Two losses, wrong labels"
        )

    measured = {
        loss: (geometric_mean(growth[loss]), mean(best[loss]), geometric_mean(when[loss]), mean(last[loss]), rise[loss])
        for loss in _LOSSES
    }
    rows = [(loss, *(ranged(interval) for interval in measured[loss])) for loss in _LOSSES]
    columns = "<loss | fastest growth, step | best test error | at, x fastest growth | at the end | rise"
    return Answer(
        verdict=sign(more),
        words=f"after its lowest value the test error rises by {ranged(rise['square'])} under the square loss and by "
        f"{ranged(rise['exponential'])} under the exponential loss; the difference is {ranged(more)}. The transient is the "
        f"same but for the clock: {ranged(slower)} times as long under the exponential loss, whose slope at g = 0 is half "
        f"that of the square loss. At the best time to stop, the exponential loss has {ranged(stopped)} more test error "
        "than the square loss. The lowest test error comes soon after the fastest growth of rho, under both.",
        limits="one pair of digits, one size of training set, one network and one learning rate, GD. The best time is "
        "chosen on the test set itself, which makes the lowest error slightly too small, for both losses.",
        would_change="training for longer, if the test error under the exponential loss rose further. In the last tenth "
        f"of the run log of its smallest margin min y f still changed by {ranged(gained)}.",
        details=(table(columns, rows), Figure("Test error: medians over networks, bands over all.", draw)),
        values={"more": more, "slower": slower, "stopped": stopped, "rise": rise, "margin_gained": gained},
    )


_RUNS = tuple(Training(f"early-stopping-{loss}", "studies/early-stopping", (f"loss.kind={loss}",)) for loss in _LOSSES)
_LARGE = ("data.train=5000", "data.test=1900", "network.width=512", "network.depth=4", "init.rho_k=4", "steps=60000")

STUDY = Study(
    name="early-stopping",
    question="Do deep networks overfit at long times more under the square loss than under the exponential loss, so that "
    "early stopping helps more?",
    source="memo, section 3.2, first question",
    trainings={
        "small": _RUNS,
        "gpu": tuple(Training(run.name, run.recipe, (*run.overrides, *_LARGE)) for run in _RUNS),
    },
    answer=answer,
)
