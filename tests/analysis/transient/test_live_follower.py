"""Each member's T while a run trains: what is found in the rows so far, and how it reads."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhotrace.analysis.transient.live_follower import TransientWatch
from rhotrace.analysis.transient.transient_time import first_lasting

REACHED = [0.3, 1.0, 2.0, 5e-324]
NOT_REACHED = [2.0000001, -1.0, 0.0, np.nan, np.inf, -np.inf]
MEMBER = st.lists(st.tuples(st.booleans(), st.integers(1, 40), st.integers(0, 11)), min_size=1, max_size=12)


def ratios(runs: list[tuple[bool, int, int]], rows: int) -> np.ndarray:
    """Values of rho_eq/rho that are within the condition or not, for some rows in turn."""
    values = [v for on, length, kind in runs for v in [REACHED[kind % 4] if on else NOT_REACHED[kind % 6]] * length]
    return np.resize(values, rows)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(MEMBER, min_size=1, max_size=3),
    st.integers(0, 400),
    st.sampled_from([1, 1, 2, 7, 50]),
    st.lists(st.integers(0, 400), max_size=12),
)
def test_the_transient_followed_in_any_blocks_is_that_of_the_whole_series(members, rows, stride, cuts):
    ratio = np.stack([ratios(runs, rows) for runs in members], axis=1)
    steps = np.arange(rows) * stride
    watch = TransientWatch()
    edges = sorted([0, *(cut for cut in cuts if cut < rows), rows])  # some blocks are empty
    for first, last in itertools.pairwise(edges):
        watch.update(steps[first:last], ratio[first:last])
        for member, T in enumerate(watch.T):
            reached = (ratio[:last, member] > 0) & (ratio[:last, member] <= 2)
            row, _ = first_lasting(reached, steps[:last])
            expected = steps[row] if row >= 0 else np.nan
            assert np.array_equal(T, expected, equal_nan=True)


@pytest.mark.parametrize(
    ("T", "words"),
    [
        (None, "T not yet reached"),
        ([np.nan, np.nan], "T not yet reached"),
        ([40.0], "T about 40 steps"),
        ([20.0, 80.0, np.nan], "T about 40 steps (2 of 3 members)"),
        ([0.0, 20.0, 80.0, np.nan], "T about 40 steps (2 of 4 members, 1 of 4 had no transient)"),
        ([0.0, np.nan], "T not yet reached (1 of 2 had no transient)"),
        ([0.0, 0.0], "no transient: rho started at or above rho_eq/2"),
    ],
)
def test_the_transient_in_words(T, words):
    watch = TransientWatch()
    watch.T = T if T is None else np.array(T)
    assert watch.words() == words
