from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from series import ar1

from rhotrace.statistics.autocorrelation import (
    autocorrelation_time,
    integrated_time,
    integrated_time_interval,
)


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9, 0.98])
def test_integrated_time_of_a_known_autoregression(phi):
    x = ar1(200_000, phi, 1.0, np.random.default_rng(0))
    assert integrated_time(x) == pytest.approx((1 + phi) / (1 - phi), rel=0.12)


def test_integrated_time_agrees_with_a_direct_sum():
    x = ar1(2000, 0.8, 1.0, np.random.default_rng(1))
    x = x - x.mean()
    rho = np.array([np.sum(x[: len(x) - k] * x[k:]) for k in range(len(x))]) / np.sum(x * x)
    tau = 1 + 2 * np.cumsum(np.append(0, rho[1:]))
    window = next(m for m in range(len(x)) if m >= 5 * tau[m])
    assert integrated_time(x) == pytest.approx(tau[window], rel=1e-9)


def test_integrated_time_ignores_units_and_the_mean():
    x = ar1(5000, 0.7, 1.0, np.random.default_rng(3))
    assert integrated_time(1e-9 * x + 1e-6) == pytest.approx(integrated_time(x), rel=1e-6)


def test_an_anticorrelated_series_has_a_time_below_one():
    x = ar1(100_000, -0.6, 1.0, np.random.default_rng(2))
    assert integrated_time(x) == pytest.approx(0.25, rel=0.15)


def test_a_constant_series_counts_as_white():
    assert integrated_time(np.full(100, 3.0)) == 1.0


@pytest.mark.parametrize("phi", [0.0, 0.8])
def test_the_interval_of_tau_contains_the_truth_in_most_long_series(phi):
    tau, covered, trials = (1 + phi) / (1 - phi), 0, 80
    n = int(1000 * tau)
    for seed in range(trials):
        found = integrated_time_interval(integrated_time(ar1(n, phi, 1.0, np.random.default_rng([seed, 8]))), n)
        covered += found.low <= tau <= found.high
    assert covered >= 67  # 95 % of 80 is 76; four standard deviations are 8, and the formula is of leading order


def test_the_interval_of_tau_narrows_as_the_root_of_the_length():
    short, long = integrated_time_interval(10.0, 10_000), integrated_time_interval(10.0, 40_000)
    assert short.high - 10 == pytest.approx(1.96 * 10 * np.sqrt(4 * 50 + 2) / 100)
    assert short.high - short.low == pytest.approx(2 * (long.high - long.low))


def test_residuals_of_a_fit_get_the_autocorrelation_time_of_the_noise():
    n, phi, design = 400, 0.9, np.vander(np.linspace(-1, 1, 400), 4)
    found = []
    for seed in range(60):
        x = ar1(n, phi, 1.0, np.random.default_rng(seed))
        found.append(autocorrelation_time(x - design @ np.linalg.lstsq(design, x, rcond=None)[0], 4))
    assert np.median(found) == pytest.approx(19, rel=0.2)


def test_white_residuals_have_a_time_of_about_one():
    found = [autocorrelation_time(np.random.default_rng(seed).standard_normal(1000), 1) for seed in range(40)]
    assert min(found) >= 1
    assert np.median(found) < 1.3


FREED = """\
import resource
from pathlib import Path
import numpy as np
from rhotrace.statistics.autocorrelation import forget_lengths, integrated_time

def megabytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6

integrated_time(np.random.default_rng(0).standard_normal(3_000_000))
before = megabytes()
forget_lengths()
print(before - megabytes())
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory in use from Linux")
def test_what_scipy_keeps_of_a_long_transform_is_freed():
    """In a process of its own: one that has trained keeps what is freed."""
    said = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True, timeout=60).stdout
    assert float(said) > 40  # of the 48 MB that a transform of 6,000,000 values needs
