"""SGD on the linearised network: compared with real steps, with a toy with V at rest, and with Lyapunov equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from components import batch_indices, equal_norms, mlp
from scipy.linalg import solve_discrete_lyapunov

from rhotrace.models.losses import Square
from rhotrace.models.optimizers import GD, SGD, WeightNorm
from rhotrace.theory.linearised_sgd import frozen_std, replay, sharpness, tangent_factors, whole_kernel

# --- the kernel --------------------------------------------------------------------------------------------


def network_problem(depth, outputs, samples=9):
    """A network of one member, its weights, inputs and targets."""
    network = mlp(6, outputs, depth=depth, width=[7, 5, 6][: depth - 1])
    rng = np.random.default_rng([depth, outputs, 1])
    sizes = rng.uniform(0.8, 2.5, depth)
    start = equal_norms(network, 4, rho_k=1.0)
    weights = tuple(torch.as_tensor(W * size)[None] for W, size in zip(start, sizes, strict=True))
    x = torch.as_tensor(rng.standard_normal((samples, 6)))
    y = torch.as_tensor(rng.choice([-1.0, 1.0], (samples, outputs)))
    return network, weights, x, y


def norms(weights):
    return np.array([float(W.square().sum().sqrt()) for W in weights])


def turning(network, weights, x, factors):
    return network.tangent_kernel(weights, x, torch.as_tensor(factors)[None])[0].numpy()


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_without_factors_the_whole_kernel_is_the_sum_over_layers_and_with_none_it_is_that_of_rho_alone(depth, outputs):
    network, weights, x, _ = network_problem(depth, outputs)
    g, rho_k = network.forward(weights, x)[0].numpy(), norms(weights)
    layers = [turning(network, weights, x, row) for row in np.eye(depth)]
    ones, zeros = np.ones(depth), np.zeros(depth)
    whole = whole_kernel(turning(network, weights, x, ones), g, rho_k, ones)
    np.testing.assert_allclose(whole, sum(layers), rtol=1e-12, atol=1e-12 * np.abs(whole).max())
    still = whole_kernel(np.zeros_like(whole), g, rho_k, zeros)
    flat = g.ravel()
    np.testing.assert_allclose(still, np.sum(1 / rho_k**2) * flat[:, None] * flat, rtol=1e-13)


@pytest.mark.parametrize("outputs", [1, 3])
def test_factors_scale_each_layers_kernel_but_not_its_part_along_the_weights(outputs):
    network, weights, x, _ = network_problem(3, outputs)
    g, rho_k = network.forward(weights, x)[0].numpy(), norms(weights)
    factors = np.array([0.3, 2.5, 1.2])
    along = [np.outer(g, g) / r**2 for r in rho_k]
    layers = [turning(network, weights, x, row) for row in np.eye(3)]
    expected = sum(a + t * (K - a) for a, t, K in zip(along, factors, layers, strict=True))
    found = whole_kernel(turning(network, weights, x, factors), g, rho_k, factors)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())


def test_tangent_factors_are_one_under_descent_and_the_squared_ratio_of_norms_under_weight_normalisation():
    rho_k = np.array([0.5, 2.0, 3.0])
    assert tangent_factors(rho_k).tolist() == [1, 1, 1]
    np.testing.assert_allclose(tangent_factors(rho_k, np.array([1.0, 1.0, 2.0])), [0.25, 4, 2.25])


# --- one step ----------------------------------------------------------------------------------------------

STRETCHED = (1.7, 0.6, 1.3)  # ||v_k||/rho_k


def one_step(optimizer, outputs, lr, batch, stretched):
    """Change of the outputs by one real step over the learning rate, and the linearised network's."""
    network, weights, x, y = network_problem(3, outputs)
    state = optimizer.init(tuple(W.clone() for W in weights))
    v_norm = None
    if stretched:
        for v, factor in zip(state["v"], STRETCHED, strict=True):
            v.mul_(factor)
        v_norm = norms(state["v"])
    g, gradients, _ = network.gradients(weights, x[batch], y[batch], Square())
    optimizer.step(state, gradients, lr=torch.full((1, 1, 1), lr, dtype=torch.float64))
    g = network.forward(weights, x)[0].numpy()
    real = network.forward(state["weights"], x)[0].numpy() - g
    factors = tangent_factors(norms(weights), v_norm)
    kernel = whole_kernel(turning(network, weights, x, factors), g, norms(weights), factors)
    kernel = kernel.reshape(outputs, len(x), outputs, len(x))
    residual = g - y.T.numpy()
    linear = -2 * lr / len(batch) * sum(kernel[:, :, :, n] @ residual[:, n] for n in batch)
    return real / lr, linear / lr


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize(
    ("optimizer", "batch", "stretched"),
    [
        pytest.param(GD(lr=1.0), list(range(9)), False, id="gd"),
        pytest.param(SGD(lr=1.0, batch_size=4), [2, 5, 5, 7], False, id="sgd"),
        pytest.param(WeightNorm(lr=1.0), list(range(9)), True, id="weight-norm"),
        pytest.param(WeightNorm(lr=1.0, batch_size=3), [0, 8, 3], True, id="weight-norm-batches"),
    ],
)
def test_a_real_step_changes_the_outputs_by_the_linearised_formula_to_first_order(optimizer, batch, stretched, outputs):
    def error(lr):
        real, linear = one_step(optimizer, outputs, lr, batch, stretched)
        return np.linalg.norm(real - linear) / np.linalg.norm(linear)

    assert error(1e-7) < 1e-5
    assert error(1e-4) / error(5e-5) == pytest.approx(2, rel=0.01)
    assert error(5e-5) / error(2.5e-5) == pytest.approx(2, rel=0.01)


