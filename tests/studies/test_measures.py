"""What studies measure in a run, on series whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from planted_run import planted

from rhotrace.statistics.intervals import Interval
from rhotrace.studies import measures

STEPS = np.arange(0, 100, 5)


def run(**more):
    seeds = [0, 1, 0, 1]
    loss = np.exp(-STEPS[:, None] / np.array([10, 20, 40, 1e9]))
    log_rho = np.array([1.0, 1.0, -1.0, -1.0]) + np.tanh((STEPS[:, None] - np.array([20, 40, 60, 80])) / 4)
    return planted(
        STEPS,
        {"loss": loss, "log_rho": log_rho},
        seeds=seeds,
        init_rho_k=np.array([2.0, 2.0, 0.5, 0.5]),
        **more,
    )


def test_the_first_step_below_a_level_and_what_another_quantity_is_there():
    steps = measures.first_below(run(), np.exp(-1.01))
    np.testing.assert_array_equal(steps, [15, 25, 45, np.nan])  # rows are 5 steps apart
    found = measures.read_at(run(), STEPS[:, None] * np.ones(4), steps)
    np.testing.assert_array_equal(found, [15, 25, 45, np.nan])


def test_a_quantity_on_the_test_set_is_read_from_its_last_row_at_or_before_the_step():
    own = run(test_steps=np.array([0, 40, 80]))
    rows = np.array([[1.0] * 4, [2.0] * 4, [3.0] * 4])
    np.testing.assert_array_equal(
        measures.read_at(own, rows, np.array([39.0, 40, 95, np.nan]), "test_error"), [1, 2, 3, np.nan]
    )


def test_the_fastest_growth_and_the_order_of_the_starts():
    assert measures.fastest_growth(run()).tolist() == pytest.approx([20, 40, 60, 80], abs=5)
    assert list(measures.each_start(run()).values()) == [[2, 3], [0, 1]]


def test_a_trend_is_within_each_seed_and_leaves_out_what_is_not_known():
    x = np.array([0.0, 0, 1, 1, 2, 2])
    y = np.array([10.0, 0, 12, 2, 14, np.nan])  # seeds differ by 10, the slope is 2 within each
    slope = measures.trend(x, y, [0, 1, 0, 1, 0, 1])
    assert slope.value == pytest.approx(2)
    assert slope.high - slope.low == pytest.approx(0, abs=1e-9)


def test_members_of_one_seed_count_once():
    found = measures.over_seeds(np.array([1.0, 3, 5, 7, np.nan]), [0, 0, 1, 1, 2])
    assert found.value == 4  # of 2 and 6
    assert found.high - found.value == pytest.approx(12.706 * 2, rel=1e-3)  # t of one degree of freedom, times 2


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [
        (Interval(1, 0.5, 1.5), "yes"),
        (Interval(-1, -1.5, -0.5), "no"),
        (Interval(1, -0.5, 2.5), "undecided"),
        (Interval(1, np.nan, np.nan), "undecided"),
    ],
)
def test_a_difference_is_undecided_while_its_interval_contains_zero(difference, verdict):
    assert measures.sign(difference) == verdict
