from __future__ import annotations

import numpy as np
import pytest
from series import ar1

from rhotrace.analysis.fluctuation import one_series
from rhotrace.analysis.fluctuation.one_series import LEVELS, TRENDS, Decay, Fluctuation, pooled_decay, spectrum
from rhotrace.statistics.intervals import Interval


def measured(delta: np.ndarray, *, stride: int = 1, after: float = 0, **options: object) -> Fluctuation:
    found = one_series.measure(0, stride * np.arange(len(delta)), delta, after, **options)
    assert isinstance(found, Fluctuation), found
    return found


def holds(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


# --- size, offset, memory ----------------------------------------------------------------------------------


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9, 0.98])
def test_a_planted_autoregression_is_recovered(phi):
    tau, n = (1 + phi) / (1 - phi), 60_000
    found = measured(0.02 + ar1(n, phi, 0.07, np.random.default_rng(21)))
    error = 0.07 * np.sqrt(tau / n)
    assert found.offset.value == pytest.approx(0.02, abs=4 * error)
    assert found.std.value == pytest.approx(0.07, rel=4 * np.sqrt(tau / (2 * n)))
    assert found.tau.value == pytest.approx(tau, rel=0.12)
    assert holds(found.tau, tau)
    assert found.effective == pytest.approx(n / tau, rel=0.12)
    assert found.jump == pytest.approx(0.07 * np.sqrt(2 * (1 - phi)), rel=0.03)
    assert found.swell == pytest.approx(1, abs=0.15)
    assert found.long_enough
    assert found.stationary


def test_an_ornstein_uhlenbeck_process_at_a_stride_has_its_tau_in_steps():
    stride, memory, n = 10, 40.0, 60_000
    phi = np.exp(-stride / memory)
    found = measured(-0.01 + ar1(n, phi, 0.03, np.random.default_rng(22)), stride=stride)
    tau = stride * (1 + phi) / (1 - phi)
    assert found.tau.value == pytest.approx(tau, rel=0.15)
    assert holds(found.tau, tau)
    assert found.tau.value == pytest.approx(2 * memory, rel=0.15)
    assert found.tau.high - found.tau.value == pytest.approx(found.tau.value - found.tau.low)
    assert found.effective == pytest.approx(n * stride / tau, rel=0.15)
    assert holds(found.std, 0.03)
    assert found.offset.value == pytest.approx(-0.01, abs=4 * 0.03 * np.sqrt(tau / (n * stride)))
    assert found.window == (0, stride * (n - 1))


@pytest.mark.parametrize("phi", [0.5, 0.9])
def test_intervals_of_std_and_offset_are_honest_at_100_autocorrelation_times(phi):
    n, trials, std, offset = int(100 * (1 + phi) / (1 - phi)), 150, 0, 0
    for seed in range(trials):
        found = measured(0.02 + ar1(n, phi, 0.07, np.random.default_rng([seed, 1])))
        std += holds(found.std, 0.07)
        offset += holds(found.offset, 0.02)
    # 20 blocks of a skewed square fall a few per cent short of 95; 82 % is three standard deviations below 90.
    assert std >= 0.82 * trials
    assert offset >= 0.82 * trials
    assert std + offset < 2 * trials


@pytest.mark.parametrize("phi", [-0.5, -0.9])
def test_the_interval_of_std_is_honest_for_noise_that_alternates(phi):
    trials = 80  # the squares remember for (1 + phi^2)/(1 - phi^2) evaluations, though the series forgets at once
    found = [measured(ar1(2000, phi, 0.07, np.random.default_rng([seed, 9]))) for seed in range(trials)]
    assert sum(holds(f.std, 0.07) for f in found) >= 0.82 * trials


def test_intervals_narrow_as_the_root_of_the_length():
    def widths(n: int) -> list[float]:
        found = [measured(ar1(n, 0.5, 1.0, np.random.default_rng([seed, 2]))).std for seed in range(10)]
        return [f.high - f.low for f in found]

    assert np.mean(widths(2000)) / np.mean(widths(32_000)) == pytest.approx(4, rel=0.2)


def test_a_relaxation_before_the_plateau_is_left_out_of_the_window():
    n = 20_000
    found = measured(ar1(n, 0.5, 0.01, np.random.default_rng(3)) - np.exp(-np.arange(n) / 1500))
    assert found.window[0] >= 4000
    assert found.stationary
    assert found.std.value == pytest.approx(0.01, rel=0.1)


