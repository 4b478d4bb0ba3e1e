"""The memo's second open question, its second half: do recurrent networks work almost as well as unrolled ones?

A recurrent network uses one matrix in all its hidden layers, the unrolled one has a matrix for each.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rhotrace.analysis.run_series import RunSeries
from rhotrace.display.blocks import Figure, table
from rhotrace.display.figures.curves import Curve, curves_figure
from rhotrace.display.numbers import ranged
from rhotrace.statistics.intervals import Interval, geometric_mean, mean
from rhotrace.studies.measures import first_below, lowest, over_seeds, read_at
from rhotrace.studies.study import Answer, Runs, Study, Training, Verdict

ALMOST = 0.01  # of the test error: what counts as almost as well
_LEVEL = 0.1  # of the loss, at which test errors are compared
_HALF = 0.5  # of the loss: T where rho_eq does not apply


def parameters(run: RunSeries) -> int:
    """How many trained numbers the network has."""
    return sum(int(np.prod(block.shape)) for block in run.trace.layout.blocks)


def answer(runs: Runs) -> Answer:
    """Compares test error and transient of both networks, seed by seed."""
    of = {name: runs[name] for name in ("unrolled", "recurrent")}
    T = {name: first_below(run, _HALF) for name, run in of.items()}
    error = {
        name: {
            f"at loss {_LEVEL:g}": read_at(run, run.trace["test_error"], first_below(run, _LEVEL), "test_error"),
            "lowest": lowest(run)[0],
            "at the end": run.trace["test_error"][-1],
        }
        for name, run in of.items()
    }
    when = list(error["unrolled"])
    more = {w: over_seeds(error["recurrent"][w] - error["unrolled"][w], of["unrolled"].seeds) for w in when}
    both = np.isfinite(T["unrolled"]) & np.isfinite(T["recurrent"])
    slower = geometric_mean((T["recurrent"] / T["unrolled"])[both])
    stuck = {name: int(np.isnan(steps).sum()) for name, steps in T.items()}
    size = {name: parameters(run) for name, run in of.items()}

    def draw(path: Path) -> None:
        curves = [Curve(name, run.steps, run.loss) for name, run in of.items()]
        curves_figure(curves, path, x="step", y="loss", title="Recurrent and unrolled network, L = 5", log="x")

    rows = [
        (
            name,
            str(size[name]),
            ranged(geometric_mean(T[name][np.isfinite(T[name])])),
            *(ranged(mean(e[np.isfinite(e)])) for e in error[name].values()),
        )
        for name in of
    ]
    first = more[when[0]]
    return Answer(
        verdict=verdict(first, slower, stuck=bool(stuck["recurrent"] > stuck["unrolled"])),
        words=f"at loss {_LEVEL:g} the recurrent network has {ranged(first)} more test error than the unrolled one, with "
        f"{size['recurrent'] / size['unrolled']:.2f} times its parameters; at the lowest test error {ranged(more['lowest'])}, at the "
        f"end {ranged(more['at the end'])}. Almost as well was taken to mean at most {ALMOST:g} more. Its transient, until the "
        f"loss is {_HALF:g}, is {ranged(slower)} times as long. {stuck['recurrent']} of "
        f"{len(both)} recurrent and {stuck['unrolled']} of {len(both)} unrolled networks never come to that loss; they are left "
        "out of the comparison, except of the lowest and the last test error.",
        limits="one pair of digits, L = 5, one width, one start and one learning rate, GD. The same transient is no proof of "
        "the same dynamics: the squared norm of the shared matrix grows L - 2 times as fast. Most parameters are in the input "
        f"layer, which both have: {size['unrolled'] - size['recurrent']} of {size['unrolled']} are saved.",
        would_change=f"an interval of the difference that ends on the other side of {ALMOST:g}, at other depths or widths.",
        details=(
            table("<network | parameters | T, steps | " + " | ".join(f"test error {w}" for w in when), rows),
            Figure("Loss: medians over seeds, bands over all.", draw),
        ),
        values={"more_test_error": more, "slower": slower, "parameters": size},
    )


def verdict(more: Interval, slower: Interval, *, stuck: bool = False) -> Verdict:
    """Yes where the test error is almost the same and the transient too (within a factor 2); in part where only one is.

    Args:
        more: test error of the recurrent network.
        slower: its transient, over that of the unrolled one.
        stuck: whether more recurrent networks than unrolled ones never leave the transient: then at most in part.
    """
    if not (more.high <= ALMOST or more.low > ALMOST):
        return "undecided"
    well, same = more.high <= ALMOST, slower.low > 1 / 2 and slower.high < 2
    return "yes" if well and same and not stuck else "in part" if well or same else "no"


_LARGE = ("data.train=4000", "data.test=1900", "network.width=512", "steps=10000")
_RUNS = (
    Training("unrolled", "studies/depth-mixture", ("network.depth=5", "steps=5000")),
    Training("recurrent", "studies/depth-mixture", ("network.kind=shared", "steps=5000")),
)

STUDY = Study(
    name="weight-sharing",
    question="Do recurrent networks work almost as well as unrolled ones, because their dynamics is effectively the same?",
    source="memo, section 3.2, second question",
    trainings={
        "small": _RUNS,
        "gpu": tuple(Training(run.name, run.recipe, (*run.overrides, *_LARGE)) for run in _RUNS),
    },
    answer=answer,
)
