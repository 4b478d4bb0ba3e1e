"""Products of matrices: against float64, whichever library multiplies."""

import numpy as np
import pytest
import torch

from rhotrace.models import products
from rhotrace.models.losses import Square
from rhotrace.models.networks.mlp import MLP
from rhotrace.models.products import library, multiplied, product

ONE_DNN = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.backends.mkldnn.is_available()
SHAPES = [(64, 784, 400), (64, 64, 400), (67, 65, 403), (64, 784, 32), (16, 784, 200), (128, 3072, 32)]


@pytest.fixture(params=["oneDNN", "torch"])
def by(request, monkeypatch):
    """The library that multiplies large matrices, on any processor."""
    if request.param == "oneDNN" and not ONE_DNN:
        pytest.skip("torch was built without oneDNN")
    monkeypatch.setattr(products, "one_dnn_is_faster", lambda: request.param == "oneDNN")
    return request.param


def matrices(rows, terms, columns, members=None):
    draw = torch.Generator().manual_seed(1)
    first = () if members is None else (members,)
    return torch.randn(*first, rows, terms, generator=draw), torch.randn(*first, terms, columns, generator=draw)


@pytest.mark.parametrize("members", [None, 1, 3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("transposed", ["neither", "first", "second", "both"])
def test_a_product_is_that_of_float64(by, shape, members, transposed):
    a, b = matrices(*shape, members)
    if transposed in ("first", "both"):
        a = a.mT.contiguous().mT
    if transposed in ("second", "both"):
        b = b.mT.contiguous().mT
    exact = a.double() @ b.double()
    bound = 2 * a.shape[-1] * torch.finfo(torch.float32).eps * (a.double().abs() @ b.double().abs())
    out = torch.full(exact.shape, torch.nan)
    assert product(a, b)(a, b, out=out) is out
    for found in (out, multiplied(a, b)):
        assert found.shape == exact.shape
        assert ((found - exact).abs() <= bound).all()
    assert library("float32", "cpu") == by


@pytest.mark.parametrize("shape", SHAPES)
def test_members_have_the_bits_of_each_alone(by, shape):
    a, b = matrices(*shape, members=3)
    alone = [multiplied(a[m : m + 1], b[m : m + 1]) for m in range(3)]
    assert torch.equal(multiplied(a, b), torch.cat(alone))
    # Where they share the second factor, their rows lie below each other.
    rows = [multiplied(a[m], b[0]) for m in range(3)]
    if not any(side % 8 for side in shape):  # a remainder of the vector registers is summed in another order
        assert torch.equal(multiplied(a.flatten(0, 1), b[0], 3), torch.cat(rows)), by


def test_a_product_has_the_same_bits_wherever_its_matrices_lie(by):
    del by
    a, b = matrices(64, 784, 400)
    first = multiplied(a, b)
    for shift in (1, 3, 16):
        elsewhere = []
        for matrix in (a, b):
            memory = torch.empty(matrix.numel() + shift)
            elsewhere.append(memory[shift:].view(matrix.shape).copy_(matrix))
        assert torch.equal(multiplied(*elsewhere), first)


def test_what_is_not_finite_stays_so(by):
    del by
    a, b = matrices(64, 784, 400)
    a[3, 5], a[7, 2] = torch.nan, torch.inf
    found = multiplied(a, b)
    assert found[3].isnan().all()
    assert not found[7].isfinite().any()
    assert found.isfinite().all(dim=1).sum() == len(a) - 2


@pytest.mark.skipif(not ONE_DNN, reason="torch was built without oneDNN")
def test_only_large_products_of_float32_on_the_processor_are_of_one_dnn(monkeypatch):
    monkeypatch.setattr(products, "one_dnn_is_faster", lambda: True)
    a, b = matrices(64, 784, 400)
    assert product(a, b) is not torch.mm
    assert product(a[None], b[None]) is not torch.bmm
    assert product(a, b, members=64) is torch.mm  # one row for each
    assert product(a[:1], b) is torch.mm
    assert product(a[:, :1], b[:1]) is torch.mm
    assert product(a.double(), b.double()) is torch.mm
    assert product(a.to("meta"), b.to("meta")) is torch.mm
    assert product(*matrices(64, 64, 32)) is torch.mm
    assert (library("float64", "cpu"), library("float32", "cuda")) == ("torch", "torch")


def test_large_networks_have_the_same_gradients_by_either_library(monkeypatch):
    """On one batch that all members share, on one for each, and against automatic differentiation in float64."""
    network, loss, draw = MLP([100, 64, 64, 3]), Square(), torch.Generator().manual_seed(2)
    weights = tuple(torch.randn(2, *block.shape, generator=draw) / block.shape[1] ** 0.5 for block in network.blocks)
    for x in (torch.randn(600, 100, generator=draw), torch.randn(2, 600, 100, generator=draw)):
        y = torch.randn(*x.shape[:-1], 3, generator=draw)
        exact = super(MLP, network).gradients(tuple(W.double() for W in weights), x.double(), y.double(), loss)
        for faster in {False, ONE_DNN}:
            monkeypatch.setattr(products, "one_dnn_is_faster", lambda faster=faster: faster)
            found = network.gradients(weights, x, y, loss)
            assert torch.allclose(found.outputs.double(), exact.outputs, rtol=1e-4, atol=1e-5)
            assert torch.equal(network.forward(weights, x), found.outputs)
            for G, G_exact in zip(found.gradients, exact.gradients, strict=True):
                assert np.linalg.norm(G.double() - G_exact) <= 1e-5 * np.linalg.norm(G_exact)


def test_a_product_can_be_differentiated(by):
    del by
    a, b = matrices(64, 784, 400)
    a.requires_grad_()
    (gradient,) = torch.autograd.grad(multiplied(a, b).sum(), a)
    assert torch.allclose(gradient, b.sum(dim=1).expand(64, -1), rtol=1e-5, atol=1e-4)
    found, pull = torch.func.vjp(lambda own: multiplied(own[None], b[None]), a.detach())
    assert torch.allclose(pull(torch.ones_like(found))[0], gradient, rtol=1e-5, atol=1e-4)
