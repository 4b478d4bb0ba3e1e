"""A user's own ``torch.nn.Module`` as a network: its blocks, measured degrees, initialisation, training and refusals."""

from __future__ import annotations

import math
import multiprocessing
from dataclasses import replace
from pathlib import Path

import inside
import numpy as np
import pytest
import torch
from small import SMALL

from rhotrace.analysis.verification import verify
from rhotrace.config import recipe
from rhotrace.errors import RecipeError
from rhotrace.models.module_parts import module_parts
from rhotrace.models.networks import module
from rhotrace.runfile.reader import open_trace
from rhotrace.training.train import train as train_recipe

NETS = """
import torch
from torch import nn
from torch.nn import functional as F

def mlp(inputs, outputs, width=8, bias=False, act=nn.ReLU, norm=None, eps=1e-5, drop=0.0):
    layers = [nn.Flatten(), nn.Linear(784, width, bias=bias)]
    layers += [getattr(nn, norm)(width, eps=eps, **({"affine": False} if "Batch" in norm else {}))] if norm else []
    layers += [getattr(nn, act)() if isinstance(act, str) else act()]
    layers += [nn.Dropout(drop)] if drop else []
    return nn.Sequential(*layers, nn.Linear(width, width, bias=bias), nn.ReLU(), nn.Linear(width, outputs, bias=bias))

def conv(inputs, outputs):
    return nn.Sequential(nn.Conv2d(1, 3, 3, 4, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(),
                         nn.Linear(147, outputs, bias=False))

class Net(nn.Module):
    def __init__(self, outputs, how):
        super().__init__()
        self.a, self.b = nn.Linear(784, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.c, self.how = nn.Linear(8, outputs, bias=False), how
        if how == "tied":
            self.d = nn.Linear(8, 8, bias=False)
            self.d.weight = self.b.weight
        if how == "frozen":
            self.a.weight.requires_grad_(False)
        if how == "count":
            self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        h = self.a(x.flatten(1))
        if self.how == "in place":
            kept = torch.zeros(len(x), 8, dtype=x.dtype, device=x.device)
            kept += h
            h = kept
        if self.how == "skip":
            h = h + self.b(h.relu())
        elif self.how == "tied":
            h = self.d(self.b(h.relu()).relu())
        elif self.how == "noise":
            h = self.b(h.relu()) + torch.randn_like(h)
        elif self.how == "count":
            self.seen += self.training
            h = self.b(h.relu())
        else:
            h = self.b(h.relu())
        return self.c(h.relu())

def net(inputs, outputs, how=""):
    return Net(outputs, how)

def norm(inputs, outputs):
    return nn.Sequential(nn.Conv2d(1, 2, 7, 7, bias=False), nn.LayerNorm((2, 4, 4)), nn.ReLU(), nn.Flatten(),
                         nn.Linear(32, outputs, bias=False))

def raises(inputs, outputs): raise ValueError("no such width")
def number(inputs, outputs): return 3
def shape(inputs, outputs): return mlp(inputs, outputs + 1)
def tuple_(inputs, outputs):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp(inputs, outputs)
        def forward(self, x): return self.net(x), x
    return Two()
def unflattened(inputs, outputs): return nn.Linear(784, outputs)
def weightless(inputs, outputs): return nn.Sequential(nn.Flatten(), nn.Linear(784, outputs, bias=True)).requires_grad_(False)
def cumulative(inputs, outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 4), nn.BatchNorm1d(4, momentum=None), nn.Linear(4, outputs))
"""


@pytest.fixture
def given(tmp_path):
    """A recipe with a module of ``NETS``: ``given("net", "{how: skip}")``."""
    (tmp_path / "nets.py").write_text(NETS)

    def make(name: str, options: str = "{}", *more: str) -> recipe.Recipe:
        network = f"network={{kind: module, build: nets.py:{name}, options: {options}, dtype: float64}}"
        return recipe.parse(SMALL, [network, *more], folder=tmp_path, trust_code=True)

    return make


@pytest.fixture
def built(given):
    def build(name: str, options: str = "{}"):
        return given(name, options).network.build((1, 28, 28), 1)

    return build


def trained(content: recipe.Recipe, path: Path, **how) -> dict[str, np.ndarray]:
    train_recipe(content, path, device="cpu", **how)
    with open_trace(path) as trace:
        found = {q.name: trace[q.name] for q in trace.quantities}
        return found | {f"{step} {k}": W for step in trace.snapshot_steps() for k, W in enumerate(trace.snapshot(step))}


def test_the_same_network_as_module_and_as_mlp_has_the_same_numbers(given, tmp_path):
    module = trained(given("mlp"), tmp_path / "module.h5")
    mlp = trained(recipe.parse(SMALL), tmp_path / "mlp.h5")
    assert list(module) == list(mlp)
    for name, values in mlp.items():  # the sums run in another order: to rounding, and not to the bit
        np.testing.assert_allclose(module[name], values, rtol=1e-9, atol=1e-12, err_msg=name)


