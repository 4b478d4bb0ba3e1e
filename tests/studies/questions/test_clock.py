"""The clock of the directions: on networks whose law is known, and when the parts of the verdict are planted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rhotrace.analysis.run_series import RunSeries
from rhotrace.runfile.reader import open_trace
from rhotrace.statistics.intervals import Interval
from rhotrace.studies.questions import clock
from rhotrace.studies.questions.clock import Depth

GRID = "members={grid: [{rho_k: [0.3], lr: [0.6667], seeds: 2}, {rho_k: [0.6], lr: [0.1667], seeds: 2}]}"
NETWORKS = ("network={kind: mlp, depth: 4, width: 8}", "init.rho_k=1", GRID, "steps=800", "record={snapshots: 100}")


def near(value: float) -> Interval:
    return Interval(value, 0.9 * value, 1.1 * value)


PLANTED = Depth(
    law=-2.0,
    exponent=near(-2),
    held_exponent=near(-2),
    against_time=near(0.1),
    against_seeds=near(0.1),
    turned=near(0.1),
    early=near(0.01),
    smaller=near(0.05),
    clock=near(1.1),
    T=near(16),
    held=Interval(1.0, 0.98, 1.02),
    frozen=near(100),
    without=0,
    interpolation=0.01,
)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({}, ("yes", "yes", "yes")),
        ({"against_time": near(0.5)}, ("no", "yes", "yes")),
        ({"against_seeds": near(0.25)}, ("undecided", "yes", "yes")),
        ({"held": Interval(1.2, 1.15, 1.25)}, ("yes", "no", "yes")),
        ({"held": Interval(0.8, 0.75, 0.85)}, ("yes", "no", "yes")),
        ({"held": Interval(1.0, 0.8, 1.2)}, ("yes", "undecided", "yes")),
        ({"frozen": near(1.5)}, ("yes", "yes", "no")),
        ({"frozen": near(0.1)}, ("yes", "yes", "yes")),
        ({"frozen": Interval(np.nan, np.nan, np.nan)}, ("yes", "yes", "yes")),  # never a T
    ],
)
def test_each_part_is_judged_by_its_interval(change, parts):
    assert replace(PLANTED, **change).parts() == parts


def test_no_is_the_first_part_at_every_depth():
    apart = replace(PLANTED, against_time=near(0.5))
    assert clock.verdict([PLANTED, PLANTED]) == "yes"
    assert clock.verdict([PLANTED, apart]) == "in part"
    assert clock.verdict([apart, apart]) == "no"
    assert clock.verdict([PLANTED, replace(PLANTED, held=Interval(1.0, 0.8, 1.2))]) == "undecided"


def test_small_networks_are_the_same_at_equal_tau_and_their_directions_make_the_transient(train):
    """By equation (7) while outputs are small; tau per step is the same for both starts, and equal time is not."""
    free = train(*NETWORKS, "optimizer={kind: gd, lr: 0.1}")
    held = train(*NETWORKS, "optimizer={kind: norm-control, lr: 0.1}")
    with open_trace(free) as one, open_trace(held) as other:
        assert all(passage.T > 0 for passage in RunSeries(one).passages)
        found = clock.of_depth(RunSeries(one), RunSeries(other))
    assert found.law == -2
    assert found.early.value < 0.05
    assert found.early.value < found.turned.value
    assert found.against_seeds.value < 0.25
    assert found.against_time.value < 0.25
    assert found.smaller == found.turned  # there are but two starts
    assert found.held.value == pytest.approx(1, abs=0.05)
    assert found.exponent.value == pytest.approx(-2, abs=0.1)
    assert found.held_exponent.value == pytest.approx(-2, abs=0.1)
    assert found.T.value == pytest.approx(4, rel=0.1)
    assert found.clock.value == pytest.approx(1, abs=0.1)
