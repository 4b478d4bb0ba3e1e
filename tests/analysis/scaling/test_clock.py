"""The clock on series whose directions are known functions of it."""

from __future__ import annotations

import numpy as np
import pytest

from rhotrace.analysis.scaling.clock import clock_of, clocks
from rhotrace.analysis.transient.closed_form_fit import Series

DEPTH, LR = 4, 0.01


def series(start: float, growth: float, *, power: int = DEPTH - 2) -> Series:
    """rho_k = start exp(growth t); A = exp(reading) - 2 of the clock that has the given power; rho_eq = 2 rho at reading 4."""
    steps = np.arange(4000)
    t = steps * LR
    rho_k = start * np.exp(growth * t)
    reading = start**power * ((np.exp(power * growth * t) - 1) / (power * growth) if growth else t)
    reading = np.minimum(reading, 6.0)
    A = np.exp(reading) - 2.0
    log_rho = DEPTH * np.log(rho_k)
    a = A * np.exp(log_rho)
    return Series(
        steps=steps,
        log_rho=log_rho,
        rho_eq_over_rho=np.where(reading < 4, 10.0, 1.0),
        a=a,
        q=np.abs(a),
        depth=DEPTH,
        lr=LR,
    )


def T_of(one: Series) -> float:
    return float(np.argmax(one.rho_eq_over_rho < 2))


@pytest.mark.parametrize(("start", "growth"), [(0.8, 0.0), (0.5, 0.05), (1.0, 0.1)])
def test_the_clock_reads_the_same_at_the_same_A_whatever_rho_does(start, growth):
    one = series(start, growth)
    clock = clock_of(one, T_of(one))
    for reading in (1.0, 2.0, 3.5):
        assert clock.at(float(np.log(np.exp(reading) - 2))) == pytest.approx(reading, rel=0.01)
    assert clock.end == pytest.approx(4, rel=0.01)
    assert np.isnan(clock.at(10.0))


def test_the_spread_over_starts_is_that_of_the_clock_and_not_of_time():
    starts, growths = [1.0, 0.8, 0.5], [0.1, 0.0, 0.05]
    each = [series(*pair) for pair in zip(starts, growths, strict=True)]
    found = clocks(*gathered(each))
    assert found is not None
    assert found.seeds == 1
    assert found.early.value == pytest.approx(1, abs=0.01)
    assert found.to_equal.value == pytest.approx(1, abs=0.01)
    assert found.T.value > 2
    other = clocks(*gathered([series(s, g, power=1) for s, g in zip(starts, growths, strict=True)]))
    assert other is not None
    assert other.worst > 1.5  # it is another clock that these keep time by


def test_one_start_has_no_spread():
    assert clocks(*gathered([series(0.8, 0.0)])) is None


def gathered(each):
    clock = np.empty(len(each), dtype=object)
    clock[:] = [clock_of(one, T_of(one)) for one in each]
    return np.zeros(len(each), dtype=int), clock, np.array([T_of(one) * LR for one in each]), np.ones(len(each))
