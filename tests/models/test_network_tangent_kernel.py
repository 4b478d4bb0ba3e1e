"""The tangent kernel of the networks, held to derivatives taken otherwise."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
from components import equal_norms, mlp

from rhotrace.models.losses import Square
from rhotrace.models.network import Network

ROUNDING = 1e-12
SAMPLES, INPUTS = 7, 5
SEEDS = (11, 12, 13)

shapes_of_networks = pytest.mark.parametrize("outputs", [1, 3])
depths = pytest.mark.parametrize("depth", [1, 2, 4])


def problem(depth, outputs):
    """A network, weights of three members, inputs, and factors that differ by layer and member."""
    network = mlp(INPUTS, outputs, depth=depth, width=[6, 4, 5][: depth - 1])
    members = [equal_norms(network, seed, rho_k=1.5) for seed in SEEDS]
    weights = tuple(torch.as_tensor(np.stack(layer)) for layer in zip(*members, strict=True))
    rng = np.random.default_rng([depth, outputs])
    x = torch.as_tensor(rng.standard_normal((SAMPLES, INPUTS)))
    factors = torch.as_tensor(rng.uniform(0.1, 3, (len(SEEDS), depth)))
    return network, weights, x, factors


def jacobian(weights, x, k):
    """dg/dW_k by steps along the imaginary axis, (C N, entries): row c N + n is output c of sample n."""
    columns = []
    for entry in np.ndindex(weights[k].shape):
        moved = [W.astype(complex) for W in weights]
        moved[k][entry] += 1e-30j
        columns.append(oracle.preactivations(moved, x)[-1].imag.T.ravel() / 1e-30)
    return np.stack(columns, axis=1)


def layer_kernels(weights, x):
    """K_k of one network, (L, C N, C N)."""
    rows = [jacobian(weights, x, k) for k in range(len(weights))]
    return np.stack([J @ J.T for J in rows])


def close(got, expected):
    return np.abs(np.asarray(got) - expected).max() <= ROUNDING * np.abs(expected).max()


@depths
@shapes_of_networks
def test_the_tangent_kernel_is_the_inner_product_of_derivatives_along_the_imaginary_axis(depth, outputs):
    network, weights, x, factors = problem(depth, outputs)
    found = network.tangent_kernel(weights, x, factors)
    assert found.shape == (len(SEEDS), outputs * SAMPLES, outputs * SAMPLES)
    for member in range(len(SEEDS)):
        own = layer_kernels([W[member].numpy() for W in weights], x.numpy())
        assert np.abs(own).max() > 0
        assert close(found[member], np.tensordot(factors[member].numpy(), own, axes=1))


@depths
@shapes_of_networks
def test_automatic_differentiation_gives_the_same_tangent_kernel(depth, outputs):
    network, weights, x, factors = problem(depth, outputs)
    before = [W.clone() for W in weights], x.clone(), factors.clone()
    automatic = Network.tangent_kernel(network, weights, x, factors)
    by_layers = network.tangent_kernel(weights, x, factors)
    assert close(automatic, by_layers.numpy())
    assert all(torch.equal(W, old) for W, old in zip(weights, before[0], strict=True))
    assert torch.equal(x, before[1])
    assert torch.equal(factors, before[2])


@shapes_of_networks
def test_the_tangent_kernel_of_a_member_is_that_of_the_member_alone(outputs):
    network, weights, x, factors = problem(4, outputs)
    together = network.tangent_kernel(weights, x, factors)
    for m in range(len(SEEDS)):
        alone = network.tangent_kernel(tuple(W[m : m + 1] for W in weights), x, factors[m : m + 1])
        assert close(alone[0], together[m].numpy())


@depths
@shapes_of_networks
def test_the_tangent_kernel_is_symmetric_and_has_no_negative_eigenvalue(depth, outputs):
    network, weights, x, factors = problem(depth, outputs)
    for kernel in network.tangent_kernel(weights, x, factors).numpy():
        assert close(kernel, kernel.T)
        eigenvalues = np.linalg.eigvalsh(kernel)
        assert eigenvalues[-1] > 0
        assert eigenvalues[0] > -ROUNDING * eigenvalues[-1]


@depths
@shapes_of_networks
def test_the_part_of_a_layers_kernel_along_its_weights_is_the_outputs_over_its_squared_norm(depth, outputs):
    network, weights, x, _ = problem(depth, outputs)
    g = network.forward(weights, x)
    for m in range(len(SEEDS)):
        own = [W[m].numpy() for W in weights]
        flat = g[m].numpy().ravel()
        for k, W in enumerate(own):
            rho_k = oracle.norm(W)
            along = jacobian(own, x.numpy(), k) @ (W.ravel() / rho_k)
            assert close(np.outer(along, along), np.outer(flat, flat) / rho_k**2)


@depths
def test_the_squared_gradient_of_the_loss_is_the_tangent_kernel_between_residuals(depth):
    network, weights, x, _ = problem(depth, 1)
    y = torch.as_tensor(np.random.default_rng(5).choice([-1.0, 1.0], (SAMPLES, 1)))
    kernel = network.tangent_kernel(weights, x, torch.ones(len(SEEDS), depth, dtype=torch.float64))
    g, gradients, _ = network.gradients(weights, x, y, Square())
    squares = sum(G.square().sum((1, 2)) for G in gradients)
    r = (g - y.T)[:, 0] * (2 / SAMPLES)
    assert close(squares, torch.einsum("mi,mij,mj->m", r, kernel, r).numpy())
