"""``rhotrace.record``: its numbers against a recipe's run and against slow oracles, and every way a loop may step."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from own_loops import data, mlp, trained
from torch import nn

import rhotrace
from rhotrace.config import recipe
from rhotrace.errors import RhoTraceError
from rhotrace.models.losses import Square


class OfRecipe(nn.Module):
    """A recipe's network as a module, with a recipe's own arithmetic."""

    def __init__(self, network, weights):
        super().__init__()
        self.network = network
        self.weights = nn.ParameterList([torch.as_tensor(W[0]) for W in weights])

    def stacked(self):
        return tuple(W.detach()[None] for W in self.weights)

    def forward(self, x):
        return self.network.forward(self.stacked(), x)[0].mT


class RecipesStep(torch.optim.SGD):
    """Descent as a recipe's optimizer computes it."""

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for W in group["params"]:
                W.addcmul_(W.grad, torch.tensor(group["lr"], dtype=W.dtype), value=-1)


@pytest.mark.parametrize("arithmetic", ["same", "plain"])
def test_the_numbers_are_those_of_the_same_network_trained_by_a_recipe(train, small, tmp_path, arithmetic):
    wanted = recipe.parse(small, ["members.seeds=1"])
    loaded = wanted.load_data()
    x, y, x_test, y_test = map(torch.as_tensor, (loaded.x, loaded.y, loaded.x_test, loaded.y_test))
    with rhotrace.open(train("members.seeds=1")) as by_recipe:
        weights, planned = by_recipe.snapshot(0), list(by_recipe.layout.snapshots)
        network = wanted.network.build(loaded.shape, 1)
        if arithmetic == "same":
            net = OfRecipe(network, weights)
            optimizer = RecipesStep(net.parameters(), lr=0.05)
        else:
            net = nn.Sequential(*(m for W in weights for m in (nn.Linear(*W.shape[:0:-1], bias=False), nn.ReLU())))[:-1]
            net = net.double()
            nn.utils.vector_to_parameters(
                torch.cat([torch.as_tensor(W).reshape(-1) for W in weights]), net.parameters()
            )
            optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        sets = {"data": (x, y), "test": (x_test, y_test), "test_every": 10}
        with rhotrace.record(tmp_path / "own.h5", net, optimizer, **sets, full_batch=True, snapshots=planned) as trace:
            for _ in range(wanted.steps):
                optimizer.zero_grad()
                if arithmetic == "same":
                    g, gradients, _ = network.gradients(net.stacked(), x, y, Square())
                    g = g[0].mT
                    for W, G in zip(net.weights, gradients, strict=True):
                        W.grad = G[0]
                else:
                    g = net(x)
                    (g - y).square().sum(dim=1).mean().backward()
                optimizer.step()
                trace.step(g, y)
        with rhotrace.open(tmp_path / "own.h5") as own:
            same = np.array_equal if arithmetic == "same" else functools.partial(np.allclose, rtol=1e-9, atol=0)
            for quantity in by_recipe.quantities:
                assert own.quantity(quantity.name) == quantity
                assert same(own[quantity.name], by_recipe[quantity.name], equal_nan=True), quantity.name
            for step in planned:
                pairs = zip(own.snapshot(step), by_recipe.snapshot(step), strict=True)
                assert all(same(a, b) for a, b in pairs), step


