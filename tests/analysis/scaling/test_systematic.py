"""Systematic errors that are planted, and those of training at two learning rates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planted import members_of, planted

from rhotrace.analysis.scaling.members import THETAS, pooled
from rhotrace.analysis.scaling.systematic import systematic
from rhotrace.analysis.scaling.with_start import scaling
from rhotrace.runfile.reader import open_trace

STARTS = np.array([1.0, 0.7, 0.5, 0.35])


def with_late(lr: float, seeds, *, late=lambda r: 3 - 2 * np.log(r), starts=STARTS):
    """T = 2 r^-2 + lr late(r) at each learning rate."""
    s, r = (grid.reshape(-1) for grid in np.meshgrid(seeds, starts))
    return members_of(s, r, (2 + 0.1 * s) * r**-2.0 + lr * late(r), lr=lr)


def test_finite_steps_are_extrapolated_away_from_what_two_learning_rates_show():
    both = pooled([with_late(0.1, np.arange(6)), with_late(0.05, np.arange(3), starts=STARTS[[0, 2, 3]])])
    found = systematic(4, both)
    assert found.step_from == "measured"
    assert found.extrapolated.value == pytest.approx(-2, abs=1e-6)
    assert found.late.value == pytest.approx(float((3 - 2 * np.log(STARTS)).mean()))
    raw = systematic(4, with_late(0.1, np.arange(6)))
    assert raw.step_from == "not tested"
    assert raw.step == 0
    assert found.step == pytest.approx(
        systematic(4, with_late(0.0, np.arange(6))).extrapolated.value - (-2 - found.step)
    )
    assert abs(raw.extrapolated.value + 2) > 100 * abs(found.extrapolated.value + 2)


def test_a_learning_rate_at_which_a_member_has_no_t_is_passed_over():
    coarse, fine = with_late(0.1, np.arange(6)), with_late(0.05, np.arange(6))
    diverged = replace(coarse, times=np.where(coarse.seed == 2, np.nan, coarse.times))
    main = pooled([diverged, fine]).one_for_each_start(largest=True)
    assert set(main.lr[main.seed == 2]) == {0.05}
    assert set(main.lr[main.seed != 2]) == {0.1}
    assert (main.T > 0).all()


def test_the_first_order_estimate_stands_in_where_there_is_one_learning_rate():
    one = with_late(0.1, np.arange(6))
    known = replace(one, late=np.broadcast_to(3 - 2 * np.log(one.start), one.times.shape))
    found = systematic(4, known)
    assert found.step_from == "estimated"
    assert found.extrapolated.value == pytest.approx(-2, abs=1e-6)


def test_every_theta_widens_the_whole_and_the_loss_does_not():
    plain = planted(-2.0, wobble=1e-3)
    steeper, loss = plain.T * plain.start**-0.2, plain.T * plain.start**3
    members = members_of(plain.seed, plain.start, plain.T, times={1: steeper, len(THETAS) + 1: loss})
    found = systematic(4, members)
    assert found.theta == pytest.approx((-0.2, 0.0), abs=1e-6)
    assert found.loss == pytest.approx(3)
    assert found.whole.low == pytest.approx(-2.2, abs=0.01)
    assert found.whole.high == pytest.approx(found.extrapolated.high)
    assert systematic(4, plain).whole == found.extrapolated


@pytest.fixture
def at_two_rates(train):
    grid = "{grid: [{rho_k: [1.2, 1.0, 0.8], lr: [0.2], seeds: 2}, {rho_k: [1.2, 0.8], lr: [0.1, 0.05], seeds: 2}]}"
    return train(f"members={grid}", "steps=1000", "record={test_every: 1000, snapshots: 0}")


def test_the_estimate_is_most_of_what_training_at_smaller_steps_measures(at_two_rates):
    with open_trace(at_two_rates) as run:
        (measured,) = scaling([run]).each
        coarse = systematic(3, read_at(run, 0.2))
    found = measured.systematic
    assert found.step_from == "measured"
    assert coarse.step_from == "estimated"
    assert found.late.value > 0.5
    assert 0.4 < coarse.late.value / found.late.value < 1.2
    assert measured.points[0].members == 6
    assert measured.seeds == 2


def read_at(trace, lr: float):
    from rhotrace.analysis.run_series import RunSeries
    from rhotrace.analysis.scaling.members import read

    members = read(RunSeries(trace))
    return members.where(members.lr == lr)
