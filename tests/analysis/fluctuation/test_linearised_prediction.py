"""The predicted fluctuation of real runs: exact where the network is linear, near where it is not, refused where it cannot be."""

from __future__ import annotations

import functools
import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from components import batch_indices, equal_norms, mlp
from hypothesis import given, settings
from hypothesis import strategies as st
from small import SMALL

from rhotrace.analysis.fluctuation import linearised_prediction
from rhotrace.analysis.fluctuation.linearised_prediction import LIMIT, Prediction, moved, predict
from rhotrace.analysis.rebuild_network import data_and_network
from rhotrace.analysis.run_series import RunSeries
from rhotrace.config import recipe
from rhotrace.config.recipe import Recipe
from rhotrace.errors import AnalysisError, DataError
from rhotrace.models.minibatches import Minibatches
from rhotrace.runfile.reader import open_trace
from rhotrace.theory.linearised_sgd import replay, whole_kernel
from rhotrace.training.train import train as train_recipe

NOISY = (
    "data={dataset: mnist, classes: [4, 9], train: 200, test: 20, label_noise: 0.3}",
    "network.width=12",
    "members.seeds=2",
    "steps=2000",
    "record.test_every=4000",
    "record.snapshots=40",
)
LINEAR = (*NOISY, "network.depth=1")
TEN = "data={dataset: mnist, classes: all, train: 60, test: 20}"
REPLACED = "sampling: with-replacement"
RUNS = {
    "sgd": (*NOISY, f"optimizer={{kind: sgd, lr: 0.01, batch_size: 10, {REPLACED}}}", "init.rho_k=2.0"),
    "weight-norm": (
        *NOISY,
        f"optimizer={{kind: weight-norm, lr: 0.02, batch_size: 10, {REPLACED}}}",
        "init.rho_k=1.2",
    ),
    "unstable": (*NOISY, f"optimizer={{kind: sgd, lr: 0.05, batch_size: 50, {REPLACED}}}", "init.rho_k=2.0"),
    "gd": (*NOISY, "optimizer={kind: gd, lr: 0.01}", "init.rho_k=2.0", "steps=300"),
    "linear": (
        *LINEAR,
        f"optimizer={{kind: sgd, lr: 0.3, batch_size: 10, {REPLACED}}}",
        "members.seeds=4",
        "steps=1500",
    ),
    "linear-shuffled": (*LINEAR, "optimizer={kind: sgd, lr: 0.3, batch_size: 10}", "members.seeds=4", "steps=1500"),
    "linear-ten": (*LINEAR, TEN, f"optimizer={{kind: sgd, lr: 0.2, batch_size: 6, {REPLACED}}}", "steps=400"),
    "linear-ten-shuffled": (*LINEAR, TEN, "optimizer={kind: sgd, lr: 0.2, batch_size: 7}", "steps=400"),
    "linear-own-ways": (
        *LINEAR,
        "optimizer={kind: sgd, lr: 0.1, batch_size: 7}",
        "members={seeds: [4, 9], batch_seeds: [30, 31], lr: [0.05, 0.2]}",
        "record.full_every=3",
        "steps=700",
    ),
}
WINDOW = (800, 1999)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """``runs(name)``: the run file of one of ``RUNS``, trained when first asked for."""
    folder = tmp_path_factory.mktemp("predicted")

    def path(name):
        file = folder / f"{name}.h5"
        if not file.exists():
            train_recipe(recipe.parse(SMALL, list(RUNS[name])), file, device="cpu")
        return file

    return path


def predicted(path, window=WINDOW):
    with open_trace(path) as trace:
        return predict(RunSeries(trace), dict.fromkeys(range(trace.members), window))


known = functools.cache(predicted)  # for tests that change nothing


def root_mean_square(found, name):
    return np.sqrt(np.mean([getattr(p, name) ** 2 for p in found.values()]))


