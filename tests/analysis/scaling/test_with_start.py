from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from planted import members_of, planted

from rhotrace.analysis.run_series import RunSeries
from rhotrace.analysis.scaling import with_start as module
from rhotrace.analysis.scaling.with_start import _scaling_of, scaling
from rhotrace.errors import AnalysisError
from rhotrace.runfile.reader import open_trace
from rhotrace.theory.norm_dynamics import transient_time


@pytest.mark.parametrize(("depth", "exponent"), [(3, -1.0), (4, -2.0), (8, -6.0)])
def test_a_planted_exponent_is_recovered_though_seeds_differ_by_factors(depth, exponent):
    found = _scaling_of(depth, planted(exponent, seed=3), 0.1)
    assert found.exponent.value == pytest.approx(exponent, abs=0.03)
    assert found.exponent.low < exponent < found.exponent.high
    assert found.collapsed_factor == pytest.approx(1, abs=0.1)
    assert found.raw_factor == pytest.approx(0.35**exponent, rel=0.1)
    assert found.verdict.startswith("the law holds, extrapolated to rho_k(0) -> 0, to ± 0.")
    assert not found.cautions


def test_the_interval_of_the_exponent_covers_the_truth_95_percent_of_the_time():
    held = 0
    for seed in range(600):
        found = _scaling_of(4, planted(-2.0, seeds=6, wobble=0.1, seed=seed), 0.1).exponent
        held += found.low <= -2.0 <= found.high
    assert held / 600 == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize("depth", [3, 4, 6, 8])
def test_the_finite_start_is_extrapolated_away_from_the_closed_form(depth):
    """T of equation (5) with constant A and B has an exponent of its own at starts that are not small."""
    s, r = (grid.reshape(-1) for grid in np.meshgrid(np.arange(6), np.array([0.4, 0.35, 0.3, 0.25, 0.2])))
    T = transient_time(r, depth=depth, A=np.exp(0.01 * s), B=np.exp(0.01 * s))
    found = _scaling_of(depth, members_of(s, r, T), 0.1)
    law = 2 - depth
    raw = abs(found.exponent.value - law)
    at_zero = found.systematic.extrapolated.value
    assert abs(at_zero - law) <= max(raw / 3, 0.005 * abs(law))
    assert found.systematic.start == pytest.approx(at_zero - found.exponent.value)  # nothing else was tested
    assert raw > 0.05 or depth > 4  # deeper, the start hardly matters
    two = _scaling_of(depth, planted(float(law), starts=(1.0, 0.5)), 0.1)
    assert np.isnan(two.systematic.start)
    assert two.systematic.extrapolated == two.exponent


def test_another_law_is_distinguished():
    assert _scaling_of(4, planted(-1.0), 0.1).verdict == "the law is not met: shallower"
    assert _scaling_of(4, planted(-3.0), 0.1).verdict == "the law is not met: steeper"
    near = _scaling_of(4, planted(-2.1, wobble=1e-4), 0.1).verdict
    assert near.startswith("the law is met to 5")
    assert near.endswith("though it is outside the interval with all errors")


def test_at_two_layers_T_is_a_logarithm():
    s, r = (grid.reshape(-1) for grid in np.meshgrid(np.arange(6), np.array([1.0, 0.3, 0.1])))
    found = _scaling_of(2, members_of(s, r, 2.0 + 0.1 * s - 1.5 * np.log(r)), 0.1)
    assert found.per_efold.value == pytest.approx(1.5)
    assert found.local_per_efold.value == pytest.approx(1.5)
    assert found.verdict == "T grows with log(1/rho_k(0))"
    assert found.seeds_needed == 0
    power = _scaling_of(2, planted(-1.0), 0.1)
    assert power.verdict == "T grows, but not as log(1/rho_k(0))"
    assert _scaling_of(2, planted(1.0), 0.1).verdict == "no growth found"


def test_at_one_layer_T_does_not_depend_on_the_start():
    found = _scaling_of(1, planted(0.0, seed=3), 0.1)
    assert found.law == 0
    assert found.verdict.startswith("the law holds, extrapolated to nothing")
    assert np.isnan(found.per_efold.value)


def test_a_wide_interval_that_contains_the_law_is_no_confirmation():
    found = _scaling_of(4, planted(-2.0, seeds=2, wobble=0.5), 0.1)
    assert found.exponent.low < -2 < found.exponent.high
    assert found.verdict.startswith("too uncertain to tell")


def test_members_of_one_seed_do_not_count_as_more_than_one_in_the_interval_of_T():
    once = planted(-2.0, starts=(1.0, 0.5))
    twice = members_of(*(np.tile(v, 2) for v in (once.seed, once.start, once.T)))
    alone, doubled = (_scaling_of(4, members, 0.1).points[0] for members in (once, twice))
    assert doubled.members == 2 * alone.members
    assert doubled.T.low == pytest.approx(alone.T.low)


