"""``rhotrace audit``: one run compared with the memo, statement by statement.

Each claim is a function of the ``Evidence`` that returns a ``Finding``: what was measured, what is tolerated, and
whether the statement holds in this run, fails, or cannot be tested on it. Figures are of the worst member.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rhotrace.analysis.applicability import broken_assumptions, no_balance, no_equilibrium, no_norm, own_norms
from rhotrace.analysis.claims import flow, remarks, transient
from rhotrace.analysis.claims.evidence import Evidence
from rhotrace.analysis.claims.finding import Finding, after_T, at_end, of_sound, unless, which_broke
from rhotrace.analysis.run_series import RunSeries, require_steps
from rhotrace.runfile.reader import Trace
from rhotrace.theory import paper


@dataclass(frozen=True)
class Claim:
    """A statement of the memo with what was found; ``key`` is that of ``paper.STATEMENTS``."""

    key: str
    place: str
    says: str
    finding: Finding


def audit_claims(run: Trace | RunSeries | Evidence) -> tuple[Claim, ...]:
    """Goes through the memo's statements in its own order, on a run or on the evidence from it.

    Raises:
        AnalysisError: the run has fewer than two committed steps.
    """
    evidence = run if isinstance(run, Evidence) else Evidence(RunSeries.of(run))
    require_steps(evidence.trace)
    return tuple(
        Claim(key, statement.place, statement.says, CLAIMS[key](evidence))
        for key, statement in paper.STATEMENTS.items()
    )


def cautions(evidence: Evidence) -> tuple[str, ...]:
    """What to know about a run before its statements: the memo's assumptions that it breaks, and members that broke."""
    broken = tuple(f"Broken assumption: {phrase}." for phrase in broken_assumptions(evidence.trace))
    if not evidence.run.broken:
        return broken
    judged = "are judged on the others" if evidence.sound else "are not judged"
    return (
        *broken,
        f"{which_broke(evidence)}: statements about training {judged}. Lower optimizer.lr.",
    )


def _no_free_rho(trace: Trace) -> str:
    """Why a run says nothing of how rho moves towards rho_eq by itself."""
    return no_equilibrium(trace) or own_norms(trace)


CLAIMS: dict[str, Callable[[Evidence], Finding]] = {
    "unit_inputs": at_end(flow.unit_inputs),
    "bounded": at_end(flow.bounded, no_norm),
    "equal_norms": flow.equal_norms,
    "eq1": of_sound(flow.flow, own_norms),
    "eq2": at_end(flow.homogeneity, no_equilibrium),
    "eq3": unless(own_norms, flow.layer_growth),
    "eq4": at_end(flow.directions, no_equilibrium),
    "lemma1": of_sound(flow.balance, no_balance),
    "eq5": of_sound(flow.product_growth, _no_free_rho),
    "eq6": unless(own_norms, after_T(flow.equilibrium)),
    "eq7": of_sound(flow.equal_throughout),
    "eq8": after_T(flow.stationary),
    "transient": unless(own_norms, after_T(transient.transient_first)),
    "longer": after_T(transient.longer),
    "eq9": transient.ivanov,
    "fig1": after_T(transient.constant_sums),
    "fig2": unless(own_norms, after_T(transient.vanishing_lambda)),
    "interpolation": after_T(transient.interpolation),
    "linear": transient.linear,
    "minimum_norm": transient.minimum_norm,
    "growing": of_sound(remarks.growing, _no_free_rho),
    "at_least_one": after_T(remarks.at_least_one),
    "unit_margins": at_end(remarks.unit_margins, no_norm),
    "weightnorm": remarks.weight_normalisation,
    "sgd": remarks.fluctuating,
    "exponential": remarks.exponential,
    "generalisation": remarks.generalisation,
    "resnets": remarks.resnets,
    "small_rho": remarks.small_rho,
    "controlled": remarks.controlled,
}
