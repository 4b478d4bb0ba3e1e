"""The commands on recordings of own training loops: they use what the recorded facts allow, and name what is missing."""

from __future__ import annotations

import pytest
import torch
from command_line import run_inside
from own_loops import mlp, trained
from torch import nn

import rhotrace
from rhotrace.analysis.applicability import broken_assumptions
from rhotrace.analysis.run_series import RunSeries


@pytest.fixture
def inside(monkeypatch, capsys, tmp_path):
    """Runs a command: (exit code, what it said)."""

    def run(words):
        code, *said = run_inside(monkeypatch, capsys, tmp_path, tuple(words), 120)
        return code, "".join(said)

    return run


def normed():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 1, bias=False)).double()


class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.inner, self.last = (nn.Linear(5, 5, bias=False).double() for _ in range(3))

    def forward(self, x):
        h = self.first(x)
        return self.last(h + self.inner(h).relu())[:, :1]


def sgd(net, **how):
    return torch.optim.SGD(net.parameters(), lr=0.05, **how)


RECORDINGS = {  # network, optimizer, and what else; then why there is no T, no audit of the steps, and what is broken
    "plain": (mlp, sgd, {}, "", "", ""),
    "minibatches": (mlp, sgd, {"batch": 8, "full_every": 5}, "", "", ""),
    "norms alone": (
        mlp,
        sgd,
        {"loss": None, "give": False},
        "loss not stated has no a, q",
        "outputs of each",
        "no exact law",
    ),
    "no data": (
        mlp,
        sgd,
        {"data": None, "full_batch": False},
        "training set were not recorded",
        "not tested",
        "not tested",
    ),
    "biases": (lambda: mlp(bias=True), sgd, {}, "not homogeneous in layer_0", "homogeneous in no", "biases or shifts"),
    "normalised": (normed, sgd, {}, "not homogeneous in layer_0", "", "normalisation by BatchNorm1d"),
    "skips": (Skip, sgd, {}, "not homogeneous in inner", "", "as measured (in inner they miss degree"),
    "momentum": (mlp, lambda net: sgd(net, momentum=0.9, weight_decay=0.01), {}, "", "", "momentum 0.9"),
    "nesterov": (mlp, lambda net: sgd(net, momentum=0.9, nesterov=True), {}, "", "Nesterov", "Nesterov"),
    "adam": (mlp, lambda net: torch.optim.Adam(net.parameters()), {}, "", "Adam is not plain", "Adam is not plain"),
    "groups": (
        mlp,
        lambda net: torch.optim.SGD(
            [{"params": net[0].parameters(), "lr": 0.01}, {"params": net[2].parameters()}], lr=0.1
        ),
        *({}, "", "", "learning rates of their own"),
    ),
}


@pytest.mark.parametrize("name", RECORDINGS)
def test_what_applies_follows_from_the_recorded_facts(tmp_path, name):
    net, optimizer, how, no_T, no_audit, broken = RECORDINGS[name]
    made = net()
    with rhotrace.open(trained(tmp_path / "run.h5", made, optimizer(made), **how)) as trace:
        run = RunSeries(trace)
        assert no_T in run.no_equilibrium
        assert bool(no_T) == bool(run.no_equilibrium)
        assert no_audit in run.no_audit
        assert bool(no_audit) == bool(run.no_audit)
        assert run.audit is None or run.audit.holds
        phrases = "; ".join(broken_assumptions(trace))
        assert broken in phrases
        assert bool(broken) == bool(phrases)


@pytest.mark.usefixtures("quick_pictures")
@pytest.mark.parametrize("name", ["norms alone", "no data", "adam"])
def test_every_command_reads_a_recording(tmp_path, inside, name):
    net, optimizer, how, *_ = RECORDINGS[name]
    made = net()
    path = trained(tmp_path / "run.h5", made, optimizer(made), snapshots=[0, 40], **how)
    for words in (
        ["info", path],
        ["verify", path],
        ["analyze", path, "--fit-transient"],
        ["audit", path],
        ["watch", path, "--once"],
        ["plot", path, "-o", tmp_path / "rho.png"],
        ["report", path, "-o", tmp_path / "run.html"],
        ["export", path, "--to", "csv", "-o", tmp_path / "run.csv"],
    ):
        code, said = inside(words)
        assert code == 0, said
    page = (tmp_path / "run.html").read_text(encoding="utf-8")
    assert "rhotrace train" not in page  # there is no recipe to train again
    assert "What is above is a description and not a recipe" in " ".join(page.split())


def test_a_command_that_needs_a_recipe_says_what_is_missing(tmp_path, small, inside):
    path = trained(tmp_path / "run.h5")
    (tmp_path / "small.yaml").write_text(small)
    code, said = inside(["train", tmp_path / "small.yaml", "-o", path, "--steps", "100"])
    assert code == 2
    assert "recorded in a training loop of your own" in " ".join(said.split())
    assert "that loop resumes it, with rhotrace.record(..., resume=STEP)" in " ".join(said.split())
    for command in ("audit", "verify"):  # the reason alone, without a path or a remedy for another command
        code, said = inside([command, trained(tmp_path / f"{command}.h5", snapshots=[0])])
        said = " ".join(said.split())
        assert code == 0
        assert "recorded in a training loop of your own: there is no recipe" in said
        assert "resume=STEP" not in said


def test_gradients_that_are_not_those_of_the_named_loss_are_found(tmp_path, inside):
    with rhotrace.open(trained(tmp_path / "run.h5", lossy=lambda g, y: 0.5 * (g - y).square().mean())) as trace:
        assert not RunSeries(trace).audit.holds
        code, said = inside(["verify", trace.path])
        assert code == 0
        assert "the steps are not those of the recorded law" in " ".join(said.split())
