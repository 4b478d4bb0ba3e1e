"""Plateaus: planted staircases of known times and levels, with and without noise, and curves that have none."""

import numpy as np
import pytest
from scipy.ndimage import median_filter
from scipy.signal import find_peaks

from rhotrace.analysis.plateaus import arrival, median, plateaus, prominent, without_spikes

STEPS = np.arange(6000)


def staircase(levels, times, width):
    """A loss at ``levels``, with a smooth fall about each of ``times``."""
    falls = [
        (above - below) / (1 + np.exp(-(STEPS - t) / width))
        for above, below, t in zip(levels[:-1], levels[1:], times, strict=True)
    ]
    return levels[0] - np.sum(falls, axis=0)


def reaches(time, width, share):
    """When a fall about ``time`` is done by this share."""
    return time + width * np.log(share / (1 - share))


NOISE = {
    "none": (0.0, lambda _: np.zeros(len(STEPS))),
    "white": (0.01, lambda rng: 0.01 * rng.standard_normal(len(STEPS))),
    "correlated": (0.01, lambda rng: _ar1(rng, 0.95, 0.01)),
    "spikes": (0.0, lambda rng: np.where(rng.random(len(STEPS)) < 0.002, 3.0, 0.0)),
}


def _ar1(rng, memory, std):
    noise = np.zeros(len(STEPS))
    for i, kick in enumerate(rng.standard_normal(len(STEPS)) * std * np.sqrt(1 - memory**2)):
        noise[i] = memory * noise[i - 1] + kick
    return noise


STAIRCASES = {
    "one": ([1.0, 0.01], [2000], 20),
    "two": ([1.0, 0.5, 0.005], [3600, 5200], 15),
    "small first": ([1.0, 0.9, 0.02], [700, 1900], 15),
    "four": ([1.0, 0.75, 0.45, 0.2, 0.01], [500, 1300, 2600, 4400], 10),
}


@pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE)
@pytest.mark.parametrize("planted", STAIRCASES.values(), ids=STAIRCASES)
def test_a_planted_staircase_is_found_at_its_times_and_levels(planted, noise):
    (levels, times, width), (std, draw) = planted, noise
    for seed in range(5):
        loss = staircase(levels, times, width) + draw(np.random.default_rng(seed))
        found = plateaus(STEPS, loss)
        np.testing.assert_allclose([p.level for p in found], levels, atol=0.01)
        gaps = -np.diff(levels)
        near = [max(0.1 * min(gaps[max(k - 1, 0) : k + 1]), 2 * std) for k in range(len(levels))]  # of each level
        leaves = [reaches(t, width, near[k] / gaps[k]) for k, t in enumerate(times)]
        arrives = [reaches(t, width, 1 - near[k + 1] / gaps[k]) for k, t in enumerate(times)]
        slack = (6 if std else 2) * width
        np.testing.assert_allclose([p.last for p in found[:-1]], leaves, atol=slack)
        np.testing.assert_allclose([p.first for p in found[1:]], arrives, atol=slack)
        assert found[0].first <= 5
        assert found[-1].last == STEPS[-1]


@pytest.mark.parametrize("stride", [1, 7])
def test_the_unit_of_time_and_of_the_loss_do_not_matter(stride):
    loss = staircase([1.0, 0.5, 0.005], [3600, 5200], 15)
    found = plateaus(STEPS[::stride] * 10, 30 * loss[::stride])
    assert [p.level for p in found] == pytest.approx([30, 15, 0.15], abs=0.3)
    assert [p.last // 10 for p in found[:-1]] == pytest.approx([3567, 5167], abs=10)


@pytest.mark.parametrize(
    "loss",
    [
        1 / (1 + STEPS / 50),
        np.exp(-STEPS / 300),
        (1 + STEPS) ** -0.3,
        1 - 0.9 * STEPS / STEPS[-1],
    ],
    ids=["1/t", "exponential", "power", "linear"],
)
def test_a_steady_decay_has_no_steps(loss):
    assert len(plateaus(STEPS, loss)) <= 1
    noisy = loss * (1 + 0.02 * np.random.default_rng(0).standard_normal(len(STEPS)))
    assert len(plateaus(STEPS, noisy)) <= 1


def test_a_fluctuating_end_is_one_plateau():
    for seed in range(10):
        loss = staircase([1.0, 0.3], [1500], 40) + _ar1(np.random.default_rng(seed), 0.98, 0.03)
        assert [p.level for p in plateaus(STEPS, loss)] == pytest.approx([1.0, 0.3], abs=0.03)


def test_a_run_that_ends_in_a_fall_has_left_its_last_plateau():
    loss = staircase([1.0, 0.9, 0.1], [700, 5950], 30)
    found = plateaus(STEPS, loss)
    assert [p.level for p in found] == pytest.approx([1.0, 0.9], abs=0.01)
    assert 5700 < found[-1].last < 5950


def test_what_never_falls_or_diverges():
    assert plateaus(STEPS, np.ones(len(STEPS))) == ()
    assert plateaus(STEPS, 1 + STEPS / 100.0) == ()
    assert plateaus(STEPS[:5], np.ones(5)) == ()
    loss = staircase([1.0, 0.5, 0.005], [1600, 3200], 15)
    loss[4000:] = np.nan
    assert [p.level for p in plateaus(STEPS, loss)] == pytest.approx([1.0, 0.5, 0.005], abs=0.01)


def test_arrival_is_the_plateau_that_the_loss_leaves_again():
    found = plateaus(STEPS, staircase([1.0, 0.5, 0.005], [3600, 5200], 15), np.where(STEPS < 4000, 0.5, 0.0))
    reached = arrival(found, 3601.5, int(STEPS[-1]))
    assert reached is found[1]
    assert reached.error == 0  # its median: 0.5 until 4,000
    assert arrival(found, 5201.0, int(STEPS[-1])) is None
    assert arrival(found[:1], 10.0, int(STEPS[-1])) is None


@pytest.mark.parametrize("rows", [2, 3, 5, 6, 1000, 16_385])
def test_spikes_are_taken_out_as_by_the_median_filter_of_scipy(rows):
    rng = np.random.default_rng(rows)
    for x in (rng.standard_normal(rows), rng.integers(0, 4, rows).astype(float)):
        np.testing.assert_array_equal(without_spikes(x), median_filter(x, 5, mode="nearest"))


@pytest.mark.parametrize("extra", [[], [np.inf], [-np.inf, np.inf], [np.nan], [np.nan] * 5, [1e308] * 9])
@pytest.mark.parametrize("rows", [1, 2, 7, 1000, 4001])
def test_the_median_is_that_of_numpy_to_the_last_bit(rows, extra):
    rng = np.random.default_rng(rows)
    for values in (rng.standard_normal(rows), np.round(rng.standard_normal(rows))):
        series = rng.permutation(np.append(values, extra))
        with np.errstate(all="ignore"):
            assert np.array_equal(median(series), np.median(series), equal_nan=True)


def test_prominent_maxima_are_those_of_scipy():
    rng = np.random.default_rng(0)
    for _ in range(2000):
        x = 0.7 * rng.integers(0, rng.integers(2, 12), rng.integers(1, 40))
        assert prominent(x, 1.0) == find_peaks(x, prominence=1.0)[0].tolist(), x