def test_every_number_is_that_of_a_slow_oracle(tmp_path):
    net, (x, y) = mlp(), data()
    optimizer = torch.optim.SGD([{"params": net[0].parameters(), "lr": 0.2}, {"params": net[2].parameters()}], lr=0.1)
    expected: dict[str, list] = {}
    with rhotrace.record(
        tmp_path / "run.h5", net, optimizer, data=(x, y), full_every=3, test=(x[:9], y[:9]), test_every=4
    ) as trace:
        for step in range(12):
            xb, yb = x[step : step + 7], y[step : step + 7]
            optimizer.zero_grad()
            g = net(xb)
            ((g - yb) ** 2).mean().backward()
            before = [p.detach().numpy().copy() for p in net.parameters()]
            row = {
                "rho_k": [np.sqrt((W**2).sum()) for W in before],
                "grad_norm": [np.sqrt((p.grad.numpy() ** 2).sum()) for p in net.parameters()],
                "lr_layer": [0.2, 0.1],
                "lr_step": 0.2,
                "batch_a": (yb * g).mean().item(),
                "batch_q": (g**2).mean().item(),
                "batch_loss": ((g - yb) ** 2).mean().item(),
            }
            with torch.no_grad():
                full, test = net(x), net(x[:9])
            optimizer.step()
            trace.step(g, yb)
            row["update_norm"] = [
                np.sqrt(((p.detach().numpy() - W) ** 2).sum()) for p, W in zip(net.parameters(), before, strict=True)
            ]
            if step % 3 == 0:
                margins = (full * y).numpy()
                row |= {"a": margins.mean(), "q": (full**2).mean().item(), "loss": ((full - y) ** 2).mean().item()}
                row |= {"error": (margins <= 0).mean(), "margin_min": margins.min()}
                row["log_rho_eq"] = np.log(np.prod(row["rho_k"]) * row["a"] / row["q"]) if row["a"] > 0 else np.nan
            if step % 4 == 0:
                row |= {
                    "test_loss": ((test - y[:9]) ** 2).mean().item(),
                    "test_error": (test * y[:9] <= 0).double().mean().item(),
                }
            for name, value in row.items():
                expected.setdefault(name, []).append(value)
    with rhotrace.open(tmp_path / "run.h5") as run:
        for name, values in expected.items():
            np.testing.assert_allclose(run[name][:, 0], values, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("how", [{}, {"batch": 7, "full_every": 10, "test": data(1), "test_every": 4}])
def test_a_resumed_recording_replaces_the_rows_after_its_checkpoint_and_doubles_none(tmp_path, how):
    whole = trained(tmp_path / "whole.h5", steps=40, **how)
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    part = trained(tmp_path / "part.h5", net, optimizer, steps=25, **how)
    with pytest.raises(RhoTraceError, match=r"a file exists already, which is never replaced; resume=STEP"):
        trained(part, net)
    with pytest.raises(
        RhoTraceError, match=r"resume: got step 26, expected at most the 25 steps that the file contains"
    ):
        trained(part, net, resume=26)
    again = mlp()
    trained(tmp_path / "head.h5", again, torch.optim.SGD(again.parameters(), lr=0.1), steps=18, **how)
    optimizer = torch.optim.SGD(again.parameters(), lr=0.1)
    trained(part, again, optimizer, first=18, steps=40, resume={"steps": 18}, **how)
    with rhotrace.open(whole) as a, rhotrace.open(part) as b:
        assert b.steps == 40
        assert [session["from_step"] for session in b.sessions] == [18]
        for quantity in a.quantities:
            assert np.array_equal(a[quantity.name], b[quantity.name], equal_nan=True), quantity.name


def test_a_file_of_another_kind_or_network_is_not_resumed(train, tmp_path):
    part = trained(tmp_path / "part.h5", steps=5)
    with pytest.raises(
        RhoTraceError, match=r"resume: blocks: got .*layer_0_bias.* expected .*layer_2.* as in the file"
    ):
        trained(part, mlp(bias=True), steps=9, first=5, resume=5)
    with rhotrace.open(part) as run:
        assert run.steps == 5  # nothing was lost
    with pytest.raises(RhoTraceError, match=r"got a run of a recipe, expected a file of rhotrace\.record"):
        trained(train("steps=5"), resume=5)
    with pytest.raises(RhoTraceError, match="no such run file"):
        trained(tmp_path / "absent.h5", resume=5)


def test_gradient_accumulation_has_the_sums_of_the_whole_batch(tmp_path):
    net, (x, y) = mlp(), data()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with rhotrace.record(tmp_path / "run.h5", net, optimizer, data=(x, y)) as trace:
        for _ in range(6):
            optimizer.zero_grad()
            for part in (slice(0, 12), slice(12, 24)):
                g = net(x[part])
                ((g - y[part]) ** 2).mean().div(2).backward()
                trace.batch(g, y[part])
            optimizer.step()
            trace.step()
    with rhotrace.open(trained(tmp_path / "whole.h5", steps=6)) as whole, rhotrace.open(tmp_path / "run.h5") as run:
        assert run.steps == 6
        for name in ("batch_a", "batch_q", "grad_norm", "rho_k"):
            np.testing.assert_allclose(run[name], whole[name], rtol=1e-12, err_msg=name)


def test_mixed_precision_is_recorded_and_named(tmp_path):
    net, (x, y) = mlp(dtype=torch.float32), data(dtype=torch.float32)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with rhotrace.record(tmp_path / "run.h5", net, optimizer, data=(x, y)) as trace:
        for _ in range(10):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                g = net(x)
            ((g.float() - y) ** 2).mean().backward()
            norms = [float(p.grad.double().norm()) for p in net.parameters()]
            optimizer.step()
            trace.step(g, y)
    with rhotrace.open(tmp_path / "run.h5") as run:
        np.testing.assert_allclose(run["grad_norm"][-1, 0], norms, rtol=1e-12)
        assert (run.own_loop["output_dtype"], run.own_loop["parameter_dtype"]) == ("bfloat16", "float32")


def test_a_step_that_a_scaler_leaves_out_makes_no_row(tmp_path):
    net, (x, y) = mlp(dtype=torch.float32), data(dtype=torch.float32)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    with rhotrace.record(tmp_path / "run.h5", net, optimizer, data=(x, y)) as trace:
        for step in range(8):
            optimizer.zero_grad()
            g = net(x)
            scaler.scale(((g - y) ** 2).mean() * (np.inf if step == 3 else 1)).backward()
            scaler.step(optimizer)
            scaler.update()
            trace.step(g, y)
        assert (trace.steps, trace.skipped) == (7, 1)
    with rhotrace.open(tmp_path / "run.h5") as run:
        np.testing.assert_allclose(run["update_norm"], 0.1 * run["grad_norm"], rtol=1e-4)  # unscaled


def test_optimizers_are_found_and_several_make_one_row(tmp_path):
    net, (x, y) = mlp(), data()
    each = torch.optim.SGD(net[0].parameters(), lr=0.1), torch.optim.Adam(net[2].parameters(), lr=0.01)
    foreign = nn.Linear(2, 2)
    another = torch.optim.SGD(foreign.parameters(), lr=1.0)
    with rhotrace.record(tmp_path / "run.h5", net, data=(x, y)) as trace:
        for _ in range(4):
            foreign(torch.ones(2)).sum().backward()
            another.step()
            g = net(x)
            ((g - y) ** 2).mean().backward()
            for one in each:
                one.step()
            trace.step(g, y)
    with rhotrace.open(tmp_path / "run.h5") as run:
        assert (run.steps, run.facts.optimizer, run.facts.law) == (4, "sgd+adam", None)
        assert run["lr_layer"][0, 0].tolist() == [0.1, 0.01]


def test_updates_of_ones_own_are_announced(tmp_path):
    net, (x, y) = mlp(), data()
    with rhotrace.record(tmp_path / "run.h5", net, data=(x, y)) as trace:
        for _ in range(5):
            g = net(x)
            gradients = torch.autograd.grad(((g - y) ** 2).mean(), list(net.parameters()))
            trace.before_update(lr=0.5)
            with torch.no_grad():
                for W, G in zip(net.parameters(), gradients, strict=True):
                    W.sub_(0.5 * G)
            trace.step(g, y)
    with rhotrace.open(tmp_path / "run.h5") as run:
        assert run["lr_step"].tolist() == [[0.5]] * 5
        assert (run["update_norm"] > 0).all()


def test_own_quantities_have_name_unit_and_axis(tmp_path):
    own = [
        rhotrace.Own("heat", unit="K", says="of the bath"),
        rhotrace.Own("modes", axis="mode", values=(1, 2, 4), every=2),
    ]
    net, (x, _) = mlp(), data()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with rhotrace.record(tmp_path / "two.h5", net, optimizer, loss=None, own=own) as trace:
        for step in range(5):
            net(x).sum().backward()
            optimizer.step()
            buffer = torch.full((3,), float(step))
            trace.step(**({} if step == 1 else {"heat": step}), modes=buffer)
            buffer.zero_()  # what was recorded is a copy
        optimizer.step()
        with pytest.raises(
            RhoTraceError, match=r"trace.step: wrong: got a value of no quantity.* which are heat, modes"
        ):
            trace.step(wrong=3)
        optimizer.step()
        with pytest.raises(RhoTraceError, match=r"trace.step: heat: got 2 values, expected 1"):
            trace.step(heat=[1, 2])
    with rhotrace.open(tmp_path / "two.h5") as run:
        np.testing.assert_array_equal(run["heat"][:5, 0], [0, np.nan, 2, 3, 4])
        assert run["modes"].tolist() == [[[s] * 3] for s in (0, 2, 4)]
        assert run["mode"].tolist() == [1, 2, 4]
        assert (run.quantity("heat").units, run.quantity("heat").says) == ("K", "of the bath")


def test_recording_changes_no_bit_of_the_training(tmp_path):
    def weights(recorded: bool):
        torch.manual_seed(3)
        net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
        x, y = data(dtype=torch.float32)
        optimizer = torch.optim.Adam(net.parameters())
        sets = {"data": (x, y), "test": (x, y), "full_every": 2, "test_every": 3, "snapshots": [0, 4]}
        trace = rhotrace.record(tmp_path / "run.h5", net, optimizer, **sets).start() if recorded else None
        for _ in range(8):
            optimizer.zero_grad()
            g = net(x)
            (g - y).square().mean().backward()
            optimizer.step()
            if trace:
                trace.step(g, y)
        if trace:
            trace.close()
        return [tensor.clone() for tensor in net.state_dict().values()]

    assert all(torch.equal(a, b) for a, b in zip(weights(recorded=False), weights(recorded=True), strict=True))


def test_a_compiled_module_is_recorded_as_the_module_itself(tmp_path):
    try:
        compiled = torch.compile(mlp(dtype=torch.float32))
        compiled(torch.zeros(2, 5))
    except Exception as why:  # no compiler on this machine
        pytest.skip(f"torch.compile: {why}"[:80])
    net = mlp(dtype=torch.float32)
    paths = tmp_path / "plain.h5", tmp_path / "compiled.h5"
    for path, model in zip(paths, (net, torch.compile(mlp(dtype=torch.float32))), strict=True):
        trained(path, model, torch.optim.SGD(model.parameters(), lr=0.1), steps=5)
    with rhotrace.open(paths[0]) as plain, rhotrace.open(paths[1]) as run:
        assert run.own_loop["compiled"]
        assert [b.name for b in run.layout.blocks] == [b.name for b in plain.layout.blocks]
        np.testing.assert_allclose(run["rho_k"], plain["rho_k"], rtol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"loss": "sqare"}, "loss: got 'sqare', expected one of .*; did you mean square"),
        ({"data": [1, 2]}, "data: got list, expected two tensors"),
        ({"data": (torch.zeros(3, 5), torch.zeros(2))}, "data: got 3 inputs and 2 targets"),
        ({"full_every": 0, "full_batch": False}, "full_every: got 0, expected 1 or more"),
        ({"snapshots": [3, 1]}, "snapshots: got steps that do not ascend"),
        ({"blocks": {"all": "nothing.*"}}, "blocks.'all'.: got the pattern 'nothing..', which matches no parameter"),
        ({"own": [rhotrace.Own("rho_k")]}, "own: 'rho_k': got a name that is taken"),
        ({"resume": "7"}, "resume: got '7', expected the step of a checkpoint"),
    ],
)
def test_a_wrong_argument_is_refused_before_the_first_step(tmp_path, wrong, says):
    with pytest.raises(RhoTraceError, match=says):
        trained(tmp_path / "run.h5", **wrong)
    assert not list(tmp_path.iterdir())


def test_a_loop_without_optimizer_steps_is_an_error(tmp_path):
    other = torch.optim.SGD(mlp().parameters(), lr=0.1)
    with pytest.raises(RhoTraceError, match="optimizer: got one that trains none of this model's weights"):
        rhotrace.record(tmp_path / "run.h5", mlp(), other)
    with (
        pytest.raises(RhoTraceError, match=r"no optimizer took a step of this model's parameters; expected"),
        rhotrace.record(tmp_path / "run.h5", mlp()) as trace,
    ):
        trace.step()
    assert not (tmp_path / "run.h5").exists()
