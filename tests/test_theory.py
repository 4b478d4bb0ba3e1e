from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from rhotrace import theory

# Time to rho_eq/2 for A = B = 1, from an integrator of another origin; columns rho_k(0) = 0.3, 0.1, 0.03, 0.01.
STARTS = (0.3, 0.1, 0.03, 0.01)
TABLE = {2: (0.578, 1.149, 1.753, 2.303), 3: (1.219, 4.572, 16.24, 49.58), 4: (2.622, 24.86, 277.6, 2500.0)}


def integrated(start: float, t: np.ndarray, *, A: float, B: float, depth: int) -> np.ndarray:
    def flow(_t, r):
        return 2 * r ** (depth - 1) * (A - B * r**depth)

    return solve_ivp(flow, (0, t[-1]), [start], t_eval=t, method="DOP853", rtol=1e-11, atol=1e-14).y[0]


@pytest.mark.parametrize("depth", TABLE)
def test_transient_time_reproduces_the_table(depth):
    np.testing.assert_allclose(theory.transient_time(STARTS, depth=depth), TABLE[depth], rtol=1e-3)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 8, 12])
def test_closed_form_agrees_with_an_integrator(depth):
    A, B, start = 1.3, 0.7, 0.6
    t = np.linspace(0, 3 * float(theory.transient_time(start, depth=depth, A=A, B=B)), 60)
    expected = integrated(start, t, A=A, B=B, depth=depth)
    np.testing.assert_allclose(theory.norm_trajectory(t, start, A=A, B=B, depth=depth), expected, rtol=2e-5)
    rising = expected < 0.999 * (A / B) ** (1 / depth)
    t_back = theory.time_to_reach(expected[rising], start, A=A, B=B, depth=depth)
    np.testing.assert_allclose(t_back, t[rising], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("depth", [3, 4, 6, 8])
def test_leading_law_of_small_starts(depth):
    times = theory.transient_time(np.array([1e-2, 1e-3]), depth=depth)
    slope = np.log10(times[1] / times[0])
    assert slope == pytest.approx(depth - 2, rel=0.02)
    assert times[1] == pytest.approx((1e-3) ** -(depth - 2) / (2 * (depth - 2)), rel=0.02)


def test_norms_outside_the_open_interval_have_no_time():
    assert np.isnan(theory.time_to_reach([0.5, 1.0, 2.0, -1.0], [1.5, 0.1, 0.1, 0.1], A=1, B=1, depth=4)).all()


@pytest.mark.parametrize("start", [0.0, 1.0, 1.5])
def test_a_trajectory_refuses_a_start_outside_the_open_interval(start):
    with pytest.raises(ValueError, match=r"inside \(0, 1\)"):
        theory.norm_trajectory(np.array([0.0, 1.0]), start, A=1, B=1, depth=3)
