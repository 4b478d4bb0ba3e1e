"""Weight decay, momentum and schedules: compared with torch.optim.SGD, with their exact laws, and with runs without them."""

from __future__ import annotations

import h5py
import inside
import numpy as np
import pytest
import torch

from rhotrace.analysis.analyze import analyze
from rhotrace.analysis.run_series import RunSeries
from rhotrace.analysis.verification import verify
from rhotrace.config import recipe
from rhotrace.errors import RecipeError
from rhotrace.models.schedules import Cosine, StepDecay
from rhotrace.runfile.reader import open_trace
from rhotrace.theory.step_identity import audit
from rhotrace.theory.step_laws import LAWS

DECAY = "{kind: gd, lr: 0.05, weight_decay: 0.03}"
BALL = "{kind: sgd, lr: 0.03, batch_size: 7, momentum: 0.9}"
BOTH = "{kind: gd, lr: 0.03, momentum: 0.8, weight_decay: 0.02}"
STEP = "{kind: gd, lr: 0.05, schedule: {kind: step, milestones: [10, 30], factor: 0.5}}"
COSINE = "{kind: sgd, lr: 0.05, batch_size: 7, momentum: 0.5, weight_decay: 0.01, schedule: {kind: cosine, steps: 50}}"
OPTIONS = {"decay": DECAY, "momentum": BALL, "both": BOTH, "step": STEP, "cosine": COSINE}
options = pytest.mark.parametrize("optimizer", OPTIONS.values(), ids=OPTIONS)


def norms_by_torch(path, member: int) -> np.ndarray:
    """rho_k of a member at each step, (steps, L): the same training written with torch's own modules."""
    with open_trace(path) as trace:
        own, start = trace.validated_recipe(), [W[member] for W in trace.snapshot(0)]
    data, chosen = own.load_data(), own.optimizer
    net = torch.nn.Sequential()
    for k, W in enumerate(start):
        net.append(torch.nn.Linear(W.shape[1], W.shape[0], bias=False, dtype=torch.float64))
        net[-1].weight.data = torch.tensor(W)
        if k + 1 < len(start):
            net.append(torch.nn.ReLU())
    sgd = torch.optim.SGD(
        net.parameters(), lr=own.lr[member], momentum=chosen.momentum, weight_decay=chosen.weight_decay
    )
    rates = {
        "constant": lambda _: torch.optim.lr_scheduler.ConstantLR(sgd, factor=1.0),
        "step": lambda s: torch.optim.lr_scheduler.MultiStepLR(sgd, s.milestones, s.factor),
        "cosine": lambda s: torch.optim.lr_scheduler.CosineAnnealingLR(sgd, s.steps, s.final),
    }[chosen.schedule.kind](chosen.schedule)
    x, y, found = torch.tensor(data.x), torch.tensor(data.y), []
    drawn = chosen.minibatches and chosen.minibatches.indices([own.batch_seeds[member]], 0, own.steps, samples=len(x))
    for step in range(own.steps):
        batch = slice(None) if drawn is None else torch.tensor(drawn[step, 0])
        found.append([float(p.detach().norm()) for p in net.parameters()])
        sgd.zero_grad()
        (net(x[batch]) - y[batch]).square().sum(dim=1).mean().backward()
        sgd.step()
        rates.step()
    return np.array(found)


