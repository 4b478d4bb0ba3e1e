"""The first layer followed from step to step: the same run, the same sums to a stated rounding, the same bits after a stop."""

from __future__ import annotations

import signal

import h5py
import inside
import numpy as np
import pytest
from small import SMALL

from rhotrace.analysis.verification import verify
from rhotrace.config import recipe
from rhotrace.runfile.reader import open_trace
from rhotrace.training.train import train as train_recipe

SGD = "optimizer={kind: sgd, lr: 0.08, batch_size: 7}"
REPLACED = "optimizer={kind: sgd, lr: 0.08, batch_size: 6, sampling: with-replacement}"
DECAY = "optimizer={kind: sgd, lr: 0.08, batch_size: 7, weight_decay: 0.02}"
COSINE = "optimizer={kind: sgd, lr: 0.08, batch_size: 7, schedule: {kind: cosine, steps: 150}}"
EVERY = 16
FOLLOWED = f"record.every={{first_layer: {EVERY}}}"
OUTSIDE = {"float64": 1e-12, "float32": 2e-5}  # rounding of the outputs, relative to their size


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    inside.without_git(monkeypatch)
    inside.without_waiting_for_the_disk(monkeypatch.setattr)


def of_training_set(trace):
    """The quantities that depend on the outputs on the training set."""
    return {q.name for q in trace.quantities if q.cadence == "full"}


@pytest.mark.parametrize("dtype", OUTSIDE)
@pytest.mark.parametrize("optimizer", [SGD, REPLACED, DECAY, COSINE], ids=["sgd", "replaced", "decay", "schedule"])
def test_a_followed_run_is_the_same_run_and_its_sums_are_off_by_rounding_alone(train, optimizer, dtype):
    plan = ("steps=150", "members={seeds: 2, lr: [0.05, 0.08]}", f"network.dtype={dtype}", optimizer)
    with open_trace(train(*plan)) as plain, open_trace(train(*plan, FOLLOWED)) as followed:
        sums = of_training_set(plain)
        assert {"a", "q", "loss", "margin_quantile"} <= sums
        for quantity in plain.quantities:
            name = quantity.name
            if name not in sums:
                assert np.array_equal(plain[name], followed[name]), name
        for ours, theirs in zip(plain.snapshots()[-1][1], followed.snapshots()[-1][1], strict=True):
            assert np.array_equal(ours, theirs)  # training itself never sees the followed layer
        size = np.sqrt(plain["q"])
        for name, scale in {"a": size, "q": size**2, "loss": 1 + size**2, "margin_min": size}.items():
            assert (np.abs(plain[name] - followed[name]) <= OUTSIDE[dtype] * scale).all(), name
        # The stated bound: a unit of rounding for each step since the layer was computed, and that of the product itself.
        drift, rounding = followed["first_layer_drift"], np.finfo(dtype).eps
        assert followed.step_of("first_layer_drift").tolist() == list(range(0, 150, EVERY))
        assert (drift[0] == 0).all()
        assert (drift[1:] > 0).all()  # it was followed: computed anew, there would be no difference at all
        assert (drift <= EVERY * rounding).all()
        moved = np.abs(plain.snapshots()[0][1][0] - plain.snapshots()[-1][1][0]).max()
        assert moved > 1e4 * rounding  # otherwise a layer that nobody moved would have passed
        assert verify(followed).sound


def test_layers_of_depth_one_and_several_classes_are_followed_too(train):
    ten = "data={dataset: mnist, classes: all, train: 50, test: 20}"
    for network in ("network.depth=1", "network.width=[16, 5]"):
        plan = ("steps=40", ten, network, SGD)
        with open_trace(train(*plan)) as plain, open_trace(train(*plan, FOLLOWED)) as followed:
            for name in ("a", "q", "loss"):
                np.testing.assert_allclose(followed[name], plain[name], rtol=1e-11, atol=1e-11)


def contents(path):
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def test_an_interrupted_followed_run_ends_with_the_bits_of_an_uninterrupted_one(tmp_path, monkeypatch):
    inside.small_blocks(monkeypatch.setattr, 9)  # stops between two computations of the layer

    def stop(block):
        if block.last >= 20:
            signal.raise_signal(signal.SIGINT)

    plan = recipe.parse(SMALL, ["steps=70", "network.dtype=float32", SGD, FOLLOWED])
    stopped, whole = tmp_path / "stopped.h5", tmp_path / "whole.h5"
    assert train_recipe(plan, stopped, device="cpu", watch=stop).ended == "interrupted"
    assert train_recipe(plan, stopped, device="cpu").ended == "finished"
    train_recipe(plan, whole, device="cpu")
    ours, theirs = contents(stopped), contents(whole)
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        assert np.array_equal(values, theirs[name], equal_nan=True), name


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        pytest.param(["--set", "optimizer.lr=0.1"], "optimizer.kind gd takes no steps of sgd", id="gd"),
        pytest.param(["--set", f"{SGD[:-1]}, momentum: 0.5}}"], "the steps have momentum", id="momentum"),
        pytest.param(["--set", SGD, "--set", "network.batch_norm=true"], "not an mlp without batch_norm", id="batch norm"),
    ],
)  # fmt: skip
def test_a_run_whose_first_layer_cannot_be_followed_is_refused_with_the_reason(command, tmp_path, changes, why):
    (tmp_path / "own.yaml").write_text(SMALL)
    code, _, said = command("train", "own.yaml", "--set", FOLLOWED, *changes)
    assert code == 2
    assert "record.every.first_layer: got 16" in said
    assert why in " ".join(said.split())
