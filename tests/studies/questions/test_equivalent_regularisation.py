"""Whether constrained networks are the free ones, when the angles between their outputs are planted."""

from __future__ import annotations

import numpy as np
import pytest
from planted_run import planted

from rhotrace.statistics.intervals import Interval
from rhotrace.studies.questions.equivalent_regularisation import Outputs, match, nearest, verdict

STEPS = np.arange(0, 60, 5)
SHOTS = np.arange(0, 12, 2)  # rows with a snapshot


def outputs(log_rho, angles):
    """Four seeds; outputs turn in a plane of their own mixture: seed m is at ``angles[..., m]`` degrees."""
    rho, turn = np.exp(log_rho), np.radians(angles)
    a = rho * 0.5
    q = 0.02 * rho**2
    run = planted(STEPS, {"log_rho": log_rho, "a": a, "q": q, "loss": np.ones(rho.shape)}, seeds=list(range(4)))
    f = np.stack([np.cos(turn), np.sin(turn)], axis=2)
    return Outputs(run, f[SHOTS], log_rho[SHOTS])


def test_angles_are_read_where_the_free_network_passes_the_norm_of_the_other():
    seeds = np.array([0.0, 10, 20, 30])
    grow = np.linspace(0, 3, 12)[:, None] + np.zeros(4)  # log rho of the free networks
    free = outputs(grow, grow * 20 + seeds)  # 20 degrees for each unit of log rho
    still = outputs(np.full((12, 4), 1.5), np.full((12, 4), 34.0) + seeds)
    found = match(free, still)
    assert found.own.value == pytest.approx(4, abs=0.1)  # they are at 30 degrees there
    assert found.seeds.value == pytest.approx(np.mean([20, 13.33, 13.33, 20]), abs=0.05)
    assert found.ratio.value == pytest.approx(4 / np.sqrt(20 * 13.333), rel=0.03)
    assert found.end.value == pytest.approx(found.moving + 20 * (grow[10, 0] - 1.5), abs=0.1)
    assert found.multiplier.value == pytest.approx(1, rel=0.3)
    close, rho = nearest(free, still)
    assert close.value == pytest.approx(34 - 20 * grow[6, 0], abs=1e-6)  # of the snapshots, that at 32.7 degrees
    assert rho.value == pytest.approx(np.exp(grow[6, 0]))
    assert found.missing == 0
    assert found.interpolation < 0.2


def test_a_free_network_that_never_has_that_norm_is_left_out():
    grow = np.linspace(0, 3, 12)[:, None] * np.array([1, 1, 1, 1.0])
    free, high = outputs(grow, grow * 20), outputs(np.full((12, 4), 5.0), grow * 0)
    found = match(free, high)
    assert found.missing == 4
    assert np.isnan(found.own.value)


@pytest.mark.parametrize(
    ("ivanov", "tikhonov", "expected"),
    [
        ((0.1, 0.3), (0.2, 0.4), "yes"),
        ((0.7, 1.6), (0.6, 1.2), "no"),
        ((0.1, 0.3), (0.6, 1.2), "in part"),
        ((0.4, 0.9), (0.6, 1.2), "undecided"),
    ],
)
def test_half_the_distance_between_seeds_decides(ivanov, tikhonov, expected):
    assert verdict(*(Interval(sum(ends) / 2, *ends) for ends in (ivanov, tikhonov))) == expected
