"""What does not apply to a run is said with its reason by every command, and never a traceback or a number."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from rhotrace.analysis import applicability
from rhotrace.analysis.analyze import analyze
from rhotrace.analysis.claims.findings import audit_claims
from rhotrace.analysis.run_series import RunSeries
from rhotrace.analysis.transient.transient_time import Outcome
from rhotrace.analysis.verification import verify
from rhotrace.models.network import Block
from rhotrace.runfile.reader import open_trace
from rhotrace.theory.step_laws import LAWS

NO_SUMS = "does not apply: the loss {} has no a, q and rho_eq"
LOSSES = {
    "exponential": ("loss={kind: exponential}",),
    "logistic": ("loss={kind: logistic}", "optimizer={kind: sgd, lr: 0.05, batch_size: 8}"),
}
losses = pytest.mark.parametrize("loss", LOSSES)


@losses
def test_a_run_under_another_loss_has_no_T_and_no_number_of_it(train, loss):
    with open_trace(train(*LOSSES[loss])) as trace:
        run = RunSeries(trace)
        result = analyze(run, fit=True)
        assert {each.outcome for each in result.transient.each} == {Outcome.INAPPLICABLE}
        assert result.transient.inapplicable == NO_SUMS.format(loss)
        for each in result.transient.each:
            assert np.isnan([each.T, each.T_loss, each.T_inflection, each.T_constant, each.crossing.value]).all()
            assert each.driven is None
        assert result.audit.holds  # by c_b, which every loss has
        assert [final.loss for final in result.final] == trace["loss"][-1].tolist()
        assert np.isnan([final.rho_eq_over_rho for final in result.final]).all()
        assert np.isnan(run.delta).all()
        found = {claim.key: claim.finding for claim in audit_claims(run)}
    for key in ("eq2", "eq3", "eq5", "eq6", "transient", "fig1", "fig2", "growing", "at_least_one"):
        assert (found[key].outcome, found[key].measured) == ("not testable here", NO_SUMS.format(loss)), key
    for key in ("unit_inputs", "bounded", "equal_norms"):
        assert found[key].outcome == "holds"


@losses
def test_the_weights_of_a_run_under_another_loss_are_verified_by_the_loss(train, loss):
    import h5py

    path = train(*LOSSES[loss])
    with open_trace(path) as trace:
        checks = {check.name: check for check in verify(trace).checks}
    assert checks["audit of the steps"].outcome == "sound"
    assert checks["weights, a and q"].outcome == "sound"
    assert "the loss recomputed" in checks["weights, a and q"].says
    with h5py.File(path, "r+") as file:
        file["loss"][0, 1] *= 1 + 1e-6
    with open_trace(path) as trace:
        checks = {check.name: check for check in verify(trace).checks}
    assert checks["weights, a and q"].outcome == "wrong"


@pytest.mark.usefixtures("quick_pictures")
@losses
def test_every_command_says_that_it_does_not_apply(train, command, loss):
    path, square = train(*LOSSES[loss]), train("steps=100")
    why = NO_SUMS.format(loss)
    for words in (
        ("analyze", path, "--fit-transient", "--plot", "a.svg"),
        ("audit", path, "--plot", "b.svg"),
        ("watch", path, "--once"),
        ("compare", path, square, "--plot", "c.svg"),
        ("compare", square, path, "--predict"),
    ):
        code, out, error = command(*words)
        assert code == 0, (words, error)
        assert why in " ".join(out.split()), words
    for words in (
        ("scaling", path),
        ("simulate", "--from", path),
        ("plot", path, "--what", "fluctuation", "-o", "d.svg"),
    ):
        code, out, error = command(*words)
        assert (code, out) == (2, ""), words
        assert why in error
    for words in (("report", path, square, "-o", "r.html"), ("plot", path, "--what", "rho", "-o", "rho.svg")):
        assert command(*words)[0] == 0
    content = json.loads(command("analyze", path, "--json")[1])
    assert content["transient"]["inapplicable"] == why
    assert content["transient"]["each"][0]["T"] is None


class Described(SimpleNamespace):
    """A trace as far as its facts and layout go, with every quantity."""

    def __contains__(self, _: str) -> bool:
        return True


def described(*blocks, equilibrium=True, law="descent"):
    """What decides it, as a trace has it."""
    facts = SimpleNamespace(loss="square", equilibrium=equilibrium, optimizer="momentum", law=law)
    layers = [block for block in blocks if block.role == "weight"]
    return Described(facts=facts, layout=SimpleNamespace(blocks=blocks, layers=layers), own_loop={})


W1, W2 = Block("W1", (3, 4)), Block("W2", (1, 3))


def test_only_a_network_of_degree_1_in_each_layer_has_an_equilibrium_norm():
    assert applicability.no_equilibrium(described(W1, W2)) == ""
    for odd, why in {
        replace(W2, degree=None): "does not apply: the outputs are not homogeneous in W2",
        replace(
            W2, degree=0
        ): "does not apply: a normalisation takes the norms of W2 out of the outputs, so rho is not "
        "their scale; only W1 scales them",
        replace(W2, degree=3): "does not apply: rho is not the scale of the outputs, whose degree is not 1 in W2 (3)",
        replace(W2, role="shift", degree=None): "does not apply: the outputs are shifted by W2",
    }.items():
        assert applicability.no_equilibrium(described(W1, odd)) == why


def test_the_steps_are_checked_in_the_layers_whose_degrees_are_known_under_a_known_law():
    none = replace(W1, degree=None), replace(W2, degree=None)
    for other in (replace(W2, degree=0), none[1], replace(W2, role="shift")):
        assert applicability.no_step_law(described(W1, other)) == ""
    assert applicability.no_step_law(described(*none)) == "does not apply: the outputs are homogeneous in no layer"
    assert applicability.no_step_law(described(W1, W2, law=None)) == "the optimizer momentum has no known step law"
    assert applicability.law_of(described(W1, W2)) is LAWS["descent"]


@pytest.mark.parametrize(
    ("epsilon", "phrases"),
    [(0, ["batch normalisation"]), (0.01, ["batch normalisation", "an epsilon of 0.01 beside the variances"])],
)
def test_a_normalisation_is_not_called_a_skip(train, epsilon, phrases):
    network = f"{{kind: mlp, depth: 3, width: 4, batch_norm: true, batch_norm_epsilon: {epsilon}}}"
    with open_trace(train("steps=3", f"network={network}")) as trace:
        assert [phrase.split(" (")[0] for phrase in applicability.broken_assumptions(trace)] == phrases