# --- a network that is linear in its weights ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["linear", "linear-shuffled", "linear-ten", "linear-ten-shuffled"])
def test_a_replay_of_a_linear_network_under_its_own_batches_is_the_run_itself(runs, name):
    with open_trace(runs(name)) as trace:
        of = Recipe.model_validate(trace.recipe)
        dataset, network = data_and_network(trace, of)
        x, y = torch.as_tensor(dataset.x), dataset.y.T
        deltas = RunSeries(trace).delta
        start = next(s for s in trace.snapshot_steps() if s > trace.steps / 4)
        batches = batch_indices(
            of.batch_seeds,
            start,
            trace.steps,
            samples=len(x),
            batch_size=of.optimizer.batch_size,
            sampling=of.optimizer.sampling,
        )
        for member in range(trace.members):
            weights = tuple(torch.as_tensor(W[member : member + 1]) for W in trace.snapshot(start))
            g = network.forward(weights, x)[0].numpy()
            ones = np.ones(1)
            kernel = network.tangent_kernel(weights, x, torch.as_tensor(ones)[None])[0].numpy()
            kernel = whole_kernel(kernel, g, trace["rho_k"][start, member], ones)
            found = replay(kernel, g, y, batches[:, member], of.lr[member]).delta
            assert np.ptp(found) > 0.05
            np.testing.assert_allclose(found, deltas[start:, member], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["linear", "linear-shuffled"])
def test_the_prediction_for_a_linear_network_is_right_but_for_the_draw_of_its_batches(runs, name):
    found = known(runs(name), (500, 1499))
    assert [p.correlation for p in found.values()] == pytest.approx([1.0] * 4, abs=1e-9)
    ratio = root_mean_square(found, "predicted") / root_mean_square(found, "measured")
    assert ratio == pytest.approx(1, abs=0.2)


def test_the_prediction_uses_each_members_own_batches_and_learning_rate_at_the_traced_steps(runs):
    with open_trace(runs("linear-own-ways")) as trace:
        assert any(s % 3 for s in trace.snapshot_steps() if s > 100)
    found = known(runs("linear-own-ways"), (150, 699))
    assert len(found[0].stretches) > 1
    for p in found.values():
        assert [s.correlation for s in p.stretches] == pytest.approx([1.0] * len(p.stretches), abs=1e-9)
    assert found[1].sharpness == pytest.approx(4 * found[0].sharpness, rel=1e-6)


def test_the_measured_fluctuation_is_that_of_the_run_about_a_line(runs):
    with open_trace(runs("linear-own-ways")) as trace:
        run = RunSeries(trace)
        steps, deltas = run.steps, run.delta
    for member, p in known(runs("linear-own-ways"), (150, 699)).items():
        for s in p.stretches:
            rows = (steps >= s.first) & (steps <= s.last)
            line = np.polynomial.Polynomial.fit(steps[rows], deltas[rows, member], 1)
            assert s.measured == pytest.approx((deltas[rows, member] - line(steps[rows])).std(), rel=1e-6)


def test_the_curvature_of_a_linear_network_does_not_change_along_its_motion(runs):
    for p in known(runs("linear"), (500, 1499)).values():
        assert p.held == len(p.stretches) > 0
        assert [s.reached for s in p.stretches] == pytest.approx([s.sharpness for s in p.stretches], rel=1e-6)
        assert p.reached < p.limit == LIMIT


# --- networks that are not ---------------------------------------------------------------------------------


def test_the_prediction_for_noisy_labels_is_within_a_factor_of_two_where_the_frozen_one_is_not(runs):
    found = known(runs("sgd"))
    assert list(found) == [0, 1]
    for p in found.values():
        assert 0.5 < p.predicted / p.measured < 2, p
        assert p.frozen / p.measured < 0.5, p
        assert p.correlation > 0.5, p
        assert 0 < p.sharpness < 2
        assert len(p.stretches) > 2


@pytest.mark.parametrize("factors", [(1.0, 1.0, 1.0), (0.3, 2.5, 1.2)], ids=["descent", "weight-normalisation"])
def test_the_weights_that_a_motion_leads_to_have_the_outputs_of_the_kernel_to_first_order(factors):
    network, rng = mlp(5, 2, depth=3, width=7), np.random.default_rng(4)
    start = equal_norms(network, 4, rho_k=1.3)
    weights = tuple(torch.as_tensor(W)[None] for W in start)
    x, drive, t = torch.as_tensor(rng.standard_normal((9, 5))), rng.standard_normal(18), np.array(factors)
    g = network.forward(weights, x)[0].numpy()
    turning = network.tangent_kernel(weights, x, torch.as_tensor(t)[None])[0].numpy()
    kernel = whole_kernel(turning, g, np.full(3, 1.3), t)

    def error(size):
        after = network.forward(moved(network, weights, x, size * drive, t), x)[0].numpy()
        return np.linalg.norm((after - g).ravel() / size + kernel @ drive)

    assert error(1e-7) < 1e-4 * np.linalg.norm(kernel @ drive)
    assert error(1e-4) / error(5e-5) == pytest.approx(2, rel=0.05)


