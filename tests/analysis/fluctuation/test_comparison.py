from __future__ import annotations

import hashlib
import json
import pickle
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from series import ar1

from rhotrace.analysis.fluctuation.comparison import Comparison, alone, chosen_window, compare
from rhotrace.analysis.fluctuation.one_run import examine
from rhotrace.analysis.fluctuation.verdict import cautions, dies, labels, verdicts
from rhotrace.analysis.run_series import RunSeries
from rhotrace.display.blocks import Paragraph
from rhotrace.display.pages.comparison import answers
from rhotrace.errors import AnalysisError
from rhotrace.runfile.reader import open_trace
from rhotrace.runfile.sealing import seal
from rhotrace.runfile.writer import create

CROSSING = 200


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Layout, root attributes and first row of a real short run."""
    from small import SMALL

    from rhotrace.config import recipe
    from rhotrace.training.train import train

    path = tmp_path_factory.mktemp("template") / "run.h5"
    train(recipe.parse(SMALL, ["steps=20"]), path, device="cpu")
    with open_trace(path) as trace:
        attributes = {k: v for k, v in trace.attributes.items() if k not in {"layout", "status"}}
        return trace.layout, attributes, {q.name: trace[q.name][:1] for q in trace.quantities}


@pytest.fixture(scope="module")
def planted(template, tmp_path_factory):
    """Writes a run whose delta after a step is a chosen series; everything else comes from a real short run.

    With ``batch`` it passes for SGD; the other keywords are root attributes. What was written once is not written again.
    """
    own_layout, attributes, first = template
    folder, made = tmp_path_factory.mktemp("planted"), {}

    def plant(delta: np.ndarray, **options: object) -> Path:
        key = hashlib.sha256(pickle.dumps((delta, sorted(options.items())))).hexdigest()
        if key not in made:
            made[key] = folder / f"planted{len(made)}.h5"
            write(made[key], delta, **options)
        return made[key]

    def write(
        path: Path,
        delta: np.ndarray,
        *,
        lr: float = 0.05,
        batch: int | None = None,
        sampling: str = "shuffled",
        crossing: int = CROSSING,
        loss: np.ndarray | None = None,
        recipe: dict | None = None,
        seeds: np.ndarray | None = None,
        starts: np.ndarray | float = 1.0,
        rates: np.ndarray | None = None,
        **changed: object,
    ) -> None:
        rows, members = delta.shape
        kind = "sgd" if batch else "gd"
        layout = replace(
            own_layout,
            steps=rows,
            members=members,
            strides={"step": 1, "full": 1, "test": 1},
            snapshots=[],
            state={},
            lists={},
            facts=replace(own_layout.facts, optimizer=kind, minibatches=bool(batch)),
        )
        block = {n: np.broadcast_to(v[:, :1], (rows, members, *v.shape[2:])).copy() for n, v in first.items()}
        full = np.where(np.arange(rows)[:, None] < crossing, np.log(0.01), delta)
        block["rho_eq_over_rho"] = np.exp(-full)
        block["a"], block["q"] = np.exp(-full), np.ones((rows, members))
        if loss is not None:
            block["loss"] = np.broadcast_to(loss, (rows, members)).copy()
        resolved = {**json.loads(attributes["recipe_json"]), **(recipe or {})}
        minibatch = {"batch_size": batch, "sampling": sampling} if batch else {}
        resolved["optimizer"] = {"kind": kind, "lr": lr, **minibatch}
        seeds = np.arange(members) if seeds is None else seeds
        rates = np.full(members, lr) if rates is None else rates
        per_member = {"seed": seeds, "batch_seed": seeds, "lr": rates, "init_rho_k": np.full(members, starts)}
        writer = create(path, layout, {**attributes, "recipe_json": json.dumps(resolved), **changed}, per_member)
        writer.append(0, rows, block)
        writer.commit(rows, {})
        writer.close()
        seal(path, {"ended": "finished"})

    return plant


def noise(std: float, members: int, seed: int, rows: int = 3000) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([ar1(rows, 0.8, std, rng) for _ in range(members)], axis=1)


def files(result):
    """What the runs are called: the names of their files."""
    return [Path(side.path).stem for side in result.sides]


def compared(*paths: Path, **options: object) -> Comparison:
    with ExitStack() as stack:
        return compare([stack.enter_context(open_trace(path)) for path in paths], **options)


def contrast_of(result: Comparison, letters: str):
    (found,) = [c for c in result.contrasts if c.run + c.base == letters]
    return found


# --- ratios ------------------------------------------------------------------------------------------------


def test_a_planted_ratio_is_recovered_within_its_interval(planted):
    result = compared(planted(noise(0.01, 5, 1)), planted(noise(0.05, 5, 2)))
    (contrast,) = result.contrasts
    assert (contrast.base, contrast.run, contrast.paired) == ("A", "B", 5)
    assert contrast.ratio.low < 5 < contrast.ratio.high
    assert contrast.ratio.high / contrast.ratio.low < 1.6
    assert contrast.transients.value == pytest.approx(1, rel=0.01)
    assert contrast.tau.low < 1 < contrast.tau.high
    assert "times as much" in verdicts(result)[0]
    assert result.sides[0].std.value == pytest.approx(0.01, rel=0.1)
    assert result.sides[1].each[0].fluctuation.tau.value == pytest.approx(9, rel=0.4)
    assert result.sides[0].T.value == pytest.approx(CROSSING, abs=1)


def test_equal_fluctuations_get_no_verdict_in_95_percent(planted):
    result = compared(planted(noise(0.02, 6, 3)), planted(noise(0.02, 6, 4)))
    (contrast,) = result.contrasts
    assert contrast.ratio.low < 1 < contrast.ratio.high
    assert "No difference is shown" in verdicts(result)[0]


def test_a_single_member_gets_its_interval_from_blocks_of_time(planted):
    result = compared(planted(noise(0.01, 1, 5)), planted(noise(0.03, 1, 6)))
    (contrast,) = result.contrasts
    assert contrast.paired == 0
    assert contrast.ratio.low < 3 < contrast.ratio.high
    assert result.sides[0].offset == result.sides[0].each[0].fluctuation.offset


def test_single_members_get_a_verdict(planted):
    result = compared(planted(noise(0.01, 1, 5)), planted(noise(0.03, 1, 6)))
    assert "times as much" in verdicts(result)[0]


def test_members_are_paired_by_seed_and_not_by_place(planted):
    base = noise(0.02, 4, 60)
    own = np.array([1.0, 2.0, 5.0, 10.0])
    first = planted(base * own)
    second = planted(3 * base[:, ::-1] * own[::-1], seeds=np.arange(4)[::-1])
    (contrast,) = compared(first, second, window=(300, 2800)).contrasts
    assert contrast.paired == 4
    assert contrast.ratio.value == pytest.approx(3, rel=1e-6)
    assert contrast.ratio.high / contrast.ratio.low < 1 + 1e-6


def test_members_without_a_transient_end_are_left_out_by_name(planted):
    delta = noise(0.01, 4, 7)
    delta[:, 2] = np.log(0.01)
    result = compared(planted(delta), planted(noise(0.01, 4, 52)))
    assert list(result.sides[0].left_out) == [2]
    assert any("member 2: never left the transient" in c for c in cautions(result))
    assert result.contrasts[0].paired == 3


def test_a_run_in_which_no_member_left_gets_no_verdict_and_the_others_do(planted):
    stuck = planted(np.full((1000, 3), np.log(0.01)))
    result = compared(planted(noise(0.01, 3, 43)), stuck, planted(noise(0.02, 3, 44)))
    assert np.isnan(contrast_of(result, "BA").ratio.value)
    said = verdicts(result)
    _, b, c = files(result)
    assert said[0].startswith(f"No verdict on {b} (GD)")
    assert f"under {c} (GD)" in said[1]


# --- members that differ in more than their seeds ----------------------------------------------------------


def test_members_of_different_starts_are_not_pooled_and_are_compared_with_those_of_the_same_start(planted):
    starts, seeds = np.repeat([1.0, 2.0], 4), np.tile(np.arange(4), 2)
    base = noise(1.0, 4, 61)
    first = planted(np.hstack([0.01 * base, 0.04 * base]), starts=starts, seeds=seeds)
    second = planted(np.hstack([0.20 * base, 0.02 * base]), starts=starts[::-1], seeds=seeds, batch=8)
    result = compared(first, second, window=(300, 2800))
    assert [(side.letter, side.group) for side in result.sides] == [
        ("A1", "rho_k(0) 1"),
        ("A2", "rho_k(0) 2"),
        ("B1", "rho_k(0) 2"),
        ("B2", "rho_k(0) 1"),
    ]
    truths = {("A1", "A2"): 4, ("A2", "B1"): 5, ("A1", "B2"): 2}
    assert {(c.base, c.run) for c in result.contrasts} == set(truths)
    for contrast in result.contrasts:
        assert contrast.paired == 4
        assert contrast.ratio.value == pytest.approx(truths[contrast.base, contrast.run], rel=1e-6)
    assert result.differs["members"] == ("rho_k(0) 1", "rho_k(0) 2", "rho_k(0) 2", "rho_k(0) 1")
    said, a, b = " ".join(verdicts(result)), first.stem, second.stem
    factors = f"4 [4, 4] under {a} (GD, rho_k(0) 2); 2 [2, 2] under {b} (SGD, rho_k(0) 1)"
    assert f"more than under {a} (GD, rho_k(0) 1), by factors of {factors}" in said
    assert f"5 times as much under {b} (SGD, rho_k(0) 2) as under {a} (GD, rho_k(0) 2)" in said


def test_members_of_different_rates_are_groups_of_one_run(planted):
    rates = np.repeat([0.05, 0.1], 3)
    base = noise(0.01, 3, 62)
    run = planted(np.hstack([base, 3 * base]), rates=rates, seeds=np.tile(np.arange(3), 2))
    with open_trace(run) as trace:
        result = alone(trace)
    assert [side.group for side in result.sides] == ["lr 0.05", "lr 0.1"]
    assert [len(side.each) for side in result.sides] == [3, 3]
    assert contrast_of(result, "A2A1").ratio.value == pytest.approx(3, rel=0.2)


def test_points_of_different_starts_are_no_line_in_the_noise_scale(planted):
    base = noise(0.01, 3, 63, rows=1000)
    result = compared(planted(base, batch=8), planted(9 * base, batch=16, starts=2.0))
    assert result.exponents == ()


def test_members_that_share_a_seed_count_once_in_every_interval(planted):
    sizes = np.array([0.01, 0.04, 0.03])
    once = planted(noise(1.0, 3, 64) * sizes)
    twice = planted(np.repeat(noise(1.0, 3, 64) * sizes, 2, axis=1), seeds=np.repeat(np.arange(3), 2))
    alone_once, doubled = (compared(path, planted(noise(0.02, 3, 65))).sides[0] for path in (once, twice))
    for name in ("T", "offset", "std", "std_rho_eq"):
        first, second = getattr(alone_once, name), getattr(doubled, name)
        np.testing.assert_allclose([second.low, second.high], [first.low, first.high], rtol=1e-9)
    result = compared(twice, once)
    assert f"{twice.stem}: 6 members have 3 distinct seeds" in " ".join(cautions(result))


# --- more than two -----------------------------------------------------------------------------------------


def test_three_runs_are_compared_with_the_first(planted):
    result = compared(*(planted(noise(std, 4, seed)) for std, seed in ((0.02, 20), (0.01, 52), (0.06, 22))))
    assert [side.letter for side in result.sides] == ["A", "B", "C"]
    assert [(c.base, c.run) for c in result.contrasts] == [("A", "B"), ("A", "C")]
    for letters, truth in (("BA", 0.5), ("CA", 3)):
        ratio = contrast_of(result, letters).ratio
        assert ratio.low < truth < ratio.high
    a, b, c = files(result)
    assert labels(result.sides) == {"A": f"{a} (GD)", "B": f"{b} (GD)", "C": f"{c} (GD)"}
    said = verdicts(result)
    assert sum(f"under {a} (GD) as under {b} (GD)" in line for line in said) == 1
    assert sum(f"under {c} (GD) as under {a} (GD)" in line for line in said) == 1


def test_what_the_recipes_differ_in_is_listed_with_each_value(planted):
    series = noise(0.01, 3, 24, rows=1000)
    result = compared(planted(series), planted(series, batch=10, lr=0.1), planted(series, batch=20))
    assert result.differs["optimizer.kind"] == ("gd", "sgd", "sgd")
    assert result.differs["optimizer.batch_size"] == (None, 10, 20)
    assert result.differs["optimizer.lr"] == (0.05, 0.1, 0.05)
    assert labels(result.sides)["B"] == f"{files(result)[1]} (SGD, lr 0.1, b 10)"


def test_a_pair_that_differs_in_sampling_alone_has_its_own_contrast(planted):
    result = compared(
        planted(noise(0.01, 4, 52)),
        planted(noise(0.06, 4, 26), batch=10, sampling="with-replacement"),
        planted(noise(0.03, 4, 27), batch=10, sampling="shuffled"),
        planted(noise(0.03, 4, 28), batch=20, sampling="shuffled"),
    )
    assert [(c.base, c.run) for c in result.contrasts] == [("A", "B"), ("A", "C"), ("A", "D"), ("B", "C")]
    ratio = contrast_of(result, "CB").ratio
    assert ratio.low < 0.5 < ratio.high
    assert "with replacement" in labels(result.sides)["B"]
    assert "shuffled" in labels(result.sides)["C"]


def test_shuffled_epochs_are_compared_with_replacement_whichever_comes_first(planted):
    replaced = planted(noise(0.06, 3, 29, 1000), batch=10, sampling="with-replacement")
    shuffled = planted(noise(0.03, 3, 30, 1000), batch=10, sampling="shuffled")
    first, second = compared(replaced, shuffled), compared(shuffled, replaced)
    assert [(c.base, c.run) for c in first.contrasts] == [("A", "B")]
    assert contrast_of(second, "AB").ratio == contrast_of(first, "BA").ratio
    for result in (first, second):
        words = f"Shuffled epochs ({shuffled.stem}) against draws with replacement ({replaced.stem})"
        assert sum(line.startswith(words) for line in verdicts(result)) == 1


def test_runs_that_differ_in_more_than_their_sampling_do_not_show_its_effect(planted, template):
    network = {**json.loads(template[1]["recipe_json"])["network"], "width": 9}
    result = compared(
        planted(noise(0.06, 3, 29, 1000), batch=10, sampling="with-replacement"),
        planted(noise(0.03, 3, 30, 1000), batch=10, sampling="shuffled", recipe={"network": network}),
    )
    assert not any(line.startswith("Shuffled epochs") for line in verdicts(result))


def test_the_exponent_against_the_noise_scale_is_recovered(planted):
    settings = [(0.05, 10), (0.05, 40), (0.2, 10), (0.2, 40)]
    base = noise(1.0, 4, 30, rows=2000)
    runs = [planted(0.3 * (lr / b) ** 0.5 * base, lr=lr, batch=b) for lr, b in settings]
    result = compared(planted(noise(0.01, 4, 52)), *runs)
    (exponent,) = result.exponents
    assert (exponent.optimizer, exponent.sampling, exponent.members, exponent.paired) == ("sgd", "shuffled", 16, 4)
    assert exponent.joint.value == pytest.approx(0.5, abs=1e-3)
    assert exponent.lr.value == pytest.approx(0.5, abs=1e-3)
    assert exponent.batch.value == pytest.approx(0.5, abs=1e-3)
    assert any("goes as (eta/b)^0.50" in line for line in verdicts(result))


def test_an_exponent_that_is_not_a_half_is_said_to_be_another(planted):
    base = noise(1.0, 3, 32, rows=1000)
    own = np.exp(0.02 * np.random.default_rng(0).standard_normal((4, 3)))
    runs = [planted(base * own[k] * 0.1 / b, batch=b) for k, b in enumerate((2, 4, 8, 16))]
    result = compared(*runs)
    assert result.exponents[0].joint.low > 0.9
    assert any("goes as (eta/b)^1.0" in line and "outside the interval" in line for line in verdicts(result))


@pytest.mark.parametrize("case", ["few points", "stuck"])
def test_no_sentence_holds_a_number_that_is_none(planted, case):
    if case == "few points":
        base = noise(1.0, 1, 33, rows=1000)
        settings = ((1.0, 0.05, 10), (1.03, 0.1, 10), (0.98, 0.1, 40))
        runs = [planted(base * k * 0.3 * (lr / b) ** 0.5, lr=lr, batch=b) for k, lr, b in settings]
    else:
        runs = [
            planted(np.full((1000, 3), np.log(0.01)), batch=10, sampling="with-replacement"),
            planted(noise(0.03, 3, 30, 1000), batch=10, sampling="shuffled"),
        ]
    result = compared(*runs)
    assert [line for line in [*verdicts(result), *cautions(result)] if "nan" in line] == []


# --- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 21])
def test_too_few_or_too_many_runs_are_refused(planted, count):
    with open_trace(planted(noise(0.01, 1, 34, rows=300))) as trace, pytest.raises(AnalysisError, match="2 to 20"):
        compare([trace] * count)


def test_the_same_run_twice_is_refused(planted, tmp_path):
    run, other = planted(noise(0.01, 3, 43)), planted(noise(0.02, 3, 44))
    with pytest.raises(AnalysisError, match="the same run twice"):
        compared(run, other, run)
    link = tmp_path / "link.h5"
    link.symlink_to(run)
    with pytest.raises(AnalysisError, match="the same run twice"):
        compared(run, link)


def test_runs_on_different_data_are_refused_by_their_names(planted):
    runs = [planted(noise(0.01, 3, 43)), planted(noise(0.02, 3, 44))]
    odd = planted(noise(0.01, 3, 12, 500), data_digest="other")
    with pytest.raises(AnalysisError, match="different data") as caught:
        compared(*runs, odd)
    assert str(runs[0]) in str(caught.value)
    assert str(odd) in str(caught.value)
    assert str(runs[1]) not in str(caught.value)


def test_a_run_without_steps_is_refused(planted):
    with pytest.raises(AnalysisError, match="committed steps"):
        compared(planted(noise(0.01, 3, 43)), planted(noise(0.01, 3, 12, 1)))


# --- windows and time --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        (None, None),
        ("2000:6000", (2000, 6000)),
        ("2000:", (2000, np.inf)),
        (":6000", (0, 6000)),
        ("0.5:1e3", (0.5, 1000)),
    ],
)
def test_a_window_is_read_from_its_ends(text, ends):
    assert chosen_window(text) == ends


@pytest.mark.parametrize("text", ["", "2000", "6000:2000", "5:5", "-1:5", "a:b", "1:2:3", "nan:5", "5:nan", "inf:"])
def test_a_window_that_is_none_is_refused_in_its_own_words(text):
    with pytest.raises(AnalysisError, match="expected FIRST:LAST") as caught:
        chosen_window(text)
    assert repr(text) in str(caught.value)


def test_a_window_in_steps_is_kept_and_never_begins_before_T(planted):
    runs = [planted(noise(0.01, 2, 38)), planted(noise(0.02, 2, 36), crossing=1200)]
    result = compared(*runs, window=(1000, 2500))
    assert {m.fluctuation.window for m in result.sides[0].each} == {(1000, 2500)}
    assert {m.fluctuation.window for m in result.sides[1].each} == {(1200, 2500)}
    assert result.sides[0].T.value == pytest.approx(CROSSING, abs=1)


def test_in_time_everything_counts_in_the_learning_rate(planted):
    t = np.arange(3000)[:, None]
    dying = noise(1.0, 3, 37) * 0.1 * np.exp(-t / 1000)
    path = planted(dying, lr=0.2)
    with open_trace(path) as trace:
        step, time = examine(RunSeries(trace), align="step"), examine(RunSeries(trace), align="time")
    assert {m.unit for m in step.each} == {1.0}
    assert {m.unit for m in time.each} == {0.2}
    assert time.T.value == pytest.approx(0.2 * step.T.value)
    assert step.T.value == pytest.approx(CROSSING, abs=1)
    for name in ("value", "low", "high"):
        assert getattr(time.decay.rate, name) == pytest.approx(getattr(step.decay.rate, name) / 0.2)
    assert step.decay.rate.value == pytest.approx(-1 / 1000, rel=0.05)
    assert time.decay.power == step.decay.power
    assert time.std == step.std
    assert time.spectrum.frequency == pytest.approx(step.spectrum.frequency / 0.2)
    assert time.spectrum.density == pytest.approx(step.spectrum.density * 0.2)


def test_a_window_in_time_is_at_other_steps_for_another_rate(planted):
    runs = [planted(noise(0.01, 2, 38)), planted(noise(0.01, 2, 39), lr=0.1)]
    result = compared(*runs, align="time", window=(50, 100))
    assert {m.fluctuation.window for m in result.sides[0].each} == {(1000, 2000)}
    assert {m.fluctuation.window for m in result.sides[1].each} == {(500, 1000)}
    assert not any("do not overlap" in c for c in cautions(result))


def test_memories_are_compared_over_shared_seeds(planted):
    fast = planted(noise(0.01, 3, 43))
    slow = np.stack([ar1(6000, 0.95, 0.01, np.random.default_rng([k, 6])) for k in range(3)], axis=1)
    (contrast,) = compared(fast, planted(slow)).contrasts
    assert contrast.tau.value == pytest.approx(39 / 9, rel=0.3)


def test_transients_are_compared_in_time(planted):
    runs = [planted(noise(0.01, 3, 43)), planted(noise(0.01, 3, 41), lr=0.1, crossing=400)]
    assert compared(*runs).contrasts[0].transients.value == pytest.approx(2, rel=0.01)
    assert compared(*runs, align="time").contrasts[0].transients.value == pytest.approx(4, rel=0.01)


def test_the_spectrum_of_a_run_is_that_of_its_fluctuation(planted):
    with open_trace(planted(noise(0.03, 3, 42, rows=8000))) as trace:
        spectrum = examine(RunSeries(trace)).spectrum
    truth = 0.03**2 * 2 * (1 - 0.64) / (1.64 - 1.6 * np.cos(2 * np.pi * spectrum.frequency))
    assert (spectrum.density / truth)[2:-1].mean() == pytest.approx(1, abs=0.05)


# --- cautions ----------------------------------------------------------------------------------------------


def test_like_runs_get_no_caution(planted):
    assert cautions(compared(planted(noise(0.01, 3, 43)), planted(noise(0.02, 3, 44)))) == []


def test_different_learning_rates_are_cautioned_about_in_steps(planted):
    runs = [planted(noise(0.01, 3, 43)), planted(noise(0.01, 3, 46), lr=0.1)]
    assert any("the learning rates differ" in c for c in cautions(compared(*runs)))
    assert not any("the learning rates differ" in c for c in cautions(compared(*runs, align="time")))


def test_windows_that_do_not_overlap_are_cautioned_about(planted):
    runs = [planted(noise(0.01, 3, 43)), planted(noise(0.01, 3, 48), lr=2.0)]
    assert any("do not overlap in time" in c for c in cautions(compared(*runs, align="time")))
    assert not any("do not overlap" in c for c in cautions(compared(*runs)))


def test_different_networks_are_cautioned_about(planted, template):
    network = {**json.loads(template[1]["recipe_json"])["network"], "width": 9}
    result = compared(planted(noise(0.01, 3, 43)), planted(noise(0.01, 3, 50), recipe={"network": network}))
    assert any("the networks differ (network.width)" in c for c in cautions(result))


def test_an_alternation_is_called_an_oscillation(planted):
    stepping = 0.02 * (-1.0) ** np.arange(3000)[:, None] + noise(1e-3, 3, 9)
    result = compared(planted(stepping), planted(noise(0.01, 3, 43)))
    (said,) = (c for c in cautions(result) if "alternates from step to step" in c)
    assert said.partition(": ")[0] == files(result)[0]
    assert "the cause was not measured" in said
    assert "edge" not in said


def test_a_fluctuation_that_swells_is_cautioned_about(planted):
    swelling = noise(0.01, 3, 14) * np.linspace(0.1, 3, 3000)[:, None]
    result = compared(planted(swelling), planted(noise(0.01, 3, 43)))
    a, b = files(result)
    assert any(c.startswith(f"{a}: ") and "depends on when the run ends" in c for c in cautions(result))
    assert not any(c.startswith(f"{b}: ") for c in cautions(result))


def test_a_short_window_is_cautioned_about(planted):
    short = np.stack([ar1(500, 0.97, 0.01, np.random.default_rng(k)) for k in range(3)], axis=1)
    result = compared(planted(short), planted(noise(0.01, 3, 43)))
    found, a = cautions(result), files(result)[0]
    assert any(c.startswith(f"{a}: the window is under 50 autocorrelation times in 3 of 3") for c in found)


# --- verdicts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gd", "sgd", "words"),
    [(0.01, 0.05, "as the memo's remark 5 says"), (0.05, 0.01, "against the memo's remark 5")],
)
def test_remark_five_is_named_for_and_against(planted, gd, sgd, words):
    result = compared(planted(noise(gd, 4, 52)), planted(noise(sgd, 4, 53), batch=10))
    more, less = ("SGD", "GD") if sgd > gd else ("GD", "SGD")
    assert f"times as much under {more} as under {less} (95 % interval" in verdicts(result)[0]
    assert words in verdicts(result)[0]
    swapped = verdicts(compared(*(Path(side.path) for side in result.sides[::-1])))[0]
    assert words in swapped
    assert f"under {more} as under {less}" in swapped


def test_remark_five_is_not_named_between_like_optimizers(planted):
    result = compared(planted(noise(0.01, 4, 52)), planted(noise(0.05, 4, 52)))
    assert not any("remark 5" in line for line in verdicts(result))


def test_the_verdict_says_that_rho_eq_moves_where_log_rho_is_still(planted):
    result = compared(planted(noise(0.01, 4, 52)), planted(noise(0.05, 4, 52)))
    assert result.sides[1].std_rho_eq.value == pytest.approx(0.05, rel=0.1)
    assert result.sides[1].std_rho.value < 1e-6
    assert "mostly rho_eq that moves" in verdicts(result)[0]


def test_a_dying_fluctuation_is_said_to_die_with_its_half_life(planted):
    t = np.arange(4000)
    size = np.exp(-t / 1000)
    dying = planted(noise(0.1, 4, 54, 4000) * size[:, None], loss=(0.2 * size**2)[:, None], batch=10)
    result = compared(dying, planted(noise(0.01, 4, 52)))
    assert dies(result.sides[0])
    assert not dies(result.sides[1])
    (said,) = [line for line in verdicts(result) if "the fluctuation dies" in line]
    assert said.startswith("Under SGD")
    half_life = float(said.partition("halving every ")[2].split()[0])
    assert half_life == pytest.approx(np.log(2) * 1000, rel=0.06)
    assert "as loss^0.50" in said or "as loss^0.49" in said or "as loss^0.51" in said
    against = result.sides[0].decay.against_loss
    assert against.value == pytest.approx(0.5, abs=0.03)


def test_a_fluctuation_that_grows_does_not_die(planted):
    growing = noise(0.01, 3, 56) * np.exp(np.arange(3000) / 1000)[:, None]
    with open_trace(planted(growing)) as trace:
        side = examine(RunSeries(trace))
    assert side.decay.fall > 2
    assert not dies(side)


def test_runs_are_compared_in_one_window_although_one_is_far_longer(planted):
    """The longer run's own window would start after the end of the shorter one."""
    long, short = noise(0.02, 3, 71), noise(0.05, 3, 72)[:1200]
    long[: len(long) // 2] += np.linspace(0.5, 0.0, len(long) // 2)[:, None]
    result = compared(planted(long), planted(short, batch=10))
    assert result.window is not None
    assert result.window[1] == 1199
    windows = {m.fluctuation.window for side in result.sides for m in side.each}
    assert windows == {tuple(map(int, result.window))}
    assert not any("the windows do not overlap" in caution for caution in cautions(result))


def test_drift_is_told_from_fluctuation_by_the_choice_of_window_and_trend(planted):
    """GD drifts along a curve with a hundredth of SGD's noise: the ratio about a line is that of the curve's bend."""
    rows = len(noise(0.05, 4, 73))
    time = np.linspace(0, 1, rows)[:, None]
    drift = -0.03 - 0.06 * time + 0.03 * time**4
    gd, sgd = drift + noise(0.0005, 4, 74), drift + noise(0.05, 4, 75)
    result = compared(planted(gd), planted(sgd, batch=10))
    contrast, (first, second) = result.contrasts[0], result.sides
    by = {(c.share, c.trend): c.ratio.value for c in contrast.choices}
    assert len(by) == 16
    assert by[0.75, "running mean"] == pytest.approx(100, rel=0.15)
    assert by[0.0, "mean"] < 10
    assert max(second.choices) < 1.2 * min(second.choices)
    assert max(first.choices) > 10 * min(first.choices)
    said = " ".join(verdicts(result))
    assert not first.settled
    assert "as the memo's remark 5 says" not in said
    assert "Remark 5 is not decided in this window, because GD has not settled at rho_eq" in said
    assert "under GD it is drift and not fluctuation" in said
    about_zero = np.sqrt(np.mean(sgd[-1000:] ** 2) / np.mean(gd[-1000:] ** 2))
    assert contrast.distance.value == pytest.approx(about_zero, rel=0.2)


def test_choices_are_those_of_a_polynomial_fit(planted):
    found = compared(planted(noise(0.01, 3, 76)), planted(noise(0.05, 3, 77), batch=10))
    run, member = found.sides[1], found.sides[1].each[2]
    with open_trace(Path(run.path)) as trace:
        delta = -np.log(trace["rho_eq_over_rho"][:, 2])[CROSSING:]
    late = delta[len(delta) // 2 :]
    fitted = np.polyval(np.polyfit(np.arange(len(late)), late, 3), np.arange(len(late)))
    assert member.choices[2 * 4 + 2] == pytest.approx((late - fitted).std(), rel=0.02)


def test_what_was_asked_for_and_is_not_there_comes_first(planted):
    result = compared(planted(noise(0.01, 3, 78)), planted(noise(0.05, 3, 79), batch=10))
    without = replace(result.sides[1], no_prediction={0: "no snapshot", 2: "no snapshot"})
    result = replace(result, sides=(result.sides[0], without))
    name = files(result)[1]
    assert cautions(result)[0] == f"{name}: no prediction for member 0, 2: no snapshot"
    blocks = [block for block in answers(result) if isinstance(block, Paragraph)]
    assert blocks[0].text == cautions(result)[0]
    assert sum(name in block.text and "no prediction" in block.text for block in blocks) == 1


# --- real runs ---------------------------------------------------------------------------------------------

HARD = (
    "data={dataset: mnist, classes: [4, 9], train: 60, test: 20, label_noise: 0.3}",
    *("network.width=8", "init.rho_k=2.0", "members.seeds=3", "steps=1200", "record.test_every=4000"),
)


@pytest.fixture(scope="module")
def sgd(tmp_path_factory):
    """A small run of SGD on noisy labels, with the full training set's sums at every other step."""
    from small import SMALL

    from rhotrace.config import recipe
    from rhotrace.training.train import train

    path = tmp_path_factory.mktemp("sgd") / "sgd.h5"
    optimizer = "optimizer={kind: sgd, lr: 0.01, batch_size: 5, sampling: with-replacement}"
    train(recipe.parse(SMALL, [*HARD, optimizer, "record.full_every=2"]), path, device="cpu")
    return path


def test_sgd_fluctuates_more_than_gd_on_real_noisy_labels(train, sgd):
    result = compared(train(*HARD, "optimizer={kind: gd, lr: 0.01}"), sgd)
    assert result.differs["optimizer.kind"] == ("gd", "sgd")
    assert result.contrasts[0].ratio.low > 1, result
    assert not result.sides[0].settled
    assert "as the memo's remark 5 says" not in " ".join(verdicts(result))
    assert verdicts(result)[1].startswith("Remark 5 is not decided in this window, because GD has not settled")
    assert {m.frozen for m in result.sides[0].each} == {0.0}


def test_the_frozen_number_is_the_variance_that_the_traced_sums_build_up(sgd):
    with open_trace(sgd) as trace:
        side = examine(RunSeries(trace))
        arrays = {name: trace[name] for name in ("a", "q", "batch_a", "batch_q", "rho_k")}
        run = RunSeries(trace)
        steps, deltas = run.steps, run.delta
    assert side.each
    for member in side.each:
        m, (first, last) = member.fluctuation.member, member.fluctuation.window
        S, q, kicks = [], [], []
        for row, step in enumerate(steps):
            if first <= step <= last:
                S.append(sum(1 / norm**2 for norm in arrays["rho_k"][step, m]))
                q.append(arrays["q"][row, m])
                over_batch = arrays["batch_a"][step, m] - arrays["batch_q"][step, m]
                kicks.append(over_batch - (arrays["a"][row, m] - arrays["q"][row, m]))
        kick, memory = 2 * 0.01 * np.mean(S), 1 - 2 * 0.01 * np.mean(S) * np.mean(q)
        variance = 0.0
        for _ in range(20_000):
            variance = memory**2 * variance + kick**2 * np.mean(np.square(kicks))
        assert member.frozen == pytest.approx(np.sqrt(variance), rel=1e-6)
        assert member.fluctuation.quantiles[2] == pytest.approx(
            np.median(deltas[(steps >= first) & (steps <= last), m])
        )
    ratios = [member.fluctuation.std.value / member.frozen for member in side.each]
    assert side.over_frozen.value == pytest.approx(np.prod(ratios) ** (1 / len(ratios)))


# --- command line ------------------------------------------------------------------------------------------


def test_the_comparison_as_json_has_its_words_and_numbers(planted, command):
    runs = [
        planted(noise(0.01, 3, 43)),
        planted(noise(0.05, 3, 58), batch=10),
        planted(noise(0.02, 3, 59), batch=20),
    ]
    code, out, err = command("compare", *runs, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    a, b, c = (run.stem for run in runs)
    assert found["labels"] == {"A": f"{a} (GD)", "B": f"{b} (SGD, b 10)", "C": f"{c} (SGD, b 20)"}
    assert any("as the memo's remark 5 says" in line for line in found["verdicts"])
    assert isinstance(found["cautions"], list)
    assert [side["path"] for side in found["sides"]] == [str(run) for run in runs]
    assert [c["run"] for c in found["contrasts"]] == ["B", "C"]
    assert found["contrasts"][0]["ratio"]["low"] < 5 < found["contrasts"][0]["ratio"]["high"]
    assert found["exponents"][0]["lr"]["value"] is None
    frequencies = found["sides"][0]["spectrum"]["frequency"]
    assert len(frequencies) == len(found["sides"][0]["spectrum"]["density"]) > 10


def test_members_prints_a_row_for_each(planted, command):
    runs = [planted(noise(0.01, 3, 43)), planted(noise(0.02, 2, 64))]
    a, b = (run.stem for run in runs)

    def rows(text: str) -> list[list[str]]:
        below = text.partition("Each member")[2].splitlines()
        return [words[:3] for words in map(str.split, below) if words[:1] in ([a], [b])]

    code, out, _ = command("compare", *runs, "--members")
    assert code == 0
    assert rows(out) == [[a, "0", "0"], [a, "1", "1"], [a, "2", "2"], [b, "0", "0"], [b, "1", "1"]]
    code, out, _ = command("compare", *runs)
    assert code == 0
    assert "Each member" not in out
    assert f"{b} over {a}: fluctuation" in out


def test_the_window_and_time_reach_the_comparison(planted, command):
    runs = [planted(noise(0.01, 3, 46), lr=0.1), planted(noise(0.01, 3, 66), lr=0.1)]
    code, out, _ = command("compare", *runs, "--json", "--align", "time", "--window", "100:200", "--theta", "0.9")
    assert code == 0
    found = json.loads(out)
    assert found["align"] == "time"
    assert found["sides"][0]["each"][0]["fluctuation"]["window"] == [1000, 2000]
    assert found["sides"][0]["T"]["value"] == pytest.approx(0.1 * CROSSING, abs=0.1)


BAD = pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--theta", "1.5"), "--theta: got 1.5"),
        (("--theta", "0"), "--theta: got 0"),
        (("--window", "6000:2000"), "--window: got '6000:2000'"),
        (("--window", "late"), "--window: got 'late'"),
    ],
)


def test_a_misspelt_choice_is_answered_with_the_choices(planted, command):
    code, out, err = command("compare", planted(noise(0.01, 2, 67, 300)), "--align", "epochs")
    assert (code, out) == (2, "")
    assert "'epochs' is not one of 'step', 'time'" in err


@BAD
def test_a_bad_option_ends_with_one_line(planted, command, words, said):
    runs = [planted(noise(0.01, 2, 67 + k, 300)) for k in range(2)]
    code, out, err = command("compare", *runs, *words)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_another_unit_of_time_is_refused(command):
    code, out, err = command("compare", "a.h5", "b.h5", "--align", "epochs")
    assert (code, out) == (2, "")
    assert "'epochs' is not one of" in err


def test_one_run_alone_ends_with_one_line(planted, command):
    code, _, err = command("compare", planted(noise(0.01, 2, 67, 300)))
    assert code == 2
    assert err == "error: got 1 run, expected 2 to 20 to compare\n"