def test_a_real_step_of_weight_normalisation_is_not_that_of_descent():
    real, _ = one_step(WeightNorm(lr=1.0), 1, 1e-7, list(range(9)), True)
    _, descent = one_step(GD(lr=1.0), 1, 1e-7, list(range(9)), False)
    assert np.linalg.norm(real - descent) > 0.1 * np.linalg.norm(descent)


# --- replay ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_replay_is_the_recursion_of_its_definition(outputs):
    network, weights, x, y = network_problem(2, outputs)
    g = network.forward(weights, x)[0].numpy()
    y = (y.T.numpy() + 3 * np.sign(g)) / 2  # a > 0
    kernel = turning(network, weights, x, np.ones(2))
    rng = np.random.default_rng(8)
    batches, lr = rng.integers(9, size=(30, 4)), 2e-3
    before = g.copy(), y.copy(), kernel.copy()
    found, drive = replay(kernel, g, y, batches, lr)
    assert all(np.array_equal(a, b) for a, b in zip(before, (g, y, kernel), strict=True))
    K, now, expected = kernel.reshape(outputs, 9, outputs, 9), g.copy(), []
    for batch in batches:
        expected.append(np.log((now * now).sum() / (y * now).sum()))
        now = now - 2 * lr / 4 * sum(K[:, :, :, n] @ (now - y)[:, n] for n in batch)
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert any(len(set(batch)) < 4 for batch in batches)  # a sample twice in a batch
    np.testing.assert_allclose(g.ravel() - kernel @ drive, now.ravel(), rtol=0, atol=1e-12)


def test_a_replay_stops_where_there_is_no_equilibrium():
    y = np.ones((1, 4))
    batches = np.zeros((5, 1), dtype=np.int64)
    for g in (-y, 0 * y, 1e3 * y):
        found = replay(np.eye(4), g, y, batches, 0.1)
        assert np.isnan(found.delta).all()
        assert found.drive is None


def test_a_replay_beyond_the_edge_of_stability_runs_away_and_stays_lost():
    rng = np.random.default_rng(3)
    features = rng.standard_normal((12, 4))
    kernel = features @ features.T
    y = np.sign(features[:, :1]).T
    g = 0.9 * y
    everything = np.tile(np.arange(12), (400, 1))
    edge = 2 / (2 * np.linalg.eigvalsh(kernel)[-1] / 12)
    for beyond in (1.2, 3, 1e3, 1e100):
        delta, drive = replay(kernel, g, y, everything, beyond * edge)
        assert drive is None
        alive = np.isfinite(delta)
        assert alive[0]
        assert not alive[-1]
        assert (np.diff(alive.astype(int)) <= 0).all()
        assert np.abs(delta[alive]).max() <= 5
    assert np.isfinite(replay(kernel, g, y, everything, 0.9 * edge).delta).all()


# --- V at rest ---------------------------------------------------------------------------------------------

