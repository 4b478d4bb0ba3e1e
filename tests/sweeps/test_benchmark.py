"""What ``rhotrace benchmark`` measures and concludes: the settings, the steps themselves, and the choice."""

from __future__ import annotations

import numpy as np
import pytest
from small import SMALL

from rhotrace.config import recipe
from rhotrace.runfile.reader import open_trace
from rhotrace.sweeps import benchmark
from rhotrace.sweeps.benchmark import Reading, Setting, settings, simplest_of_the_fastest, unrecorded, with_members


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["optimizer={kind: sgd, lr: 0.05, batch_size: 8, weight_decay: 0.01, momentum: 0.5}"],
        ["optimizer={kind: weight-norm, lr: 0.05}"],
        ["network={kind: residual, depth: 3, width: 8, dtype: float64}", "members.seeds=1"],
    ],
    ids=["gd", "sgd", "weight-norm", "residual"],
)
def test_the_steps_without_recording_are_those_of_the_run(train, overrides):
    content = recipe.parse(SMALL, [*overrides, "steps=40"])
    _, weights = unrecorded(content, content.load_data(), "cpu", 40)
    with open_trace(train(*overrides, "steps=40")) as trace:
        for ours, theirs in zip(weights, trace.state()["weights"], strict=True):
            np.testing.assert_array_equal(ours.numpy(), theirs)


def test_threads_are_powers_of_two_up_to_the_cores_and_the_recipes_members_are_among_those_measured(monkeypatch):
    monkeypatch.setattr(benchmark, "cores", lambda: 6)
    found = settings(3, device="cpu", members=[1, 16])
    assert [s.threads for s in found if s.members == 1] == [1, 2, 4, 6]
    assert [s.members for s in found[:3]] == [1, 3, 16]
    assert {s.members for s in settings(4, device="cpu")} == {1, 4, 16, 64}


def reading(threads: int, members: int, rate: float) -> Reading:
    return Reading(Setting("cpu", threads, members), rate, rate * members, 1.0, 0.0)


def test_a_simpler_setting_that_is_as_fast_within_5_per_cent_is_preferred():
    one, two, four = reading(1, 4, 96.0), reading(2, 4, 100.0), reading(4, 4, 60.0)
    assert simplest_of_the_fastest([one, two, four], lambda r: r.steps_per_second) == one
    slower = reading(1, 4, 94.0)
    assert simplest_of_the_fastest([slower, two], lambda r: r.steps_per_second) == two
    assert simplest_of_the_fastest([], lambda r: r.steps_per_second) is None


def test_lists_of_members_are_repeated_or_cut():
    own = recipe.parse(SMALL, ["members={seeds: [5, 6, 7], rho_k: [0.5, 1.0, 1.5]}"])
    assert with_members(own, 3) is own
    more = with_members(own, 5)
    assert more.seeds == [0, 1, 2, 3, 4]
    assert more.each(more.init)["rho_k"] == [0.5, 1.0, 1.5, 0.5, 1.0]
    assert with_members(own, 1).each(own.init)["rho_k"] == [0.5]


def test_a_setting_that_does_not_fit_the_memory_is_left_out_with_the_reason(monkeypatch):
    monkeypatch.setattr(benchmark.resources, "free_bytes", lambda _: 2e9)
    content = recipe.parse(SMALL, ["data.train=2000", "network.width=2000"])
    found = benchmark.measure("small", content, [Setting("cpu", 1, 500)], seconds=1.0)
    assert found.readings == ()
    assert found.fastest is found.most is found.seconds is None
    ((setting, why),) = found.left_out
    assert setting.members == 500
    assert why.endswith("GB, and 2.0 GB are free")
