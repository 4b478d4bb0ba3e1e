"""The plan of a run file: when snapshots are taken."""

from __future__ import annotations

import numpy as np
import pytest

from rhotrace.runfile.layout import snapshot_steps


@pytest.mark.parametrize(("steps", "count"), [(60, 6), (10_000, 12), (1_000_000, 40), (5, 12), (1, 5), (7, 3), (9, 2)])
def test_snapshot_steps_are_log_spaced_with_both_ends(steps, count):
    taken = snapshot_steps(steps, count)
    assert taken[0] == 0
    assert taken[-1] == steps
    assert taken == sorted(set(taken))
    assert len(taken) <= count
    gaps = np.diff(np.log(taken[1:]))
    large = np.array(taken[1:-1]) > 100  # below, rounding to whole steps shows
    if large.sum() > 1:
        np.testing.assert_allclose(gaps[large], np.log(steps) / (count - 2), rtol=0.02)


def test_no_or_one_snapshot_may_be_asked_for():
    assert snapshot_steps(9, 0) == []
    assert snapshot_steps(9, 1) == [0]