def test_a_steady_drift_is_called_a_drift():
    found = measured(np.linspace(0, 1, 5000) ** 2 + ar1(5000, 0.3, 1e-3, np.random.default_rng(4)))
    assert not found.stationary


def test_std_is_about_a_line():
    x = ar1(20_000, 0.5, 0.01, np.random.default_rng(23))
    found = measured(x + np.linspace(0, 1, len(x)), find_window=False)
    assert found.std.value == pytest.approx(0.01, rel=0.05)
    assert not found.stationary


@pytest.mark.parametrize("until", [3000, np.inf])
def test_a_chosen_window_is_kept_as_it_is(until):
    n = 2000
    delta = ar1(n, 0.5, 0.01, np.random.default_rng(24)) - np.exp(-np.arange(n) / 150)
    found = measured(delta, stride=5, after=1002, until=until, find_window=False)
    assert found.window == (1005, min(until, 5 * (n - 1)))
    assert measured(delta, stride=5, after=0, find_window=False).window[0] == 0
    assert measured(delta, stride=5, after=0).window[0] > 0


def test_a_found_window_ends_at_the_given_step():
    assert measured(ar1(2000, 0.5, 0.01, np.random.default_rng(25)), until=1500).window[1] == 1500


def test_a_short_or_broken_series_is_refused_with_the_reason():
    assert "only 10 evaluations" in str(one_series.measure(0, np.arange(100), np.zeros(100), after=90))
    assert "only 11 evaluations" in str(one_series.measure(0, np.arange(100), np.zeros(100), after=0, until=10))
    broken = np.zeros(100)
    broken[60] = np.nan
    assert "not finite" in str(one_series.measure(0, np.arange(100), broken, after=0))
    assert isinstance(one_series.measure(0, np.arange(100), broken, after=0, until=59), Fluctuation)


def test_a_short_window_is_flagged():
    found = measured(ar1(300, 0.97, 1.0, np.random.default_rng(7)))
    assert not found.long_enough


def test_fewer_than_four_blocks_give_no_interval():
    found = measured(ar1(200, 0.98, 1.0, np.random.default_rng(0)))
    assert found.std.value > 0
    assert np.isnan([found.std.low, found.std.high, found.offset.low, found.offset.high]).all()


def test_a_still_series_fluctuates_by_nothing():
    found = measured(np.full(500, 0.25))
    assert found.std.value == pytest.approx(0, abs=1e-12)
    assert found.offset.value == pytest.approx(0.25)


# --- shape -------------------------------------------------------------------------------------------------


def test_skew_and_quantiles_of_an_exponential_distribution():
    found = measured(np.random.default_rng(26).exponential(0.1, 40_000), find_window=False)
    assert found.skew == pytest.approx(2, abs=0.2)
    assert found.quantiles == pytest.approx(-0.1 * np.log1p(-np.array(LEVELS)), rel=0.06)
    assert measured(-np.random.default_rng(26).exponential(0.1, 40_000)).skew == pytest.approx(-found.skew, abs=0.1)


def test_gaussian_noise_is_not_skew():
    assert measured(ar1(40_000, 0.5, 1.0, np.random.default_rng(27))).skew == pytest.approx(0, abs=0.08)


def test_period_two_is_distinguished_from_noise():
    n = np.arange(4000)
    rng = np.random.default_rng(5)
    stepping = measured(0.01 * (-1.0) ** n + 1e-3 * rng.standard_normal(len(n)))
    noise = measured(0.01 * rng.standard_normal(len(n)))
    assert stepping.period_two > 0.9
    assert noise.period_two == pytest.approx(0.2, abs=0.05)
    assert stepping.jump == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("period", [2.2, 4.0])
def test_only_periods_under_two_and_a_half_evaluations_count_as_period_two(period):
    share = measured(np.sin(2 * np.pi * np.arange(4000) / period)).period_two
    assert (share > 0.95) == (period < 2.5)
    assert share > 0.95 or share < 0.05


@pytest.mark.parametrize("factor", [0.25, 3.0])
def test_swell_is_the_second_half_over_the_first(factor):
    x = np.random.default_rng(28).standard_normal(8000) * np.repeat([1.0, factor], 4000)
    assert measured(x, find_window=False).swell == pytest.approx(factor, rel=0.08)


# --- what moves --------------------------------------------------------------------------------------------


