"""The headline of a run says what was trained."""

from __future__ import annotations

import pytest

from rhotrace.analysis.run_summary import summary
from rhotrace.display.pages.headline import headline
from rhotrace.runfile.reader import open_trace


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "gd, lr 0.05;"),
        (["members={seeds: 2, lr: [0.02, 0.02]}"], "gd, lr 0.02;"),
        (["members={seeds: 3, lr: [0.03, 0.01, 0.02]}"], "gd, lr 0.01 to 0.03;"),
        (["optimizer={kind: sgd, lr: 0.1, batch_size: 8}"], "sgd, lr 0.1, batch size 8, sampling shuffled;"),
    ],
    ids=["optimizer's", "equal", "range", "sgd"],
)
def test_the_learning_rate_is_that_of_the_members(train, overrides, said):
    with open_trace(train("steps=2", "record.snapshots=0", *overrides)) as trace:
        assert said in headline(summary(trace))


def test_a_loss_other_than_the_square_is_named(train):
    with open_trace(train("steps=2", "record.snapshots=0", "loss.kind=logistic")) as trace:
        assert "; logistic loss, gd, lr 0.05;" in headline(summary(trace))


def test_one_member_is_not_several(train):
    with open_trace(train("steps=2", "members.seeds=1")) as trace:
        assert headline(summary(trace)).startswith("finished: 2 of 2 steps, 1 member, ")


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ("{kind: mlp, depth: 3, width: 8}", "L = 3, width 8, float32;"),
        ("{kind: mlp, depth: 1}", "L = 1, float32;"),
        ("{kind: conv, channels: [3, 4]}", "L = 3, conv, channels 3-4, float32;"),
        ("{kind: conv, channels: [3], batch_norm: true}", "L = 2, conv, channels 3, batch normalisation, float32;"),
        ("{kind: shared, depth: 4, width: 5}", "L = 3, shared, width 5, float32;"),
    ],
)
def test_the_network_is_named_with_what_it_has(train, network, said):
    with open_trace(train("steps=2", "record.snapshots=0", f"network={network}")) as trace:
        assert f"\n{said}" in headline(summary(trace))
