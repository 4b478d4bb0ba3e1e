from __future__ import annotations

import itertools

import numpy as np
import pytest

from rhotrace.analysis.fluctuation.noise_scale_exponent import Exponent, Point, exponents

RATES = (0.01, 0.02, 0.05)
BATCHES = (5, 20, 40)
GRID = tuple(itertools.product(RATES, BATCHES))


def planted(
    settings: tuple[tuple[float, int], ...],
    *,
    seeds: int = 5,
    lr_power: float = 0.5,
    batch_power: float = 0.5,
    scatter: float = 0.03,
    trial: int = 0,
    optimizer: str = "sgd",
    sampling: str = "shuffled",
) -> list[Point]:
    """std = c_seed eta^p b^-r times noise, with a constant of its own, up to a factor 4, for every seed."""
    rng = np.random.default_rng([trial, 11])
    own = np.exp(rng.uniform(-0.7, 0.7, seeds))
    return [
        Point(
            optimizer,
            sampling,
            seed,
            lr,
            batch,
            float(own[seed] * lr**lr_power * batch**-batch_power * np.exp(scatter * rng.standard_normal())),
        )
        for lr, batch in settings
        for seed in range(seeds)
    ]


def only(points: list[Point]) -> Exponent:
    (found,) = exponents(points)
    return found


def test_planted_exponents_are_recovered_over_a_grid():
    found = only(planted(GRID))
    assert (found.members, found.paired) == (45, 5)
    for exponent in (found.joint, found.lr, found.batch):
        assert exponent.low < exponent.value < exponent.high
        assert exponent.value == pytest.approx(0.5, abs=0.04)
    assert found.scales == tuple(sorted({lr / b for lr, b in GRID}))


def test_intervals_hold_the_truth_in_most_trials():
    trials = 60
    found = [only(planted(GRID, trial=trial)) for trial in range(trials)]
    for name in ("joint", "lr", "batch"):
        covered = sum(getattr(f, name).low <= 0.5 <= getattr(f, name).high for f in found)
        assert covered >= 51  # 57 of 60 expected, three and a half standard deviations below


def test_rate_and_batch_have_exponents_of_their_own():
    found = only(planted(GRID, lr_power=0.8, batch_power=0.3))
    assert found.lr.value == pytest.approx(0.8, abs=0.04)
    assert found.batch.value == pytest.approx(0.3, abs=0.04)
    assert 0.3 < found.joint.value < 0.8


def test_the_level_is_the_factor_before_the_law():
    points = [Point("sgd", "shuffled", s, lr, b, 0.7 * (lr / b) ** 0.5) for lr, b in GRID for s in range(3)]
    found = only(points)
    assert found.level == pytest.approx(0.7)
    assert found.joint.value == pytest.approx(0.5)


def test_pairing_over_seeds_takes_their_levels_out():
    points = planted(tuple((0.01, b) for b in BATCHES), scatter=0.01)
    paired = only(points)
    numbered = itertools.count()
    alone = only([Point(p.optimizer, p.sampling, next(numbered), p.lr, p.batch, p.std) for p in points])
    assert (paired.paired, alone.paired) == (5, 0)
    assert paired.joint.value == pytest.approx(alone.joint.value)
    assert alone.joint.high - alone.joint.low > 5 * (paired.joint.high - paired.joint.low)


def test_where_only_the_batch_varied_the_exponent_of_the_rate_is_unknown():
    found = only(planted(tuple((0.01, b) for b in BATCHES)))
    assert np.isnan([found.lr.value, found.lr.low, found.lr.high]).all()
    assert found.batch.value == pytest.approx(0.5, abs=0.04)
    assert found.batch.value == pytest.approx(found.joint.value)


def test_where_only_the_rate_varied_the_exponent_of_the_batch_is_unknown():
    found = only(planted(tuple((lr, 10) for lr in RATES)))
    assert np.isnan(found.batch.value)
    assert found.lr.value == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize(
    "settings",
    [((0.01, 40), (0.02, 20), (0.04, 10)), ((0.01, 4), (0.04, 8), (0.16, 16)), ((0.01, 40), (0.05, 10))],
)
def test_rate_and_batch_that_changed_together_are_not_separated(settings):
    found = only(planted(settings))
    assert np.isnan([found.lr.value, found.batch.value]).all()
    assert found.joint.value == pytest.approx(0.5, abs=0.05)
    assert np.isfinite(found.joint.low)


def test_each_optimizer_and_sampling_has_its_own_fit():
    settings = tuple((0.01, b) for b in BATCHES)
    points = [
        *planted(settings, batch_power=0.5, sampling="with-replacement"),
        *planted(settings, batch_power=1.0, sampling="shuffled"),
        *planted(settings, batch_power=0.2, optimizer="weight-norm"),
    ]
    np.random.default_rng(0).shuffle(points)
    found = {(f.optimizer, f.sampling): f for f in exponents(points)}
    assert set(found) == {("sgd", "with-replacement"), ("sgd", "shuffled"), ("weight-norm", "shuffled")}
    assert found["sgd", "with-replacement"].joint.value == pytest.approx(0.5, abs=0.05)
    assert found["sgd", "shuffled"].joint.value == pytest.approx(1.0, abs=0.05)
    assert found["weight-norm", "shuffled"].joint.value == pytest.approx(0.2, abs=0.05)


def test_the_order_of_the_points_does_not_matter():
    points = planted(GRID)
    assert only(points[::-1]).joint.value == pytest.approx(only(points).joint.value)


@pytest.mark.parametrize("settings", [((0.01, 10),), ((0.25, 10), (0.5, 20), (1.0, 40))])
def test_one_noise_scale_gives_nothing(settings):
    assert exponents(planted(settings)) == ()


def test_no_points_give_nothing():
    assert exponents([]) == ()


def test_noise_scales_that_differ_by_rounding_are_one():
    settings = ((0.05, 4), (0.15, 12))
    assert len({lr / b for lr, b in settings}) == 2
    assert exponents(planted(settings)) == ()


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_share_one_line(seeds):
    found = only(planted(GRID, seeds=seeds))
    x = np.log([lr / b for lr, b in GRID for _ in range(seeds)])
    y = np.log([p.std for p in planted(GRID, seeds=seeds)])
    assert found.paired == 0
    assert found.joint.value == pytest.approx(np.polyfit(x, y, 1)[0])
    assert found.joint.low < 0.5 < found.joint.high


def test_a_line_through_two_points_has_no_interval():
    found = only(planted(((0.01, 5), (0.01, 20)), seeds=1))
    assert np.isfinite(found.joint.value)
    assert np.isnan([found.joint.low, found.joint.high]).all()


def test_a_seed_that_is_missing_somewhere_is_used_where_it_is():
    points = [p for p in planted(GRID) if p.seed != 4 or p.lr != 0.02]
    found = only(points)
    assert (found.members, found.paired) == (42, 5)
    assert found.joint.value == pytest.approx(0.5, abs=0.04)
