"""The test of homogeneity on a user's module: known degrees, what it leaves unchanged, and where it cannot be made."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rhotrace.own_loop.homogeneity import measured_degrees, outputs_of
from rhotrace.own_loop.module_blocks import module_blocks

X = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def measured(net, inputs=(X,), groups=None):
    return measured_degrees(net, module_blocks(net, groups), inputs)


class Powers(nn.Module):
    """g = (x A)^2 b + (x A)^2 b: degree 2 in A and 1 in b; the copy of A is tied."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 4, bias=False), nn.Linear(4, 2, bias=False)
        self.again = nn.Linear(5, 4, bias=False)
        self.again.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(x) * self.again(x))


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(9, 4), nn.Linear(4, 3, bias=False)

    def forward(self, tokens):
        return self.head(self.words(tokens).mean(dim=1).relu())


def zero_bias():
    net = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 1, bias=False))
    nn.init.zeros_(net[0].bias)
    return net


NETS = {  # module, inputs: degree of each block that is trained
    "powers": (Powers, X, {"a": 2, "b": 1}),
    "words": (Words, torch.arange(12).reshape(4, 3) % 9, {"words": 1, "head": 1}),
    "a bias at 0": (zero_bias, X, {"layer_0": None, "layer_0_bias": None, "layer_2": 1}),
    "the last bias": (lambda: nn.Sequential(nn.Linear(5, 4, bias=False), nn.ReLU(), nn.Linear(4, 1)), X, {"layer_0": None, "layer_2": None, "layer_2_bias": None}),
    "normalised": (lambda: nn.Sequential(nn.Linear(5, 4, bias=False), nn.LayerNorm(4, eps=0.0, bias=False), nn.Linear(4, 1, bias=False)), X, {"layer_0": 0, "layer_1": 1, "layer_2": 1}),
    "dropout": (lambda: nn.Sequential(nn.Linear(5, 4, bias=False), nn.Dropout(0.5), nn.Linear(4, 1, bias=False)), X, {"layer_0": 1, "layer_2": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_the_degrees_are_those_that_the_module_has(name):
    make, x, degrees = NETS[name]
    torch.manual_seed(0)
    net = make().eval()
    before, draws = {k: v.clone() for k, v in net.state_dict().items()}, torch.random.get_rng_state()
    found = measured(net, (x,))
    assert {block: each.degree for block, each in found.degrees.items()} == degrees
    assert (found.dtype, found.why_not) == ("float64", "")
    assert all(torch.equal(v, before[k]) and v.dtype == before[k].dtype for k, v in net.state_dict().items())
    assert not any(part.training for part in net.modules())
    assert torch.equal(torch.random.get_rng_state(), draws)


def test_a_group_has_the_degree_of_all_its_weights_together():
    net = nn.Sequential(*(nn.Linear(5, 5, bias=False) for _ in range(3)))
    found = measured(net, groups={"ends": "[02].weight"})
    assert {name: each.degree for name, each in found.degrees.items()} == {"ends": 2, "layer_1": 1}


class Only32(nn.Module):
    def __init__(self, error=None):
        super().__init__()
        self.a, self.error = nn.Linear(5, 2, bias=False), error

    def forward(self, x):
        if x.dtype == torch.float64 or self.error:
            raise ValueError(self.error or "float32 alone")
        return self.a(x)


def test_a_module_that_does_not_run_in_float64_is_tested_in_float32_and_one_that_fails_is_not():
    found = measured(Only32(), (X.float(),))
    assert (found.dtype, found.degrees["a"].degree) == ("float32", 1)
    assert found.degrees["a"].residual < 1e-4
    failed = measured(Only32("no such token"), (X,))
    assert not failed.degrees
    assert failed.why_not == "the forward pass failed in the test (ValueError: no such token)"
    assert measured(Only32(), None).why_not == "no samples were given (data=...)"


class Logits:
    def __init__(self, logits):
        self.logits = logits


@pytest.mark.parametrize("wrap", [lambda g: g, Logits, lambda g: {"logits": g}, lambda g: (g, "more"), lambda g: [g]])
def test_outputs_are_found_in_what_a_module_returns(wrap):
    g = torch.arange(24.0).reshape(2, 3, 4)
    assert torch.equal(outputs_of(wrap(g)), g.reshape(6, 4))
    assert outputs_of(torch.arange(3.0)).shape == (3, 1)