LABELS = np.where(np.arange(40) < 30, 1.0, -1.0)  # mean 1/2, and variance 3/4
MEAN = 0.5
TOYS = [  # layer norms, learning rate, batch, steps
    pytest.param((0.5,), 0.02, 20, 3000, id="one-layer"),
    pytest.param((0.5,), 0.3, 200, 800, id="one-layer-long-steps"),
    pytest.param((0.5**0.5,) * 2, 0.01, 10, 4000, id="two-layers"),
    pytest.param((1.0, 0.5), 0.01, 10, 4000, id="two-layers-unlike"),
    pytest.param((0.5**0.25,) * 4, 0.01, 20, 2500, id="four-layers"),
    pytest.param((0.5**0.25,) * 4, 0.05, 200, 800, id="four-layers-long-steps"),
]
toys = pytest.mark.parametrize(("norms_at_start", "lr", "batch_size", "steps"), TOYS)


def toy_std(norms_at_start, lr, batch_size, steps, *, members=64):
    """Networks of one unit a layer with the one input 1: V stands still. Std of log(rho/rho_eq), and S."""
    depth = len(norms_at_start)
    network = mlp(1, 1, depth=depth, width=1)
    weights = tuple(torch.full((members, 1, 1), w, dtype=torch.float64) for w in norms_at_start)
    optimizer = SGD(lr=1.0, batch_size=batch_size, sampling="with-replacement")
    state, eta = optimizer.init(weights), torch.full((members, 1, 1), lr, dtype=torch.float64)
    drawn = batch_indices(
        range(members), 0, steps, samples=len(LABELS), batch_size=batch_size, sampling="with-replacement"
    )
    y = torch.as_tensor(LABELS[drawn])[..., None]
    x = torch.ones(members, batch_size, 1, dtype=torch.float64)
    seen, S = [], []
    with torch.no_grad():
        for step in range(steps):
            outputs, gradients, _ = network.gradients(state["weights"], x, y[step], Square())
            seen.append(outputs[:, 0, 0].clone())
            S.append(sum(W.square().reciprocal().mean() for W in state["weights"]))
            optimizer.step(state, gradients, lr=eta)
    settled = steps // 5
    delta = np.log(torch.stack(seen[settled:]).numpy() / MEAN)
    return float(delta.std()), float(torch.stack(S[settled:]).mean())


@toys
def test_where_v_cannot_move_the_fluctuation_is_that_of_the_frozen_formula(norms_at_start, lr, batch_size, steps):
    measured, S = toy_std(norms_at_start, lr, batch_size, steps)
    expected = frozen_std(lr=lr, S=S, q=MEAN**2, step_variance=MEAN**2 * LABELS.var() / batch_size)
    assert 0 < measured < 0.2
    assert (measured / expected) ** 2 == pytest.approx(1, abs=0.05)