def test_where_the_predicted_motion_meets_too_large_a_curvature_there_is_no_prediction_and_it_would_be_wrong(runs):
    holds, not_ = known(runs("sgd")), known(runs("unstable"))
    for p in holds.values():
        assert p.reached < 0.5 < LIMIT
        assert p.held == len(p.stretches)
    for p in not_.values():
        assert p.reached > 2
        assert p.held == 0
        assert not any(s.holds for s in p.stretches)
        assert np.isnan([p.measured, p.predicted, p.frozen, p.correlation]).all()
        wrong = [not s.predicted > 0.5 * s.measured for s in p.stretches]
        assert sum(wrong) >= 3


def test_a_number_is_over_the_stretches_in_which_the_linearisation_holds(runs, monkeypatch):
    whole = known(runs("sgd"))[0]
    limit = sorted(s.reached for s in whole.stretches)[1]
    monkeypatch.setattr(linearised_prediction, "LIMIT", limit)
    p = predicted(runs("sgd"))[0]
    held = [s for s in p.stretches if s.holds]
    assert (len(held), p.held, p.limit) == (1, 1, limit)
    assert (p.predicted, p.measured) == pytest.approx((held[0].predicted, held[0].measured), rel=1e-12)
    assert p.reached == whole.reached


def test_compare_says_where_the_linearisation_holds_and_why_there_is_no_prediction_elsewhere(runs, command):
    paths = [str(runs("sgd")), str(runs("unstable"))]
    code, output, _ = command("compare", *paths, "--predict", "--window", "800:1999")
    assert code == 0
    said = " ".join(output.split())
    assert "unstable: the prediction is not given for any stretch (member 0, 1), because lr x sharpness reaches" in said
    assert "not below 1.5: descent is near instability there" in said
    assert "The linearisation holds in all its stretches: lr x sharpness reaches 0." in said
    assert "below the limit of 1.5." in said
    answer = json.loads(command("compare", *paths, "--predict", "--window", "800:1999", "--json")[1])
    first, second = answer["sides"]
    assert second["predicted_over"]["value"] is None
    for member in second["each"]:
        assert member["prediction"]["limit"] == 1.5
        assert member["prediction"]["held"] == 0
        assert member["prediction"]["predicted"] is None
        assert {s["holds"] for s in member["prediction"]["stretches"]} == {False}
    assert all(member["prediction"]["reached"] < 1.5 for member in first["each"])


def test_what_compare_prints_is_of_the_members_with_a_prediction(runs, command, monkeypatch):
    first, second = known(runs("sgd"), (1000, 1999)).values()
    lowest = [min(s.reached for s in p.stretches) for p in (first, second)]
    monkeypatch.setattr(linearised_prediction, "LIMIT", np.mean(lowest).item())
    paths = [runs("sgd"), runs("unstable")]
    code, output, _ = command("compare", *paths, "--predict", "--window", "1000:1999")
    assert code == 0
    none = int(np.argmax(lowest))
    given = sum(s.reached < np.mean(lowest) for s in (first, second)[1 - none].stretches)
    of = len(first.stretches) + len(second.stretches)
    said = " ".join(output.split())
    assert f"sgd: the prediction is not given for {of - given} of {of} stretches (member" in said
    assert f"The linearisation holds in {given} of {of} stretches" in said
    row = [line for line in output.splitlines() if line.split()[:1] == ["sgd"]][-1]
    assert row.split()[-3] not in {"–", "nan"}, row  # follows


def test_the_prediction_is_the_same_bits_again(runs):
    first, second = known(runs("sgd")), predicted(runs("sgd"))
    assert first == second
    assert np.isfinite([first[0].measured, first[0].predicted, first[0].correlation]).all()


def test_every_member_is_predicted_from_batches_of_its_own_that_no_run_saw(runs, monkeypatch):
    asked = {0: set(), 1: set()}
    whose = []

    drawn = Minibatches.indices

    def remembered(self, seeds, *steps, **how):
        asked[whose[-1]].update(seeds)
        return drawn(self, seeds, *steps, **how)

    monkeypatch.setattr(Minibatches, "indices", remembered)
    with open_trace(runs("sgd")) as trace:
        for member in asked:
            whose.append(member)
            predict(RunSeries(trace), {member: WINDOW})
    assert all(member in seeds and len(seeds) > 2 for member, seeds in asked.items())
    assert not asked[0] & asked[1], f"the same draws for both members: {sorted(asked[0] & asked[1])}"


