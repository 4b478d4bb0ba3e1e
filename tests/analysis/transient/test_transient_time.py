from __future__ import annotations

import numpy as np
import pytest

from rhotrace.analysis.transient import closed_form_fit
from rhotrace.analysis.transient import transient_time as transient
from rhotrace.analysis.transient.closed_form_fit import Series
from rhotrace.analysis.transient.transient_time import Outcome
from rhotrace.statistics import intervals
from rhotrace.theory import norm_dynamics

LR = 0.05


def planted(
    *,
    depth: int = 4,
    start: float = 0.2,
    A: float = 1.0,
    B: float = 1.0,
    steps: int | None = None,
    noise: float = 0.0,
    seed: int = 0,
) -> tuple[Series, float]:
    """A run that obeys equation (5) with constant A and B, and its true T in steps."""
    T = float(norm_dynamics.transient_time(start, depth=depth, A=A, B=B)) / LR
    step = np.arange(int(3 * T) if steps is None else steps)
    r = norm_dynamics.norm_trajectory(step * LR, start, A=A, B=B, depth=depth)
    log_rho = depth * np.log(r) + noise * np.random.default_rng(seed).standard_normal(len(r))
    rho = np.exp(log_rho)
    a, q = rho * A, rho**2 * B
    return Series(step, log_rho, a / q, a, q, depth, LR), T


def ratio_series(ratio: np.ndarray, **other: np.ndarray) -> Series:
    ones = np.ones(len(ratio))
    values = {"log_rho": 0 * ones, "a": ratio, "q": ones, "depth": 2, **other}
    return Series(steps=np.arange(len(ratio)), rho_eq_over_rho=ratio, lr=LR, **values)


