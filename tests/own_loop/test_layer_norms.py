"""The norms of layers against exact sums, in every layout, and without a wait for the device."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from own_loops import data, mlp
from torch import nn

import rhotrace
from rhotrace.models.losses import Square
from rhotrace.own_loop.layer_norms import norms_of
from rhotrace.own_loop.module_blocks import module_blocks
from rhotrace.own_loop.probe import Probe
from rhotrace.own_loop.rows import Rows
from rhotrace.own_loop.settings import Settings
from rhotrace.recording.inner_products import PIECE
from rhotrace.recording.quantities import layer_norms

SHAPES = {
    "one piece and less": [(8, 5), (1, 8)],
    "pieces and a rest": [(3, PIECE), (64, 70), (1, 1)],
    "many pieces": [(3, 5), (61, PIECE), (7, 11)],
}


def drawn(shapes, dtype, seed=0):
    torch.manual_seed(seed)
    return [torch.randn(shape, dtype=torch.float64).to(dtype) for shape in shapes]


def exact(layer):
    """The norm of some tensors as one layer; the squares of float32 are exact in float64, and ``fsum`` rounds once."""
    return math.sqrt(math.fsum(v * v for tensor in layer for v in tensor.double().reshape(-1).tolist()))


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("in_place", [False, True])
def test_norms_of_narrow_numbers_are_exact_to_the_last_bits(shapes, dtype, in_place):
    norms = norms_of([(W,) for W in drawn(shapes, dtype)], in_place=in_place)
    for seed in (1, 2):
        tensors = drawn(shapes, dtype, seed)
        np.testing.assert_allclose(norms(tensors), [exact((W,)) for W in tensors], rtol=2e-15)


@pytest.mark.parametrize("in_place", [False, True])
def test_weights_are_read_where_they_are_now(in_place):
    weights = drawn([(6, 40), (40, 30)], torch.float32)
    norms = norms_of([(W,) for W in weights], in_place=in_place)
    found = []
    for change in (
        lambda: None,
        lambda: weights[1].mul_(3),  # in place, as an optimizer does
        lambda: setattr(weights[0], "data", torch.full((6, 40), 0.7)),  # other memory, as ``module.to`` gives
        lambda: weights[0].add_(1),
        lambda: setattr(weights[0], "data", weights[0][:4]),  # some of it
        lambda: setattr(weights[1], "data", weights[1].T),
        lambda: setattr(weights[1], "data", weights[1][::2]),  # not in one piece
        lambda: weights[1].mul_(2),
        lambda: setattr(weights[0], "data", weights[0].to(torch.bfloat16)),
        lambda: setattr(weights[0], "data", weights[0].to(torch.float32)),
        lambda: weights[0].mul_(2),
    ):
        change()
        found.append(norms(weights))
        np.testing.assert_allclose(found[-1], [exact((W,)) for W in weights], rtol=2e-15)
    assert (
        len({tuple(norm) for norm in found}) == len(found) - 2
    )  # neither a transpose nor a longer type changes a norm


def test_several_tensors_make_one_layer_in_any_layout_of_memory():
    a, b, c = drawn([(4, 3, 5, 5), (6, 40), (40, 30)], torch.float32)
    layers = [(a.to(memory_format=torch.channels_last), b.T), (c[::2, ::3],)]
    found = norms_of(layers)([tensor for layer in layers for tensor in layer])
    np.testing.assert_allclose(found, [exact(layer) for layer in layers], rtol=2e-15)


def test_float64_has_the_bits_of_a_recipes_run():
    tensors = drawn([(30, 600), (8, 8), (8, 8), (1, 8)], torch.float64)
    found = norms_of([(W,) for W in tensors])(tensors)
    assert torch.equal(torch.as_tensor(found), layer_norms([W[None] for W in tensors])[0])


def test_a_layer_that_diverged_leaves_the_others_alone():
    tensors = drawn([(9, 9)] * 3, torch.float32)
    tensors[0][3, 3], tensors[1][4, 4] = math.inf, math.nan
    found = norms_of([(W,) for W in tensors])(tensors)
    np.testing.assert_array_equal(found[:2], [math.inf, math.nan])
    assert found[2] == pytest.approx(exact(tensors[2:]), rel=1e-15)


def test_an_empty_tensor_has_norm_0():
    tensors = [torch.ones(2, 2), torch.empty(0, 4)]
    np.testing.assert_array_equal(norms_of([(W,) for W in tensors])(tensors), [2, 0])


def test_updates_in_float32_are_measured_as_they_were_made(tmp_path):
    net, (x, y) = mlp(dtype=torch.float32), data(dtype=torch.float32)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    norms, gradients, updates = [], [], []
    with rhotrace.record(tmp_path / "run.h5", net, optimizer, loss=None) as trace:
        for _ in range(5):
            optimizer.zero_grad()
            (net(x) - y).square().mean().backward()
            before = [W.detach().clone() for W in net.parameters()]
            norms.append([exact((W,)) for W in before])
            gradients.append([exact((W.grad,)) for W in net.parameters()])
            optimizer.step()
            trace.step()
            updates.append([exact((W.detach() - V,)) for W, V in zip(net.parameters(), before, strict=True)])
    with rhotrace.open(tmp_path / "run.h5") as run:
        for name, wanted in {"rho_k": norms, "grad_norm": gradients, "update_norm": updates}.items():
            np.testing.assert_allclose(run[name][:, 0], wanted, rtol=2e-15, err_msg=name)


def test_gradients_that_a_fused_optimizer_unscales_are_recorded_unscaled(tmp_path):
    net, (x, y) = mlp(dtype=torch.float32), data(dtype=torch.float32)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with rhotrace.record(tmp_path / "run.h5", net, optimizer, loss=None) as trace:
        for _ in range(4):
            optimizer.zero_grad()
            scaler.scale((net(x) - y).square().mean()).backward()
            scaler.step(optimizer)
            scaler.update()
            trace.step()
    with rhotrace.open(tmp_path / "run.h5") as run:
        np.testing.assert_allclose(run["update_norm"], 0.1 * run["grad_norm"], rtol=1e-4)


def test_no_step_waits_for_the_device():
    """Numbers of a meta tensor do not exist: whatever asks for one on the host raises an error."""
    strides = {"step": 1, "full": 100, "test": 100}
    settings = Settings(None, None, Square(), False, strides, True, True, (), (), None, 0, "")
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 1)).to("meta")
    probe = Probe(net, module_blocks(net), settings)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    probe.heavy_ball = True
    rows = Rows(settings, probe.device, probe.due)
    x, y = torch.empty(7, 5, device="meta"), torch.empty(7, 1, device="meta")
    for _ in range(3):
        g = net(x)
        (g - y).square().mean().backward()
        before = probe.before([optimizer])
        optimizer.step()
        rows.add({**before, **probe.after([(g, y)])}, probe.rates([optimizer]), {})
    assert set(rows.names) >= {"rho_k", "grad_norm", "update_norm", "velocity_norm", "batch_a", "batch_loss"}
    with pytest.raises(NotImplementedError, match="meta"):
        rows.take(0)  # the one wait, for a block of rows
