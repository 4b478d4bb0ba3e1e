"""One run, read once: what a ``RunSeries`` has is what the file has, and each array is read a single time."""

from __future__ import annotations

import json
import re
from collections import Counter

import numpy as np
import pytest

import rhotrace
from rhotrace.analysis.analyze import analyze, fit_transient
from rhotrace.analysis.claims.evidence import Evidence
from rhotrace.analysis.claims.findings import audit_claims
from rhotrace.analysis.run_series import RunSeries
from rhotrace.analysis.transient.live_follower import Follower
from rhotrace.runfile.reader import Trace, open_trace

SPARSE = ("optimizer={kind: sgd, lr: 0.05, batch_size: 8}", "record={full_every: 7, test_every: 10, snapshots: 2}")


@pytest.mark.parametrize("overrides", [(), SPARSE], ids=["every step", "every seventh"])
def test_series_are_aligned_at_the_steps_with_full_set_sums(train, overrides):
    with open_trace(train(*overrides)) as trace:
        run, every = RunSeries(trace), trace.strides["full"]
        assert run.steps.tolist() == list(range(0, 60, every))
        np.testing.assert_array_equal(run.rho_k, trace["rho_k"][run.steps])
        np.testing.assert_array_equal(trace.aligned("batch_a"), trace["batch_a"][run.steps])
        for m, one in enumerate(run.members):
            assert np.shares_memory(one.log_rho, run.log_rho)
            assert one.depth == 3
            np.testing.assert_array_equal(one.log_rho, trace["log_rho"][run.steps, m])
            np.testing.assert_array_equal(one.rho_eq_over_rho, trace["a"][:, m] / trace["q"][:, m])
        np.testing.assert_allclose(np.exp(run.delta), trace["q"] / np.where(trace["a"] > 0, trace["a"], np.nan))
        assert (run.every_step("rho_k") is run.rho_k) == (every == 1)


def test_analysis_and_audit_of_one_run_series_read_each_array_once(train, monkeypatch):
    reads, rows = Counter(), Trace.rows

    def counted(self, name, which):
        whole = which == slice(None, self.steps) or which == slice(self.steps)
        reads[name] += whole
        return rows(self, name, which)

    path = train("steps=400")
    monkeypatch.setattr(Trace, "rows", counted)
    with open_trace(path) as trace:
        run = RunSeries(trace)
        analyze(run, fit=True)
        audit_claims(Evidence(run))
    for name in ("log_rho", "rho_eq_over_rho", "a", "q"):
        assert reads[name] == 1, (name, reads)
    assert not reads["rho_k"] + reads["grad_norm"], "the largest arrays are read in pieces"


def test_a_long_run_is_read_in_pieces_each_row_once_with_the_same_answer(train, monkeypatch):
    path = train("steps=500")
    with open_trace(path) as trace:
        at_once = analyze(trace)
    read, rows = Counter(), Trace.rows

    def counted(self, name, which):
        found = rows(self, name, which)
        read[name] += len(found)
        largest[name] = max(largest[name], len(found))
        return found

    largest = Counter()
    monkeypatch.setattr(Trace, "rows", counted)
    monkeypatch.setattr("rhotrace.analysis.run_series.PIECE_BYTES", 100 * 3 * 3 * 8)  # 100 rows of norms
    with open_trace(path) as trace:
        assert repr(analyze(trace)) == repr(at_once)  # to the last bit
    each_piece_begins_with_the_last_row_of_the_one_before = 500 + 4
    for name in ("rho_k", "grad_norm", "batch_a", "batch_q"):
        assert (read[name], largest[name]) == (each_piece_begins_with_the_last_row_of_the_one_before, 101), name
    for name in ("rho_eq_over_rho", "a", "q"):
        assert read[name] == 500 + (name == "rho_eq_over_rho")  # its last row is read for the table, too
    assert not read["margin_quantile"]


def test_a_run_and_its_series_give_one_answer_and_theta_is_that_of_the_series(train):
    with open_trace(train("steps=800", "record.snapshots=0")) as trace:
        by_trace, by_series = rhotrace.fit_transient(trace, theta=0.8), fit_transient(RunSeries(trace, 0.8))
        assert repr(by_trace) == repr(by_series)
        assert fit_transient(RunSeries(trace, 0.8), theta=0.3).theta == 0.3
        assert RunSeries.of(trace).theta == 0.5
        T = {theta: RunSeries(trace, theta).transient.each[0].T for theta in (0.3, 0.5, 0.8)}
    assert T[0.3] < T[0.5] < T[0.8]


@pytest.mark.usefixtures("quick_pictures")
def test_a_report_has_one_T_for_a_member_whatever_the_threshold(train, command, tmp_path):
    path = train("steps=800", "optimizer.lr=0.1", "record.snapshots=0")
    code, _, error = command("report", path, "--theta", "0.8", "-o", "page.html")
    assert code == 0, error
    (found,) = re.findall(
        r'<script type="application/json" id="results">(.*?)</script>', (tmp_path / "page.html").read_text(), re.DOTALL
    )
    (run,) = json.loads(found)["runs"]
    T = [each["T"] for each in run["transient"]["each"]]
    judged = next(claim["finding"]["measured"] for claim in run["claims"] if claim["key"] == "transient")
    assert judged.startswith(f"T = {min(T):.4g} to {max(T):.4g} steps in 3 of 3 members")
    with open_trace(path) as trace:
        assert [passed.T for passed in RunSeries(trace, 0.8).passages] == T


def test_the_live_follower_finds_the_T_of_the_threshold_that_it_is_given(train, command):
    path = train("steps=800", "record.snapshots=0")
    for theta in (0.5, 0.8):
        with open_trace(path) as trace:
            expected = [np.ceil(passed.T) for passed in RunSeries(trace, theta).passages]
        assert list(Follower(path, theta=theta).look().T) == expected
        code, out, _ = command("watch", path, "--once", "--json", "--theta", theta)
        assert code == 0
        assert f'"T": {str([float(T) for T in expected])[:12]}' in out


def test_members_that_share_a_seed_are_pooled_once(train, command):
    sgd = "optimizer={kind: sgd, lr: 0.05, batch_size: 20}"
    path = train(sgd, "members={seeds: [0, 0, 1, 2], batch_seeds: [5, 6, 7, 8]}", "steps=800", "record.snapshots=0")
    with open_trace(path) as trace:
        found = fit_transient(trace)
        (pool,) = found.pools
    T = np.array([each.T for each in found.each])
    assert np.isfinite(T).all()
    logs = np.log([np.sqrt(T[0] * T[1]), T[2], T[3]])  # the seed is the unit of chance
    assert (pool.left, pool.seeds) == (4, 3)
    assert pool.T.value == pytest.approx(np.exp(logs.mean()))
    half = 4.302652729911275 * logs.std(ddof=1) / np.sqrt(3)  # Student's t at 97.5 % with two degrees of freedom
    assert np.log(pool.T.high) - np.log(pool.T.value) == pytest.approx(half)
    assert "3 distinct seeds" in command("analyze", path)[1]


def test_one_seed_alone_has_no_interval(train, command):
    sgd = "optimizer={kind: sgd, lr: 0.05, batch_size: 20}"
    path = train(sgd, "members={seeds: [0, 0], batch_seeds: [5, 6]}", "steps=800", "record.snapshots=0")
    assert "2 members that share one seed have a T, of 2: no interval over members" in command("analyze", path)[1]
