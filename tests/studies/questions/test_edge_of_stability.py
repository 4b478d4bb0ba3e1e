"""Inference and measurement on a run that is far below the edge, and the verdict on a share of errors."""

from __future__ import annotations

import pytest

from rhotrace.analysis.run_series import RunSeries
from rhotrace.runfile.reader import open_trace
from rhotrace.statistics.intervals import Interval
from rhotrace.studies.questions import edge_of_stability


def test_what_is_seen_of_a_run_is_what_was_recorded_at_its_end(train):
    path = train(
        "steps=500",
        "members={grid: {lr: [0.02, 0.05], seeds: 2}}",
        "record.every={sharpness: 50, activation_flips: 50}",
    )
    with open_trace(path) as trace:
        run = RunSeries(trace)
        seen = edge_of_stability.seen(run)
        found = edge_of_stability.answer({"edge-of-stability": run})
        last = trace["sharpness"][-1] * trace["lr"]
    left = [m for m, passage in enumerate(run.passages) if passage.T > 0]
    assert seen.seeds == [run.seeds[m] for m in left]
    assert seen.lr_sharpness == pytest.approx(last[left])
    assert not seen.at_edge.any()
    assert found.values["alternate_below"] == found.values["alternate"] == int(seen.alternates.sum())


@pytest.mark.parametrize(
    ("wrong", "verdict"),
    [(Interval(0.02, 0, 0.05), "yes"), (Interval(0.3, 0.2, 0.4), "no"), (Interval(0.1, 0.05, 0.2), "undecided")],
)
def test_an_inference_that_errs_in_a_tenth_of_the_networks_is_none(wrong, verdict):
    assert edge_of_stability.verdict(wrong) == verdict