def test_its_own_initialisation_is_the_constructor_under_the_seed_and_descent_is_torch_s(given, tmp_path):
    """Against a loop in plain PyTorch, with torch's own SGD, for a network with biases."""
    content = given("mlp", "{bias: true}", "init={kind: module}", "steps=20")
    found = trained(content, tmp_path / "run.h5")
    data, scope = content.load_data(), {}
    exec(NETS, scope)
    for member in range(3):
        torch.manual_seed(member)
        net = scope["mlp"]((1, 28, 28), 1, bias=True).double()
        descent = torch.optim.SGD(net.parameters(), lr=0.05)
        x, y = torch.as_tensor(data.x).view(-1, 1, 28, 28), torch.as_tensor(data.y)
        for step in range(20):
            weights = [W for W in net.parameters() if W.dim() == 2]
            norms = [float(W.detach().norm()) for W in weights]
            np.testing.assert_allclose(found["rho_k"][step, member], norms, rtol=1e-10)
            descent.zero_grad()
            loss = (net(x) - y).square().mean()
            loss.backward()
            np.testing.assert_allclose(found["loss"][step, member], loss.item(), rtol=1e-10)
            descent.step()


def test_a_recipe_s_initialiser_fills_the_weights_and_leaves_the_biases(given, tmp_path):
    own = trained(given("mlp", "{bias: true}", "init={kind: module, scale: 2}", "steps=1"), tmp_path / "own.h5")
    equal = trained(given("mlp", "{bias: true}", "steps=1"), tmp_path / "equal.h5")
    plain = trained(given("mlp", "{bias: true}", "init={kind: module}", "steps=1"), tmp_path / "plain.h5")
    np.testing.assert_allclose(equal["rho_k"][0], 1)
    for k in (1, 3, 5):
        assert (own[f"0 {k}"] == equal[f"0 {k}"]).all()
        assert own[f"0 {k}"].any()
    np.testing.assert_allclose(own["rho_k"][0], 2 * plain["rho_k"][0])


DEGREES = {  # module, options: degree of each weight, what takes the others away
    ("mlp", "{}"): ([1, 1, 1], ""),
    ("mlp", "{bias: true}"): ([None, None, None], "biases or shifts"),
    ("mlp", "{norm: BatchNorm1d}"): ([None, 1, 1], "the epsilon of BatchNorm1d"),
    ("mlp", "{norm: LayerNorm, eps: 0.0}"): ([0, 1, 1], ""),
    ("mlp", "{act: Tanh}"): ([None, 1, 1], "operations such as tanh, GELU or softmax, or skips or other paths"),
    ("net", "{how: skip}"): ([1, None, 1], "skips or other paths around layers"),
    ("net", "{how: tied}"): ([1, 2, 1], ""),
    ("net", "{how: in place}"): ([1, 1, 1], ""),
}


@pytest.mark.parametrize(("name", "options"), DEGREES)
def test_degrees_are_measured_and_what_takes_them_away_is_named(built, name, options):
    degrees, why = DEGREES[name, options]
    network = built(name, options)
    assert [block.degree for block in network.layers] == degrees
    assert network.departs.startswith(why)
    assert bool(network.departs) == bool(why)


def test_what_the_module_has_is_said(built):
    assert "b.weight" in " ".join(built("net", "{how: tied}").says)
    assert "not trained: a.weight" in built("net", "{how: frozen}").says
    roles = [block.role for block in built("conv").blocks]
    assert roles == ["weight", "scale", "shift", "weight", "buffer", "buffer"]


