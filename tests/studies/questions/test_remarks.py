"""The verdict of several findings, and the three remarks on a small run."""

from __future__ import annotations

import pytest

from rhotrace.analysis.run_series import RunSeries
from rhotrace.runfile.reader import open_trace
from rhotrace.studies.questions import remarks


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        (["holds", "holds"], "yes"),
        (["holds", "fails"], "in part"),
        (["holds", "not testable here"], "in part"),
        (["fails", "not testable here"], "no"),
        (["not testable here"], "undecided"),
    ],
)
def test_the_verdict_of_several_findings(outcomes, verdict):
    assert remarks.verdict(outcomes) == verdict


def test_the_third_remark_is_not_testable_where_no_output_comes_near_1(train):
    with open_trace(train("steps=400")) as trace:
        found = remarks.answer({"small": RunSeries(trace)})
    assert found.values["outcomes"]["growing"] == {"holds": 1}
    assert found.values["outcomes"]["unit_margins"] == {"not testable here": 1}
    assert found.verdict == "in part"
