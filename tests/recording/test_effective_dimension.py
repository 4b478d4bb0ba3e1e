"""The effective dimension against Jacobians built output by output, and the trace of a solve instead of eigenvalues."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch

from rhotrace.errors import RecipeError
from rhotrace.recording.effective_dimension import DAMPING, kernel

ASKED = "record.every.effective_dimension=8"


def by_solving(J, samples):
    """tr(K (K + z)^-1) for each z, with K = J J^T/N."""
    K = J @ J.T / samples
    return [np.trace(np.linalg.solve(K + z * np.eye(len(K)), K)) for z in DAMPING]


@pytest.mark.parametrize("classes", [2, 3])
def test_a_run_records_that_of_its_tangent_kernel(recorded, classes):
    run = recorded(ASKED, classes=classes)
    assert run.rows["effective_dimension"].shape == (2, 2, len(DAMPING))
    for found, weights in run.of("effective_dimension"):
        rows = []
        for x in run.data.x:
            g = oracle.preactivations(weights, x[None])[-1]
            for unit in np.eye(g.shape[1]):  # the loss of one sample whose target is g - unit/2 has the slope dg/dW
                rows.append(np.concatenate([G.ravel() for G in oracle.gradients(weights, x[None], g - unit / 2)]))
        np.testing.assert_allclose(found, by_solving(np.array(rows), len(run.data.x)), rtol=1e-8)
        assert (np.diff(found) < 0).all()
        assert 0 < found[0] < len(rows)


@pytest.mark.parametrize("numbers", [1, 2000, 5000, 1 << 20])
def test_a_kernel_put_together_from_blocks_is_the_whole_one(recorded, numbers):
    run = recorded("network={kind: conv, channels: [3, 4], dtype: float64}", classes=3)
    weights, x = tuple(torch.as_tensor(W[:1]) for W in run.weights[0]), torch.as_tensor(run.data.x)
    rows = []
    for output in range(3):
        for sample in x:
            own = tuple(W.clone().requires_grad_() for W in weights)
            slopes = torch.autograd.grad(run.network.forward(own, sample[None])[0, output, 0], own)
            rows.append(torch.cat([slope.flatten() for slope in slopes]))
    J = torch.stack(rows)
    torch.testing.assert_close(kernel(run.network, weights, x, (), 3, numbers), J @ J.T, rtol=1e-10, atol=1e-12)


def test_a_kernel_that_is_too_large_is_refused_before_the_run_begins(command, small, tmp_path):
    (tmp_path / "r.yaml").write_text(small)
    code, _, err = command("train", "r.yaml", "-o", "r.h5", "--set", "data.train=4097", "--set", ASKED)
    assert code == 2
    assert "record.every.effective_dimension: got 8, but the tangent kernel of 4097 samples and 1 output has" in err
    assert not (tmp_path / "r.h5").exists()


def test_a_member_that_diverged_has_none_and_spoils_no_other(recorded):
    run = recorded("members={seeds: 2, lr: [0.2, 1.0e+200]}", ASKED)
    last = run.rows["effective_dimension"][-1]
    assert np.isfinite(last[0]).all()
    assert np.isnan(last[1]).all()
    with pytest.raises(RecipeError, match="expected"):
        recorded("record.every.effective_dimension=0")
