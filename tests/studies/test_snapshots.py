"""Distances between directions and between outputs, on weights whose answers are known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from rhotrace.runfile.reader import open_trace
from rhotrace.studies.snapshots import Directions, angle, bracket, distance, outputs_on_test_set


def turning(angles, size):
    """A trace of one member with two layers, whose first turns in a plane by these angles and whose second stays."""
    shots = [
        (step, [size * np.array([[[np.cos(a), np.sin(a)]]]), np.full((1, 1, 3), 2.0)])
        for step, a in zip((0, 1, 4), angles, strict=True)
    ]
    return SimpleNamespace(snapshots=lambda: shots, snapshot_steps=lambda: [0, 1, 4])


def test_directions_do_not_depend_on_norms_and_are_a_line_between_snapshots():
    one, other = (Directions.of(turning((0.0, 0.1, 0.3), size)) for size in (1.0, 7.0))
    tau = np.array([0.0, 1.0, 2.0])
    at = one.at(0, tau, 1.5)
    assert distance(at, other.at(0, tau, 1.5)) == pytest.approx(0, abs=1e-15)
    assert np.arctan2(*at[0][0, ::-1]) == pytest.approx(0.2)  # the middle of two directions is theirs
    assert np.square(at[0]).sum() == pytest.approx(1)
    chord = 2 * np.sin(0.1)  # of an angle of 0.2, in one of two layers
    assert distance(at, one.at(0, tau, 0.0)) == pytest.approx(chord / np.sqrt(2))
    assert one.at(0, tau, 2.1) is None
    assert np.isnan(distance(at, None))


@pytest.mark.parametrize(
    ("at", "expected"),
    [(0.0, (0, 0, 0.0)), (1.0, (0, 1, 1.0)), (2.0, (2, 3, 0.5)), (3.0, (2, 3, 1.0))],
)
def test_a_reading_is_between_two_snapshots_also_where_readings_repeat(at, expected):
    assert bracket(np.array([0.0, 1.0, 1.0, 3.0]), at) == expected


@pytest.mark.parametrize("at", [-0.1, 3.1, np.nan])
def test_a_reading_outside_the_snapshots_has_no_place(at):
    assert np.isnan(bracket(np.array([0.0, 1.0, 1.0, 3.0]), at)[2])


def test_an_angle_is_that_of_the_vectors_of_any_lengths():
    assert angle(np.array([1.0, 0.0]), np.array([3.0, 3.0])) == pytest.approx(45)
    assert angle(np.array([1.0, 1.0]), np.array([-2.0, -2.0])) == pytest.approx(180)


def test_outputs_on_the_test_set_are_those_of_the_snapshots(train):
    path = train("steps=20", "record.snapshots=3")
    with open_trace(path) as trace:
        found, steps = outputs_on_test_set(trace), trace.snapshot_steps()
        data = trace.validated_recipe().load_data()
        h = data.x_test
        for W in trace.snapshot(steps[-1])[:-1]:
            h = np.maximum(h @ W[1].T, 0)
        expected = h @ trace.snapshot(steps[-1])[-1][1].T
    assert found.shape == (len(steps), 3, len(data.x_test))
    np.testing.assert_allclose(found[-1, 1], expected.ravel(), rtol=1e-10)
