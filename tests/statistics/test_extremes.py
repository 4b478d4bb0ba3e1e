from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rhotrace.statistics.extremes import Envelope, thinned

VALUES = st.floats(-1e9, 1e9) | st.sampled_from([np.nan, np.inf, -np.inf])


def cut(values, lengths):
    """The series in pieces of these lengths, over and over."""
    first = 0
    for length in lengths * len(values):
        if first >= len(values):
            return
        yield values[first : first + length]
        first += length


@settings(max_examples=150, deadline=None)
@given(
    st.lists(VALUES, min_size=1, max_size=400), st.lists(st.integers(1, 60), min_size=1, max_size=5), st.integers(2, 20)
)
def test_of_any_series_in_any_pieces_ends_and_extremes_are_kept_in_order(series, lengths, most):
    values, envelope = np.array(series), Envelope(most)
    for piece in cut(values, lengths):
        envelope.extend(piece)
    rows, kept = envelope.curve()
    assert envelope.count == len(values)
    assert len(rows) <= 2 * most + 4
    assert (np.diff(rows) > 0).all()
    assert {0, len(values) - 1} <= set(rows.tolist())
    finite = values[np.isfinite(values)]
    if len(finite):
        assert np.nanmin(kept[np.isfinite(kept)]) == finite.min()
        assert np.nanmax(kept[np.isfinite(kept)]) == finite.max()
    for row, value in zip(rows, kept, strict=True):
        true = values[row]
        assert value == true or (np.isnan(value) and not np.isfinite(true)) or not np.isfinite(true)


def test_a_short_series_is_kept_whole_however_it_comes():
    values = np.random.default_rng(0).standard_normal(300)
    for lengths in ([300], [1], [7, 100]):
        envelope = Envelope(400)
        for piece in cut(values, lengths):
            envelope.extend(piece)
        rows, kept = envelope.curve()
        np.testing.assert_array_equal(rows, np.arange(300))
        np.testing.assert_array_equal(kept, values)


def test_every_spike_of_a_long_series_is_seen_where_it_is():
    values = np.sin(np.arange(1_000_000) / 5000)
    spikes = np.arange(13, 1_000_000, 99_991)
    values[spikes] = 7.0
    envelope = Envelope(1000)
    for piece in cut(values, [1024]):
        envelope.extend(piece)
    rows, _ = envelope.curve()
    assert set(spikes.tolist()) <= set(rows.tolist())
    assert len(rows) <= 2004
    assert len(rows) >= 1000  # half the stretches at least are left after joining


def test_a_gap_without_finite_numbers_stays_a_gap():
    values = np.ones(10_000)
    values[3000:6000] = np.nan
    envelope = Envelope(100)
    envelope.extend(values)
    rows, kept = envelope.curve()
    inside = (rows > 3100) & (rows < 5900)
    assert inside.any()
    assert np.isnan(kept[inside]).all()
    assert np.isfinite(kept[(rows < 2900) | (rows > 6100)]).all()


def test_stretches_are_of_one_length_where_the_length_is_known():
    values = np.arange(100_000.0)
    rows = thinned(values, 100)
    assert (np.diff(rows[1:-1:2]) == 2000).all()
