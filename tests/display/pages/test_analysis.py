"""The page of a run to which some of the memo does not apply."""

from __future__ import annotations

from rhotrace.analysis.analyze import analyze
from rhotrace.display.blocks import Paragraph, Table
from rhotrace.display.pages.analysis import findings
from rhotrace.runfile.reader import open_trace


def test_what_does_not_apply_to_a_loss_is_said_once_and_not_tabulated(train):
    with open_trace(train("steps=20", "record.snapshots=0", "loss.kind=logistic")) as trace:
        blocks = list(findings(analyze(trace, fit=True), fits=True))
    assert [block.title for block in blocks if isinstance(block, Table)] == ["The last recorded step"]
    words = [block.text for block in blocks if isinstance(block, Paragraph)]
    assert sum(text.startswith("T: does not apply") for text in words) == 1
    assert sum(text.startswith("not checked: does not apply") for text in words) == 1
    assert not any("not fitted" in text for text in words)