def test_nothing_disturbs_a_full_batch(runs):
    for p in predicted(runs("gd"), (80, 299)).values():
        assert p.predicted == 0
        assert p.frozen == 0
        assert p.measured > 0
        assert np.isnan(p.correlation)
        assert 0 < p.sharpness < 2


def test_weight_normalisation_turns_v_by_its_own_factor(runs, monkeypatch):
    right = known(runs("weight-norm"))
    monkeypatch.setattr(linearised_prediction, "tangent_factors", lambda rho_k, _v_norm=None: np.ones_like(rho_k))
    as_descent = predicted(runs("weight-norm"))
    for p, wrong in zip(right.values(), as_descent.values(), strict=True):
        assert 0.5 < p.predicted / p.measured < 2, p
        assert p.correlation > 0.5, p
        assert p.correlation > wrong.correlation + 0.1
        assert abs(np.log(p.predicted / p.measured)) < abs(np.log(wrong.predicted / wrong.measured))


# --- where there is no prediction --------------------------------------------------------------------------


def test_a_window_without_a_copy_of_the_weights_has_a_reason_and_the_other_members_a_prediction(runs):
    with open_trace(runs("sgd")) as trace:
        late = trace.snapshot_steps()[-2] + 1
        found = predict(RunSeries(trace), {0: (late, 1999), 1: WINDOW})
    assert "record.snapshots" in found[0]
    assert isinstance(found[1], Prediction)


def test_too_large_a_training_set_is_refused_with_the_remedy(train):
    path = train("data={dataset: mnist, classes: all, train: 820, test: 10}", "steps=2", "network.depth=2")
    with pytest.raises(
        AnalysisError, match=r"got 8200 outputs on the training set, expected at most 8192.*data\.train"
    ):
        predicted(path, (0, 1))


def test_other_data_than_that_of_the_run_is_refused(runs):
    with open_trace(runs("gd")) as trace:
        trace.attributes["data_digest"] = "0" * 64
        with pytest.raises(AnalysisError, match=r"gd\.h5: --predict: .*other data"):
            predict(RunSeries(trace), {0: (80, 299)})


def test_absent_data_is_refused(runs, monkeypatch):
    def absent(*_):
        raise DataError("data: mnist not found")

    monkeypatch.setattr(Recipe, "load_data", absent)
    with pytest.raises(AnalysisError, match="--predict: needs the data: data: mnist not found"):
        predicted(runs("gd"))


# --- stretches ---------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(
    snapshots=st.lists(st.integers(0, 20_000), unique=True, max_size=60).map(sorted),
    ends=st.tuples(st.integers(0, 20_000), st.integers(0, 20_000)).map(sorted),
    every=st.integers(1, 12),
)
def test_stretches_start_at_copies_of_the_weights_are_long_enough_and_do_not_overlap(snapshots, ends, every):
    first, last = ends
    found = linearised_prediction._stretches(snapshots, (first, last), every)
    assert len(found) <= 8
    assert bool(found) == any(first <= s <= last - 50 * every for s in snapshots)
    for start, end in found:
        assert start in snapshots
        assert first <= start <= end <= last
        assert 50 <= len(range(-(-start // every) * every, end + 1, every)) <= linearised_prediction.REACH + 1
    assert all(end < start for (_, end), (start, _) in pairwise(found))


def test_of_many_stretches_eight_are_spread_over_the_window():
    found = linearised_prediction._stretches(range(0, 10_000, 100), (0, 9_999), 1)
    starts = [start for start, _ in found]
    assert len(starts) == 8
    assert (starts[0], found[-1]) == (0, (9900, 9999))
    assert set(np.diff(starts)) <= {1400, 1500}
    assert [end for _, end in found[:-1]] == [start - 1 for start in starts[1:]]


def test_a_stretch_ends_where_the_kernel_of_its_start_is_too_old():
    assert linearised_prediction._stretches([10, 20_000], (0, 50_000), 3) == [(10, 6010), (20_000, 26_000)]