def test_where_members_cannot_go_side_by_side_they_go_one_after_another(given, built, tmp_path):
    assert any("one after another" in line and "vmap" in line for line in built("net", "{how: in place}").says)
    assert not any("one after another" in line for line in built("net").says)
    apart = trained(given("net", "{how: in place}"), tmp_path / "apart.h5")
    together = trained(given("net"), tmp_path / "together.h5")
    for name, values in together.items():
        np.testing.assert_allclose(apart[name], values, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("case", [("net", "{}"), ("conv", "{}"), ("net", "{how: frozen}")], ids=str)
def test_a_run_that_is_interrupted_resumes_to_the_same_bits(given, tmp_path, monkeypatch, case):
    inside.small_blocks(monkeypatch.setattr, 8)
    content = given(*case, "steps=30", "optimizer={kind: sgd, lr: 0.05, batch_size: 10, momentum: 0.9}")
    whole = trained(content, tmp_path / "whole.h5")

    def leave(block):
        if block.last >= 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_recipe(content, tmp_path / "cut.h5", device="cpu", watch=leave)
    cut = trained(content, tmp_path / "cut.h5")
    assert all(np.array_equal(cut[name], values, equal_nan=True) for name, values in whole.items())


def test_running_statistics_are_those_of_torch(given, tmp_path):
    content = given("conv", "{}", "steps=3", "init={kind: module}", "members.seeds=1", "record.snapshots=4")
    found, data, scope = trained(content, tmp_path / "run.h5"), content.load_data(), {}
    exec(NETS, scope)
    torch.manual_seed(0)
    net = scope["conv"]((1, 28, 28), 1).double()
    x, y = torch.as_tensor(data.x).view(-1, 1, 28, 28), torch.as_tensor(data.y)
    for _ in range(3):
        net.zero_grad()
        (net(x) - y).square().mean().backward()
        with torch.no_grad():
            for W in net.parameters():
                W.sub_(0.05 * W.grad)
    np.testing.assert_allclose(found["3 4"].ravel(), net[1].running_mean, rtol=1e-9)
    np.testing.assert_allclose(found["3 5"].ravel(), net[1].running_var, rtol=1e-9)


REFUSED = {  # module and options: what is said
    ("raises", "{}"): r"nets.py:raises: raised ValueError \(line \d+\): no such width",
    ("number", "{}"): "returned int, expected a torch.nn.Module",
    ("absent", "{}"): "got no function absent in nets.py; it defines mlp",
    ("mlp", "{depth: 3}"): "unexpected keyword argument 'depth'",
    ("mlp", "{drop: 0.1}"): r"draws random numbers in training in 3 \(Dropout, p=0.1\)",
    ("net", "{how: noise}"): "draws random numbers in training",
    ("net", "{how: count}"): "counts in its buffer seen",
    ("shape", "{}"): r"returns shape \(8, 2\) for 8 inputs, expected a tensor of shape \(8, 1\)",
    ("tuple_", "{}"): "returns tuple for 8 inputs",
    ("unflattened", "{}"): r"on inputs of shape \(8, 1, 28, 28\)",
    ("weightless", "{}"): "no weight of two dimensions or more that is trained",
    ("cumulative", "{}"): "momentum=None",
}


@pytest.mark.parametrize("case", REFUSED, ids=" ".join)
def test_a_module_that_cannot_be_trained_is_refused_in_a_line(built, case):
    with pytest.raises(RecipeError, match=REFUSED[case]) as refused:
        built(*case)
    assert str(refused.value).startswith("network.build: nets.py:")
    assert "\n" not in str(refused.value)


def test_an_error_in_the_middle_of_training_names_the_line(given, tmp_path):
    content = given("mlp")
    (tmp_path / "nets.py").write_text(
        NETS.replace("return self.c(h.relu())", "return self.c(h.relu()[:-1] if len(x) == 40 else h.relu())")
    )
    broken = given("net")
    assert content.digest != broken.digest
    with pytest.raises(RecipeError, match=r"returns shape \(39, 1\) for 40 inputs"):
        train_recipe(broken, tmp_path / "run.h5", device="cpu")


def test_a_run_whose_blocks_an_older_version_named_otherwise_is_resumed_and_verified(given, tmp_path):
    """Older versions named ``1.weight`` ``layer_1_weight``, and took the scale of a normalisation over images for a weight."""
    content = given("norm", "{}", "steps=30", "optimizer={kind: sgd, lr: 0.05, batch_size: 10, momentum: 0.9}")

    def of_before(*given):
        roles = {"scale": "weight"}
        return tuple(
            replace(
                part, block=replace(part.block, name=f"old_{part.block.name}", role=roles.get(part.block.role, role))
            )
            for part in module_parts(*given)
            if (role := part.block.role)
        )

    def leave(block):
        if block.last >= 16:
            raise SystemExit(7)

    def older(path, **how):
        inside.small_blocks(setattr, 8)
        module.module_parts = of_before
        trained(content, path, **how)

    for path, how in ((tmp_path / "whole.h5", {}), (tmp_path / "cut.h5", {"watch": leave})):
        child = multiprocessing.get_context("fork").Process(target=older, args=(path,), kwargs=how)
        child.start()
        child.join(100)
        assert child.exitcode == (7 if how else 0)
    cut = trained(content, tmp_path / "cut.h5")
    with open_trace(tmp_path / "whole.h5") as whole, open_trace(tmp_path / "cut.h5") as resumed:
        assert [(block.name, block.role) for block in resumed.layout.blocks] == [
            ("old_layer_0", "weight"), ("old_layer_1", "weight"), ("old_layer_1_bias", "shift"), ("old_layer_4", "weight")
        ]  # fmt: skip
        for quantity in whole.quantities:
            assert np.array_equal(cut[quantity.name], whole[quantity.name], equal_nan=True), quantity.name
        assert {check.name: check.outcome for check in verify(resumed).checks}["weights, a and q"] == "sound"


def test_an_initialisation_of_its_own_needs_a_module():
    with pytest.raises(RecipeError, match=r"init.kind: got module, but network.kind mlp has no initialisation"):
        recipe.parse(SMALL, ["init={kind: module}"])


def test_memory_is_estimated_from_what_a_pass_produces(built):
    assert built("mlp").units(math.prod((1, 28, 28))) >= 8 + 8 + 8 + 8 + 1
