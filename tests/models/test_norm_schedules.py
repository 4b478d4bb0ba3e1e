"""Norms that follow equation (5) or a Tikhonov penalty: compared with the closed form, with integrators, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rhotrace.analysis.run_series import RunSeries
from rhotrace.analysis.verification import verify
from rhotrace.models.norm_schedules import ClosedFormNorms, Descended, TikhonovNorms
from rhotrace.runfile.reader import open_trace
from rhotrace.theory import norm_dynamics
from rhotrace.theory.norm_dynamics import tikhonov_lambda
from rhotrace.theory.step_identity import audit
from rhotrace.theory.step_laws import LAWS

CLOSED_FORM = "{kind: closed-form, A: 2, B: 1}"
TIKHONOV = "{kind: tikhonov, penalty: 0.03}"
FALLING = "{kind: tikhonov, penalty: 0.1, steps: 40, power: 2}"
EVERY = (
    "{kind: linear, factor: 3, steps: 40}",
    "{kind: step, milestones: [10, 30], factor: 1.5}",
    "{kind: ivanov, C: 0.6}",
    CLOSED_FORM,
    TIKHONOV,
    FALLING,
)


def control(norms: str, lr: float = 0.05) -> str:
    return f"optimizer={{kind: norm-control, lr: {lr}, norms: {norms}}}"


def step(before: np.ndarray, lr: float, free: np.ndarray | None = None, taken: int = 1) -> Descended:
    """One member's step from norms of its layers."""
    own, other = (torch.tensor(values).reshape(1, 1, -1) for values in (before, before if free is None else free))
    return Descended(
        own,
        own,
        other,
        torch.full((1, 1, 1), float(taken), dtype=own.dtype),
        torch.full((1, 1, 1), lr, dtype=own.dtype),
    )


def followed(schedule: ClosedFormNorms, start: float, depth: int, lr: float, steps: int) -> np.ndarray:
    """Norm of one of ``depth`` equal layers after each step."""
    norms = [np.full(depth, start)]
    for _ in range(steps):
        norms.append(schedule.norms(step(norms[-1], lr)).numpy().ravel())
    np.testing.assert_allclose(np.ptp(norms, axis=1), 0, atol=1e-13)
    return np.array(norms)[:, 0]


# --- equation (5) ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("start", [0.5, 1.3])  # below and above the equilibrium 1.5^(1/L)
def test_the_norms_pass_each_value_at_the_time_of_the_closed_form(depth, start):
    A, B, lr = 0.3, 0.2, 0.02
    found = followed(ClosedFormNorms(A=A, B=B), start, depth, lr, 60)
    times = norm_dynamics.time_to_reach(found[1:], start, A=A, B=B, depth=depth)
    np.testing.assert_allclose(times, lr * np.arange(1, 61), rtol=1e-9)
    np.testing.assert_allclose(
        found, norm_dynamics.integrate(lr * np.arange(61), start, A=A, B=B, depth=depth), rtol=1e-6
    )


def test_a_step_is_exact_where_eulers_method_is_of_first_order():
    schedule, off = ClosedFormNorms(A=1.0, B=0.5), []
    for steps in (25, 50, 100):
        lr = 0.5 / steps
        exact, r = followed(schedule, 0.6, 4, lr, steps)[-1], 0.6
        for _ in range(steps):
            r += lr * 2 * r**3 * (1 - 0.5 * r**4)
        off.append(exact - r)
        np.testing.assert_allclose(exact, followed(schedule, 0.6, 4, 0.1, 5)[-1], rtol=1e-13)
    assert off[0] / off[1] == pytest.approx(2, rel=0.1)
    assert off[1] / off[2] == pytest.approx(2, rel=0.1)


def test_unequal_norms_keep_their_ratios_and_their_product_follows_equation_5():
    norms = ClosedFormNorms(A=1.0, B=0.5).norms(step(np.array([0.5, 1.0, 2.0]), 0.01)).numpy().ravel()
    np.testing.assert_allclose(norms / norms[1], [0.5, 1, 2], rtol=1e-14)
    assert norms.prod() - 1 == pytest.approx(0.01 * 2 * 3 * (1 - 0.5), rel=0.03)  # d rho/dt at rho = 1


# --- a penalty ---------------------------------------------------------------------------------------------------


def test_the_penalty_is_a_step_along_the_gradient_of_lambda_rho_squared():
    before, free = np.array([1.1, 0.7, 2.0]), np.array([1.15, 0.72, 2.03])
    off = []
    for lr in (0.01, 0.005):
        rho = before.prod()
        descent = free - lr * 2 * 0.3 * rho**2 / before
        found = TikhonovNorms(penalty=0.3).norms(step(before, lr, before + (free - before))).numpy().ravel()
        off.append(np.abs(found - descent).max() / lr)
    assert off[1] < 0.1  # of a slope of about 1
    exact = TikhonovNorms(penalty=0.3).norms(step(before, 1e-6)).numpy().ravel() - before
    np.testing.assert_allclose(exact / 1e-6, -2 * 0.3 * before.prod() ** 2 / before, rtol=1e-4)


