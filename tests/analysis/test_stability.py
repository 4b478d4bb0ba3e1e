"""The edge of stability is named where learning rate times sharpness was recorded and is near 2, and nowhere else."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import rhotrace
from rhotrace.analysis.run_series import RunSeries
from rhotrace.analysis.stability import Stability, in_words, stability
from rhotrace.analysis.transient.transient_time import Outcome
from rhotrace.runfile.reader import open_trace

ASKED = "record.every={sharpness: 10, activation_flips: 5}"


def test_what_was_recorded_is_taken_from_the_end_of_the_run(train):
    with open_trace(train("steps=200", "members.lr=[0.01, 0.05, 0.1]", ASKED)) as trace:
        found = stability(RunSeries(trace))
        sharp, flips, lr = trace["sharpness"], trace["activation_flips"], trace["lr"]
    for m, one in enumerate(found):
        assert one.lr_sharpness == pytest.approx(lr[m] * np.median(sharp[-2:, m]))
        assert one.largest == pytest.approx(lr[m] * sharp[:, m].max())
        assert one.flips == np.median(flips[-4:, m])


def test_under_a_schedule_the_learning_rate_is_that_of_the_step(train):
    schedule = "optimizer.schedule={kind: step, milestones: [100], factor: 0.1}"
    with open_trace(train("steps=200", "optimizer.lr=0.05", schedule, ASKED)) as trace:
        (one, *_), sharp = stability(RunSeries(trace)), trace["sharpness"][:, 0]
    assert one.lr_sharpness == pytest.approx(0.005 * np.median(sharp[-2:]))
    assert one.largest == pytest.approx(max(0.05 * sharp[:10].max(), 0.005 * sharp[10:].max()))


@pytest.mark.parametrize(("value", "near"), [(1.94, True), (2.1, True), (1.24, False), (0.2, False), (np.nan, False)])
def test_the_edge_is_near_2(value, near):
    assert Stability(0, value, value, np.nan).at_edge is near
    assert ("1 of 1 members" in in_words([Stability(0, value, value, np.nan)])) is near


def test_the_pages_say_what_was_measured_and_nothing_where_nothing_was(train, command):
    asked, plain = train("steps=200", ASKED, name="asked.h5"), train("steps=200", name="plain.h5")
    for words in (["analyze"], ["audit"]):
        _, out, _ = command(*words, asked)
        said = " ".join(out.split())
        assert re.search(r"learning rate times sharpness is [\d.]+ to [\d.]+; .* activations flip at a step", said), (
            said
        )
        _, out, _ = command(*words, plain)
        assert "sharpness" not in out


def test_no_text_of_the_package_names_the_edge_as_a_cause_that_was_not_measured():
    named = [
        file.name
        for file in Path(rhotrace.__file__).parent.rglob("*.py")
        if "edge of stability" in " ".join(file.read_text(encoding="utf-8").split())
    ]
    assert sorted(named) == ["curvature.py", "edge_of_stability.py", "stability.py"]  # which measure it
    assert "edge" not in str(Outcome.OSCILLATING)