def test_a_single_start_has_no_factor():
    one = _scaling_of(4, planted(-2.0, starts=(1.0,)), 0.1)
    assert np.isnan(one.raw_factor)
    assert np.isnan(one.collapsed_factor)


def test_depths_are_compared_at_the_starts_that_both_have():
    shallow, deep = planted(-1.0, wobble=0), planted(-2.0, wobble=0, starts=(1.4, 1.0, 0.5, 0.2))
    found = module._deeper((3, 4), shallow, deep)
    assert [d.start for d in found] == [1.0, 0.5]
    assert [d.ratio.value for d in found] == pytest.approx([1.0, 2.0])
    assert [d.verdict for d in found] == ["not shown", "longer"]
    between = module._deeper((3, 4), shallow, planted(-2.0, wobble=0, starts=(1.4, 0.45)))
    assert between[0].start == pytest.approx(0.45**0.5)  # the middle of 0.45 and 1, of which neither is a start of both
    assert between[0].ratio.value == pytest.approx(0.45**-0.5)
    assert module._deeper((3, 4), shallow, planted(-2.0, starts=(3.0, 2.0))) == []
    assert module._deeper((3, 4), shallow, members_of(deep.seed + 100, deep.start, deep.T)) == []


def test_no_effect_of_depth_is_claimed_where_there_is_hardly_a_transient():
    deep = planted(-2.0, wobble=0, starts=(1.0, 0.5))
    near = replace(deep, distance=np.where(deep.start == 0.5, 1.5, 1e3))
    large, small = module._deeper((3, 4), planted(-1.0, wobble=0), near)
    assert large.distance == 1e3
    assert small.ratio.low > 1
    assert small.verdict.startswith("hardly a transient: |rho_eq/rho| is 1.5")


def test_the_phases_of_growth_are_counted_and_half_of_the_rise_has_an_exponent_of_its_own():
    members = planted(-2.0)
    members = replace(members, falls=np.where(members.seed < 3, 2, 1), half=7 * members.start**-3.0)
    found = _scaling_of(4, members, 0.1).phases
    assert (found.members, found.several) == (32, 12)
    assert found.exponent.value == pytest.approx(-3)


def test_the_power_analysis_says_how_many_seeds_give_the_interval():
    few = _scaling_of(4, planted(-2.0, seeds=6, wobble=0.3), 0.1)
    enough = _scaling_of(4, planted(-2.0, seeds=few.seeds_needed, wobble=0.3, seed=1), 0.1)
    assert few.exponent.high - few.exponent.low > 0.2
    assert enough.exponent.high - enough.exponent.low == pytest.approx(0.2, rel=0.5)
    assert module._seeds_needed(np.array([1.0]), 0.1) == 0


def test_members_without_a_T_are_counted_and_cautioned_about():
    members = planted(-2.0)
    T = members.T.copy()
    T[-1] = np.nan
    found = _scaling_of(4, members_of(members.seed, members.start, T), 0.1)
    assert found.points[-1].left == 7
    assert "1 of 8 at rho_k(0) = 0.35" in found.cautions[0]
    assert found.seeds == 8
    nothing = _scaling_of(4, members_of(members.seed, members.start, np.full(len(T), np.nan)), 0.1)
    assert nothing.verdict.startswith("no interval")


STARTS = "members={seeds: [0, 1, 0, 1, 0, 1], rho_k: [1.2, 1.2, 1.0, 1.0, 0.8, 0.8]}"


