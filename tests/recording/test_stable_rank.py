"""The stable rank against numpy, for matrices and kernels."""

from __future__ import annotations

import numpy as np
import pytest
from recorded import NETWORKS, moment_of

from rhotrace.recording.stable_rank import stable_ranks


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_a_run_records_the_stable_rank_of_every_layer(recorded, network):
    run = recorded(network, "record.every.stable_rank=3")
    assert run.steps["stable_rank"] == [0, 3, 6]
    for found, weights in run.of("stable_rank"):
        values = [np.linalg.svd(W, compute_uv=False) for W in weights]
        np.testing.assert_allclose(found, [(s**2).sum() / s[0] ** 2 for s in values], rtol=1e-12)


def test_it_counts_equal_directions_and_is_undefined_for_a_layer_of_zeros_or_one_that_diverged():
    weights = np.stack([np.eye(4), np.diag([2.0, 2, 0, 0]), np.zeros((4, 4)), np.full((4, 4), np.inf)])
    np.testing.assert_allclose(stable_ranks(moment_of(weights))[:, 0], [4, 2, np.nan, np.nan])
