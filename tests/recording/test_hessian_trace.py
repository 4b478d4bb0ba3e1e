"""The trace of the Hessian against dense Hessians, and its error against what the estimate is off by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import oracle
import pytest
import torch

ASKED = "record.every.hessian_trace=4"


def test_a_network_smaller_than_the_probes_has_the_exact_trace(recorded, small_text):
    run = recorded("network={kind: mlp, depth: 2, width: 1, dtype: float64}", ASKED, text=few_inputs(small_text()))
    assert sum(W[0].size for W in run.weights[0]) == 6
    for found, weights in run.of("hessian_trace"):
        expected = np.trace(oracle.hessian(weights, run.data.x, run.data.y))
        assert found == pytest.approx(expected, rel=1e-10)
    assert (run.rows["hessian_trace_error"] == 0).all()


def few_inputs(text):
    """The same recipe on the first inputs of each sample."""
    folder = text.split("root: ")[1].split(",")[0]
    with np.load(Path(folder) / "own.npz") as file:
        kept = {key: (file[key].reshape(len(file[key]), -1)[:, :5] if "x" in key else file[key]) for key in file}
    np.savez(Path(folder) / "own.npz", **kept)
    return text


def test_a_larger_one_has_it_within_its_error(recorded):
    run = recorded("members.seeds=6", ASKED)
    errors = run.rows["hessian_trace_error"]
    assert (errors > 0).all()
    scores = []
    for (found, weights), error in zip(run.of("hessian_trace"), errors.ravel(), strict=True):
        expected = np.trace(oracle.hessian(weights, run.data.x, run.data.y))
        scores.append((found - expected) / error)
    assert np.abs(scores).max() < 4.5  # Student's t with 12 degrees of freedom
    assert np.std(scores) > 0.2  # the error is not far too large either


def test_it_is_the_squared_gradients_of_the_outputs_where_each_layer_enters_linearly(recorded):
    """A ReLU network is linear in each W_k: no second derivative of g is on the diagonal, and tr H = 2 mean ||dg/dW||^2."""
    run = recorded("network={kind: conv, channels: [2], kernel: 2, dtype: float64}", ASKED)
    network, x = run.network, torch.as_tensor(run.data.x)
    for (found, weights), error in zip(run.of("hessian_trace"), run.rows["hessian_trace_error"].ravel(), strict=True):
        own = tuple(torch.as_tensor(W)[None].requires_grad_() for W in weights)
        squares = 0.0
        for sample in x:
            slopes = torch.autograd.grad(network.forward(own, sample[None]).sum(), own)
            squares += sum(float(slope.square().sum()) for slope in slopes)
        assert abs(found - 2 * squares / len(x)) < 4.5 * error
