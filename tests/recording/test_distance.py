"""The distance of the layers from their start against the snapshots, in runs that were interrupted and resumed too."""

from __future__ import annotations

import numpy as np
import pytest
from recorded import NETWORKS

from rhotrace.config import recipe
from rhotrace.runfile.reader import open_trace
from rhotrace.training.train import train as train_recipe

EVERY = "record.every.distance=2"
NAMES = ("weight_distance", "direction_distance", "direction_cosine")
WAYS = {
    **{name: (network,) for name, network in NETWORKS.items()},
    "sgd": ("optimizer={kind: sgd, lr: 0.2, batch_size: 5}",),
    "weight norm": ("optimizer={kind: weight-norm, lr: 0.2}",),
}


@pytest.mark.parametrize("overrides", WAYS.values(), ids=WAYS)
def test_a_run_records_how_far_each_layer_is_from_its_start(recorded, overrides):
    run = recorded(*overrides, EVERY)
    assert run.steps["weight_distance"] == [0, 2, 4, 6, 8]
    start = [[W[m].astype(np.float64) for W in run.weights[0]] for m in range(2)]
    for name in NAMES:
        for place, (found, weights) in enumerate(run.of(name)):
            pairs = list(zip(weights, start[place % 2], strict=True))
            units = [(W / np.linalg.norm(W), S / np.linalg.norm(S)) for W, S in pairs]
            expected = {
                "weight_distance": [np.linalg.norm(W - S) for W, S in pairs],
                "direction_distance": [np.linalg.norm(V - S) for V, S in units],
                "direction_cosine": [(V * S).sum() for V, S in units],
            }[name]
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert (run.rows["weight_distance"][0] == 0).all()
    assert (run.rows["weight_distance"][1:] > 0).all()


def test_a_run_that_is_extended_measures_from_its_first_start(tmp_path, small_text):
    text = small_text()
    whole, short = recipe.parse(text, [EVERY]), recipe.parse(text, [EVERY, "steps=4"])
    train_recipe(whole, tmp_path / "whole.h5", device="cpu")
    train_recipe(short, tmp_path / "part.h5", device="cpu")
    train_recipe(whole, tmp_path / "part.h5", device="cpu", extend_run=True)
    with open_trace(tmp_path / "whole.h5") as one, open_trace(tmp_path / "part.h5") as two:
        for name in NAMES:
            np.testing.assert_array_equal(one[name], two[name])
