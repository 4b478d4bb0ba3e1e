from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

from rhotrace.analysis.transient.simulation import Constants, constants_of, given, numbers, simulate
from rhotrace.errors import AnalysisError
from rhotrace.runfile.reader import open_trace
from rhotrace.theory import norm_dynamics

ONE = Constants(1.0, 1.0, 0.0, "given")


def test_the_table_has_T_and_its_slope_for_every_depth_and_start():
    result = simulate([2, 4], [0.1, 0.3], ONE)
    assert [(e.depth, e.start) for e in result.each] == [(2, 0.1), (2, 0.3), (4, 0.1), (4, 0.3)]
    for each in result.each:
        around = norm_dynamics.transient_time([each.start * 0.999, each.start * 1.001], depth=each.depth)
        assert each.slope == pytest.approx(np.log(around[1] / around[0]) / np.log(1.001 / 0.999), rel=1e-4)
        assert each.error < 5e-5
    assert abs(result.each[2].T - 24.864) < 0.01


def test_trajectories_start_at_their_start_and_settle_at_equilibrium():
    result = simulate([4], [0.2, 0.5, 1.4], Constants(0.6, 0.3, 0.0, "given"))
    norms = result.rho_k[4]
    assert norms.shape == (3, len(result.t[4]))
    np.testing.assert_allclose(norms[:, 0], [0.2, 0.5, 1.4], rtol=1e-6)
    np.testing.assert_allclose(norms[:, -1], 2**0.25, rtol=1e-4)


def test_without_an_equilibrium_the_norm_decays_and_there_is_no_T():
    result = simulate([3], [0.5], Constants(-1.0, 1.0, 0.0, "given"))
    assert np.isnan(result.each[0].T)
    assert (np.diff(result.rho_k[3][0]) < 0).all()


@pytest.mark.parametrize(
    ("A", "B", "until", "starts"),
    [
        (np.nan, 1, None, [0.1]),
        (np.inf, 1, None, [0.1]),
        (1, np.inf, None, [0.1]),
        (1, np.nan, None, [0.1]),
        (1e308, 1e-308, None, [0.1]),
        (1e-320, 1, None, [0.1]),
        (1, 1, 0, [0.1]),
        (1, 1, -1, [0.1]),
        (1, 1, np.nan, [0.1]),
        (1, 1, np.inf, [0.1]),
        (1, 1, None, [1e-300]),
        (1, 1, None, [1e300]),
        (1, 1, None, [0.1] * 30_000),
    ],
)
def test_what_leaves_the_range_of_numbers_is_refused_without_a_warning(A, B, until, starts):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(AnalysisError):
            simulate([4], starts, Constants(A, B, 0.0, "given"), until=until)


def test_A_of_zero_only_decays():
    result = simulate([1, 2, 4], [0.5], Constants(0.0, 1.0, 0.0, "given"))
    for norms in result.rho_k.values():
        assert (np.diff(norms[0]) < 0).all()


def test_a_depth_given_twice_is_solved_once_and_deep_nets_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = simulate([100, 100], [0.9, 0.01], ONE)
    assert [e.depth for e in result.each] == [100, 100]
    assert [e.start for e in result.each] == [0.01, 0.9]


def test_the_times_resolve_the_fastest_of_the_solutions():
    result = simulate([8], [0.1, 0.9], ONE)
    fastest = result.rho_k[8][1]
    assert np.sum((fastest > 0.91) & (fastest < 0.99)) > 20


def test_many_starts_are_solved_at_once():
    result = simulate([4], np.geomspace(0.05, 0.9, 3000).tolist(), ONE)
    assert len(result.each) == 3000
    assert 0 < sum(np.isfinite(e.error) for e in result.each) <= 12  # the integrator checks a sample


@pytest.mark.parametrize("starts", [[], [0.0], [-1.0], [np.nan], [np.inf]])
def test_impossible_starts_are_refused(starts):
    with pytest.raises(AnalysisError, match="positive"):
        simulate([4], starts, ONE)


