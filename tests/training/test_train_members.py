"""Members of one run do not affect each other: each is the network that it would be alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rhotrace.config import recipe
from rhotrace.runfile.reader import open_trace
from rhotrace.sweeps import sweep_file
from rhotrace.training.train import train as train_recipe

OPTIMIZERS = {
    "gd": "{kind: gd, lr: 0.1}",
    "sgd": "{kind: sgd, lr: 0.1, batch_size: 8}",
    "weight-norm": "{kind: weight-norm, lr: 0.1, batch_size: 8}",
}


def rows(path: Path) -> dict[str, np.ndarray]:
    with open_trace(path) as trace:
        return {q.name: trace[q.name] for q in trace.quantities}


@pytest.fixture
def sweep_of(tmp_path, small):
    """The runs of a small sweep over lr and rho_k, with the sweep, for some overrides."""

    def make(*overrides: str):
        (tmp_path / "small.yaml").write_text(small)
        (tmp_path / "sweep.yaml").write_text(
            "recipe: small.yaml\naxes: [{grid: {init.rho_k: [0.7, 1.9], optimizer.lr: [0.1, 0.03]}}]\nseeds: [5, 0]\n"
        )
        return sweep_file.read(tmp_path / "sweep.yaml", overrides)

    return make


def together_and_alone(sweep, tmp_path, small, overrides, which):
    """The quantities of some members of a sweep's run, and of the same networks trained alone."""
    (run,) = sweep_file.runs(sweep, lambda _: 100)
    train_recipe(run.recipe, tmp_path / run.name, device="cpu")
    together = rows(tmp_path / run.name)
    for member in which:
        point, seed = sweep.points[run.points[member]], run.recipe.seeds[member]
        values = [f"{key}={value}" for key, value in point.items()]
        alone = recipe.parse(small, [*overrides, *values, f"members.seeds=[{seed}]"])
        path = tmp_path / f"alone{member}.h5"
        train_recipe(alone, path, device="cpu")
        for name, values in rows(path).items():
            yield name, together[name][:, member], values[:, 0]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_member_has_the_bits_of_the_same_network_alone(sweep_of, small, tmp_path, dtype, optimizer):
    # Widths and samples are multiples of 8: no product has a remainder of the vector registers, whose sums are taken
    # in another order when there are more rows above them.
    overrides = [f"network.dtype={dtype}", f"optimizer={OPTIMIZERS[optimizer]}", "network.width=16", "steps=40"]
    sweep = sweep_of(*overrides)
    for name, together, alone in together_and_alone(sweep, tmp_path, small, overrides, (0, 5)):
        assert np.array_equal(together, alone, equal_nan=True), name


@pytest.mark.parametrize(("dtype", "within"), [("float64", 1e-12), ("float32", 3e-4)])
def test_a_member_of_odd_sizes_is_the_same_network_to_rounding(sweep_of, small, tmp_path, dtype, within):
    # Measured: 1e-14 and 1e-5 of the largest value after 60 steps, from the order of sums alone; see above.
    overrides = [f"network.dtype={dtype}", "network.width=5", "data.train=37"]
    sweep = sweep_of(*overrides)
    for name, together, alone in together_and_alone(sweep, tmp_path, small, overrides, (0, 6)):
        finite = np.isfinite(alone)
        assert np.array_equal(finite, np.isfinite(together)), name
        if name not in {"test_error", "error"} and not name.endswith(
            "digits"
        ):  # a sample on the border may change sides
            scale = np.abs(alone[finite]).max(initial=1.0)
            np.testing.assert_allclose(together[finite], alone[finite], rtol=within, atol=within * scale, err_msg=name)


def test_members_differ_where_their_values_do(sweep_of, tmp_path):
    (run,) = sweep_file.runs(sweep_of("steps=5"), lambda _: 100)
    train_recipe(run.recipe, tmp_path / run.name, device="cpu")
    found = rows(tmp_path / run.name)
    assert len(np.unique(found["loss"][-1])) == len(run.points) == 8
    np.testing.assert_allclose(found["rho_k"][0].T, [[0.7] * 4 + [1.9] * 4] * 3, rtol=1e-12)


@pytest.mark.parametrize("optimizer", ["gd", "sgd", "weight-norm"])
def test_a_member_that_diverges_changes_no_bit_of_the_others(small, tmp_path, optimizer):
    base = [f"optimizer={OPTIMIZERS[optimizer]}", "steps=80"]
    for name, rate in (("calm", 0.1), ("wild", 1e200)):
        train_recipe(recipe.parse(small, [*base, f"members.lr=[0.1, {rate}, 0.2]"]), tmp_path / name, device="cpu")
    calm, wild = rows(tmp_path / "calm"), rows(tmp_path / "wild")
    assert not np.isfinite(wild["loss"][-1, 1])
    assert np.isfinite(calm["loss"]).all()
    for name in calm:
        for member in (0, 2):
            assert np.array_equal(calm[name][:, member], wild[name][:, member], equal_nan=True), name


def test_1200_members_of_a_tiny_network_make_one_run_and_each_is_its_own(small, tmp_path):
    (tmp_path / "small.yaml").write_text(small)
    (tmp_path / "sweep.yaml").write_text(
        "recipe: small.yaml\nset: {steps: 4, network.width: 4, record.snapshots: 0}\n"
        "axes: [{grid: {init.rho_k: {from: 0.2, to: 3, points: 60}, optimizer.lr: [0.1, 0.2]}}]\nseeds: 10\n"
    )
    sweep = sweep_file.read(tmp_path / "sweep.yaml")
    (run,) = sweep_file.runs(sweep, lambda _: 4000)
    train_recipe(run.recipe, tmp_path / run.name, device="cpu")
    found = rows(tmp_path / run.name)
    assert found["loss"].shape == (4, 1200)
    assert np.isfinite(found["loss"]).all()
    starts = [sweep.points[point]["init.rho_k"] for point in run.points]
    np.testing.assert_allclose(found["rho_k"][0], np.repeat(np.array(starts)[:, None], 3, axis=1), rtol=1e-12)
    alone = recipe.parse(small, ["steps=4", "network.width=4", f"init.rho_k={starts[777]}", "members.seeds=[7]"])
    assert run.recipe.seeds[777] == 7
    train_recipe(alone, tmp_path / "alone.h5", device="cpu")
    np.testing.assert_allclose(found["rho_k"][0, 777], rows(tmp_path / "alone.h5")["rho_k"][0, 0], rtol=1e-14)