def test_runs_of_one_depth_are_pooled_and_strangers_refused(train):
    whole = train(STARTS, "steps=400", "record.snapshots=0")
    more = train("members={seeds: [2, 3], rho_k: [1.2, 0.8]}", "steps=400", "optimizer.lr=0.1", "record.snapshots=0")
    with open_trace(whole) as a, open_trace(more) as b:
        (found,) = scaling([a, b]).each
        assert found.depth == 3
        assert [p.members for p in found.points] == [3, 2, 3]
        assert found.exponent.value < -0.5
        alone = scaling([a]).each[0].points[0].T.value
        assert found.points[0].T.value == pytest.approx(
            alone, rel=0.5
        )  # in units of lr x steps, so lr makes no difference
    with open_trace(whole) as a, open_trace(whole) as b, pytest.raises(AnalysisError, match="give each run once"):
        scaling([a, b])
    he = train("init={kind: he, scale: 1.0}", "steps=20")
    with open_trace(he) as a, pytest.raises(AnalysisError, match="equal-norms"):
        scaling([a])


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ((), ("data.seed=1",), "data.seed: 0 and 1"),
        ((), ("network.depth=4", "data.train=39"), "data.train: 40 and 39"),
        ((), ("network.width=9",), "network.width: 8 and 9"),
        ((), ("network.depth=4", "optimizer={kind: weight-norm, lr: 0.05}"), "optimizer.kind: gd and weight-norm"),
        (
            ("optimizer={kind: sgd, lr: 0.05, batch_size: 8}",),
            ("optimizer={kind: sgd, lr: 0.05, batch_size: 20}",),
            "optimizer.batch_size: 8 and 20",
        ),
        (
            ("optimizer={kind: sgd, lr: 0.05, batch_size: 8}",),
            ("optimizer={kind: sgd, lr: 0.05, batch_size: 8, sampling: with-replacement}",),
            "optimizer.sampling: shuffled and with-replacement",
        ),
    ],
)
def test_runs_that_differ_in_more_than_start_rate_seeds_and_depth_are_refused_by_name(train, first, second, said):
    runs = [train(*overrides, "steps=3", "record.snapshots=0") for overrides in (first, (*second, "members.seeds=[7]"))]
    with open_trace(runs[0]) as a, open_trace(runs[1]) as b, pytest.raises(AnalysisError) as refused:
        scaling([a, b])
    assert f"differ in {said}" in str(refused.value)
    assert all(str(run) in str(refused.value) for run in runs)


def test_the_command_prints_draws_and_gives_json(command, train, tmp_path):
    run = train(STARTS, "steps=400", "record.snapshots=0")
    code, out, error = command("scaling", run, "--plot", "s.svg")
    assert code == 0, error
    assert "Exponent of T in rho_k(0)" in out
    assert "fewer than five seeds" in out
    assert "The clock of the directions" in out
    assert "(first-order estimate, marked *" in out
    assert "<svg" in (tmp_path / "s.svg").read_text()
    content = json.loads(command("scaling", run, "--json")[1])
    assert content["each"][0]["law"] == -1
    assert len(content["verdicts"]) == 1
    assert content["deeper"] == []
    code, out, error = command("scaling", train("steps=3"), "--plot", "none.png")
    assert (code, error) == (0, "")
    assert "no T: 3 of 3" in out
    assert command("scaling", run, "--target", "0")[0] == 2


def test_t_with_held_norms_is_compared_with_t_of_free_ones_seed_by_seed(train, command):
    free = train(STARTS, "steps=400", "record.snapshots=0")
    held = train(STARTS, "steps=800", "record.snapshots=0", "optimizer={kind: norm-control, lr: 0.05}")
    other = train("members.seeds=[7, 8, 9]", "steps=4")
    with open_trace(free) as a, open_trace(held) as b:
        T = [[p.T for p in RunSeries(run).passages] for run in (a, b)]
        found = scaling([a], against=[b]).against
    ratios = np.array(T[1]) / np.array(T[0])
    assert [f.start for f in found] == [1.2, 1.0, 0.8]
    assert [f.ratio.value for f in found[:2]] == pytest.approx([np.sqrt(ratios[[k, k + 1]].prod()) for k in (0, 2)])
    assert all(f.ratio.value > 1.1 for f in found[:2])  # with rho held, its growth no longer helps
    assert [(f.seeds, f.of) for f in found] == [(2, 2), (2, 2), (0, 2)]  # rho_eq does not fall to 2 * 0.8^3
    assert np.isnan(found[2].ratio.value)
    code, out, _ = command("scaling", free, "--against", held)
    assert code == 0
    assert "T of other runs over T of the same seeds and starts here" in out
    assert "norm-control" in out
    content = json.loads(command("scaling", free, "--against", held, "--json")[1])["against"]
    assert [each["of"] for each in content] == [2, 2, 2]
    assert content[2]["ratio"]["value"] is None
    code, _, err = command("scaling", free, "--against", other)
    assert code == 2
    assert "none of its members has a partner of the same depth" in err


def test_members_of_another_run_are_compared_for_each_of_its_settings(train):
    free = train("members={seeds: [0, 1]}", "steps=400", "init.rho_k=0.9", "record.snapshots=0")
    starts = train(
        "members={grid: {v_scale: [0.5, 1], seeds: 2}}",
        "optimizer={kind: weight-norm, lr: 0.05}",
        "steps=400",
        "init.rho_k=0.9",
        "record.snapshots=0",
    )
    with open_trace(free) as a, open_trace(starts) as b:
        short, same = scaling([a], against=[b]).against
    assert (short.label, same.label) == ("v(0)/W 0.5", "v(0)/W 1")
    assert short.ratio.value < 0.5
    assert same.ratio.value == pytest.approx(1, abs=0.15)
