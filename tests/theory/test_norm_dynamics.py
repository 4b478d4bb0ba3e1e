from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from rhotrace.theory import norm_dynamics

# Time to rho_eq/2 for A = B = 1, from an integrator of another origin; columns rho_k(0) = 0.3, 0.1, 0.03, 0.01.
STARTS = (0.3, 0.1, 0.03, 0.01)
TABLE = {2: (0.578, 1.149, 1.753, 2.303), 3: (1.219, 4.572, 16.24, 49.58), 4: (2.622, 24.86, 277.6, 2500.0)}


def integrated(start: float, t: np.ndarray, *, A: float, B: float, depth: int) -> np.ndarray:
    def flow(_t, r):
        return 2 * r ** (depth - 1) * (A - B * r**depth)

    return solve_ivp(flow, (0, t[-1]), [start], t_eval=t, method="DOP853", rtol=1e-11, atol=1e-14).y[0]


@pytest.mark.parametrize("depth", TABLE)
def test_transient_time_reproduces_the_table(depth):
    np.testing.assert_allclose(norm_dynamics.transient_time(STARTS, depth=depth), TABLE[depth], rtol=1e-3)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 8, 12])
def test_closed_form_agrees_with_an_integrator(depth):
    A, B, start = 1.3, 0.7, 0.6
    t = np.linspace(0, 3 * float(norm_dynamics.transient_time(start, depth=depth, A=A, B=B)), 60)
    expected = integrated(start, t, A=A, B=B, depth=depth)
    np.testing.assert_allclose(norm_dynamics.norm_trajectory(t, start, A=A, B=B, depth=depth), expected, rtol=2e-5)
    rising = expected < 0.999 * (A / B) ** (1 / depth)
    t_back = norm_dynamics.time_to_reach(expected[rising], start, A=A, B=B, depth=depth)
    np.testing.assert_allclose(t_back, t[rising], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("depth", [3, 4, 6, 8])
def test_leading_law_of_small_starts(depth):
    times = norm_dynamics.transient_time(np.array([1e-2, 1e-3]), depth=depth)
    slope = np.log10(times[1] / times[0])
    assert slope == pytest.approx(depth - 2, rel=0.02)
    assert times[1] == pytest.approx((1e-3) ** -(depth - 2) / (2 * (depth - 2)), rel=0.02)


def test_norms_on_both_sides_of_equilibrium_have_no_time():
    assert np.isnan(norm_dynamics.time_to_reach([0.5, 1.0, 2.0, -1.0], [1.5, 0.1, 0.1, 0.1], A=1, B=1, depth=4)).all()


def test_a_start_beyond_theta_has_no_transient():
    assert norm_dynamics.transient_time([0.9, 1.5], depth=4).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("start", [0.0, -1.0])
def test_a_trajectory_refuses_a_start_that_is_not_positive(start):
    with pytest.raises(ValueError, match="positive"):
        norm_dynamics.norm_trajectory(np.array([0.0, 1.0]), start, A=1, B=1, depth=3)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("start", [1.2, 3.0, 30.0])
def test_the_closed_form_above_equilibrium_agrees_with_an_integrator(depth, start):
    t = np.concatenate([[0.0], np.geomspace(1e-3 * start ** (2 - 2 * depth), 2.0, 40)])

    def flow(_t, log_r):
        return 2 * np.exp((depth - 2) * log_r) * (1.3 - 0.7 * np.exp(depth * log_r))

    solved = solve_ivp(flow, (0, 2), [np.log(start)], "Radau", t_eval=t, rtol=1e-10, atol=1e-12)
    expected = np.exp(solved.y[0])
    np.testing.assert_allclose(norm_dynamics.norm_trajectory(t, start, A=1.3, B=0.7, depth=depth), expected, rtol=5e-5)
    falling = expected > 1.001 * (1.3 / 0.7) ** (1 / depth)
    np.testing.assert_allclose(
        norm_dynamics.time_to_reach(expected[falling], start, A=1.3, B=0.7, depth=depth),
        t[falling],
        rtol=1e-5,
        atol=1e-9,
    )


@pytest.mark.parametrize("depth", [1, 2, 4, 7])
def test_many_starts_at_once_are_the_same_as_one_by_one_and_as_the_integrator(depth):
    starts = np.array([[0.3, 0.9], [1.0, 2.0]])
    t = np.linspace(0, 5, 30)
    together = norm_dynamics.norm_trajectory(t, starts, A=1.0, B=1.0, depth=depth)
    assert together.shape == (2, 2, 30)
    for place in np.ndindex(2, 2):
        alone = norm_dynamics.norm_trajectory(t, starts[place], A=1.0, B=1.0, depth=depth)
        np.testing.assert_allclose(together[place], alone, rtol=2e-5)
    np.testing.assert_allclose(norm_dynamics.integrate(t, starts, A=1.0, B=1.0, depth=depth), together, rtol=3e-5)


def test_a_negative_A_makes_the_norm_decay():
    r = norm_dynamics.integrate(np.linspace(0, 50, 20), [0.8, 0.4], A=-0.5, B=1.0, depth=4)
    assert (np.diff(r, axis=1) < 0).all()
    with pytest.raises(ValueError, match="positive"):
        norm_dynamics.norm_trajectory(np.linspace(0, 1, 3), 0.8, A=-0.5, B=1.0, depth=4)


def test_lambda_is_the_multiplier_that_makes_the_penalised_loss_stationary():
    rng = np.random.default_rng(0)
    f, y = rng.uniform(-1, 1, 50), np.sign(rng.standard_normal(50))
    A, B = (y * f).mean(), (f**2).mean()
    for rho in (0.01, 0.5, 3.0):
        weight = float(norm_dynamics.tikhonov_lambda(rho, A=A, B=B))
        loss = [((s * f - y) ** 2).mean() + weight * s**2 for s in (rho * 0.999, rho, rho * 1.001)]
        assert abs(loss[2] - loss[0]) < 1e-5 * max(1.0, abs(weight) * rho**2)
    assert float(norm_dynamics.tikhonov_lambda(A / B, A=A, B=B)) == pytest.approx(0)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_the_driven_solution_follows_planted_time_dependent_A_and_B(depth):
    t = np.linspace(0, 6, 6001)
    A, B = 0.4 + 0.3 * np.sin(t), 0.5 + 0.2 * np.cos(2 * t)

    def flow(at, log_r):
        return (
            2
            * np.exp((depth - 2) * log_r)
            * (0.4 + 0.3 * np.sin(at) - (0.5 + 0.2 * np.cos(2 * at)) * np.exp(depth * log_r))
        )

    log_rho = depth * solve_ivp(flow, (0, 6), [np.log(0.7)], t_eval=t, rtol=1e-10, atol=1e-12).y[0]
    a, q = np.exp(log_rho) * A, np.exp(2 * log_rho) * B
    np.testing.assert_allclose(norm_dynamics.driven(t, log_rho, a, q, depth=depth), log_rho, atol=2e-5)
    # An error in what is called measured must not be followed: the solution has a life of its own.
    bent = log_rho + 0.3 * (t > 3)
    rescaled = norm_dynamics.driven(t, bent, np.exp(bent) * A, np.exp(2 * bent) * B, depth=depth)
    np.testing.assert_allclose(rescaled, log_rho, atol=2e-3)


@pytest.mark.parametrize("b", [-0.9, -1 / 3, 4 / 3, 1.75])
def test_the_hypergeometric_function_is_the_integral_it_stands_for_up_to_the_singularity(b):
    n = np.arange(200_000)
    for z in (0.1, 0.65, 0.75, 0.999):
        direct = (b / (b + n) * np.exp(n * np.log(z))).sum()  # the series at zero
        assert float(norm_dynamics._gauss(b, np.array(np.log(z)))) == pytest.approx(direct, rel=1e-9)
    z, h = 0.7, 1e-9  # where the two expansions meet
    left, right = (float(norm_dynamics._gauss(b, np.array(np.log(z + d)))) for d in (-h, h))
    assert left == pytest.approx(right, rel=1e-7)


def heun(t, log_rho, a, q, depth):
    """Equation (5) one step after the other, in the memo's own variables."""
    y = np.empty(len(t))
    y[0] = log_rho[0]

    def flow(i, here):
        A, B = a[i] * np.exp(-log_rho[i]), q[i] * np.exp(-2 * log_rho[i])
        return 2 * depth * np.exp((depth - 2) / depth * here) * (A - B * np.exp(here))

    for i in range(len(t) - 1):
        h, first = t[i + 1] - t[i], flow(i, y[i])
        y[i + 1] = y[i] + h / 2 * (first + flow(i + 1, y[i] + h * first))
    return y


@pytest.mark.parametrize("noise", [0.0, 1e-3, 0.3])
@pytest.mark.parametrize("depth", [1, 4])
def test_a_long_series_is_driven_as_one_step_after_the_other(depth, noise):
    rng, rows = np.random.default_rng(0), 70_000
    t = 6e-4 * np.arange(rows)
    log_rho = 0.2 * np.sin(t) + noise * rng.standard_normal(rows)
    a, q = np.exp(log_rho), np.exp(2 * log_rho) * (1 + noise * rng.standard_normal(rows))
    found = norm_dynamics.driven(t, log_rho, a, q, depth=depth)
    np.testing.assert_allclose(found, heun(t, log_rho, a, q, depth), rtol=0, atol=1e-11)


def test_a_long_series_is_driven_until_it_leaves_the_range_of_floating_point():
    t = 0.1 * np.arange(70_000)
    found = norm_dynamics.driven(
        t, np.zeros(70_000), np.where(t < 3000, 0.0, 5.0), np.where(t < 3000, 0.0, -5.0), depth=4
    )
    lost = np.isnan(found)
    assert 30_000 < lost.argmax() < 30_020
    assert lost[lost.argmax() :].all()
    assert (found[:30_000] == 0).all()