@options
def test_the_norms_are_those_of_torch(train, optimizer):
    path = train(f"optimizer={optimizer}", "steps=50")
    with open_trace(path) as trace:
        np.testing.assert_allclose(trace["rho_k"][:, 1], norms_by_torch(path, 1), rtol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@options
def test_every_step_obeys_its_law_and_verify_says_so(train, optimizer, dtype):
    with open_trace(train(f"optimizer={optimizer}", f"network.dtype={dtype}")) as trace:
        run = RunSeries(trace)
        assert run.audit.holds, run.audit.residual
        assert run.audit.checked == 59 * 3 * 3
        checks = {check.name: check.outcome for check in verify(trace).checks}
        assert checks["audit of the steps"] == "sound"
        assert "wrong" not in checks.values()


@options
def test_the_law_of_plain_descent_does_not_hold(train, optimizer):
    with open_trace(train(f"optimizer={optimizer}")) as trace:
        plain = [trace[name] for name in ("rho_k", "grad_norm", "batch_a", "batch_q", "lr")]
        assert not audit(*plain, dtype="float64", law=LAWS["descent"]).holds


@pytest.mark.parametrize("name", ["rho_k", "velocity_norm", "velocity_along", "lr_step"])
def test_one_wrong_number_is_found(train, name):
    path = train(f"optimizer={COSINE}")
    with h5py.File(path, "r+") as file:
        file[name][20, 1] *= 1 + 1e-4
    with open_trace(path) as trace:
        found = RunSeries(trace).audit
    assert not found.holds
    assert found.where[0] in {19, 20}
    assert found.where[1] == 1


def contents(path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        found = {}
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def test_options_that_are_off_leave_the_run_as_it_was(train):
    plain = contents(train())
    off = contents(train("optimizer={kind: gd, lr: 0.05, momentum: 0.0, weight_decay: 0, schedule: {kind: constant}}"))
    listed = contents(train("members={seeds: 3, momentum: [0, 0, 0]}"))
    for other in (off, listed):
        assert other.keys() == plain.keys()
        assert all(np.array_equal(plain[name], other[name], equal_nan=True) for name in plain)


def test_a_member_without_an_option_takes_the_same_steps_beside_others_with_it(train):
    mixed = train("members={seeds: [0, 1, 2], momentum: [0, 0.9, 0.5], weight_decay: [0, 0, 0.1]}")
    with open_trace(train()) as plain, open_trace(mixed) as trace:
        np.testing.assert_array_equal(trace["rho_k"][:, 0], plain["rho_k"][:, 0])
        assert (trace["rho_k"][-1, 1:] != plain["rho_k"][-1, 1:]).all()
        np.testing.assert_array_equal(trace["momentum"], [0, 0.9, 0.5])
        run = RunSeries(trace)
        assert run.audit.holds
        assert run.labels[2].endswith("weight decay 0.1, momentum 0.5")


@options
def test_a_resumed_run_has_the_same_bits(train, tmp_path, monkeypatch, optimizer, small):
    whole = train(f"optimizer={optimizer}")
    own, path = recipe.parse(small, [f"optimizer={optimizer}"]), tmp_path / "resumed.h5"
    inside.train_killed_and_resumed(monkeypatch.setattr, own, path)
    once, twice = contents(whole), contents(path)
    assert once.keys() == twice.keys()
    assert all(np.array_equal(once[name], twice[name], equal_nan=True) for name in once)


def test_decay_brings_the_norms_to_rest_where_its_law_says(train):
    decay = 0.05
    path = train(
        f"optimizer={{kind: gd, lr: 0.05, weight_decay: {decay}}}",
        "network.depth=2",
        "steps=4000",
        "record.test_every=1000",
    )
    with open_trace(path) as trace:
        rho_k, a, q = (trace[name][-1] for name in ("rho_k", "a", "q"))
    np.testing.assert_allclose(np.ptp(rho_k**2, axis=1), 0, atol=1e-3)  # decay balances the layers
    np.testing.assert_allclose(2 * (a - q), decay * (rho_k**2).mean(axis=1), rtol=1e-2)
    assert (q < a).all()  # below rho_eq


def test_a_schedule_is_traced_and_its_sum_is_time(train):
    with open_trace(train(f"optimizer={STEP}")) as trace:
        run = RunSeries(trace)
        expected = 0.05 * 0.5 ** ((np.arange(60) >= 10).astype(int) + (np.arange(60) >= 30))
        np.testing.assert_allclose(trace["lr_step"], np.stack([expected] * 3, axis=1), rtol=1e-12)
        assert run.time_of(0, 40) == pytest.approx(10 * 0.05 + 20 * 0.025 + 10 * 0.0125)
        series = run.members[0]
        assert series.step_at(series.time_at(33.5)) == pytest.approx(33.5)


def test_the_driven_equation_follows_a_schedule(train):
    longer = ("steps=400", "init.rho_k=0.9")
    scheduled = "optimizer={kind: gd, lr: 0.04, schedule: {kind: step, milestones: [100, 200], factor: 0.3}}"
    with open_trace(train(scheduled, *longer)) as trace:
        driven = analyze(trace).transient.each
    assert max(each.driven.rms / each.driven.rise for each in driven) < 0.02


def test_schedules_are_pure_functions_of_the_step():
    step, cosine = StepDecay(milestones=[3, 5], factor=0.1), Cosine(steps=10, final=0.2)
    assert [round(step.at(n), 12) for n in (0, 2, 3, 4, 5, 100)] == [1, 1, 0.1, 0.1, 0.01, 0.01]
    assert [round(cosine.at(n), 12) for n in (0, 5, 10, 11)] == [1, 0.6, 0.2, 0.2]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("optimizer.momentum=1", "optimizer.momentum: got 1, expected less than 1"),
        ("optimizer.weight_decay=-0.1", "optimizer.weight_decay: got -0.1"),
        ("optimizer.schedule={kind: step, milestones: [5, 5]}", "optimizer.schedule.milestones: got [5, 5], expected"),
        ("optimizer.schedule={kind: cosin, steps: 5}", "optimizer.schedule.kind: got 'cosin', expected one of"),
        ("optimizer.schedule={kind: cosine, step: 5}", "optimizer.schedule.step: unknown key; did you mean 'steps'?"),
        ("members.momentum=[0.5]", "members.momentum: got 1 values, expected one for each of the 3 seeds"),
    ],
)
def test_a_wrong_option_is_refused_with_its_place(small, override, says):
    with pytest.raises(RecipeError) as refused:
        recipe.parse(small, [override])
    assert says in str(refused.value)


def test_the_page_of_a_run_names_what_the_memo_leaves_out(train, command):
    path = train(f"optimizer={COSINE}")
    code, out, error = command("audit", path)
    assert code == 0, error
    words = " ".join(out.split())
    for phrase in ("momentum 0.5", "weight decay 0.01", "a learning-rate schedule"):
        assert f"Broken assumption: {phrase}" in words
    assert "Broken assumption" not in command("audit", train())[1]
    assert "schedule cosine" in command("info", path)[1]
    code, out, error = command("compare", path, train("steps=100"), "--align", "time")
    assert (code, out) == (2, "")
    assert "--align time does not apply: its learning rate follows a schedule" in error
