"""Test error and transient of two networks that differ by known amounts."""

from __future__ import annotations

import numpy as np
import pytest
from planted_run import planted

from rhotrace.models.network import Block
from rhotrace.studies.questions import weight_sharing

STEPS = np.arange(0, 1000, 2)
UNROLLED = (Block("W1", (4, 9)), Block("W2", (4, 4)), Block("W3", (4, 4)), Block("W4", (1, 4)))
RECURRENT = (Block("W_in", (4, 9)), Block("W_shared", (4, 4), degree=2), Block("W_out", (1, 4)))


def run(T, error, blocks):
    own = 1 + 0.01 * np.arange(5)
    loss = 2.0 ** (-STEPS[:, None] / (T * own))  # half at T, a tenth at 3.3 T
    test = error + 0.001 * np.arange(5) + 0 * loss
    return planted(STEPS, {"loss": loss, "test_error": test}, seeds=list(range(5)), blocks=blocks)


@pytest.mark.parametrize(
    ("slower", "more", "verdict"), [(1.2, 0.001, "yes"), (3, 0.001, "in part"), (3, 0.05, "no"), (1.2, 0.05, "in part")]
)
def test_it_compares_test_error_transient_and_size(slower, more, verdict):
    found = weight_sharing.answer(
        {"unrolled": run(80, 0.05, UNROLLED), "recurrent": run(80 * slower, 0.05 + more, RECURRENT)}
    )
    assert found.verdict == verdict
    assert found.values["slower"].value == pytest.approx(slower, rel=0.03)
    assert found.values["more_test_error"]["at loss 0.1"].value == pytest.approx(more)
    assert (
        weight_sharing.verdict(found.values["more_test_error"]["at loss 0.1"], found.values["slower"], stuck=True)
        != "yes"
    )
    assert found.values["parameters"] == {"unrolled": 72, "recurrent": 56}
