"""The rank of the layers against numpy at every snapshot, and the scale of a normalised network against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from recorded import moment_of

from rhotrace.config import recipe
from rhotrace.recording.spectra import TOLERANCE, ranks
from rhotrace.runfile.reader import open_trace
from rhotrace.training.train import train as train_recipe

TEXT = """\
data: {dataset: mnist, classes: [0, 1], train: 40, test: 20}
network: {kind: mlp, depth: 4, width: 8, batch_norm: true, dtype: float64}
init: {kind: he}
optimizer: {kind: sgd, lr: 0.05, batch_size: 10, weight_decay: 0.5}
members: {seeds: 2}
steps: 60
record: {snapshots: 8, every: {rank: 3}}
"""


def test_the_rank_is_that_of_numpy_for_every_member_and_layer():
    rng = np.random.default_rng(0)
    low = rng.standard_normal((3, 7, 2)) @ rng.standard_normal((3, 2, 9))
    whole = 1e-5 * rng.standard_normal((3, 4, 9))
    nearly = low + 1e-5 * rng.standard_normal(low.shape)
    found = ranks(moment_of(low, whole, nearly))
    expected = [
        [np.linalg.matrix_rank(W[m] / np.linalg.norm(W[m]), tol=TOLERANCE) for W in (low, whole, nearly)]
        for m in range(3)
    ]
    assert found.tolist() == expected == [[2, 4, 2]] * 3


def test_a_layer_of_zeros_has_rank_0_and_one_that_diverged_has_none():
    weights = np.ones((3, 2, 2))
    weights[1], weights[2, 0, 0] = 0, np.inf
    np.testing.assert_array_equal(ranks(moment_of(weights))[:, 0], [1, 0, np.nan])


def test_a_run_records_the_rank_and_the_scale_of_its_own_weights(tmp_path):
    train_recipe(recipe.parse(TEXT), tmp_path / "run.h5", device="cpu")
    with open_trace(tmp_path / "run.h5") as trace:
        names = [block.name for block in trace.layout.blocks]
        assert trace["rank"].shape == (20, 2, 4)
        for step in trace.snapshot_steps():
            blocks = dict(zip(names, trace.snapshot(step), strict=True))
            for m in range(2) if step < trace.steps else ():
                norms = [np.linalg.norm(blocks[f"W{k}"][m]) for k in range(1, 5)]
                deviations = [np.linalg.norm(np.sqrt(blocks[f"variance{k}"][m])) for k in range(1, 4)]
                expected = np.log(np.prod(norms) / np.prod(deviations))
                assert trace["log_rho_bn"][step, m] == pytest.approx(expected, rel=1e-12)
                if step % 3 == 0:
                    expected = [
                        np.linalg.matrix_rank(blocks[f"W{k}"][m] / norms[k - 1], tol=TOLERANCE) for k in range(1, 5)
                    ]
                    assert trace["rank"][step // 3, m].tolist() == expected


def test_a_network_without_normalisation_has_no_such_scale_and_no_rank_unless_asked(tmp_path):
    plain = recipe.parse(TEXT, ["network.batch_norm=false", "record.every.rank=never", "steps=5"])
    train_recipe(plain, tmp_path / "run.h5", device="cpu")
    with open_trace(tmp_path / "run.h5") as trace:
        assert {"rank", "log_rho_bn"}.isdisjoint(q.name for q in trace.quantities)