def test_numbers_are_lists_or_log_spaced_ranges():
    assert numbers("--start", "0.1,0.2") == [0.1, 0.2]
    np.testing.assert_allclose(numbers("--start", "0.01:1:3"), [0.01, 0.1, 1])
    assert numbers("--depth", "2,3", whole=True) == [2, 3]
    assert numbers("--start", "") == []


@pytest.mark.parametrize("text", ["x", "0.1;0.2", "-1", "nan", "1:2", "1:0:3", "0.1:1:1000000", "inf", ",", "1:2:0"])
def test_other_words_for_numbers_are_refused(text):
    with pytest.raises(AnalysisError, match="--start: got"):
        numbers("--start", text)


@pytest.mark.parametrize("text", ["2.5", "0", "1000"])
def test_depths_are_whole_and_moderate(text):
    with pytest.raises(AnalysisError, match="--depth: got"):
        numbers("--depth", text, whole=True)


def test_constants_of_a_run_make_rho_eq_one(train):
    with open_trace(train("steps=30")) as trace:
        constants, depths, starts = constants_of(trace, step=10, member=1)
        a, q, log_rho = (float(trace[n][10, 1]) for n in ("a", "q", "log_rho"))
        T = norm_dynamics.transient_time(starts[0], depth=3, A=constants.A, B=constants.B)
        # The same in the run's own units, where A = a/rho and B = q/rho^2.
        A, B = a / np.exp(log_rho), q / np.exp(2 * log_rho)
        own = norm_dynamics.transient_time(np.exp(log_rho / 3), depth=3, A=A, B=B)
        assert depths == [3]
        assert constants.A == constants.B
        assert float(T) == pytest.approx(float(own), rel=1e-9)
        with pytest.raises(AnalysisError, match="expected up to step 29"):
            constants_of(trace, step=30)
        with pytest.raises(AnalysisError, match="member 2"):
            constants_of(trace, step=0, member=3)


def test_the_default_is_the_setting_of_figure_1():
    _, depths, starts = given(1.0, 1.0)
    assert depths == [4]
    assert len(starts) > 3


def test_the_command_prints_a_table_draws_and_gives_json(command, tmp_path):
    code, out, error = command("simulate", "--depth", "2,4", "--start", "0.1,0.3", "--plot", "f.png", "--figure", "T")
    assert code == 0, error
    assert "24.86" in out
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads(command("simulate", "--json")[1])
    assert content["each"][0]["T"] == pytest.approx(24.86, rel=1e-3)


@pytest.mark.parametrize("words", [("--A", "2"), ("--B", "1"), ("--A", "2", "--B", "3")])
def test_constants_beside_a_run_are_refused(command, train, words):
    run = train("steps=30")
    assert command("simulate", "--from", run, "--step", "10")[0] == 0
    code, out, error = command("simulate", "--from", run, "--step", "10", *words)
    assert code == 2
    assert not out
    assert f"got constants beside --from {run}" in error


def test_a_step_without_an_equilibrium_is_refused_with_the_nearest_that_has_one(command, train):
    run = train("members.seeds=8", "steps=60")
    with open_trace(run) as trace:
        a = trace["a"]
    member = int(np.flatnonzero((a[0] < 0) & (a[-1] > 0))[0])
    first = int(np.flatnonzero(a[:, member] > 0)[0])
    where = ("simulate", "--from", run, "--member", str(member))
    code, out, error = command(*where, "--step", "0")
    assert (code, out) == (2, "")
    assert f"a = {a[0, member]:.3g} and q = " in error
    assert error.endswith(f" at step 0: no equilibrium there; --step {first} has one\n")
    assert command(*where, "--step", str(first))[0] == 0


@pytest.mark.parametrize(
    "words",
    [
        ("--figure", "3"),
        ("--plot", "x.gif"),
        ("--theta", "2"),
        ("--start", "-1"),
        ("--B", "0"),
        ("--from", "no.h5"),
        ("--until", "0"),
        ("--A", "nan"),
        ("--plot", "/proc/no/x.png"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(command, words):
    code, _, error = command("simulate", *words)
    assert code == 2
    assert "error" in error.lower()
    assert "Traceback" not in error