def test_log_rho_and_log_rho_eq_are_distinguished():
    rng = np.random.default_rng(8)
    log_rho, log_rho_eq = ar1(20_000, 0.9, 0.02, rng), ar1(20_000, 0.5, 0.05, rng)
    found = measured(log_rho - log_rho_eq, log_rho=log_rho)
    assert found.std_rho.value == pytest.approx(0.02, rel=0.1)
    assert found.std_rho_eq.value == pytest.approx(0.05, rel=0.1)
    assert holds(found.std_rho_eq, 0.05)
    assert found.correlation == pytest.approx(0, abs=0.1)
    assert found.std.value == pytest.approx(np.hypot(0.02, 0.05), rel=0.1)


def test_without_log_rho_nothing_is_said_of_what_moves():
    found = measured(ar1(2000, 0.5, 0.01, np.random.default_rng(9)))
    assert np.isnan([found.std_rho.value, found.std_rho_eq.value, found.correlation, found.lag]).all()


@pytest.mark.parametrize(("rows", "sign", "stride"), [(17, 1, 1), (17, 1, 7), (-5, 1, 7), (12, -1, 1), (0, 1, 3)])
def test_a_delayed_copy_of_log_rho_eq_is_found_at_its_lag(rows, sign, stride):
    rng = np.random.default_rng(29)
    source = ar1(5100, 0.9, 0.05, rng)
    log_rho_eq = source[50:5050]
    log_rho = sign * 0.5 * source[50 - rows : 5050 - rows] + 0.002 * rng.standard_normal(5000)
    found = measured(log_rho - log_rho_eq, stride=stride, log_rho=log_rho, find_window=False)
    assert found.lag == pytest.approx(rows * stride)
    assert np.sign(found.lag_correlation) == sign
    assert abs(found.lag_correlation) > 0.97
    direct = np.corrcoef(log_rho, log_rho_eq)[0, 1]
    assert found.correlation == pytest.approx(direct, abs=0.01)


# --- spectrum ----------------------------------------------------------------------------------------------


def test_white_noise_has_a_flat_spectrum_of_the_right_level():
    x = 0.3 * np.random.default_rng(30).standard_normal(200_000)
    frequency, density = spectrum(x, 1, 256)
    inner = density[1:-1] / (2 * 0.3**2)
    assert inner.mean() == pytest.approx(1, abs=0.02)
    assert np.abs(inner - 1).max() < 0.2
    assert frequency[0] == pytest.approx(1 / 256)
    assert frequency[-1] == 0.5


@pytest.mark.parametrize("phi", [0.5, 0.9, -0.5])
def test_an_autoregression_has_its_analytic_spectrum(phi):
    x = ar1(300_000, phi, 0.2, np.random.default_rng(31))
    frequency, density = spectrum(x, 1, 512)
    truth = 0.2**2 * (1 - phi**2) * 2 / (1 + phi**2 - 2 * phi * np.cos(2 * np.pi * frequency))
    ratio = (density / truth)[3:-1]
    assert ratio.mean() == pytest.approx(1, abs=0.02)
    assert np.abs(ratio - 1).max() < 0.25


def test_the_spectrum_sums_to_the_variance():
    x = ar1(100_000, 0.7, 0.05, np.random.default_rng(32)) + 3.0
    frequency, density = spectrum(x, 4.0, 512)
    assert density.sum() * (frequency[1] - frequency[0]) == pytest.approx(0.05**2, rel=0.04)


def test_a_stride_scales_the_frequencies_and_keeps_the_variance():
    x = ar1(20_000, 0.7, 0.05, np.random.default_rng(33))
    at_one, density = spectrum(x, 1.0, 256)
    at_ten, stretched = spectrum(x, 10.0, 256)
    assert at_ten == pytest.approx(at_one / 10)
    assert stretched == pytest.approx(10 * density)


def test_a_sine_peaks_at_its_frequency():
    frequency, density = spectrum(np.sin(2 * np.pi * 2 * np.arange(20_000) / 50), 2.0, 500)
    assert frequency[np.argmax(density)] == pytest.approx(1 / 50)


# --- decay -------------------------------------------------------------------------------------------------

ROWS = np.arange(1000, 13_000, 2)


