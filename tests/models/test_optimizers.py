"""Weight normalisation from any start of v, and norms under control: compared with steps written out by hand in torch."""

from __future__ import annotations

import h5py
import inside
import numpy as np
import pytest
import torch

from rhotrace.analysis.claims.findings import audit_claims
from rhotrace.analysis.run_series import RunSeries
from rhotrace.analysis.verification import verify
from rhotrace.config import recipe
from rhotrace.errors import RecipeError
from rhotrace.runfile.reader import open_trace

WEIGHT_NORM = "optimizer={kind: weight-norm, lr: 0.05}"
SCALES = "members={seeds: [0, 0, 1], v_scale: [1, 0.5, 2]}"
LONG = ("steps=600", "init.rho_k=0.8", "record.snapshots=0")


def control(norms: str) -> str:
    return f"optimizer={{kind: norm-control, lr: 0.05, norms: {norms}}}"


HELD = control("{kind: constant}")


def gradients(weights, x, y):
    """dL/dW of the square loss by autograd, for the weights of one member."""
    free = [torch.tensor(W, requires_grad=True) for W in weights]
    h = x
    for W in free[:-1]:
        h = torch.relu(h @ W.T)
    (h @ free[-1].T - y).square().sum(dim=1).mean().backward()
    return [W.grad.numpy() for W in free]


def start_of(path, member):
    with open_trace(path) as trace:
        own = trace.validated_recipe()
        data = own.load_data()
        return [W[member] for W in trace.snapshot(0)], torch.tensor(data.x), torch.tensor(data.y)


def by_hand(path, member, steps, step):
    """rho_k at each step, (steps, L), of a rule ``step(weights, gradients, taken) -> weights``."""
    weights, x, y = start_of(path, member)
    found = []
    for taken in range(1, steps + 1):
        found.append([np.linalg.norm(W) for W in weights])
        weights = step(weights, gradients(weights, x, y), taken)
    return np.array(found), weights


