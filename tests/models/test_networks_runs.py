"""A small real run of every network kind: interrupted, resumed to the same bits, verified and analysed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import inside
import numpy as np
import pytest

from rhotrace.config import recipe
from rhotrace.models import datasets
from rhotrace.models.network import Block
from rhotrace.models.networks.shared import Shared
from rhotrace.runfile.reader import open_trace
from rhotrace.training.train import train as train_recipe

BASE = """\
data: {dataset: mnist, classes: [0, 1], train: 40, test: 20}
network: {kind: mlp, depth: 3}
init: {kind: he}
optimizer: {kind: sgd, lr: 0.02, batch_size: 10}
members: {seeds: 2}
steps: 40
record: {test_every: 10, snapshots: 4}
"""
CONV = "{kind: conv, channels: [3, 4], dtype: float64}"
CONV_NORM = "{kind: conv, channels: [3, 4], batch_norm: true}"
MLP_NORM = "{kind: mlp, depth: 3, width: 8, batch_norm: true, dtype: float64}"
RESIDUAL = "{kind: residual, depth: 4, width: 8}"
RESIDUAL_CONV = "{kind: residual-conv, channels: [3, 4], dtype: float64}"
SHARED = "{kind: shared, depth: 5, width: 8, dtype: float64}"
GD, WEIGHT_NORM = "{kind: gd, lr: 0.02}", "{kind: weight-norm, lr: 0.02}"
TAKEN_OUT = (
    "a normalisation takes the norms of W1, W2 out of the outputs, so rho is not their scale; only W3 scales them"
)
NO_DEGREE = "does not apply: the outputs are not homogeneous in "
CASES = {  # network, optimizer, why T does not apply
    "conv": (CONV, None, ""),
    "conv, full batch": (CONV, GD, ""),
    "conv, weight normalisation": (CONV, WEIGHT_NORM, ""),
    "conv, batch norm": (CONV_NORM, None, TAKEN_OUT),
    "mlp, batch norm": (MLP_NORM, None, TAKEN_OUT),
    "mlp, batch norm, full batch": (MLP_NORM, GD, TAKEN_OUT),
    "residual": (RESIDUAL, None, NO_DEGREE + "W2, W3"),
    "residual-conv": (RESIDUAL_CONV, None, NO_DEGREE + "W2, W4"),
    "shared": (SHARED, None, "whose degree is not 1 in W_shared (3)"),
    "shared, weight normalisation": (SHARED, WEIGHT_NORM, "whose degree is not 1 in W_shared (3)"),
}


def given(network, optimizer=None, *more):
    chosen = [f"network={network}", *([f"optimizer={optimizer}"] if optimizer else [])]
    return recipe.parse(BASE, [*chosen, *more])


def contents(path):
    with open_trace(path) as trace:
        return {name: trace[name].tobytes() for name in trace.dataset_names() if name != "sessions"}


@pytest.mark.parametrize("case", CASES)
def test_a_run_resumes_to_the_same_bits_verifies_and_is_analysed(tmp_path, monkeypatch, command, case):
    network, optimizer, no_T = CASES[case]
    inside.small_blocks(monkeypatch.setattr, 8)
    whole, cut = tmp_path / "whole.h5", tmp_path / "cut.h5"
    train_recipe(given(network, optimizer), whole, device="cpu")

    def leave(block):
        if block.last >= 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_recipe(given(network, optimizer), cut, device="cpu", watch=leave)
    assert command("verify", cut)[0] == 0
    train_recipe(given(network, optimizer), cut, device="cpu")
    assert contents(cut) == contents(whole)

    checks = {check["name"]: check for check in json.loads(command("verify", whole, "--json")[1])["checks"]}
    assert {check["outcome"] for check in checks.values()} == {"sound"}
    assert "the step identity holds" in checks["audit of the steps"]["says"]
    code, out, err = command("analyze", whole, "--json")
    assert code == 0, err
    inapplicable = json.loads(out)["transient"]["inapplicable"]
    assert (no_T in inapplicable) if no_T else not inapplicable
    for words in (["analyze", whole], ["audit", whole]):
        code, out, err = command(*words)
        assert code == 0, (words, out, err)


def test_a_member_of_a_convolutional_run_has_the_bits_of_the_network_alone(tmp_path):
    together, alone = tmp_path / "together.h5", tmp_path / "alone.h5"
    train_recipe(given(CONV), together, device="cpu")
    train_recipe(given(CONV, None, "members.seeds=[1]"), alone, device="cpu")
    with open_trace(together) as both, open_trace(alone) as one:
        for name in ("rho_k", "loss", "test_loss"):
            np.testing.assert_array_equal(both[name][:, 1], one[name][:, 0])
        for ours, theirs in zip(both.snapshot(40), one.snapshot(40), strict=True):
            np.testing.assert_array_equal(ours[1], theirs[0])


def test_batch_normalisation_can_only_lengthen_the_layers_in_front_of_it(tmp_path):
    """rho_k^2(t+1) = rho_k^2(t) + eta^2 ||G_k||^2 where the degree is 0."""
    path = tmp_path / "run.h5"
    train_recipe(given(MLP_NORM), path, device="cpu")
    with open_trace(path) as trace:
        rho_k, G = trace["rho_k"][..., :2], trace["grad_norm"][..., :2]
        np.testing.assert_allclose(rho_k[1:] ** 2, rho_k[:-1] ** 2 + (0.02 * G[:-1]) ** 2, rtol=1e-13)
        assert (rho_k[-1] > rho_k[0]).all()


def test_a_shared_matrix_moves_as_often_as_it_is_used(tmp_path):
    """Its squared norm changes by degree times 4 eta (a_b - q_b), the other layers' by once that."""
    path = tmp_path / "run.h5"
    train_recipe(given(SHARED, None, "init={kind: equal-norms, rho_k: 3}"), path, device="cpu")
    with open_trace(path) as trace:
        rho_k, G = trace["rho_k"], trace["grad_norm"]
        flow = np.diff(rho_k**2, axis=0) - (0.02 * G[:-1]) ** 2
        np.testing.assert_allclose(flow[..., 1], 3 * flow[..., 0], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(flow[..., 2], flow[..., 0], rtol=1e-9, atol=1e-12)
        assert np.abs(flow[..., 0]).max() > 1e-3


def test_a_shared_matrix_of_another_degree_is_found(tmp_path, command, monkeypatch):
    honest = Shared.__init__

    def timid(self, *sizes):
        honest(self, *sizes)
        self.blocks = tuple(Block(b.name, b.shape, b.role, 1, b.start) for b in self.blocks)

    monkeypatch.setattr(Shared, "__init__", timid)
    train_recipe(given(SHARED), tmp_path / "run.h5", device="cpu")
    code, out, _ = command("verify", tmp_path / "run.h5")
    assert code == 2
    assert "layer 2" in out


def test_T_of_convolutional_networks_of_two_depths_is_compared_in_one_command(tmp_path, command):
    optimizer = "{kind: gd, lr: 0.2}"
    for depth, channels in {3: [3, 4], 4: [3, 4, 4]}.items():
        members = "members={seeds: [0, 0], rho_k: [1.5, 2]}"
        network = f"{{kind: conv, channels: {channels}}}"
        more = ("init={kind: equal-norms, rho_k: 2}", members, "steps=150")
        train_recipe(given(network, optimizer, *more), tmp_path / f"L{depth}.h5", device="cpu")
    code, out, err = command("scaling", tmp_path / "L3.h5", tmp_path / "L4.h5", "--json")
    assert code == 0, err
    assert [each["depth"] for each in json.loads(out)["each"]] == [3, 4]
    code, _, err = command("scaling", tmp_path / "L3.h5", train_other_kernel(tmp_path))
    assert code == 2
    assert "network.kernel" in err


def train_other_kernel(folder):
    """A run that differs from L3.h5 in its kernels, which no law of T against rho_k(0) allows for."""
    network = "{kind: conv, channels: [3, 4], kernel: 5}"
    more = ("init={kind: equal-norms, rho_k: 3}", "members={seeds: [0]}", "steps=5")
    train_recipe(given(network, "{kind: gd, lr: 0.2}", *more), folder / "other.h5", device="cpu")
    return folder / "other.h5"


def test_a_network_of_images_refuses_data_without_them(tmp_path, command):
    rng = np.random.default_rng(0)
    arrays = {"x": rng.standard_normal((30, 12)), "y": np.arange(30) % 2}
    arrays |= {f"{name}_test": values for name, values in arrays.items()}
    np.savez(tmp_path / "own.npz", **arrays)
    text = BASE.replace(
        "{dataset: mnist, classes: [0, 1], train: 40, test: 20}",
        f"{{dataset: npz, file: {tmp_path / 'own.npz'}, classes: [0, 1]}}",
    )
    (tmp_path / "own.yaml").write_text(text)
    code, out, err = command("train", "own.yaml", "--set", f"network={CONV}", "-o", "own.h5")
    assert (code, out) == (2, "")
    assert "network.kind: got conv and samples of shape (12), expected images" in err
    assert "Traceback" not in err
    code, _, err = command("train", "own.yaml", "--set", "network={kind: shared, depth: 4}", "-o", "own.h5")
    assert code == 0, err


@pytest.fixture
def cifar() -> Path:
    """A data root that has CIFAR-10, which is not part of the repository."""
    given = os.environ.get("RHOTRACE_TEST_CIFAR")
    for root in [Path(given)] if given else datasets.roots():
        if (root / "cifar-10-batches-py" / "data_batch_1").is_file():
            return root
    pytest.skip("CIFAR-10 is in no data root; set RHOTRACE_TEST_CIFAR to one that has cifar-10-batches-py/")


def test_the_networks_of_images_learn_cifar_10(tmp_path, command, cifar):
    data = f"{{dataset: cifar-10, classes: [automobile, bird], train: 64, test: 20, root: {cifar}}}"
    for name, network in {"conv": "{kind: conv, channels: [8, 16, 16]}", "residual-conv": RESIDUAL_CONV}.items():
        path = tmp_path / f"{name}.h5"
        train_recipe(
            given(network, "{kind: gd, lr: 0.05}", f"data={data}", "init={kind: he, scale: 2}", "steps=60"),
            path,
            device="cpu",
        )
        with open_trace(path) as trace:
            assert (trace["loss"][-1] < 0.9 * trace["loss"][0]).all()
        assert command("verify", path)[0] == 0
