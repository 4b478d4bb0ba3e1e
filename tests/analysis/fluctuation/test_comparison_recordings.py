"""Recordings of one description are the members of one run, where each has a seed of its own."""

from __future__ import annotations

import json
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from own_loops import mlp, trained

from rhotrace.analysis.fluctuation.comparison import alone, compare
from rhotrace.runfile.reader import open_trace


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Three recordings of GD and three of SGD: the run file by its optimizer and seed."""
    folder = tmp_path_factory.mktemp("recorded")

    def of(name, seed, batch):
        net = mlp(seed=seed)
        with torch.no_grad():
            net[0].weight.mul_(0.5)
        path = folder / f"{name}{seed}.h5"
        return trained(path, net, steps=1000, batch=batch, seed=seed, full_every=1)

    return {f"{name}{seed}": of(name, seed, batch) for name, batch in (("gd", 24), ("sgd", 6)) for seed in (1, 2, 3)}


def words(command, *runs):
    code, out, err = command("compare", *runs)
    assert code == 0, err
    return " ".join(out.split())


def test_recordings_with_seeds_of_their_own_are_members_of_one_run(recorded, command):
    code, out, err = command("compare", "--json", "--plot", "picture.png", *recorded.values())
    assert code == 0, err
    found = json.loads(out)
    assert [side["summary"]["members"] for side in found["sides"]] == [3, 3]
    (contrast,) = found["contrasts"]
    each = [[m["fluctuation"]["std"]["value"] for m in side["each"]] for side in found["sides"]]
    logs = np.log(each[1]) - np.log(each[0])  # of equal seeds
    assert contrast["paired"] == 3
    assert contrast["ratio"]["value"] == pytest.approx(np.exp(logs.mean()))
    half = 4.302652729911275 * logs.std(ddof=1) / np.sqrt(3)  # Student's t of two degrees of freedom
    assert contrast["ratio"]["high"] == pytest.approx(np.exp(logs.mean() + half))


def test_each_member_is_the_one_that_its_recording_has_alone(recorded):
    with ExitStack() as stack:
        traces = [stack.enter_context(open_trace(path)) for path in recorded.values()]
        (own,) = alone(traces[1]).sides[0].each
        gd, _ = compare(traces, window=own.fluctuation.window).sides
    assert gd.each[1].fluctuation.std.value == pytest.approx(own.fluctuation.std.value)
    assert gd.place(1) == (str(recorded["gd2"]), 0)


def test_recordings_that_would_be_one_run_alone_are_compared_with_each_other(recorded, command):
    said = words(command, recorded["gd1"], recorded["gd2"])
    assert "under gd2 (GD) as under gd1 (GD)" in said
    assert "rhotrace.record(..., seed=1)" in said
