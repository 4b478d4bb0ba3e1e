from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from rhotrace.analysis import member_bands as banding
from rhotrace.analysis.analyze import fit_transient
from rhotrace.analysis.member_bands import band, bands, groups, run_names
from rhotrace.errors import AnalysisError
from rhotrace.runfile.reader import open_trace
from rhotrace.statistics.extremes import ends_over_members, over_members

SGD = ("optimizer={kind: sgd, lr: 0.05, batch_size: 8}", "record={full_every: 3, test_every: 10, snapshots: 2}")


def test_low_median_and_high_are_those_of_the_finite_members():
    rng = np.random.default_rng(1)
    for members in (1, 2, 5, 6):
        values = rng.standard_normal((50, members))
        values[rng.random(values.shape) < 0.2] = np.nan
        values[3] = np.nan
        values[4, 0] = np.inf
        if members == 1:
            values[4] = 1.0
        found = over_members(values)
        for row, own in enumerate(values):
            finite = own[np.isfinite(own)]
            wanted = (finite.min(), np.median(finite), finite.max()) if len(finite) else (np.nan,) * 3
            np.testing.assert_allclose([curve[row] for curve in found], wanted, rtol=1e-15)
        np.testing.assert_array_equal(ends_over_members(values), (found[0], found[2]))


def test_a_band_is_that_of_the_slow_way_at_every_step(train, monkeypatch):
    monkeypatch.setattr(banding, "SLAB_BYTES", 5000)  # several slabs
    with open_trace(train()) as trace:
        (group,) = groups([trace])
        found = band(group, ["loss"], np.log)
        slow = np.log(trace["loss"])
        one = slow[:, group.typical]
        for curve, wanted in zip((found.low, found.middle, found.high), (slow.min(1), one, slow.max(1)), strict=True):
            np.testing.assert_array_equal(curve[0], np.arange(60))
            np.testing.assert_allclose(curve[1], wanted, rtol=1e-14)


def test_quantities_of_other_strides_meet_at_the_rows_of_the_first(train, monkeypatch):
    monkeypatch.setattr(banding, "SLAB_BYTES", 5000)
    with open_trace(train(*SGD)) as trace:
        (group,) = groups([trace])
        both = bands(group, ["margin_min", "log_rho"], [lambda m, _: m, lambda m, r: m * np.exp(-r)])
        steps = np.arange(0, 60, 3)
        f = trace["margin_min"] * np.exp(-trace["log_rho"][steps])
        np.testing.assert_array_equal(both[0].middle[0], steps)
        np.testing.assert_allclose(both[0].middle[1], trace["margin_min"][:, group.typical], rtol=1e-14)
        np.testing.assert_allclose(both[1].high[1], f.max(axis=1), rtol=1e-14)


def test_members_that_start_alike_are_a_group_with_its_own_T(train):
    run = train("members={seeds: [0, 1, 2, 3], rho_k: [1.2, 0.8, 1.2, 0.8]}", "steps=800", "record.snapshots=0")
    with open_trace(run) as trace:
        found, whole = groups([trace]), fit_transient(trace, fit=False)
        assert [(g.label, g.members) for g in found] == [("rho_k(0) 1.2", (0, 2)), ("rho_k(0) 0.8", (1, 3))]
        for group, pool in zip(found, whole.pools, strict=True):
            assert group.T.T == pool.T
            assert [p.T for p in group.passages] == [whole.each[m].T for m in group.members]
            low = band(group, ["rho_k"], lambda rho_k: rho_k[:, :, 0])
            np.testing.assert_allclose(low.middle[1][0], 1.2 if "1.2" in group.label else 0.8)


def test_the_line_is_a_network_that_there_is_the_one_of_median_T(train):
    run = train("members.seeds=5", "steps=800", "optimizer.lr=0.1", "record.snapshots=0")
    with open_trace(run) as trace:
        (group,) = groups([trace])
        T = np.array([p.T for p in group.passages])
        assert np.isfinite(T).all()
        assert T[group.typical] == np.median(T)
        line = band(group, ["loss"], lambda loss: loss).middle
        np.testing.assert_array_equal(line[1], trace["loss"][line[0], group.typical])
    with open_trace(train("steps=5")) as trace:
        assert groups([trace])[0].typical == 0  # none has a T


def test_groups_of_several_runs_are_named_after_their_files(train):
    with ExitStack() as stack:
        traces = [stack.enter_context(open_trace(train(name=name))) for name in ("gd.h5", "more.h5")]
        assert [group.label for group in groups(traces)] == ["gd", "more"]
        (one,) = groups(traces[:1])
        assert (one.label, one.size) == ("", "3 networks")


def test_runs_of_one_name_are_distinguished_by_their_folders():
    assert run_names([Path("a/x.h5"), Path("b/x.h5"), Path("b/y.h5")]) == ["a/x", "b/x", "y"]


def test_a_run_without_steps_is_refused(train):
    with open_trace(train("steps=1")) as trace, pytest.raises(AnalysisError, match="committed steps"):
        groups([trace])
