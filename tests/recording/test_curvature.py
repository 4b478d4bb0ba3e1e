"""Sharpness against a dense Hessian, flips against numpy at two neighbouring snapshots, and how a recipe asks for them."""

from __future__ import annotations

import numpy as np
import oracle
import pytest

from rhotrace.config import recipe
from rhotrace.runfile.reader import open_trace
from rhotrace.training.train import train as train_recipe

TEXT = """\
data: {dataset: npz, file: own.npz, root: ROOT, train: 30, test: 10}
network: {kind: mlp, depth: 3, width: 4, dtype: float64}
init: {kind: equal-norms, rho_k: 1.5}
optimizer: {kind: gd, lr: 0.2}
members: {seeds: 3}
steps: 24
record: {snapshots: 25, every: {sharpness: 6, activation_flips: 1}}
"""
OPTIMIZERS = {
    "gd": "optimizer={kind: gd, lr: 0.2}",
    "sgd": "optimizer={kind: sgd, lr: 0.2, batch_size: 4}",
    "weight norm": "optimizer={kind: weight-norm, lr: 0.2}",
}


@pytest.fixture
def small_data(tmp_path):
    rng = np.random.default_rng(3)
    y = np.arange(60) % 2
    x = rng.normal(size=(60, 5)) + (2 * y - 1)[:, None] * 0.4
    np.savez(tmp_path / "own.npz", x=x[:40], y=y[:40], x_test=x[40:], y_test=y[40:])
    return TEXT.replace("ROOT", str(tmp_path))


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_sharpness_and_flips_are_those_of_numpy(tmp_path, small_data, optimizer):
    own = recipe.parse(small_data, [optimizer])
    train_recipe(own, tmp_path / "run.h5", device="cpu")
    data = own.load_data()
    with open_trace(tmp_path / "run.h5") as trace:
        assert trace.step_of("sharpness").tolist() == [0, 6, 12, 18]
        assert trace["sharpness"].shape == (4, 3)
        at = trace.snapshot_steps()
        for row, step in enumerate(trace.step_of("sharpness")):
            for m in range(3):
                weights = [W[m].astype(np.float64) for W in trace.snapshot(int(step))]
                H = oracle.hessian(weights, data.x, data.y)
                np.testing.assert_allclose(H, H.T, atol=1e-12)
                np.testing.assert_allclose(trace["sharpness"][row, m], np.linalg.eigvalsh(H)[-1], rtol=1e-6)
        pairs = [step for step in at if step + 1 in at]
        assert len(pairs) >= 8
        some = 0
        for step in pairs:
            for m in range(3):
                before, after = (
                    oracle.preactivations([W[m] for W in trace.snapshot(s)], data.x)[:-1] for s in (step, step + 1)
                )
                flipped = sum(int(((a > 0) != (b > 0)).sum()) for a, b in zip(before, after, strict=True))
                assert trace["activation_flips"][step, m] == flipped
                some += flipped
        assert some > 10


def test_what_is_not_asked_for_is_not_recorded_and_changes_no_digest(train, small):
    plain = recipe.parse(small)
    assert "every" not in plain.model_dump()["record"]
    assert recipe.parse(small, ["record.every.sharpness=never"]).digest == plain.digest
    assert recipe.parse(small, ["record.every.sharpness=10"]).digest != plain.digest
    with open_trace(train("steps=20")) as without, open_trace(train("steps=20", "record.every.sharpness=10")) as asked:
        assert {"sharpness", "activation_flips"}.isdisjoint(q.name for q in without.quantities)
        added = {q.name for q in asked.quantities} - {q.name for q in without.quantities}
        assert added == {"sharpness"}
        for quantity in without.quantities:
            np.testing.assert_array_equal(without[quantity.name], asked[quantity.name])


def test_a_cadence_that_is_no_number_of_steps_is_refused(command, small, tmp_path):
    (tmp_path / "r.yaml").write_text(small)
    for value in ("0", "sometimes"):
        code, _, err = command("recipe", "check", "r.yaml", "--set", f"record.every.sharpness={value}")
        assert code == 2
        assert f"record.every.sharpness: got {value if value == '0' else repr(value)}" in err


def test_a_diverged_member_has_no_sharpness_and_spoils_no_other(train):
    run = train("members.lr=[0.05, 1.0e+160, 0.05]", "steps=30", "record.every={sharpness: 5, activation_flips: 5}")
    with open_trace(run) as trace:
        sharp = trace["sharpness"]
        assert np.isnan(sharp[-1, 1])
        assert np.isfinite(sharp[:, [0, 2]]).all()


def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path, small_data):
    own = recipe.parse(small_data)
    train_recipe(own, tmp_path / "whole.h5", device="cpu")
    train_recipe(recipe.parse(small_data, ["steps=13"]), tmp_path / "part.h5", device="cpu")
    train_recipe(own, tmp_path / "part.h5", device="cpu", extend_run=True)
    with open_trace(tmp_path / "whole.h5") as whole, open_trace(tmp_path / "part.h5") as part:
        for name in ("sharpness", "activation_flips"):
            np.testing.assert_array_equal(whole[name], part[name])