@pytest.mark.parametrize("depth", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("start", [0.15, 0.4])
def test_a_planted_T_is_recovered(depth, start):
    series, T = planted(depth=depth, start=start)
    found = transient.measure(0, series)
    assert found.outcome is Outcome.LEFT
    assert pytest.approx(T, abs=0.05) == found.T


@pytest.mark.parametrize("depth", [2, 3, 4, 6, 8])
def test_the_closed_form_fit_recovers_planted_truth_and_says_it_holds(depth):
    series, T = planted(depth=depth, start=0.1 if depth == 2 else 0.4, A=1.3, B=0.8)
    fit = transient.measure(0, series).fit
    assert fit is not None
    assert fit.holds
    assert fit.T.value == pytest.approx(T, rel=1e-2)
    assert fit.A.value == pytest.approx(1.3, rel=2e-2)
    assert fit.log_rho_eq.value == pytest.approx(np.log(1.3 / 0.8), abs=1e-2)


def test_the_fitted_interval_covers_a_planted_T_under_noise():
    covered = 0
    for seed in range(60):
        series, T = planted(depth=4, start=0.45, noise=0.02, seed=seed)
        fit, why = closed_form_fit.fit_closed_form(series, T)
        assert fit is not None, why
        covered += fit.T.low <= T <= fit.T.high
    assert 51 <= covered <= 60  # 95 % of 60 is 57; 51 or fewer would be a coverage below 90 % at p < 0.002


def test_a_drifting_A_is_reported_as_a_fit_that_does_not_hold():
    step = np.arange(2000)
    A = np.exp(np.linspace(-6, 0, len(step)))
    r = np.empty(len(step))
    r[0] = 0.5
    for t in range(1, len(step)):
        r[t] = r[t - 1] + LR * 2 * r[t - 1] ** 3 * (A[t] - A[t] ** 1.5 * r[t - 1] ** 4)
    rho, B = r**4, A**1.5
    series = Series(step, np.log(rho), A / B / rho, rho * A, rho**2 * B, 4, LR)
    fit = transient.measure(0, series).fit
    assert fit is not None
    assert not fit.holds
    assert fit.A_drift > 2


def test_a_chance_passage_of_the_ratio_does_not_count():
    ratio = np.full(1000, 100.0)
    ratio[3:9] = 1.5  # six steps: shorter than the dwell
    ratio[600:] = 1.0
    found = transient.measure(0, ratio_series(ratio))
    assert found.outcome is Outcome.LEFT
    assert 599 <= found.T <= 600


def test_the_dwell_is_a_fifth_of_late_crossings():
    ratio = np.full(3000, 100.0)
    ratio[1000:1190] = 1.0
    ratio[2000:] = 1.0
    row, dwell = transient.first_lasting(ratio < 2, np.arange(3000))
    assert (row, dwell) == (2000, 400)


@pytest.mark.parametrize("slower", [1, 10, 100])
def test_a_change_of_sign_after_the_start_does_not_count_at_any_learning_rate(slower):
    time = np.arange(400 * slower) / slower
    ratio = np.where(time < 200, -18 + 0.3 * time, 40 * np.exp(-(time - 200) / 20))
    row, _ = transient.first_lasting((ratio > 0) & (ratio <= 2), np.arange(len(ratio)))
    assert pytest.approx(200 + 20 * np.log(20), rel=0.02) == row / slower


def test_the_crossing_is_interpolated_in_the_logarithm():
    ratio = np.concatenate([np.full(50, 8.0), np.full(50, 1.0)])
    assert pytest.approx(49 + np.log(4) / np.log(8)) == transient.measure(0, ratio_series(ratio)).T


def test_strided_rows_give_the_same_T_within_the_stride():
    series, T = planted(depth=4, start=0.3)
    every = 7
    thin = Series(**{n: (v[::every] if isinstance(v, np.ndarray) else v) for n, v in vars(series).items()})
    assert pytest.approx(T, abs=every) == transient.measure(0, thin).T


def test_each_outcome_without_a_T_is_named():
    low, high = np.full(400, 1.0), np.full(400, 50.0)
    falling = np.linspace(0, -20, 400)
    late = high.copy()
    late[-5:] = 1.0
    flicker = high.copy()
    flicker[::5] = 1.0
    broken = high.copy()
    broken[200:] = np.nan
    died = high.copy()
    died[200:] = 0
    cases = {
        Outcome.SPARSE: ratio_series(high[:5]),
        Outcome.NONE: ratio_series(low),
        Outcome.NEVER: ratio_series(high),
        Outcome.DECAYED: ratio_series(-high, log_rho=falling),
        Outcome.TOO_SHORT: ratio_series(late),
        Outcome.UNSETTLED: ratio_series(flicker),
        Outcome.DIVERGED: ratio_series(broken, q=broken),
        Outcome.DEAD: ratio_series(np.where(died > 0, died, np.nan), q=died),
    }
    for outcome, series in cases.items():
        found = transient.measure(0, series)
        assert found.outcome is outcome
        assert np.isnan(found.T) == (outcome is not Outcome.LEFT)
        assert found.fit is None
        assert found.no_fit


@pytest.mark.parametrize("last", [0, 1])
def test_an_alternation_around_the_level_oscillates_whichever_row_is_the_last(last):
    ratio = np.full(400, 50.0)
    ratio[100:] = 2 + 0.3 * (-1.0) ** np.arange(300)
    assert transient.measure(0, ratio_series(ratio[: 400 - last])).outcome is Outcome.OSCILLATING


def test_what_happens_after_T_is_a_caution():
    stays = np.concatenate([np.full(100, 50.0), np.full(300, 1.0)])
    leaves, blip, lost = stays.copy(), stays.copy(), stays.copy()
    leaves[200:], blip[200:210], lost[300:] = 50.0, 50.0, np.nan
    cases = {"stays": stays, "leaves": leaves, "blip": blip, "lost": lost}
    found = {name: transient.measure(0, ratio_series(r, q=r)) for name, r in cases.items()}
    assert {each.outcome for each in found.values()} == {Outcome.LEFT}
    assert len({each.T for each in found.values()}) == 1
    assert not found["stays"].caution
    assert not found["blip"].caution
    assert "from step 200 to the end" in found["leaves"].caution
    assert "not finite from step 300" in found["lost"].caution


def test_a_negative_ratio_is_never_a_crossing():
    assert transient.measure(0, ratio_series(np.full(100, -1.0))).outcome is Outcome.NEVER


def test_the_inflection_is_where_log_rho_grows_fastest():
    series, _ = planted(depth=4, start=0.2)
    numeric = np.argmax(np.gradient(series.log_rho, series.steps * LR))
    rho_k = np.repeat(np.exp(series.log_rho / 4)[:, None], 4, axis=1)
    found = transient.FastestGrowth(2)
    for rows in np.array_split(np.arange(len(rho_k)), 7):
        a, q = (np.stack([x[rows], 0 * rows], axis=1) for x in (series.a, series.q))
        found.extend(series.steps[rows], np.stack([rho_k[rows]] * 2, axis=1), a, q)
    assert found.steps == [pytest.approx(numeric, abs=1), pytest.approx(np.nan, nan_ok=True)]


@pytest.mark.parametrize("spoil", [None, np.nan, np.inf, 0.0])
@pytest.mark.parametrize("scale", [1.0, 1e-155, 1e-165, 1e150])
@pytest.mark.parametrize("layers", [1, 3, 8])
def test_the_inflection_is_the_first_step_of_the_largest_growth_to_the_last_bit(layers, scale, spoil):
    rng = np.random.default_rng(layers)
    rho_k = scale * (1 + np.round(rng.random((60, 3, layers))))  # ties, which an estimate does not decide
    a, q = (np.round(rng.standard_normal((60, 3))) for _ in range(2))
    a[:, 2] = q[:, 2] - 1  # a member that shrinks
    if spoil is not None:
        rho_k[rng.random(rho_k.shape) < 0.02] = spoil
    with np.errstate(all="ignore"):
        rate = 2 * (rho_k**-2.0).sum(axis=2) * (a - q)
    grows = (rate > 0).any(axis=0)
    rate[~np.isfinite(rate)] = -np.inf
    found = transient.FastestGrowth(3)
    for rows in (slice(20), slice(20, 21), slice(21, 60)):
        found.extend(np.arange(60)[rows], rho_k[rows], a[rows], q[rows])
    assert found.steps == pytest.approx(np.where(grows, rate.argmax(axis=0), np.nan), abs=0, nan_ok=True)


def test_the_pooled_interval_covers_the_truth_95_percent_of_the_time():
    rng = np.random.default_rng(1)
    covered = 0
    trials = 2000
    for _ in range(trials):
        T = np.exp(np.log(500) + 0.4 * rng.standard_normal(5))
        interval = intervals.geometric_mean(T)
        covered += interval.low <= 500 <= interval.high
    assert covered / trials == pytest.approx(0.95, abs=0.015)


def test_members_pool_by_label_and_those_without_T_are_counted():
    member = transient.MemberTransient
    each = [
        member(0, Outcome.LEFT, 100.0, 10, np.nan, np.nan),
        member(1, Outcome.LEFT, 400.0, 10, np.nan, np.nan),
        member(2, Outcome.NEVER, np.nan, 10, np.nan, np.nan),
        member(3, Outcome.NEVER, np.nan, 10, np.nan, np.nan),
    ]
    first, second = transient.pool(each, ["a", "a", "a", "b"], range(4))
    assert (first.members, first.left, second.members, second.left) == (3, 2, 1, 0)
    assert first.T.value == pytest.approx(200)
    assert np.isnan(second.T.value)


def test_equation_5_of_a_run_that_diverges_is_integrated_without_overflow():
    """The last finite sums of a float64 run may be beyond 1e154, where their square is infinite."""
    rows = 40
    q = np.ones(rows)
    q[-1] = 1e200
    series = ratio_series(np.full(rows, 0.5), q=q, a=0.5 * q)
    driven = transient.measure(0, series).driven
    assert driven is not None
    assert 1e190 < driven.largest < np.inf
    assert driven.rms == pytest.approx(driven.largest / rows**0.5, rel=1e-6)


def test_without_noise_the_crossing_is_between_two_rows_and_with_it_an_interval():
    """A full-batch run has no noise: what is not known of T is where it lies between two rows."""
    series, T = planted(depth=4, start=0.4)
    words = series.steps, series.rho_eq_over_rho, series.q, series.log_rho
    exact = transient.passage(*words, noisy=False)
    assert exact.crossing.low <= T <= exact.crossing.high
    assert exact.crossing.high - exact.crossing.low == 1
    assert exact.crossing.value == exact.T
    noisy, _ = planted(depth=4, start=0.4, noise=0.02)
    wide = transient.passage(noisy.steps, noisy.rho_eq_over_rho, noisy.q, noisy.log_rho)
    assert wide.crossing.low <= T <= wide.crossing.high


def test_the_crossing_of_a_full_batch_run_is_between_the_two_evaluations_around_it(train):
    from rhotrace.analysis.run_series import RunSeries
    from rhotrace.runfile.reader import open_trace

    path = train("steps=1500", "init.rho_k=1.5")
    with open_trace(path) as trace:
        left = [p for p in RunSeries(trace).passages if p.T > 0]
    assert left
    assert all(p.crossing.high - p.crossing.low == 1 for p in left)


def test_a_fit_that_rises_where_rho_passes_rho_eq_over_2_gives_no_interval():
    """rho falls back after the dwell, so the cubic's root that is nearest to the crossing is where rho falls below again."""
    distance = np.concatenate(
        [
            np.ones(90),
            np.full(9, -0.03),
            [0.03],
            np.full(22, -0.03),
            np.full(60, 0.1),
            np.linspace(0.1, -0.3, 120),
            -np.ones(200),
        ]
    )
    ratio = 2 * np.exp(distance)
    series = ratio_series(ratio)
    found = transient.passage(series.steps, ratio, series.q, series.log_rho)
    assert found.outcome is Outcome.LEFT
    assert abs(found.T - 99.5) < 1e-6
    assert np.isnan([found.crossing.low, found.crossing.high]).all()