def dying(size: np.ndarray, seed: int, *, loss: bool = True) -> Decay:
    noise = ar1(len(ROWS), 0.5, 1.0, np.random.default_rng([seed, 3]))
    found = one_series.measure(0, ROWS, size * noise, 0, loss=3 * size**2 if loss else None)
    assert isinstance(found, Fluctuation)
    assert found.decay is not None
    return found.decay


def test_an_exponential_death_has_its_rate_and_its_name():
    found = [dying(np.exp(-ROWS / 4000), seed) for seed in range(40)]
    assert sum(holds(d.rate, -1 / 4000) for d in found) >= 32
    assert np.mean([d.rate.value for d in found]) == pytest.approx(-1 / 4000, rel=0.01)
    assert sum(d.straighter == "exponential" for d in found) >= 38
    assert np.median([d.fall for d in found]) == pytest.approx(np.exp(-11 / 4), rel=0.1)


def test_a_death_as_a_power_of_the_step_has_its_exponent_and_its_name():
    found = [dying((ROWS / 1000) ** -0.7, seed) for seed in range(40)]
    assert sum(holds(d.power, -0.7) for d in found) >= 28  # within a piece the power bends, which the line does not
    assert np.mean([d.power.value for d in found]) == pytest.approx(-0.7, rel=0.03)
    assert sum(d.straighter == "power" for d in found) >= 38


def test_constant_noise_does_not_die():
    found = [dying(np.full(len(ROWS), 0.05), seed) for seed in range(40)]
    assert sum(holds(d.rate, 0) for d in found) >= 32
    assert sum(holds(d.power, 0) for d in found) >= 32
    assert all(0.7 < d.fall < 1.4 for d in found)
    assert all(np.isnan(d.against_loss.value) for d in found)


@pytest.mark.parametrize("size", [np.exp(-ROWS / 4000), (ROWS / 1000) ** -0.7])
def test_a_fluctuation_that_dies_with_the_residuals_goes_as_the_root_of_the_loss(size):
    found = [dying(size, seed).against_loss for seed in range(30)]
    assert sum(holds(f, 0.5) for f in found) >= 24
    assert np.mean([f.value for f in found]) == pytest.approx(0.5, abs=0.01)


def test_a_constant_loss_says_nothing():
    n = np.arange(2801)
    x = np.exp(-n / 500) * ar1(len(n), 0.5, 1.0, np.random.default_rng(0))
    found = measured(x, loss=np.full(len(n), 0.7))
    assert found.decay is not None
    assert np.isnan(found.decay.against_loss.value)


def test_without_a_loss_the_decay_is_held_against_none():
    assert np.isnan(dying(np.exp(-ROWS / 4000), 0, loss=False).against_loss.value)


def test_the_decay_is_measured_from_the_transient_on_though_the_window_begins_later():
    n = np.arange(12_000)
    drift = np.exp(-n / 1000)
    x = drift + np.exp(-n / 3000) * np.random.default_rng(34).standard_normal(len(n)) * 0.01
    found = measured(x)
    assert found.window[0] > 1000
    assert found.decay is not None
    assert holds(found.decay.rate, -1 / 3000)


def test_a_window_too_short_for_twelve_pieces_has_no_decay():
    assert measured(np.random.default_rng(35).standard_normal(200)).decay is None
    assert measured(np.random.default_rng(35).standard_normal(400)).decay is not None


def test_decays_are_pooled_over_members():
    each = [dying(np.exp(-ROWS / 4000), seed) for seed in range(5)]
    pooled = pooled_decay(each, range(len(each)))
    rates = np.array([d.rate.value for d in each])
    assert pooled.rate.value == pytest.approx(rates.mean())
    assert pooled.rate.high - pooled.rate.value == pytest.approx(2.7764 * rates.std(ddof=1) / np.sqrt(5), rel=1e-3)
    assert pooled.fall == pytest.approx(np.prod([d.fall for d in each]) ** 0.2)
    assert pooled.straighter == "exponential"
    assert pooled_decay(each[:1], [0]).rate == each[0].rate


def test_the_running_means_of_a_long_window_are_those_of_sums_written_out():
    delta = ar1(60_000, 0.9, 1.0, np.random.default_rng(5)) + np.linspace(0, 3, 60_000)
    means = np.convolve(delta, np.full(6000, 1 / 6000), mode="valid")
    wanted = (delta[3000:][: len(means)] - means).std()
    assert one_series.choices(delta)[TRENDS.index("running mean")] == pytest.approx(wanted, rel=1e-12)
