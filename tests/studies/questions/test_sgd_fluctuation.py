"""The verdict of ratios of fluctuations."""

from __future__ import annotations

import pytest

from rhotrace.studies.questions.sgd_fluctuation import verdict


@pytest.mark.parametrize(
    ("ratios", "said"),
    [
        ([(3, 9), (4, 90)], "yes"),
        ([(0.1, 9), (4, 90)], "in part"),
        ([(0.1, 0.9), (0.5, 1.5)], "no"),
        ([(0.1, 9), (0.5, 1.5)], "undecided"),
    ],
)
def test_twice_that_of_gd_counts_as_a_fluctuation_of_its_own(ratios, said):
    assert verdict(ratios) == said
