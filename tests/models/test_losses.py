"""Each loss compared with its formula in long double, and each slope with a difference of the formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rhotrace.analysis.run_series import RunSeries
from rhotrace.analysis.verification import verify
from rhotrace.errors import RecipeError
from rhotrace.models.losses import LOSSES
from rhotrace.recording.quantities import QUANTITIES
from rhotrace.runfile.reader import open_trace

long = np.longdouble


def logsumexp(z):
    top = z.max(axis=0)
    return top + np.log(np.exp(z - top).sum(axis=0))


ORACLES = {  # of outputs and targets (C, N), in long double
    "square": lambda g, y: ((g - y) ** 2).sum(axis=0).mean(),
    "exponential": lambda g, y: np.exp(-y * g).mean(),
    "logistic": lambda g, y: np.mean(np.maximum(-y * g, 0) + np.log1p(np.exp(-np.abs(y * g)))),
    "cross-entropy": lambda g, y: np.mean(logsumexp(g) - (g * y).sum(axis=0)),
}
kinds = pytest.mark.parametrize("kind", ORACLES)


def targets_for(kind: str, samples: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    if kind == "cross-entropy":
        return np.eye(4)[:, rng.integers(4, size=samples)]
    return rng.choice([-1.0, 1.0], size=(1, samples))


def test_every_shipped_loss_has_an_oracle():
    assert set(ORACLES) == set(LOSSES)


@kinds
@pytest.mark.parametrize("size", [1e-3, 1, 5])
def test_value_and_slope_are_those_of_the_formula(kind, size):
    y = targets_for(kind, 6)
    g = size * np.random.default_rng(2).standard_normal((3, *y.shape))
    loss, outputs, targets = LOSSES[kind](), torch.tensor(g), torch.tensor(y)
    expected = [ORACLES[kind](long(own), long(y)) for own in g]
    np.testing.assert_allclose(loss.value(outputs, targets), np.array(expected, float), rtol=1e-9)
    slope, h = loss.slope(outputs, targets).numpy(), long(1e-6)
    for c in range(y.shape[0]):
        for n in range(y.shape[1]):
            up, down = long(g[0]), long(g[0])
            up[c, n] += h
            down[c, n] -= h
            difference = (ORACLES[kind](up, long(y)) - ORACLES[kind](down, long(y))) / (2 * h)
            assert slope[0, c, n] == pytest.approx(float(difference), rel=1e-7, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["square", "logistic", "cross-entropy"])
@pytest.mark.parametrize("sign", [1, -1])
def test_large_outputs_overflow_nowhere(kind, sign, dtype):
    y = targets_for(kind, 5)
    g = sign * 1e4 * (2 * y - 1 if kind == "cross-entropy" else y)
    loss, outputs, targets = LOSSES[kind](), torch.tensor(g, dtype=dtype)[None], torch.tensor(y, dtype=dtype)
    value, slope = loss.value(outputs, targets), loss.slope(outputs, targets)
    assert value[0] == pytest.approx(float(ORACLES[kind](long(g), long(y))), rel=1e-6, abs=1e-30)
    assert slope.isfinite().all()
    if kind != "square" and sign > 0:
        assert slope.abs().max() < 1e-30


def test_a_small_cross_entropy_keeps_its_digits():
    g, y = torch.tensor([[[60.0], [0.0], [1.0]]], dtype=torch.float64), torch.tensor([[1.0], [0], [0]])
    expected = np.log1p(np.exp(-60.0) + np.exp(-59.0))
    assert LOSSES["cross-entropy"]().value(g, y.double())[0] == pytest.approx(expected, rel=1e-12)


TEN = "data={dataset: mnist, classes: all, train: 50, test: 20}"
RUNS = {
    "exponential": ("loss={kind: exponential}",),
    "logistic, batches": ("loss={kind: logistic}", "optimizer={kind: sgd, lr: 0.05, batch_size: 7}"),
    "logistic, momentum": (
        "loss={kind: logistic}",
        "optimizer={kind: gd, lr: 0.02, momentum: 0.9, weight_decay: 0.01}",
    ),
    "cross-entropy": ("loss={kind: cross-entropy}", TEN),
    "cross-entropy, weight norm": (
        "loss={kind: cross-entropy}",
        TEN,
        "optimizer={kind: weight-norm, lr: 0.05, batch_size: 10}",
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_every_step_under_any_loss_is_audited(train, run, dtype):
    import h5py

    path = train(*run, f"network.dtype={dtype}")
    with open_trace(path) as trace:
        found = RunSeries(trace).audit
        assert found.holds, found.residual
        assert found.checked == 59 * 3 * 3
        checks = {check.name: check.outcome for check in verify(trace).checks}
        assert checks["audit of the steps"] == "sound"
        assert "wrong" not in checks.values()
    with h5py.File(path, "r+") as file:
        file["batch_c"][20, 1] += 0.01
    with open_trace(path) as trace:
        assert RunSeries(trace).audit.where[:2] == (20, 1)
        assert {c.name: c.outcome for c in verify(trace).checks}["audit of the steps"] == "wrong"


def test_c_is_the_mean_of_slope_times_output_and_the_margin_is_in_units_of_rho(train):
    with open_trace(train("loss={kind: exponential}", "steps=400", "optimizer.lr=0.2")) as trace:
        own, weights = trace.validated_recipe(), trace.snapshot(0)
        data = own.load_data()
        h = data.x
        for k, W in enumerate(weights):
            h = h @ W[1].T
            h = np.maximum(h, 0) if k < 2 else h
        margins = (h * data.y)[:, 0]
        assert trace["batch_c"][0, 1] == pytest.approx(np.mean(-margins * np.exp(-margins)), rel=1e-12)
        rho, margin, log_margin = np.exp(trace["log_rho"]), trace["margin_min"], trace["log_margin"]
        positive = margin > 0
        assert positive[-1].all()
        assert not positive[0].all()
        assert np.isnan(log_margin[~positive]).all()
        np.testing.assert_allclose(np.exp(log_margin[positive]), (margin / rho)[positive], rtol=1e-12)
    with open_trace(train()) as square:
        assert {"log_margin", "batch_c"}.isdisjoint(q.name for q in square.quantities)


def test_a_normalised_margin_does_not_underflow():
    rows = {"margin_min": np.array([1e-300, 1e300, 0, -1]), "log_rho": np.array([800.0, -800, 1, 1])}
    with np.errstate(all="ignore"):
        found = QUANTITIES["log_margin"].derive(rows)
    np.testing.assert_allclose(found[:2], [-300 * np.log(10) - 800, 300 * np.log(10) + 800])
    assert np.isnan(found[2:]).all()


def test_a_loss_refuses_targets_that_it_is_not_for(train, tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8, 3)), rng.standard_normal((8, 2))
    np.savez(tmp_path / "one.npz", x=x, y=y[:, 0], x_test=x, y_test=y[:, 0])
    np.savez(tmp_path / "two.npz", x=x, y=y, x_test=x, y_test=y)
    npz = f"data={{dataset: npz, file: {tmp_path}/NAME.npz}}"
    for overrides, says in (
        (("loss={kind: exponential}", TEN), "exponential and 10 classes, expected two classes, with targets -1 and +1"),
        (("loss={kind: logistic}", npz.replace("NAME", "one")), "logistic and real targets, expected two classes"),
        (("loss={kind: cross-entropy}",), "cross-entropy and one output, expected three classes or more"),
        (
            ("loss={kind: cross-entropy}", npz.replace("NAME", "two")),
            "cross-entropy and real targets, expected three classes",
        ),
    ):
        with pytest.raises(RecipeError) as refused:
            train(*overrides)
        assert f"loss.kind: got {says}" in str(refused.value)
