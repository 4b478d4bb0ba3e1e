"""Slopes of the test error against the logarithm of the start, planted at equal loss."""

from __future__ import annotations

import numpy as np
import pytest
from planted_run import planted

from rhotrace.statistics.intervals import Interval
from rhotrace.studies.questions import initial_norm

STEPS = np.arange(100)
TEST = np.arange(0, 100, 10)


def run(slope):
    """Test error 0.1 + slope log(rho_k(0)) at a loss of 0.1, and half as much slope at the end."""
    seeds = [0, 1, 2] * 2
    start = np.repeat([1.0, np.e], 3)
    noise = 1 + 0.05 * np.array([1, 0, -1, 0, 1, -1])
    loss = 10 ** (-STEPS / 50)[:, None] * np.ones(6)  # 0.1 at step 50
    part = np.where(TEST <= 50, 1.0, 0.5)[:, None]
    error = 0.1 + slope * noise * np.log(start) * part
    sums = {"a": np.ones((100, 6)), "q": np.linspace(9, 1, 100)[:, None] * np.ones(6)}
    return planted(
        STEPS,
        {"loss": loss, "test_error": error, "log_rho": np.log(start) * np.ones((100, 1)), **sums},
        seeds=seeds,
        test_steps=TEST,
        init_rho_k=start,
    )


@pytest.mark.parametrize(
    ("mnist", "cifar", "verdict"),
    [(0.02, 0.03, "yes"), (-0.02, -0.03, "no"), (0.02, -0.03, "undecided")],
)
def test_both_data_sets_decide(mnist, cifar, verdict):
    found = initial_norm.answer({"starts-gd": run(mnist), "starts-cifar": run(cifar)})
    assert found.verdict == verdict
    first, second = found.values["slopes"].values()
    assert isinstance(first["at loss 0.1"], Interval)
    assert first["at loss 0.1"].value == pytest.approx(mnist, rel=0.05)
    assert first["at the end"].value == pytest.approx(mnist / 2, rel=0.05)
    assert second["at loss 0.1"].value == pytest.approx(cifar, rel=0.05, abs=1e-9)


def test_without_cifar_the_digits_decide_and_the_limits_name_them_alone():
    found = initial_norm.answer({"starts-gd": run(0.02)})
    assert found.verdict == "yes"
    assert found.limits.startswith("3 against 8 (MNIST); 400")
