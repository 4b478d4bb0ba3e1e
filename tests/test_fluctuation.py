from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter

from rhotrace import fluctuation
from rhotrace.fluctuation import Fluctuation


def ar1(n: int, phi: float, std: float, rng: np.random.Generator) -> np.ndarray:
    """A stationary first-order autoregression; its integrated time is (1 + phi)/(1 - phi)."""
    noise = rng.standard_normal(n) * std * np.sqrt(1 - phi**2)
    noise[0] = rng.standard_normal() * std
    return lfilter([1.0], [1.0, -phi], noise)


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9, 0.98])
def test_integrated_time_of_a_known_autoregression(phi):
    x = ar1(200_000, phi, 1.0, np.random.default_rng(0))
    assert fluctuation.integrated_time(x) == pytest.approx((1 + phi) / (1 - phi), rel=0.12)


def test_integrated_time_agrees_with_a_direct_sum():
    x = ar1(2000, 0.8, 1.0, np.random.default_rng(1))
    x = x - x.mean()
    rho = np.array([np.sum(x[: len(x) - k] * x[k:]) for k in range(len(x))]) / np.sum(x * x)
    tau = 1 + 2 * np.cumsum(np.append(0, rho[1:]))
    window = next(m for m in range(len(x)) if m >= 5 * tau[m])
    assert fluctuation.integrated_time(x) == pytest.approx(tau[window], rel=1e-9)


def test_an_anticorrelated_series_has_a_time_below_one():
    x = ar1(100_000, -0.6, 1.0, np.random.default_rng(2))
    assert fluctuation.integrated_time(x) == pytest.approx(0.25, rel=0.15)


def test_planted_offset_and_std_are_recovered_with_honest_intervals():
    covered, trials = 0, 60
    for seed in range(trials):
        delta = 0.02 + ar1(20_000, 0.9, 0.07, np.random.default_rng(seed))
        found = fluctuation.measure(0, np.arange(len(delta)), delta, after=1000)
        assert isinstance(found, Fluctuation)
        assert found.long_enough
        covered += found.low <= 0.07 <= found.high
        assert found.offset == pytest.approx(0.02, abs=0.02)
        assert found.effective == pytest.approx((found.window[1] - found.window[0]) / 19, rel=0.4)
    assert covered >= 51  # 95 % of 60 is 57


def test_a_relaxation_before_the_plateau_is_left_out_of_the_window():
    n = 20_000
    rng = np.random.default_rng(3)
    delta = ar1(n, 0.5, 0.01, rng) - np.exp(-np.arange(n) / 1500)
    found = fluctuation.measure(0, np.arange(n), delta, after=0)
    assert isinstance(found, Fluctuation)
    assert found.window[0] >= 4000
    assert found.stationary
    assert found.std == pytest.approx(0.01, rel=0.1)


def test_a_steady_drift_is_called_a_drift():
    delta = np.linspace(0, 1, 5000) ** 2 + ar1(5000, 0.3, 1e-3, np.random.default_rng(4))
    found = fluctuation.measure(0, np.arange(5000), delta, after=0)
    assert isinstance(found, Fluctuation)
    assert not found.stationary


def test_period_two_is_told_from_noise():
    n = np.arange(4000)
    rng = np.random.default_rng(5)
    stepping = fluctuation.measure(0, n, 0.01 * (-1.0) ** n + 1e-3 * rng.standard_normal(len(n)), after=0)
    noise = fluctuation.measure(0, n, 0.01 * rng.standard_normal(len(n)), after=0)
    assert isinstance(stepping, Fluctuation)
    assert isinstance(noise, Fluctuation)
    assert stepping.period_two > 0.9
    assert noise.period_two < 0.3


def test_log_rho_and_log_rho_eq_are_told_apart():
    rng = np.random.default_rng(8)
    log_rho, log_rho_eq = ar1(20_000, 0.9, 0.02, rng), ar1(20_000, 0.5, 0.05, rng)
    found = fluctuation.measure(0, np.arange(20_000), log_rho - log_rho_eq, 0, log_rho)
    assert isinstance(found, Fluctuation)
    assert found.std_rho == pytest.approx(0.02, rel=0.1)
    assert found.std_rho_eq == pytest.approx(0.05, rel=0.1)
    assert found.correlation == pytest.approx(0, abs=0.1)
    assert found.std == pytest.approx(np.hypot(0.02, 0.05), rel=0.1)


def test_strided_evaluations_report_tau_in_steps():
    x = ar1(50_000, 0.9, 1.0, np.random.default_rng(6))
    found = fluctuation.measure(0, 10 * np.arange(len(x)), x, after=0)
    assert isinstance(found, Fluctuation)
    assert found.tau == pytest.approx(190, rel=0.2)


def test_a_short_or_broken_series_is_refused_with_the_reason():
    assert "only 10 evaluations" in str(fluctuation.measure(0, np.arange(100), np.zeros(100), after=90))
    broken = np.zeros(100)
    broken[60] = np.nan
    assert "not finite" in str(fluctuation.measure(0, np.arange(100), broken, after=0))


def test_a_short_window_is_flagged():
    x = ar1(300, 0.97, 1.0, np.random.default_rng(7))
    found = fluctuation.measure(0, np.arange(len(x)), x, after=0)
    assert isinstance(found, Fluctuation)
    assert not found.long_enough
