"""The page of a run to which some of the memo does not apply."""

from __future__ import annotations

import itertools
import json

import pytest

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
    assert sum(text.startswith("discrete step identity") for text in words) == 1  # which any loss has
    assert not any("not fitted" in text for text in words)


def test_the_plateaus_of_the_loss_are_listed_and_said_beside_T(command):
    """Seed 1 of the recipe ``quick`` stays at half the loss before it fits both classes; seed 0 does not."""
    assert command("recipe", "copy", "quick")[0] == 0
    code, _, err = command(
        "train", "recipes/quick.yaml", "-o", "quick.h5", "--set", "steps=400", "--set", "members.seeds=[0, 1]"
    )
    assert code == 0, err
    _, out, _ = command("analyze", "quick.h5", "--json")
    one, two = json.loads(out)["plateaus"]
    assert [plateau["level"] for plateau in one] == pytest.approx([1, 0], abs=0.1)
    assert [plateau["level"] for plateau in two] == pytest.approx([1, 0.5, 0], abs=0.1)
    T = [each["T"] for each in json.loads(out)["transient"]["each"]]
    assert two[0]["last"] < T[1] < two[1]["first"]
    _, out, _ = command("analyze", "quick.h5")
    words = " ".join(out.split())
    assert "In 1 member (1) T is the arrival at a plateau and not the end of learning: the loss stays near 0.5" in words
    assert f"until step {two[1]['last']}" in words
    assert f"{two[1]['first']}–{two[1]['last']}" in words


def test_the_answer_comes_before_the_tables(train):
    with open_trace(train("steps=800", "optimizer.lr=0.1", "record.snapshots=0")) as trace:
        result = analyze(trace)
    blocks = list(findings(result, fits=True))
    first = next(place for place, block in enumerate(blocks) if isinstance(block, Table))
    words = " ".join(block.text for block in blocks[:first] if isinstance(block, Paragraph))
    assert words.startswith(f"T = {result.transient.pools[0].T.value:.4g} steps")
    assert "At the last step: loss " in words
    after = [b for a, b in itertools.pairwise(blocks) if isinstance(a, Table) and isinstance(b, Paragraph)]
    assert after
    assert all(len(legend.text) < 150 for legend in after)


def test_a_member_without_a_T_is_noted_before_the_tables(train):
    with open_trace(train("steps=20", "record.snapshots=0")) as trace:
        blocks = list(findings(analyze(trace), fits=False))
    first = next(place for place, block in enumerate(blocks) if isinstance(block, Table))
    noted = [block.text for block in blocks[:first] if isinstance(block, Paragraph) and block.text.startswith("Note: ")]
    assert noted == ["Note: 3 of 3 members without a T (3: never left the transient)."]


@pytest.mark.parametrize(
    ("options", "lacks"),
    [
        ("", None),
        ("weight_decay: 0.01", "no weight decay,"),
        ("momentum: 0.5, weight_decay: 0.01", "no momentum and no weight decay,"),
    ],
)
def test_what_equation_5_leaves_out_of_a_run_is_said(train, options, lacks):
    path = train("steps=100", f"optimizer={{kind: gd, lr: 0.1, {options}}}", "record.snapshots=0")
    with open_trace(path) as trace:
        result = analyze(trace)
        words = [b.text for b in findings(result, fits=False) if isinstance(b, Paragraph)]
    said = [text for text in words if text.startswith("Memo 112, equation (5) has no")]
    assert [lacks in text for text in said] == ([True] if lacks else [])


@pytest.mark.parametrize(("batch_norm", "said"), [("false", True), ("true", False)])
def test_the_balance_of_layers_is_given_where_lemma_1_speaks_of_them(train, batch_norm, said):
    network = f"network={{kind: mlp, depth: 3, width: 4, batch_norm: {batch_norm}}}"
    with open_trace(train("steps=5", network, "record.snapshots=0")) as trace:
        words = [b.text for b in findings(analyze(trace), fits=False) if isinstance(b, Paragraph)]
    assert any(text.startswith("balance (Memo 112, Lemma 1)") for text in words) == said
