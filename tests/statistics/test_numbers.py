"""Numbers as sentences have them."""

from __future__ import annotations

import math

import pytest

from rhotrace.statistics.numbers import written


@pytest.mark.parametrize(
    ("value", "digits", "words"),
    [
        (1077.4, 3, "1,080"),
        (999.6, 3, "1,000"),
        (-123456.0, 2, "-120,000"),
        (100.0, 2, "100"),
        (88.0, 3, "88"),
        (0.00001234, 2, "1.2e-05"),
        (3.2e9, 2, "3.2e+09"),
        (0.0, 3, "0"),
        (math.inf, 2, "infinity"),
    ],
)
def test_a_number_in_a_sentence_is_rounded_and_has_no_power_of_ten_where_a_reader_expects_none(value, digits, words):
    assert written(value, digits) == words
