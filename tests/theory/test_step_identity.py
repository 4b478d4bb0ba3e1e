from __future__ import annotations

import numpy as np
import pytest

from rhotrace.runfile.reader import open_trace
from rhotrace.theory.step_identity import LAWS, audit

NAMES = ("rho_k", "grad_norm", "batch_a", "batch_q", "lr")


def arrays(path):
    with open_trace(path) as trace:
        return [trace[name].copy() for name in NAMES]


OPTIMIZERS = {
    "gd": ("optimizer={kind: gd, lr: 0.05}", "descent"),
    "sgd": ("optimizer={kind: sgd, lr: 0.05, batch_size: 7}", "descent"),
    "weight norm": ("optimizer={kind: weight-norm, lr: 0.05}", "weight-norm"),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("optimizer", "law"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_true_run_passes(train, optimizer, law, dtype):
    result = audit(*arrays(train(optimizer, f"network.dtype={dtype}")), dtype=dtype, law=LAWS[law])
    assert result.holds
    assert result.checked == 59 * 3 * 3


@pytest.mark.parametrize("name", NAMES[:4])
def test_one_wrong_number_is_found_where_it_is(train, name):
    values = arrays(train())
    values[NAMES.index(name)][30, 1] *= 1 + 1e-6
    result = audit(*values, dtype="float64", law=LAWS["descent"])
    assert not result.holds
    assert result.where[0] in {29, 30}
    assert result.where[1] == 1


def test_a_wrong_learning_rate_is_found(train):
    values = arrays(train())
    values[-1] *= 1.001
    assert not audit(*values, dtype="float64", law=LAWS["descent"]).holds


def test_a_step_far_larger_than_its_start_is_judged_by_its_own_size(train):
    result = audit(
        *arrays(train("network.depth=1", "optimizer.lr=1e9", "steps=10")), dtype="float64", law=LAWS["descent"]
    )
    assert result.holds


def test_the_balance_is_the_spread_over_layers(train):
    values = arrays(train())
    square = values[0] ** 2
    moved = np.abs((square[:, :, :, None] - square[:, :, None, :]) - (square[0, :, :, None] - square[0, :, None, :]))
    expected = (moved.max(axis=(2, 3)) / square.mean(axis=2)).max()
    assert audit(*values, dtype="float64", law=LAWS["descent"]).balance == pytest.approx(expected)


def test_nothing_finite_is_nothing_to_check():
    nan = np.full((5, 1, 2), np.nan)
    assert audit(nan, nan, nan[:, :, 0], nan[:, :, 0], np.ones(1), dtype="float64", law=LAWS["descent"]) is None