@pytest.mark.parametrize(("taken", "share"), [(1, 1.0), (21, 0.25), (41, 0.0), (60, 0.0)])
def test_lambda_falls_to_zero_as_its_schedule_says(taken, share):
    before = np.array([1.0, 1.0])
    falling = TikhonovNorms(penalty=0.1, steps=40, power=2)
    constant = TikhonovNorms(penalty=0.1 * share)
    np.testing.assert_allclose(
        falling.norms(step(before, 0.1, taken=taken)), constant.norms(step(before, 0.1)), rtol=1e-12
    )


def test_the_form_of_lambda_is_that_of_figure_2_while_rho_is_small():
    A, B, depth, start = 1.0, 1.0, 4, 0.05
    T = 1 / (2 * A * (depth - 2) * start ** (depth - 2))  # where the solution for small rho diverges
    t = np.array([0.25, 0.5, 0.75]) * T
    rho = norm_dynamics.integrate(np.concatenate([[0], t]), start, A=A, B=B, depth=depth)[1:] ** depth
    figure = tikhonov_lambda(rho, A=A, B=B) / tikhonov_lambda(start**depth, A=A, B=B)
    np.testing.assert_allclose((1 - t / T) ** (depth / (depth - 2)), figure, rtol=1e-3)


def test_training_under_a_penalty_comes_to_rest_where_lambda_is_a_minus_q_over_rho_squared(train):
    path = train(control(TIKHONOV, lr=0.15), "steps=500", "init.rho_k=1", "record.snapshots=0", "record.test_every=500")
    with open_trace(path) as trace:
        rho, a, q = np.exp(trace["log_rho"][-1]), trace["a"][-1], trace["q"][-1]
    np.testing.assert_allclose((a - q) / rho**2, 0.03, rtol=0.03)
    np.testing.assert_allclose(tikhonov_lambda(rho, A=a / rho, B=q / rho**2), 0.03, rtol=0.03)


# --- steps are checked -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("norms", "name"), [(norms, norms.split(", ")[1].split(":")[0]) for norms in EVERY])
def test_every_step_of_a_schedule_is_checked_and_one_of_another_is_found(train, norms, name):
    path = train(control(norms), "init.rho_k=0.8", "steps=45")
    with open_trace(path) as trace:
        outcomes = {check.name: check.outcome for check in verify(trace).checks}
        run, law = RunSeries(trace), LAWS[trace.facts.law]
        assert outcomes["audit of the steps"] == "sound"
        assert run.audit.checked == (trace.steps - 1) * trace.members * trace.depth
        assert run.audit_of([1]).holds
        read = {key: trace.recipe["optimizer"]["norms"][key] for key in law.norms}
        arrays = [trace[key] for key in ("rho_k", "grad_norm", "batch_a", "batch_q", "lr")]
    assert audit(*arrays, dtype="float64", law=law, read=read).holds
    read[name] = [11, 30] if name == "milestones" else read[name] * 1.01
    assert not audit(*arrays, dtype="float64", law=law, read=read).holds


@pytest.mark.parametrize("norms", EVERY[2:])
def test_single_precision_is_checked_to_its_rounding(train, norms):
    path = train(control(norms), "init.rho_k=0.8", "steps=45", "network.dtype=float32")
    with open_trace(path) as trace:
        found = RunSeries(trace).audit
    assert found.holds
    assert found.checked == 44 * 9


def test_norms_that_have_come_to_their_equilibrium_are_checked_too(train):
    path = train(control("{kind: closed-form, A: 2, B: 1}"), "steps=150", "init.rho_k=1", "record.snapshots=0")
    with open_trace(path) as trace:
        assert trace["log_rho"][-1] == pytest.approx(np.log(2), abs=1e-11)
        assert RunSeries(trace).audit.holds
        assert RunSeries(trace).audit.checked == (trace.steps - 1) * trace.members * trace.depth


def test_norms_set_together_are_not_checked_where_a_layer_is_not_homogeneous(train):
    path = train(control("{kind: ivanov, C: 1}"), "network={kind: residual, depth: 3, width: 6}")
    with open_trace(path) as trace:
        (check,) = (check for check in verify(trace).checks if check.name == "audit of the steps")
    assert check.outcome == "not checked"
    assert "the norms of all layers are set together" in check.says
