"""The memo's second open question: does the regularisation of the transient matter for prediction?

A smaller start has a longer transient with a smaller norm. If that regularises, smaller starts should have a smaller test
error at the same training loss.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from rhotrace.analysis.run_series import RunSeries
from rhotrace.display.blocks import Block, Figure, table
from rhotrace.display.figures.curves import Curve, curves_figure
from rhotrace.display.numbers import ranged
from rhotrace.statistics.intervals import Interval, mean
from rhotrace.studies.measures import Floats, each_start, first_below, lowest, read_at, sign, trend
from rhotrace.studies.study import Answer, Runs, Study, Training, Verdict

LEVEL = 0.1  # of the loss, at which test errors are compared
_RUNS = {"3 against 8 (MNIST)": "starts-gd", "automobile against bird (CIFAR-10)": "starts-cifar"}


def test_errors(run: RunSeries) -> dict[str, Floats]:
    """The test error of each member at equal loss, at its lowest and at the end, (M,) each."""
    error = run.trace["test_error"]
    return {
        f"at loss {LEVEL:g}": read_at(run, error, first_below(run, LEVEL), "test_error"),
        "lowest": lowest(run)[0],
        "at the end": error[-1],
    }


def answer(runs: Runs) -> Answer:
    """Slope of the test error against the logarithm of the initial layer norm, within each seed, on each data set."""
    of = {title: runs[name] for title, name in _RUNS.items() if name in runs}
    errors = {title: test_errors(run) for title, run in of.items()}
    slopes = {
        title: {when: trend(np.log(run.trace["init_rho_k"]), e, run.seeds) for when, e in errors[title].items()}
        for title, run in of.items()
    }
    first = {title: found[f"at loss {LEVEL:g}"] for title, found in slopes.items()}
    each = "; ".join(f"{ranged(slope)} on {title}" for title, slope in first.items())
    others = "; ".join(
        f"{ranged(found['lowest'])} and {ranged(found['at the end'])} on {title}" for title, found in slopes.items()
    )
    every = [slope for found in slopes.values() for slope in found.values()]
    better, worse = sum(slope.low > 0 for slope in every), sum(slope.high < 0 for slope in every)
    missing = {title: int(np.isnan(found[f"at loss {LEVEL:g}"]).sum()) for title, found in errors.items()}
    return Answer(
        verdict=_of_all([sign(slope) for slope in first.values()]),
        words=f"at training loss {LEVEL:g} the test error changes by this much per e-fold of rho_k(0): {each}. A positive "
        f"slope would mean that smaller starts generalise better. At its lowest value and at the end of the run: {others}. Of these "
        f"{len(every)} intervals {better} are above 0, for smaller starts, and {worse} below.",
        limits=f"{', '.join(of)}; 400 training samples, a network of three layers of width 32, one learning rate, GD. "
        f"Networks whose loss stays above {LEVEL:g}: {', '.join(f'{n} on {title}' for title, n in missing.items())}. The lowest "
        "test error is chosen on the test set itself.",
        would_change="a slope of the other sign on other data, in wider networks, or at smaller starts than these.",
        details=tuple(block for title, run in of.items() for block in _details(title, run, errors[title])),
        values={"slopes": slopes, "missing": missing},
    )


def _details(title: str, run: RunSeries, errors: dict[str, Floats]) -> tuple[Block, ...]:
    T = np.array([passage.T for passage in run.passages])
    rows = [
        (label, ranged(_mean(T[mine])), *(ranged(_mean(error[mine])) for error in errors.values()))
        for label, mine in each_start(run).items()
    ]
    columns = "<start | T, steps | " + " | ".join(f"test error {when}" for when in errors)
    return table(columns, rows, title), Figure(
        f"Test error on {title}: medians over seeds, bands over all.", _drawn(title, run)
    )


def _drawn(title: str, run: RunSeries) -> Callable[[Path], None]:
    def draw(path: Path) -> None:
        steps, error = run.trace.step_of("test_error"), run.trace["test_error"]
        curves = [Curve(label, steps, error[:, mine]) for label, mine in each_start(run).items()]
        curves_figure(curves, path, x="step", y="test error", title=title)

    return draw


def _mean(values: Floats) -> Interval:
    return mean(values[np.isfinite(values)])


def _of_all(verdicts: list[Verdict]) -> Verdict:
    """One verdict of several data sets: theirs where they agree, in part where one says yes and none says no."""
    if len(set(verdicts)) == 1:
        return verdicts[0]
    return "in part" if "yes" in verdicts and "no" not in verdicts else "undecided"


_LARGE = ("data.train=4000", "data.test=1900", "network.width=512")

STUDY = Study(
    name="initial-norm",
    question="Does the implicit regularisation of the transient help prediction, so that smaller starts generalise better?",
    source="memo, section 3.2, second question",
    trainings={
        "small": (
            Training("starts-gd", "studies/starts"),
            Training("starts-cifar", "studies/starts-cifar", optional=True),
        ),
        "gpu": (
            Training("starts-gd", "studies/starts", (*_LARGE, "steps=30000")),
            Training("starts-cifar", "studies/starts-cifar", (*_LARGE, "steps=20000"), optional=True),
        ),
    },
    answer=answer,
)
