from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from series import ar1

from rhotrace.statistics.correlated_fit import root_interval


def planted(phi: float, rng: np.random.Generator, n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """A falling line through zero at 0.1, with stationary first-order noise of standard deviation 0.1."""
    x = np.linspace(-1, 1, n)
    return np.vander(x, 4), 0.1 - x + ar1(n, phi, 0.1, rng)


def interval(design: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    solution = np.linalg.lstsq(design, values, rcond=None)[0]
    roots = np.roots(solution)
    near = min(roots[np.isreal(roots)].real, key=abs)
    return root_interval(design, values, near, float(np.polyval(np.polyder(solution), near)), memory=len(values))


@pytest.mark.parametrize("phi", [0.0, 0.9, 0.99])
def test_the_interval_contains_a_planted_zero_for_noise_of_any_memory(phi):
    rng, covered = np.random.default_rng(8), 0
    for _ in range(60):
        low, high = interval(*planted(phi, rng))
        covered += low <= 0.1 <= high
    assert covered >= stats.binom.ppf(0.005, 60, 0.95)


def test_in_white_noise_it_is_about_that_of_ordinary_least_squares():
    design, values = planted(0.0, np.random.default_rng(9))
    solution, residual, *_ = np.linalg.lstsq(design, values, rcond=None)
    at = 0.1 ** np.arange(3, -1, -1)
    variance = residual[0] / (len(values) - 4) * at @ np.linalg.inv(design.T @ design) @ at
    low, high = interval(design, values)
    assert (high - low) / 2 == pytest.approx(1.96 * variance**0.5 / abs(solution[2]), rel=0.25)
