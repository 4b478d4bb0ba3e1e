from __future__ import annotations

import numpy as np
import pytest

from rhotrace.runfile.reader import open_trace
from rhotrace.theory.step_identity import PairwiseSum, Tally, audit, balance_drift, identity
from rhotrace.theory.step_laws import LAWS, StepLaw

NAMES = ("rho_k", "grad_norm", "batch_a", "batch_q", "lr")


def arrays(path):
    with open_trace(path) as trace:
        return [trace[name].copy() for name in NAMES]


OPTIMIZERS = {
    "gd": ("optimizer={kind: gd, lr: 0.05}", "descent"),
    "sgd": ("optimizer={kind: sgd, lr: 0.05, batch_size: 7}", "descent"),
    "weight norm": ("optimizer={kind: weight-norm, lr: 0.05}", "weight-norm"),
    "held norms": ("optimizer={kind: norm-control, lr: 0.05}", "held"),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("optimizer", "law"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_true_run_passes(train, optimizer, law, dtype):
    path = train(optimizer, f"network.dtype={dtype}")
    with open_trace(path) as trace:
        read = {name: trace[name] for name in LAWS[law].quantities}
    result = audit(*arrays(path), dtype=dtype, law=LAWS[law], read=read)
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


@pytest.mark.parametrize("spoil", [None, np.nan, np.inf, 0.0])
@pytest.mark.parametrize("scale", [1.0, 1e-155, 1e150])
@pytest.mark.parametrize("layers", [1, 3, 8])
def test_the_balance_is_the_largest_drift_to_the_last_bit(layers, scale, spoil):
    rng = np.random.default_rng(layers)
    rho_k = scale * (1 + np.round(rng.random((60, 2, layers)), 1))  # ties, which an estimate does not decide
    grad_norm, sums = np.ones_like(rho_k), np.zeros((60, 2))
    if spoil is not None:
        rho_k[rng.random(rho_k.shape) < 0.02] = spoil
        rho_k[0] = scale
    whole, kept = rho_k.copy(), Tally(60, dtype="float64", law=LAWS["descent"])
    for first in (0, 20, 40):
        which = slice(first, min(first + 21, 60))
        kept.extend(rho_k[which], grad_norm[which], sums[which], sums[which], np.array([0.0, 0.0]))
    drift = [balance_drift(rho_k[first : first + 21], rho_k[0] ** 2) for first in (0, 20, 40)]
    assert kept.audit().balance == np.fmax.reduce(np.concatenate(drift), axis=None)
    assert np.array_equal(rho_k, whole, equal_nan=True)


DEGREE = np.array([2.0, 1.0, 3.0])


def homogeneous(lr: float, steps: int, *, weight_norm: bool):
    """Descent on a sum over samples of (u1^2 u2 u3^3 - y)^2, u_k = x . w_k: of degree 2, 1 and 3 in its three vectors."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((12, 4)), rng.standard_normal(12)
    w = [0.6 * v / np.linalg.norm(v) for v in rng.standard_normal((3, 4))]
    direction, found = [v.copy() for v in w], {name: [] for name in NAMES[:4]}
    for _ in range(steps):
        u = [x @ v for v in w]
        g = u[0] ** 2 * u[1] * u[2] ** 3
        slopes = [2 * u[0] * u[1] * u[2] ** 3, u[0] ** 2 * u[2] ** 3, 3 * u[0] ** 2 * u[1] * u[2] ** 2]
        G = [2 * ((g - y) * slope) @ x / len(y) for slope in slopes]
        found["rho_k"].append([np.linalg.norm(v) for v in w])
        found["grad_norm"].append([np.linalg.norm(v) for v in G])
        found["batch_a"].append(np.mean(y * g))
        found["batch_q"].append(np.mean(g * g))
        for k in range(3):
            if not weight_norm:
                w[k] = w[k] - lr * G[k]
                continue
            gamma, v = np.linalg.norm(w[k]), direction[k]
            V = v / np.linalg.norm(v)
            along = V @ G[k]
            direction[k] = v - lr * gamma / np.linalg.norm(v) * (G[k] - V * along)
            w[k] = (gamma - lr * along) * direction[k] / np.linalg.norm(direction[k])
    rho_k, grad_norm, a, q = (np.array(found[name]) for name in NAMES[:4])
    return rho_k[:, None], grad_norm[:, None], a[:, None], q[:, None], np.array([lr])


@pytest.mark.parametrize("law", ["descent", "weight-norm"])
def test_a_network_of_other_degrees_obeys_the_law_with_its_degrees_and_no_other(law):
    values = homogeneous(0.05, 40, weight_norm=law == "weight-norm")
    more = {"dtype": "float64", "law": LAWS[law], "read": {"v_norm": values[0]}}
    assert audit(*values, degree=DEGREE, **more).holds
    assert not audit(*values, **more).holds
    assert not audit(*values, degree=DEGREE[::-1], **more).holds


def test_ones_for_degrees_change_no_bit(train):
    values = arrays(train())
    plain = identity(*values, dtype="float64", law=LAWS["descent"])
    ones = identity(*values, dtype="float64", law=LAWS["descent"], degree=np.ones(3))
    for first, second in zip(plain, ones, strict=True):
        np.testing.assert_array_equal(first, second)


def test_laws_are_found_by_their_names():
    assert all(isinstance(law, StepLaw) and law.name == name for name, law in LAWS.items())
    controlled = {f"{kind}-norms" for kind in ("linear", "step", "ivanov", "closed-form", "tikhonov")}
    assert set(LAWS) == {"descent", "decay", "heavy-ball", "held", "weight-norm"} | controlled


def test_nothing_finite_is_nothing_to_check():
    nan = np.full((5, 1, 2), np.nan)
    assert audit(nan, nan, nan[:, :, 0], nan[:, :, 0], np.ones(1), dtype="float64", law=LAWS["descent"]) is None


SCHEDULES = {
    "descent": ("gd", {}),
    "linear-norms": ("norm-control, norms: {kind: linear, factor: 2, steps: 40}", {"factor": 2, "steps": 40}),
    "step-norms": (
        "norm-control, norms: {kind: step, factor: 0.5, milestones: [9, 31]}",
        {"factor": 0.5, "milestones": [9, 31]},
    ),
    "tikhonov-norms": (
        "norm-control, norms: {kind: tikhonov, penalty: 0.1, steps: 50, power: 1}",
        {"penalty": 0.1, "steps": 50, "power": 1},
    ),
}


@pytest.mark.parametrize("pieces", [1, 2, 7, 59])
@pytest.mark.parametrize("law", SCHEDULES)
def test_an_audit_in_pieces_is_that_of_all_steps_to_the_last_bit(train, pieces, law):
    optimizer, read = SCHEDULES[law]
    rho_k, grad_norm, batch_a, batch_q, lr = arrays(train(f"optimizer={{lr: 0.05, kind: {optimizer}}}"))
    options = {"dtype": "float64", "law": LAWS[law]}
    tally = Tally(len(rho_k), **options)
    for at in np.array_split(np.arange(len(rho_k) - 1), pieces):
        rows = slice(at[0], at[-1] + 2)
        tally.extend(rho_k[rows], grad_norm[rows], batch_a[rows], batch_q[rows], lr, read=read)
    assert tally.audit() == audit(rho_k, grad_norm, batch_a, batch_q, lr, **options, read=read)
    assert tally.audit().holds


@pytest.mark.parametrize("shape", [(1, 1, 1), (9_999, 4, 8), (50_001, 3, 5), (100_003, 1, 7)])
@pytest.mark.parametrize("piece", [1_000, 8_192, 10**6])
def test_a_sum_in_pieces_is_that_of_numpy_to_the_last_bit(shape, piece):
    values = np.exp(3 * np.random.default_rng(0).standard_normal(shape))
    total = PairwiseSum(values.size)
    for first in range(0, len(values), piece):
        total.extend(values[first : first + piece])
    assert total.total == float(values.sum())
