"""The noise scale against gradients of single samples, one after another."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch

from rhotrace.errors import RecipeError
from rhotrace.recording.quantity import QUANTITIES
from rhotrace.training.distributed import Team

ASKED = "record.every.noise_scale=4"


def expected_of(gradients):
    """tr Sigma and ||G||^2 of gradients (N, parameters)."""
    return np.trace(np.cov(gradients.T, ddof=0)), (gradients.mean(axis=0) ** 2).sum()


def check(run, gradient_of):
    """Every row, against the gradients of each sample that ``gradient_of(weights, x, y)`` returns."""
    names = ("gradient_variance", "gradient_square", "noise_scale")
    for (variance, weights), (square, _), (scale, _) in zip(*map(run.of, names), strict=True):
        pairs = zip(run.data.x, run.data.y, strict=True)
        each = np.stack([np.concatenate([G.ravel() for G in gradient_of(weights, x, y)]) for x, y in pairs])
        trace, length = expected_of(each)
        assert variance == pytest.approx(trace, rel=1e-9)
        assert square == pytest.approx(length, rel=1e-9)
        assert scale == pytest.approx(trace / length, rel=1e-9)


@pytest.mark.parametrize("optimizer", ["{kind: gd, lr: 0.2}", "{kind: sgd, lr: 0.2, batch_size: 5}"])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_run_records_the_noise_of_its_training_set(recorded, optimizer, classes):
    run = recorded(f"optimizer={optimizer}", ASKED, classes=classes)
    assert run.steps["noise_scale"] == [0, 4, 8]
    check(run, lambda weights, x, y: oracle.gradients(weights, x[None], y[None]))


@pytest.mark.parametrize("loss", ["logistic", "exponential"])
def test_a_convolutional_network_under_another_loss(recorded, loss):
    run = recorded("network={kind: conv, channels: [3, 4], dtype: float64}", f"loss={{kind: {loss}}}", ASKED)
    network = run.network

    def gradient_of(weights, x, y):
        own = tuple(torch.as_tensor(W)[None].requires_grad_() for W in weights)
        margin = float(y[0]) * network.forward(own, torch.as_tensor(x)[None]).sum()
        value = torch.log1p(torch.exp(-margin)) if loss == "logistic" else torch.exp(-margin)
        return [G.numpy() for G in torch.autograd.grad(value, own)]

    check(run, gradient_of)


def test_what_does_not_fit_at_once_is_summed_in_parts(train):
    """3 networks of 6,344 weights and 40 samples are 761,280 numbers, of which 2^18 are in memory at once."""
    from rhotrace.runfile.reader import open_trace

    path = train("steps=1", "record.snapshots=1", "record.every.noise_scale=1")
    with open_trace(path) as trace:
        data = trace.validated_recipe().load_data()
        weights = [W[1].astype(np.float64) for W in trace.snapshot(0)]
        pairs = zip(data.x, data.y, strict=True)
        squares = [sum((G**2).sum() for G in oracle.gradients(weights, x[None], y[None])) for x, y in pairs]
        whole = sum((G**2).sum() for G in oracle.gradients(weights, data.x, data.y))
        assert trace["gradient_square"][0, 1] == pytest.approx(whole, rel=1e-9)
        assert trace["gradient_variance"][0, 1] == pytest.approx(np.mean(squares) - whole, rel=1e-9)


def test_batch_normalisation_has_no_gradients_of_single_samples(recorded):
    with pytest.raises(RecipeError, match=r"record\.every\.noise_scale: got 4, but .*single sample.*; remove it"):
        recorded("network.batch_norm=true", ASKED)


@pytest.mark.parametrize("name", ["noise_scale", "effective_dimension", "nc1", "hessian_trace"])
def test_several_processes_refuse_what_needs_all_samples(name):
    team = object.__new__(Team)
    team.size = 2
    team.refuse_needs([QUANTITIES["stable_rank"], QUANTITIES["weight_distance"]])
    with pytest.raises(RecipeError, match=f"quantity {name}: needs .* train it in one process"):
        team.refuse_needs([QUANTITIES[name]])
