"""Tensors side by side are the same tensors: what is done to all of them at once is done to each."""

from __future__ import annotations

import pytest
import torch

from rhotrace.models import side_by_side
from rhotrace.models.losses import Square
from rhotrace.models.networks.mlp import MLP
from rhotrace.models.optimizers import GD
from rhotrace.recording.quantities import layer_norms

SHAPES = [(2, 5, 7), (2, 5, 5), (2, 5, 5), (2, 3, 5), (2, 100, 90), (2, 100, 90), (2, 1, 3)]


def filled(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    return tuple(torch.randn(shape, dtype=dtype) for shape in SHAPES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_neighbours_of_one_shape_are_one_tensor_and_the_rest_are_alone(dtype):
    plain = filled(dtype)
    made = side_by_side.copied(plain)
    assert type(made) is tuple  # as torch.func wants it
    assert all(torch.equal(a, b) for a, b in zip(made, plain, strict=True))
    assert all(tensor.data_ptr() % 64 == 0 for tensor in made)
    runs = side_by_side.runs_of(made)
    assert [len(run) for run in runs] == [1, 2, 1, 1, 1, 1]
    assert torch.equal(runs[1], torch.stack(plain[1:3]))
    runs[1].zero_()
    assert not made[1].any() and not made[2].any()  # noqa: PT018


def test_some_of_the_tensors_and_copies_are_not_taken_for_all_of_them():
    made = side_by_side.copied(filled(torch.float32))
    assert side_by_side.runs_of(made[:2]) is None
    assert side_by_side.runs_of(made[1:]) is None
    assert side_by_side.runs_of(tuple(W.clone() for W in made)) is None
    assert side_by_side.runs_of((*made[:-1], made[-1].clone())) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1, "momentum": 0.9}], ids=["plain", "decay and momentum"])
def test_norms_and_steps_have_the_bits_of_tensors_apart(dtype, options):
    plain = filled(dtype)
    expected = torch.stack([torch.linalg.vector_norm(W.double(), dim=(1, 2)) for W in plain], dim=1)
    torch.testing.assert_close(layer_norms(plain), expected, rtol=1e-14, atol=0)
    assert torch.equal(layer_norms(side_by_side.copied(plain)), layer_norms(plain))
    rates = {
        name: torch.tensor([value, value / 2], dtype=dtype).view(-1, 1, 1)
        for name, value in {"lr": 0.1, **options}.items()
    }
    optimizer = GD(lr=0.1, **options)
    state = optimizer.begin(side_by_side.copied(plain), rates)
    alone = optimizer.begin(tuple(W.clone() for W in plain), rates)
    for _ in range(3):
        gradients = [W.sin() for W in alone["weights"]]
        optimizer.step(state, side_by_side.copied(gradients), **rates)
        optimizer.step(alone, tuple(gradients), **rates)
    for name, tensors in alone.items():
        assert all(torch.equal(a, b) for a, b in zip(state[name], tensors, strict=True)), name
    assert all(not torch.equal(a, b) for a, b in zip(state["weights"], plain, strict=True))


@pytest.mark.parametrize("shared", [True, False])
def test_repeated_gradients_follow_the_parameters_and_the_size_of_the_batch(shared):
    network = MLP([6, 4, 4, 3])
    torch.manual_seed(0)
    parameters = side_by_side.copied([torch.randn(2, *block.shape).double() for block in network.blocks])
    again = network.repeated_gradients(parameters, Square())
    for samples in (5, 5, 8):
        x, y = (torch.randn(samples, n) if shared else torch.randn(2, samples, n) for n in (6, 3))
        outputs, gradients, _ = again(x.double(), y.double(), ())
        own = tuple(W.clone().requires_grad_() for W in parameters)
        with torch.enable_grad():
            h = x.double() if x.dim() == 3 else x.double().expand(2, -1, -1)
            for W in own[:-1]:
                h = (h @ W.mT).relu()
            g = h @ own[-1].mT
            found = torch.autograd.grad((g - y).square().sum() / samples, own)
        torch.testing.assert_close(outputs, g.mT, rtol=1e-12, atol=1e-12)
        for ours, theirs in zip(gradients, found, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
        parameters[1].mul_(1.5)  # in place, as an optimizer does
