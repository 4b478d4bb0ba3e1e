"""Pages of runs to which some of the memo does not apply, and of runs whose members differ."""

from __future__ import annotations

from rhotrace.analysis.analyze import analyze
from rhotrace.analysis.fluctuation.comparison import compare
from rhotrace.display.blocks import Heading, Paragraph, Table
from rhotrace.display.pages.analysis import findings
from rhotrace.display.pages.comparison import comparison_page
from rhotrace.runfile.reader import open_trace


def test_what_does_not_apply_to_a_loss_is_said_once_and_not_tabulated(train):
    with open_trace(train("steps=20", "record.snapshots=0", "loss.kind=logistic")) as trace:
        blocks = list(findings(analyze(trace, fit=True), fits=True))
    assert [block.title for block in blocks if isinstance(block, Table)] == ["The last recorded step"]
    words = [block.text for block in blocks if isinstance(block, Paragraph)]
    assert sum(text.startswith("T: does not apply") for text in words) == 1
    assert sum(text.startswith("not checked: does not apply") for text in words) == 1
    assert not any("not fitted" in text for text in words)


def test_each_group_of_members_has_a_title_of_its_own(train):
    common = "steps=40", "optimizer.lr=0.1", "record.snapshots=0"
    runs = train(*common, "members={seeds: [0, 1, 0, 1], lr: [0.1, 0.1, 0.05, 0.05]}"), train(*common)
    with open_trace(runs[0]) as first, open_trace(runs[1]) as second:
        page = comparison_page(compare([first, second]))
    titles = [block.text for block in page if isinstance(block, Heading)]
    assert titles == [f"A1  {runs[0]}, lr 0.1", f"A2  {runs[0]}, lr 0.05", f"B  {runs[1]}"]
