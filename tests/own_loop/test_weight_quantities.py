"""Quantities of the weights that a recording has on request, against numpy on its snapshots."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from own_loops import INPUTS, mlp, trained
from torch import nn

import rhotrace
from rhotrace.errors import RhoTraceError

EVERY = {"rank": 4, "stable_rank": 5, "alignment": 10, "distance": 10}


def oracle(weights, start):
    """By numpy: of each layer the stable rank, the distances and the cosine; the alignment of the two."""
    W, W0 = [each[0] for each in weights], [each[0] for each in start]
    parts = [np.linalg.svd(w) for w in W]
    V, V0 = ([w / np.linalg.norm(w) for w in each] for each in (W, W0))
    return {
        "stable_rank": [(s**2).sum() / s[0] ** 2 for _, s, _ in parts],
        "alignment": [abs(parts[0][0][:, 0] @ parts[1][2][0])],
        "weight_distance": [np.linalg.norm(w - w0) for w, w0 in zip(W, W0, strict=True)],
        "direction_distance": [np.linalg.norm(v - v0) for v, v0 in zip(V, V0, strict=True)],
        "direction_cosine": [(v * v0).sum() for v, v0 in zip(V, V0, strict=True)],
        "rank": [np.linalg.matrix_rank(v, tol=1e-3) for v in V],
    }


def test_they_are_those_of_the_weights_before_each_step(tmp_path):
    path = trained(tmp_path / "run.h5", steps=40, every=EVERY, snapshots=[20], room=10)
    with rhotrace.open(path) as trace:
        assert trace.snapshot_steps() == [0, 20]
        wanted = oracle(trace.snapshot(20), trace.snapshot(0))
        for name, values in wanted.items():
            steps = trace.step_of(name)
            assert len(steps) == len(trace[name]) == 40 // EVERY[trace.quantity(name).cadence]
            np.testing.assert_allclose(trace[name][steps == 20][0, 0], values, rtol=1e-10, atol=1e-12, err_msg=name)
        assert trace["weight_distance"][0].max() == 0
        assert trace["stable_rank"].shape == (8, 1, 2)
        assert trace.layout.axes["pair"] == (1.0,)


def test_a_resumed_recording_measures_from_the_first_start(tmp_path):
    whole = trained(tmp_path / "whole.h5", steps=40, every=EVERY)
    part, net, left = tmp_path / "part.h5", mlp(), iter(range(22))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    def stopped(g, y):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return (g - y).square().sum(dim=1).mean()

    with pytest.raises(KeyboardInterrupt):
        trained(part, net, optimizer, steps=40, every=EVERY, lossy=stopped)
    trained(part, net, optimizer, first=22, steps=40, every=EVERY, resume=22)
    with rhotrace.open(whole) as one, rhotrace.open(part) as other:
        for name in ("stable_rank", "weight_distance", "direction_cosine", "alignment"):
            np.testing.assert_array_equal(one[name], other[name])


def test_the_commands_read_them(tmp_path, command):
    run = trained(tmp_path / "run.h5", steps=40, every=EVERY)
    assert command("plot", run, "--what", "quantity:stable_rank", "-o", "s.png")[0] == 0
    assert command("verify", run)[0] == 0
    assert "alignment" in command("info", run)[1]


@pytest.mark.parametrize(
    ("every", "said"),
    [
        (
            {"sharpness": 10},
            "'sharpness', which needs a recipe; a recording has rank, stable_rank, alignment, distance",
        ),
        ({"stable_rnk": 10}, "did you mean stable_rank?"),
        ({"rank": 0}, r"every\['rank'\]: got 0, expected a number of steps"),
    ],
)
def test_what_a_recording_cannot_have_is_refused(tmp_path, every, said):
    with pytest.raises(RhoTraceError, match=said):
        rhotrace.record(tmp_path / "run.h5", mlp(), every=every)


def test_layers_that_are_no_matrices_or_do_not_meet_are_refused(tmp_path):
    net = nn.Sequential(nn.Linear(INPUTS, 4, bias=False), nn.Linear(4, 4, bias=False))
    with pytest.raises(RhoTraceError, match="every: got 'rank', but all consists of several parameters"):
        rhotrace.record(tmp_path / "run.h5", net, blocks={"all": "*"}, every={"rank": 1})
    rhotrace.record(tmp_path / "run.h5", net, blocks={"all": "*"}, every={"distance": 1})
    with pytest.raises(RhoTraceError, match="every: got 'alignment', but no layer of this network has as many inputs"):
        rhotrace.record(tmp_path / "run.h5", nn.Linear(INPUTS, 1), every={"alignment": 1})
