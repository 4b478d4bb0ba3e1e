"""Degrees of homogeneity, against functions whose degree is known without measuring it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from rhotrace.models.homogeneity import EXACT, cause, degree, degrees, moved

W = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
X = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

KNOWN = {  # g(W): degree
    "linear": (lambda V: X @ V.T, 1),
    "square": (lambda V: (X @ V.T) ** 2, 2),
    "root": (lambda V: (X @ V.T).abs().sqrt(), 0.5),
    "direction": (lambda V: X @ (V / V.norm()).T, 0),
    "inverse": (lambda V: 1 / (X @ V.T), -1),
    "cubic and a half": (lambda V: (X @ V.T).abs() ** 3.5, 3.5),
    "third root": (lambda V: (X @ V.T).abs() ** (1 / 3), None),
    "tanh": (lambda V: torch.tanh(X @ V.T), None),
    "affine": (lambda V: X @ V.T + 1e-6, None),
    "zero": (lambda V: 0 * X @ V.T, None),
    "infinite": (lambda V: X @ V.T / 0, None),
}


@pytest.mark.parametrize("name", KNOWN)
def test_the_degree_is_that_of_the_function(name):
    g, known = KNOWN[name]
    found = degree(g(W), lambda c: g(c * W))
    assert found.degree == known
    assert (found.residual <= EXACT) == (known is not None)
    if known is not None:
        assert math.copysign(1, found.nearest) == math.copysign(1, known)  # no negative zero


def test_the_residual_is_how_far_the_outputs_are_from_the_nearest_degree():
    def g(V):
        return X @ V.T + 0.01

    found = degree(g(W), lambda c: g(c * W))
    by_hand = max(float((g(c * W) - c * g(W)).norm() / g(c * W).norm()) for c in (2.0, 0.5, 1.25))
    assert (found.nearest, found.degree) == (1, None)
    assert found.residual == pytest.approx(by_hand, rel=1e-12)
    assert degree(g(W), lambda c: g(c * W), tolerated=by_hand * 1.01).degree == 1


def test_each_block_has_its_own_degree_and_several_tensors_scale_together():
    tensors = {name: moved(name, torch.ones(3, 3), torch.float64) for name in "abc"}

    def g(own):
        return own["a"] @ own["b"] @ own["b"] + own["c"]

    found = degrees(g, tensors, {"a": "a", "b": "b", "ac": "ac"})
    assert {name: measured.degree for name, measured in found.items()} == {"a": None, "b": None, "ac": 1}


def test_a_moved_tensor_is_near_repeatable_and_nowhere_zero():
    zero, small = torch.zeros(50), torch.full((50,), 1e-3)
    assert (moved("a", zero, torch.float64) != 0).all()
    assert torch.equal(moved("a", small, torch.float64), moved("a", small, torch.float64))
    assert not torch.equal(moved("a", small, torch.float64), moved("b", small, torch.float64))
    assert float((moved("a", small, torch.float64) - 1e-3).abs().max()) < 1e-3


CAUSES = {
    "biases or shifts": nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1)),
    "the epsilon of LayerNorm": nn.Sequential(nn.Linear(4, 3, bias=False), nn.LayerNorm(3, bias=False), nn.Linear(3, 1, bias=False)),
    "operations such as tanh, GELU or softmax, or skips": nn.Sequential(nn.Linear(4, 3, bias=False), nn.GELU(), nn.Linear(3, 1, bias=False)),
    "biases or shifts and operations such as tanh": nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)),
}  # fmt: skip


@pytest.mark.parametrize("says", CAUSES)
def test_what_takes_the_degree_away_is_found_by_taking_it_away(says):
    net = CAUSES[says].double()
    tensors = {name: moved(name, p, torch.float64) for name, p in net.named_parameters()}

    def outputs(own, factor):
        return torch.func.functional_call(net, dict(own), factor * X)

    weights = [name for name in tensors if name.endswith("weight")]
    shifts = [name for name in tensors if name.endswith("bias")]
    with torch.no_grad():
        assert cause(net, outputs, tensors, weights, shifts).startswith(says)
    assert all(part.eps == 1e-5 for part in net.modules() if isinstance(part, nn.LayerNorm))