def contents(path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        found = {}
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


# --- weight normalisation ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("member", "scale"), [(0, 1.0), (1, 0.5), (2, 2.0)])
def test_v_starts_at_its_scale_times_the_weights(train, member, scale):
    path = train(WEIGHT_NORM, SCALES)
    weights, x, y = start_of(path, member)
    v, gamma = [scale * W for W in weights], [np.linalg.norm(W) for W in weights]
    norms, lengths = [], []
    for _ in range(60):
        norms.append(list(gamma))
        lengths.append([np.linalg.norm(u) for u in v])
        G = gradients([g * u / np.linalg.norm(u) for g, u in zip(gamma, v, strict=True)], x, y)
        for k, g in enumerate(G):
            size = np.linalg.norm(v[k])
            V = v[k] / size
            along = float((V * g).sum())
            v[k] = v[k] - 0.05 * gamma[k] / size * (g - along * V)
            gamma[k] -= 0.05 * along
    with open_trace(path) as trace:
        np.testing.assert_allclose(trace["rho_k"][:, member], norms, rtol=1e-9)
        np.testing.assert_allclose(trace["v_norm"][:, member], lengths, rtol=1e-9)
        assert RunSeries(trace).labels[member].endswith(f"v(0)/W {scale:g}")
        assert {check.outcome for check in verify(trace).checks} <= {"sound", "not checked"}
        assert RunSeries(trace).audit.holds


def test_a_scale_of_one_leaves_the_run_as_it_was(train):
    plain, one = contents(train(WEIGHT_NORM)), contents(train(WEIGHT_NORM, "optimizer.v_scale=1"))
    assert plain.keys() == one.keys()
    assert all(np.array_equal(plain[name], one[name], equal_nan=True) for name in plain)
    beside = contents(train(WEIGHT_NORM, SCALES))
    np.testing.assert_array_equal(beside["rho_k"][:, 0], plain["rho_k"][:, 0])


def test_the_verdict_on_remark_4_depends_on_the_start_of_v(train):
    found = {}
    for scale in (1, 0.5):
        with open_trace(train(WEIGHT_NORM, *LONG, f"optimizer.v_scale={scale}")) as trace:
            run = RunSeries(trace)
            (claim,) = (c for c in audit_claims(run) if c.key == "weightnorm")
            found[scale] = claim.finding, run.transient.pools[0].T.value
    assert found[1][0].outcome == "holds"
    assert found[0.5][0].outcome == "fails"
    assert "times the speed of gradient descent, 4 at the start and" in found[0.5][0].measured
    assert found[0.5][1] < 0.5 * found[1][1]  # the transient is the turning of the directions


# --- norms under control -----------------------------------------------------------------------------------

FACTORS = {
    "{kind: constant}": lambda _: 1.0,
    "{kind: linear, factor: 3, steps: 40}": lambda taken: 1 + 2 * min(taken / 40, 1),
    "{kind: step, milestones: [10, 30], factor: 1.5}": lambda taken: 1.5 ** ((taken >= 10) + (taken >= 30)),
}


@pytest.mark.parametrize("norms", FACTORS)
def test_the_norms_follow_their_schedule_and_the_directions_the_gradient(train, norms):
    path = train(control(norms))
    start = [np.linalg.norm(W) for W in start_of(path, 1)[0]]

    def step(weights, G, taken):
        moved = [W - 0.05 * g for W, g in zip(weights, G, strict=True)]
        return [W * (r * FACTORS[norms](taken) / np.linalg.norm(W)) for W, r in zip(moved, start, strict=True)]

    expected, end = by_hand(path, 1, 60, step)
    with open_trace(path) as trace:
        np.testing.assert_allclose(trace["rho_k"][:, 1], expected, rtol=1e-12)
        for W, own in zip(trace.snapshot(60), end, strict=True):
            np.testing.assert_allclose(W[1], own, rtol=0, atol=1e-10)
        outcomes = {check.name: check.outcome for check in verify(trace).checks}
        assert outcomes["audit of the steps"] == "sound"
        assert "wrong" not in outcomes.values()


def test_directions_at_held_norms_follow_equation_4_in_the_limit_of_small_steps(train):
    """The projected flow, integrated by midpoint steps of a tenth of the time, is met ever better by smaller steps."""
    off = []
    for steps in (20, 40, 80):
        path = train(HELD, f"steps={steps}", f"optimizer.lr={4 / steps}", "record.test_every=1000")
        weights, x, y = start_of(path, 0)
        radii = [np.linalg.norm(W) for W in weights]

        def slope(own, x=x, y=y, radii=radii):
            G = gradients(own, x, y)
            return [-(g - W * (W * g).sum() / r**2) for W, g, r in zip(own, G, radii, strict=True)]

        for _ in range(200):
            middle = [W + 0.01 * d for W, d in zip(weights, slope(weights), strict=True)]
            weights = [W + 0.02 * d for W, d in zip(weights, slope(middle), strict=True)]
        with open_trace(path) as trace:
            ends = [W[0] for W in trace.snapshot(steps)]
        off.append(max(float(np.linalg.norm(W - V)) for W, V in zip(ends, weights, strict=True)))
    assert off[0] / off[1] == pytest.approx(2, rel=0.2)
    assert off[1] / off[2] == pytest.approx(2, rel=0.2)


def test_ivanov_is_gradient_descent_until_rho_reaches_its_bound(train):
    free, bound = train(*LONG), train(control("{kind: ivanov, C: 1.5}"), *LONG)
    with open_trace(free) as one, open_trace(bound) as other:
        rho, held = np.exp(one["log_rho"]), np.exp(other["log_rho"])
        first = int(np.argmax((rho > 1.5).any(axis=1)))
        assert 0 < first < 600
        np.testing.assert_allclose(other["rho_k"][:first], one["rho_k"][:first], rtol=1e-9)
        assert held.max() <= 1.5 * (1 + 1e-12)
        np.testing.assert_allclose(held[-1], 1.5, rtol=1e-9)


@pytest.mark.parametrize(
    "norms",
    [
        "{kind: linear, factor: 3, steps: 40}",
        "{kind: step, milestones: [30], factor: 2}",
        "{kind: tikhonov, penalty: 0.1, steps: 40}",
    ],
)
def test_a_resumed_run_of_controlled_norms_has_the_same_bits(train, tmp_path, monkeypatch, small, norms):
    whole, path = train(control(norms)), tmp_path / "resumed.h5"
    own = recipe.parse(small, [control(norms)])
    inside.train_killed_and_resumed(monkeypatch.setattr, own, path)
    once, twice = contents(whole), contents(path)
    assert once.keys() == twice.keys()
    assert all(np.array_equal(once[name], twice[name], equal_nan=True) for name in once)


def test_a_resumed_weight_norm_run_keeps_its_start_of_v(train, tmp_path, monkeypatch, small):
    whole, path = train(WEIGHT_NORM, SCALES), tmp_path / "resumed.h5"
    own = recipe.parse(small, [WEIGHT_NORM, SCALES])
    inside.train_killed_and_resumed(monkeypatch.setattr, own, path)
    once, twice = contents(whole), contents(path)
    assert all(np.array_equal(once[name], twice[name], equal_nan=True) for name in once)


def test_statements_on_free_norms_do_not_apply_to_controlled_ones(train, command):
    path = train(HELD, "steps=600", "init.rho_k=0.8", "record.snapshots=2")
    with open_trace(path) as trace:
        outcomes = {claim.key: claim.finding for claim in audit_claims(RunSeries(trace))}
    for key in ("eq1", "eq3", "lemma1", "eq5", "eq6", "transient", "fig2", "growing"):
        assert outcomes[key].outcome == "not testable here", key
        assert "the norms follow a schedule" in outcomes[key].measured, key
    assert outcomes["eq4"].outcome == "holds"
    code, out, _ = command("audit", path)
    assert code == 0
    assert "Broken assumption: controlled norms, constant" in out
    code, out, _ = command("analyze", path)
    assert code == 0
    assert "the norms follow their schedule" in out
    assert "driven by the measured" not in out


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("optimizer={kind: weight-norm, lr: 0.1, v_scale: 0}", "optimizer.v_scale: got 0, expected greater than 0"),
        (control("{kind: linear, factor: 3}"), "optimizer.norms.steps: missing"),
        (control("{kind: step, milestones: [5, 5], factor: 2}"), "optimizer.norms.milestones: got [5, 5], expected"),
        (control("{kind: ivanof, C: 1}"), "optimizer.norms.kind: got 'ivanof', expected one of"),
        (control("{kind: ivanov, c: 1}"), "optimizer.norms.c: unknown key; expected one of kind, C"),
        ("members={seeds: 2, v_scale: [1, 2]}", "optimizer.kind gd has no v_scale"),
    ],
)
def test_a_wrong_option_is_refused_with_its_place(small, override, says):
    with pytest.raises(RecipeError) as refused:
        recipe.parse(small, [override])
    assert says in str(refused.value)
