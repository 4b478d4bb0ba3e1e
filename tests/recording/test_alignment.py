"""The alignment against numpy, and Ji and Telgarsky's theorem in a deep linear network of one's own."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from recorded import NETWORKS, moment_of

from rhotrace.config import recipe
from rhotrace.errors import RecipeError
from rhotrace.recording.alignment import alignments
from rhotrace.runfile.reader import open_trace
from rhotrace.training.train import train as train_recipe

LINEAR = """\
from torch import nn

def build(inputs, outputs):
    sizes = (2, 6, 5, 4, outputs)
    return nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in zip(sizes, sizes[1:])))
"""


def by_input(W, channels):
    """A layer (out, fan_in) as a matrix whose columns are its input channels; built entry by entry."""
    pixels = W.shape[1] // channels
    columns = [[W[o, c * pixels + p] for o in range(len(W)) for p in range(pixels)] for c in range(channels)]
    return np.array(columns).T


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_a_run_records_the_overlap_of_the_leading_singular_vectors(recorded, network):
    run = recorded(network, "record.every.alignment=4")
    assert run.steps["alignment"] == [0, 4, 8]
    for found, weights in run.of("alignment"):
        assert len(found) == len(weights) - 1
        for value, (below, above) in zip(found, pairwise(weights), strict=True):
            u = np.linalg.svd(below)[0][:, 0]
            v = np.linalg.svd(by_input(above, len(below)))[2][0]
            assert value == pytest.approx(abs(u @ v), rel=1e-9)


def test_layers_that_do_not_meet_or_have_no_direction_have_no_alignment():
    rng = np.random.default_rng(0)
    below, above, apart = (rng.standard_normal((3, *shape)) for shape in ((4, 6), (5, 4), (2, 3)))
    above[1], below[2, 0, 0] = 0, np.nan
    found = alignments(moment_of(below, above, apart)).numpy()
    assert np.isfinite(found[0, 0])
    assert np.isnan(found[1:, 0]).all()
    assert np.isnan(found[:, 1]).all()


def test_gradient_descent_aligns_the_layers_of_a_deep_linear_network(tmp_path):
    """arXiv:1810.02032, theorem: on separable data under the logistic loss, each layer tends to rank 1 and all align."""
    rng = np.random.default_rng(1)
    y = np.arange(20) % 2
    x = rng.normal(size=(20, 2)) * 0.3 + np.where(y, 1.0, -1.0)[:, None]
    np.savez(tmp_path / "own.npz", x=x, y=y, x_test=x, y_test=y)
    (tmp_path / "linear.py").write_text(LINEAR)
    text = f"""\
data: {{dataset: npz, file: own.npz, root: {tmp_path}}}
network: {{kind: module, build: linear.py:build}}
loss: {{kind: logistic}}
init: {{kind: equal-norms, rho_k: 0.5}}
optimizer: {{kind: gd, lr: 0.5}}
members: {{seeds: 2}}
steps: 401
record: {{every: {{alignment: 400, stable_rank: 400}}}}
"""
    given = recipe.parse(text, folder=tmp_path, trust_code=True)
    train_recipe(given, tmp_path / "run.h5", device="cpu")
    with open_trace(tmp_path / "run.h5") as trace:
        start, end = trace["alignment"]
        assert start.max() < 0.95
        assert end.min() > 0.99
        before, after = trace["stable_rank"]
        assert (after < before)[:, :3].all()  # the last layer has one row
        assert after.max() < 1.1


def test_a_network_of_one_layer_is_refused(recorded):
    with pytest.raises(RecipeError, match=r"record\.every\.alignment: got 2, but no layer .*; remove it"):
        recorded("network={kind: mlp, depth: 1}", "record.every.alignment=2")
