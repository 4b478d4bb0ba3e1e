"""Transient times of small runs whose directions turn at different speeds, and the verdict."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from rhotrace.analysis.run_series import RunSeries
from rhotrace.runfile.reader import open_trace
from rhotrace.statistics.intervals import Interval
from rhotrace.studies.questions import weight_norm


def test_a_longer_v_turns_more_slowly_and_the_law_of_the_norms_holds(train):
    paths = {"weightnorm-gd": train("steps=300")}
    for scale in weight_norm.SCALES:
        paths[f"weightnorm-{scale}"] = train(
            "steps=700", f"optimizer={{kind: weight-norm, lr: 0.05, v_scale: {scale}}}"
        )
    with ExitStack() as stack:
        runs = {name: RunSeries(stack.enter_context(open_trace(path))) for name, path in paths.items()}
        found = weight_norm.answer(runs)
    ratio = found.values["ratio"]
    assert found.values["law_holds"] is True
    assert ratio["0.5"].value < ratio["1"].value < ratio["2"].value
    assert ratio["1"].value == pytest.approx(1, abs=0.2)
    assert found.verdict == "in part"


@pytest.mark.parametrize(
    ("ratio", "holds", "said"),
    [
        (Interval(1, 0.9, 1.1), True, "yes"),
        (Interval(3, 2, 4), True, "in part"),
        (Interval(1, 0.1, 9), True, "undecided"),
        (Interval(1, 0.9, 1.1), False, "no"),
    ],
)
def test_the_verdict(ratio, holds, said):
    assert weight_norm.verdict([ratio], holds=holds) == said