@toys
def test_a_replay_without_turning_has_the_fluctuation_of_the_frozen_formula(norms_at_start, lr, batch_size, steps):
    rho_k = np.array(norms_at_start)
    g, y = np.full((1, 40), MEAN), LABELS[None]
    kernel = whole_kernel(np.zeros((40, 40)), g, rho_k, np.zeros_like(rho_k))
    batches = np.random.default_rng(21).integers(40, size=(20 * steps, batch_size))
    measured = replay(kernel, g, y, batches, lr).delta[steps // 5 :].std()
    S = float(np.sum(rho_k**-2))
    expected = frozen_std(lr=lr, S=S, q=MEAN**2, step_variance=MEAN**2 * LABELS.var() / batch_size)
    assert measured == pytest.approx(expected, rel=0.05)


def test_the_frozen_formula_has_the_limit_of_small_steps():
    S, q, variance = 3.0, 0.2, 0.7
    for lr in (1e-3, 1e-4, 1e-5):
        limit = np.sqrt(lr * S * variance / (8 * q))
        exact = frozen_std(lr=lr, S=S, q=q, step_variance=variance / 8)
        assert exact > limit
        assert exact == pytest.approx(limit * (1 + lr * S * q / 2), rel=2 * (lr * S * q) ** 2)


def test_the_frozen_formula_is_infinite_beyond_the_edge_and_unknown_without_a_restoring_force():
    S, q = 2.0, 0.5
    assert frozen_std(lr=0.9999, S=S, q=q, step_variance=1.0) < np.inf
    assert frozen_std(lr=1.0001, S=S, q=q, step_variance=1.0) == np.inf
    assert frozen_std(lr=50.0, S=S, q=q, step_variance=1.0) == np.inf
    assert np.isnan(frozen_std(lr=0.1, S=S, q=0.0, step_variance=1.0))
    assert frozen_std(lr=0.1, S=S, q=q, step_variance=0.0) == 0


# --- linear response ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lr", "batch_size", "stretch"), [(0.03, 8, 1.0), (0.1, 40, 2.0), (0.05, 16, 0.5)])
def test_a_replay_has_the_variance_of_a_lyapunov_equation(lr, batch_size, stretch):
    samples, features = 60, 4
    rng = np.random.default_rng(17)
    basis, _ = np.linalg.qr(rng.standard_normal((samples, features)))
    phi = basis * np.sqrt(samples * np.linspace(1, stretch, features))  # K/N has eigenvalues from 1 to stretch
    kernel = phi @ phi.T
    y = 3 * basis @ rng.standard_normal(features) + 0.4 * rng.standard_normal(samples)
    g = basis @ (basis.T @ y)  # where descent comes to rest, with residuals left over
    residual = g - y
    assert np.abs(kernel @ residual).max() < 1e-10

    memory = np.eye(features) - 2 * lr / samples * phi.T @ phi
    noise = 4 * lr**2 / batch_size * phi.T @ np.diag(residual**2 / samples) @ phi
    covariance = phi @ solve_discrete_lyapunov(memory, noise) @ phi.T
    slope = 2 * g / (g @ g) - y / (y @ g)
    expected = np.sqrt(slope @ covariance @ slope)
    assert expected < 0.05

    batches = rng.integers(samples, size=(80_000, batch_size))
    delta = replay(kernel, g[None], y[None], batches, lr).delta
    assert delta[0] == pytest.approx(0, abs=1e-12)
    assert delta[500:].std() == pytest.approx(expected, rel=0.05)


def test_a_replay_has_the_variance_of_a_lyapunov_equation_in_which_each_batch_has_a_curvature_of_its_own():
    """With single samples and long steps, the noise that comes with the deviation is no longer small."""
    samples, features, lr = 30, 3, 0.15
    rng = np.random.default_rng(5)
    basis, _ = np.linalg.qr(rng.standard_normal((samples, features)))
    phi = basis * np.sqrt(samples)
    y = 3 * basis @ rng.standard_normal(features) + 0.02 * rng.standard_normal(samples)
    g = basis @ (basis.T @ y)

    memory = np.eye(features) - 2 * lr / samples * phi.T @ phi
    noise = 4 * lr**2 * phi.T @ np.diag((g - y) ** 2 / samples) @ phi
    one = [np.eye(features) - 2 * lr * np.outer(row, row) for row in phi]  # the step of each sample
    operator = np.mean([np.kron(step, step) for step in one], axis=0)
    covariance = np.linalg.solve(np.eye(features**2) - operator, noise.ravel()).reshape(features, features)
    slope = phi.T @ (2 * g / (g @ g) - y / (y @ g))
    expected = np.sqrt(slope @ covariance @ slope)
    mean_curvature = np.sqrt(slope @ solve_discrete_lyapunov(memory, noise) @ slope)
    assert expected > 1.2 * mean_curvature

    delta = replay(phi @ phi.T, g[None], y[None], rng.integers(samples, size=(100_000, 1)), lr).delta
    assert delta[500:].std() == pytest.approx(expected, rel=0.05)


# --- sharpness ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7, 40, 300])
def test_sharpness_is_the_largest_eigenvalue_of_the_curvature_in_units_of_the_learning_rate(size):
    half = np.random.default_rng(size).standard_normal((size, size + 2))
    kernel = half @ half.T
    expected = 0.03 * 2 * np.linalg.eigvalsh(kernel)[-1] / 11
    assert sharpness(kernel, 11, 0.03) == pytest.approx(expected, rel=1e-6)
    assert sharpness(kernel, 11, 0.03) == sharpness(kernel.copy(), 11, 0.03)


def test_sharpness_of_one_sample():
    assert sharpness(np.array([[3.0]]), 1, 0.5) == 3.0


def test_sharpness_finds_a_direction_that_adds_up_to_nothing():
    for size in (2, 4, 30):
        direction = np.where(np.arange(size) % 2, 1.0, -1.0)
        kernel = np.eye(size) + np.outer(direction, direction)
        assert sharpness(kernel, size, 1.0) == pytest.approx(2 * (1 + size) / size, rel=1e-6)
