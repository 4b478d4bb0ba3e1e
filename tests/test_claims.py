"""The audit of the memo: every statement has a place in the code, and each check can fail."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from rhotrace import claims, memo
from rhotrace.claims import CLAIMS, audit_claims
from rhotrace.errors import AnalysisError
from rhotrace.trace import open_trace

ROOT = Path(claims.__file__).parent.parent


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A run long enough for most claims to hold."""
    from conftest import SMALL

    from rhotrace import recipe
    from rhotrace.train import train

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
    assert list(CLAIMS) == list(memo.STATEMENTS)
    for key, statement in memo.STATEMENTS.items():
        module, name = statement.code.split(".")
        found = importlib.import_module(f"rhotrace.{module}")
        assert hasattr(found, name) or key in CLAIMS, statement.code
    assert {e.key for e in memo.ERRATA} <= set(memo.STATEMENTS)


def test_every_statement_stands_in_the_readme():
    text = (ROOT / "README.md").read_text()
    places = {statement.place for statement in memo.STATEMENTS.values()}
    assert not [place for place in places if place not in text]


def test_what_holds_in_a_plain_run(good):
    found = outcomes(good)
    expected = ["unit_inputs", "bounded", "equal_norms", "eq1", "eq2", "eq3", "eq4", "lemma1", "eq5", "eq6", "eq7"]
    expected += ["transient", "interpolation", "growing", "at_least_one", "fig2"]
    assert [key for key in expected if found[key] != "holds"] == []
    assert found["unit_margins"] == "fails"
    assert found["weightnorm"] == found["sgd"] == found["longer"] == "not testable here"


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
        ("lemma1", "rho_k", lambda x: x * (1 + 0.05 * np.linspace(0, 1, len(x))[:, None, None] * np.array([0, 0, 1]))),
        ("eq5", "a", lambda x: x * 1.1),
        ("eq6", "rho_eq_over_rho", lambda x: x * 1.05),
        ("eq7", "rho_k", lambda x: x * np.array([1.0, 1.05, 1.0])),
        ("transient", "rho_eq_over_rho", lambda x: np.full_like(x, 10.0)),
        ("fig2", "rho_eq_over_rho", np.ones_like),
        ("interpolation", "error", lambda x: x + 0.1),
        ("at_least_one", "log_rho_eq", lambda x: x - 100),
        ("growing", "q", lambda x: x * 3),
        ("eq2", "weights/W1", lambda x: x + 0.0),
        ("eq8", "grad_norm", lambda x: np.full_like(x, 1.0)),
    ],
)
def test_a_run_that_breaks_a_statement_is_found(good, tmp_path, key, name, change):
    found = changed(good, tmp_path, name, change)
    assert found[key] == ("holds" if key == "eq2" else "fails")  # homogeneity holds at any weights


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
    wild = outcomes(train("optimizer.lr=1000", "steps=40"))
    assert wild["interpolation"] == "fails"


def test_a_run_of_one_step_is_refused(train):
    with open_trace(train("steps=1")) as trace, pytest.raises(AnalysisError, match="at least 2"):
        audit_claims(trace)


def test_the_command_prints_every_statement_and_gives_json(rhotrace, good):
    done = rhotrace("audit", good, COLUMNS="200")
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    for statement in memo.STATEMENTS.values():
        assert statement.place in done.stdout
    assert "do not agree" in done.stdout
    content = json.loads(rhotrace("audit", good, "--json").stdout)
    assert len(content["claims"]) == len(memo.STATEMENTS)
    assert len(content["errata"]) == len(memo.ERRATA)
