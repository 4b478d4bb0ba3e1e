"""The page of a comparison in which a run has several groups of members."""

from __future__ import annotations

from rhotrace.analysis.fluctuation.comparison import compare
from rhotrace.display.blocks import Heading
from rhotrace.display.pages.comparison import comparison_page
from rhotrace.runfile.reader import open_trace


def test_each_group_of_members_has_a_title_of_its_own(train):
    common = "steps=40", "optimizer.lr=0.1", "record.snapshots=0"
    runs = train(*common, "members={seeds: [0, 1, 0, 1], lr: [0.1, 0.1, 0.05, 0.05]}"), train(*common)
    with open_trace(runs[0]) as first, open_trace(runs[1]) as second:
        page = comparison_page(compare([first, second]))
    titles = [block.text for block in page if isinstance(block, Heading)]
    assert titles == [f"run1, lr 0.1  {runs[0]}", f"run1, lr 0.05  {runs[0]}", f"run2  {runs[1]}"]
