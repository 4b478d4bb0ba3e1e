"""The rise time of curves that are known."""

from __future__ import annotations

import numpy as np
import pytest
from planted_run import planted

from rhotrace.studies.questions import residual

STEPS = np.arange(4000)


def run(T, width, seeds=4):
    """A logistic fall of the loss around T; 10 to 90 % take 2 log(9) widths."""
    at = T * (1 + 0.01 * np.arange(seeds))
    way = 1 / (1 + np.exp(-(STEPS[:, None] - at) / (width * (1 + 0.02 * np.arange(seeds)))))
    return planted(STEPS, {"loss": 1 - way, "q": way**2 + 1e-12}, seeds=list(range(seeds)))


def test_the_rise_time_of_a_logistic_curve():
    T, took = residual.rise(run(1000, 30), run(1000, 30).loss)
    np.testing.assert_allclose(T, 1000 * (1 + 0.01 * np.arange(4)), rtol=1e-3)
    assert took == pytest.approx(2 * np.log(9) * 30 * (1 + 0.02 * np.arange(4)), rel=1e-2)


@pytest.mark.parametrize(
    ("widths", "verdict"),
    [((10, 10, 10, 10), "yes"), ((90, 90, 10, 10), "in part"), ((90, 90, 90, 90), "no"), ((30,) * 4, "undecided")],
)
def test_a_mixture_against_each_depth(widths, verdict):
    runs = {f"plain-{depth}": run(1000, width) for depth, width in zip(residual.DEPTHS, widths, strict=True)}
    found = residual.answer({**runs, "residual-5": run(500, 15.0 * (1 + 1e-3))})
    if verdict != "undecided":
        assert found.verdict == verdict
    assert found.values["loss"]["plain, L = 2"].value == pytest.approx(30 / widths[0], rel=0.02)
    assert found.values["scale"]["plain, L = 2"].value == pytest.approx(30 / widths[0], rel=0.02)


def test_no_interval_that_excludes_1_decides_nothing():
    assert residual.verdict([0.9, 0.8], [1.2, 1.1]) == "undecided"
