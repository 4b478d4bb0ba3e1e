"""The audit of the memo: every statement has a place in the code, and each check can fail."""

from __future__ import annotations

import json
import pkgutil
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from rhotrace.analysis.claims import findings, flow, transient
from rhotrace.analysis.claims.evidence import Evidence
from rhotrace.analysis.claims.final_network import FinalNetwork
from rhotrace.analysis.claims.findings import CLAIMS, audit_claims, cautions
from rhotrace.analysis.rebuild_network import data_and_network
from rhotrace.analysis.run_series import RunSeries
from rhotrace.errors import AnalysisError
from rhotrace.runfile.reader import open_trace
from rhotrace.theory import paper

ROOT = Path(findings.__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A run long enough for most claims to hold."""
    from small import SMALL

    from rhotrace.config import recipe
    from rhotrace.training.train import train

    path = tmp_path_factory.mktemp("claims") / "good.h5"
    train(
        recipe.parse(SMALL, ["steps=6000", "optimizer.lr=0.05", "init.rho_k=0.5", "record.test_every=500"]),
        path,
        device="cpu",
    )
    return path


def outcomes(path: Path) -> dict[str, str]:
    with open_trace(path) as trace:
        return {claim.key: claim.finding.outcome for claim in audit_claims(trace)}


def test_every_statement_of_the_memo_is_looked_at_and_has_its_place_in_the_code():
    assert list(CLAIMS) == list(paper.STATEMENTS)
    for key, statement in paper.STATEMENTS.items():
        assert pkgutil.resolve_name(f"rhotrace.{statement.code}") is not None, key  # raises where there is none
    assert {e.key for e in paper.ERRATA} <= set(paper.STATEMENTS)


def test_every_statement_stands_on_the_page_of_results():
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    places = {statement.place for statement in paper.STATEMENTS.values()}
    assert not [place for place in places if place not in text]


def test_what_holds_in_a_plain_run(good):
    found = outcomes(good)
    expected = ["unit_inputs", "bounded", "equal_norms", "eq1", "eq2", "eq3", "eq4", "lemma1", "eq5", "eq6", "eq7"]
    expected += ["transient", "interpolation", "growing", "at_least_one", "fig2"]
    assert [key for key in expected if found[key] != "holds"] == []
    assert found["fig1"] == "fails"  # A and B are not constant
    for key in ("unit_margins", "weightnorm", "sgd", "longer", "linear", "minimum_norm"):
        assert found[key] == "not testable here"


def changed(good: Path, tmp_path: Path, name: str, change) -> dict[str, str]:
    path = tmp_path / "changed.h5"
    path.write_bytes(good.read_bytes())
    with h5py.File(path, "r+") as file:
        file[name][...] = change(file[name][...])
    return outcomes(path)


@pytest.mark.parametrize(
    ("key", "name", "change"),
    [
        ("equal_norms", "rho_k", lambda x: x * np.array([1.0, 1.001, 1.0])),
        ("eq3", "grad_norm", lambda x: x * 1.01),
        ("eq1", "grad_norm", lambda x: x * 1000),
        ("growing", "rho_k", lambda x: x[::-1]),
        ("lemma1", "rho_k", lambda x: x * (1 + 0.05 * np.linspace(0, 1, len(x))[:, None, None] * np.array([0, 0, 1]))),
        ("eq5", "a", lambda x: x * 1.1),
        ("eq6", "rho_eq_over_rho", lambda x: x * 1.05),
        ("eq7", "rho_k", lambda x: x * np.array([1.0, 1.05, 1.0])),
        ("transient", "log_rho", lambda x: np.minimum(np.arange(len(x)), 20)[:, None] + 0 * x),
        ("fig2", "rho_eq_over_rho", lambda x: np.where(x > 0, np.maximum(x, 1.2), x)),
        ("interpolation", "error", lambda x: x + 0.1),
        ("at_least_one", "log_rho_eq", lambda x: x - 100),
        ("eq8", "grad_norm", lambda x: np.full_like(x, 1.0)),
    ],
)
def test_a_run_that_breaks_a_statement_is_found(good, tmp_path, key, name, change):
    assert changed(good, tmp_path, name, change)[key] == "fails"


def test_homogeneity_holds_at_any_weights_and_fails_in_a_network_that_has_biases(good, tmp_path):
    assert changed(good, tmp_path, "weights/W1", lambda x: 3 * x + 0.1)["eq2"] == "holds"
    with open_trace(good) as trace:
        evidence = Evidence(RunSeries(trace))
        loaded, network = data_and_network(trace, trace.validated_recipe())
        methods = {"of_layers": network.of_layers, "split": network.split, "blocks": network.blocks}
        biased = SimpleNamespace(gradients=partial(with_a_bias, network), **methods)
        end = FinalNetwork(6000, trace.snapshot(6000), loaded, biased)
        assert flow.homogeneity(evidence, evidence.end).outcome == "holds"
        found = flow.homogeneity(evidence, end)
    assert found.outcome == "fails", found


def with_a_bias(network, W, x, y, loss, buffers):
    """Outputs shifted by 0.1, and the gradients of the loss at these: a bias in the last layer that is not trained."""
    g, G, after = network.gradients(W, x, y - 0.1, loss, buffers)
    return g + 0.1, G, after


def test_inputs_that_are_not_of_unit_norm_are_found(train):
    assert outcomes(train("data.unit_norm=false", "steps=20", "optimizer.lr=0.001"))["unit_inputs"] == "fails"


def test_weight_normalisation_and_several_starts_have_claims_of_their_own(train):
    assert outcomes(train("optimizer={kind: weight-norm, lr: 0.05}"))["weightnorm"] == "holds"
    several = train("members={seeds: [0, 0], rho_k: [1.2, 0.8]}", "steps=400")
    assert outcomes(several)["longer"] == "holds"


def test_minibatches_and_lost_weights_make_claims_untestable_not_false(train):
    found = outcomes(train("optimizer={kind: sgd, lr: 0.05, batch_size: 7}", "record.snapshots=0"))
    for key in ("eq8", "unit_inputs", "bounded", "eq2", "eq4", "unit_margins"):
        assert found[key] == "not testable here"


def test_ten_classes_and_diverged_runs_are_audited(train):
    many = outcomes(train("data={dataset: mnist, classes: all, train: 40, test: 20}", "steps=30"))
    assert many["eq2"] == many["eq3"] == "holds"


ABOUT_TRAINING = ("eq1", "lemma1", "eq5", "eq6", "eq7", "eq8", "transient", "fig2", "interpolation", "growing")


@pytest.mark.parametrize(
    ("overrides", "ended"),
    [
        (("optimizer.lr=1000",), "died: every output became zero"),
        (("optimizer.lr=1e9", "network.depth=1"), "diverged"),
    ],
    ids=["died", "diverged"],
)
def test_of_a_run_that_broke_it_is_said_first_and_its_training_is_not_judged(train, command, overrides, ended):
    path = train(*overrides, "steps=60")
    with open_trace(path) as trace:
        evidence = Evidence(RunSeries(trace))
        found = {claim.key: claim.finding for claim in audit_claims(evidence)}
        (said,) = cautions(evidence)
        assert [how for how, _ in evidence.run.broken.values()] == [ended] * 3
    assert {found[key].outcome for key in ABOUT_TRAINING} == {"not testable here"}
    assert f"3 of 3 members {ended}" in found["eq1"].measured
    assert found["eq3"].outcome == "holds"  # the identity of each step is exact whatever the step
    code, out, _ = command("audit", path)
    assert code == 0
    assert out.index(f"3 of 3 members {ended}") < out.index("equation (1)")
    assert json.loads(command("audit", path, "--json")[1])["cautions"] == [said]


def test_the_members_that_did_not_break_are_judged_alone(train):
    both = train("members={seeds: [0, 0], lr: [0.05, 1000]}", "steps=1500")
    alone = train("members={seeds: [0], lr: [0.05]}", "steps=1500")
    found, expected = {}, {}
    for path, into in ((both, found), (alone, expected)):
        with open_trace(path) as trace:
            into.update({claim.key: claim.finding for claim in audit_claims(trace)})
    some = "in the 1 of 2 members that neither diverged nor died: "
    for key in ("eq1", "lemma1", "eq5", "eq7", "growing"):
        assert found[key].measured == some + expected[key].measured
        assert found[key].outcome == expected[key].outcome
    with open_trace(both) as trace:
        assert "1 of 2 members" in cautions(Evidence(RunSeries(trace)))[0]


def test_the_audit_has_the_threshold_that_it_is_given(good, command):
    def measured(*words):
        claims = json.loads(command("audit", good, "--json", *words)[1])["claims"]
        return next(c["finding"]["measured"] for c in claims if c["key"] == "transient")

    with open_trace(good) as trace:
        T = [passed.T for passed in RunSeries(trace, 0.9).passages]
    assert measured() == measured("--theta", "0.5")
    assert measured("--theta", "0.9").startswith(f"T = {min(T):.4g} to {max(T):.4g} steps")
    assert measured("--theta", "0.9") != measured()
    assert command("audit", good, "--theta", "2")[0] == 2


def test_a_run_that_ends_within_the_transient_says_nothing_of_what_comes_after(train):
    with open_trace(train("steps=20", "init.rho_k=0.3")) as trace:
        found = {claim.key: claim.finding for claim in audit_claims(trace)}
    for key in ("eq6", "eq8", "transient", "longer", "fig1", "fig2", "interpolation", "at_least_one"):
        assert found[key].outcome == "not testable here"
        assert "no member has a T: 3 never left the transient" in found[key].measured


def test_the_members_that_left_the_transient_are_judged_alone(train):
    some = train("members={seeds: [0, 0], rho_k: [1.2, 0.01]}", "steps=1500")
    with open_trace(some) as trace:
        found = {claim.key: claim.finding for claim in audit_claims(trace)}
    assert found["eq6"].outcome == "holds"
    assert found["eq6"].measured.startswith("in the 1 of 2 members with a T: ")


@pytest.mark.parametrize(
    "overrides",
    [
        ("init={kind: he, scale: 1.0}", "steps=300"),
        ("members={seeds: [0, 0, 1], lr: [0.05, 0.1, 0.02]}", "steps=300"),
        ("network.depth=1", "steps=300"),
        ("network.depth=2", "steps=300"),
        ("optimizer={kind: sgd, lr: 0.05, batch_size: 7}", "record.full_every=7", "steps=300"),
        ("steps=2",),
        ("init.rho_k=1e-12", "steps=10", "network.depth=8"),
    ],
    ids=["he", "lr", "one layer", "two layers", "sparse SGD", "two steps", "tiny"],
)
def test_every_kind_of_run_is_audited_without_a_warning(train, overrides):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = outcomes(train(*overrides))
    assert found["eq2"] == found["eq3"] == found["eq4"] == "holds"


def test_factors_are_written_as_numbers_or_as_powers_of_ten():
    assert transient.factors([np.log(2.6), np.log(32)]) == "2.6 to 32"
    assert transient.factors([np.log(1e5)]) == "10^5.0"


def test_A_that_changes_sign_is_reported_and_not_divided_by(good, tmp_path):
    path = tmp_path / "turned.h5"
    path.write_bytes(good.read_bytes())
    with h5py.File(path, "r+") as file:
        a = file["a"][...]
        a[:5], a[5] = -1.0, 1e-30
        file["a"][...] = a
    with open_trace(path) as trace:
        (figure,) = (c.finding for c in audit_claims(trace) if c.key == "fig1")
    assert "A changes sign in 3 of 3" in figure.measured
    assert "A changes by a factor" not in figure.measured


def test_a_run_of_one_step_is_refused(train):
    with open_trace(train("steps=1")) as trace, pytest.raises(AnalysisError, match="at least 2"):
        audit_claims(trace)


def test_the_command_prints_every_statement_and_gives_json(command, good):
    code, out, error = command("audit", good)
    assert (code, error) == (0, "")
    for statement in paper.STATEMENTS.values():
        assert statement.place in out
    assert "do not agree" in out
    content = json.loads(command("audit", good, "--json")[1])
    assert len(content["claims"]) == len(paper.STATEMENTS)
    assert len(content["errata"]) == len(paper.ERRATA)
