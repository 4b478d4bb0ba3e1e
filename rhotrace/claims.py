"""``rhotrace audit``: one run held against the memo, statement by statement.

Each claim is a function of the ``Evidence`` that returns a ``Finding``: what was measured, what is tolerated, and
whether the statement holds in this run, fails, or cannot be tested on it. Figures are of the worst member.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rhotrace import memo
from rhotrace.analyze import audit_run, fit_transient, require_steps, series_of
from rhotrace.audit import Audit
from rhotrace.closed_form import Series
from rhotrace.endpoint import End, end_of
from rhotrace.recipe import Recipe
from rhotrace.trace import Trace
from rhotrace.transient import TransientFit

Floats = NDArray[np.float64]
Outcome = Literal["holds", "fails", "not testable here"]


@dataclass(frozen=True)
class Finding:
    """What a run says of one statement: outcome, measured figure in words, and the tolerance."""

    outcome: Outcome
    measured: str
    tolerance: str = ""


@dataclass(frozen=True)
class Claim:
    """A statement of the memo with what was found; ``key`` is that of ``memo.STATEMENTS``."""

    key: str
    place: str
    says: str
    finding: Finding


class Evidence:
    """What several claims share, computed when first asked for."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.recipe = Recipe.model_validate(trace.recipe)
        self.log_rho, self.ratio = trace["log_rho"], trace["rho_eq_over_rho"]
        self.stride = trace.strides["forward"]

    @cached_property
    def audit(self) -> Audit | None:
        """The discrete step identity."""
        return audit_run(self.trace)

    @cached_property
    def series(self) -> list[Series]:
        """Each member's series."""
        return series_of(self.trace)

    @cached_property
    def transient(self) -> TransientFit:
        """T of each member."""
        return fit_transient(self.trace, fit=False)

    @cached_property
    def end(self) -> End | str:
        """The network at its last copy of the weights, or why it cannot be had."""
        return end_of(self.trace, self.recipe)


def audit_claims(trace: Trace) -> tuple[Claim, ...]:
    """Goes through the memo's statements in its own order.

    Raises:
        AnalysisError: the run has fewer than two committed steps.
    """
    require_steps(trace)
    evidence = Evidence(trace)
    return tuple(
        Claim(key, statement.place, statement.says, CLAIMS[key](evidence)) for key, statement in memo.STATEMENTS.items()
    )


def _judged(good: bool, measured: str, tolerance: str) -> Finding:
    return Finding("holds" if good else "fails", measured, tolerance)


def _untestable(why: str) -> Finding:
    return Finding("not testable here", why)


def _at_end(claim: Callable[[Evidence, End], Finding]) -> Callable[[Evidence], Finding]:
    """A claim about the network after its last step; not testable without its weights and data."""

    def held(evidence: Evidence) -> Finding:
        end = evidence.end
        return _untestable(end) if isinstance(end, str) else claim(evidence, end)

    return held


# --- assumptions and the flow ------------------------------------------------------------------------------


def unit_inputs(_: Evidence, end: End) -> Finding:
    """||x_n|| = 1."""
    worst = max(abs(length - 1) for length in end.inputs)
    return _judged(worst < 1e-6, f"||x_n|| is between {end.inputs[0]:.7g} and {end.inputs[1]:.7g}", "1 ± 1e-6")


def bounded(_: Evidence, end: End) -> Finding:
    """|f(x)| <= 1; and how loose that is."""
    largest = float(end.largest_f.max())
    return _judged(largest <= 0, f"largest |f_n| = 10^{largest:.2f}: true, and loose by that factor", "at most 1")


def equal_norms(evidence: Evidence) -> Finding:
    """Equal layer norms at the start."""
    norms = evidence.trace.rows("rho_k", slice(0, 1))[0]
    spread = float(np.max(np.ptp(norms, axis=1) / norms.mean(axis=1)))
    return _judged(spread < 1e-5, f"rho_k(0) differ by {spread:.2g} of their mean", "1e-5")


def flow(evidence: Evidence) -> Finding:
    """Discrete steps against the gradient flow of equation (1)."""
    if evidence.audit is None or not np.isfinite(evidence.audit.flow):
        return _untestable("weight normalisation, or fewer than two finite steps")
    share = evidence.audit.flow
    return _judged(
        share >= 0.95, f"the flow makes {100 * share:.4g} % of all changes of rho_k^2, finite steps the rest", "95 %"
    )


def homogeneity(_: Evidence, end: End) -> Finding:
    """<W_k, dL/dW_k> = 2 (q - a), which is what homogeneity says of the loss."""
    worst = float(end.homogeneity.max())
    return _judged(
        worst < 1e-9, f"<W_k, dL/dW_k> = 2(q - a) to {worst:.1e} of ||W_k|| ||dL/dW_k|| at step {end.step}", "1e-9"
    )


def layer_growth(evidence: Evidence) -> Finding:
    """Equation (3) with its finite-step term, at every step."""
    audit = evidence.audit
    if audit is None:
        return _untestable("fewer than two finite steps")
    return _judged(
        audit.holds,
        f"with its finite-step term, to {audit.residual:.1e} of rho_k^2 in {audit.checked} checks",
        f"{audit.rounding:g}",
    )


def directions(_: Evidence, end: End) -> Finding:
    """Equation (4) at the run's own weights."""
    worst = float(end.turning.max())
    return _judged(
        worst < 1e-3,
        f"V_k turns as (4) says, to {worst:.1e}, in a short step from the weights at step {end.step}",
        "1e-3",
    )


def balance(evidence: Evidence) -> Finding:
    """Lemma 1: rho_k^2 - rho_j^2 is conserved."""
    audit = evidence.audit
    if audit is None:
        return _untestable("fewer than two finite steps")
    return _judged(
        audit.balance < 0.01,
        f"rho_k^2 - rho_j^2 moves by at most {audit.balance:.2g} of rho_k^2",
        "0.01 (finite steps)",
    )


def product_growth(evidence: Evidence) -> Finding:
    """Equation (5), driven by the measured A and B, against the measured rho."""
    driven = [each.driven for each in evidence.transient.each]
    found = [d for d in driven if d and d.rise > 0]
    if not found:
        return _untestable("a or q is not finite throughout")
    worst = max(d.rms / d.rise for d in found)
    return _judged(
        worst < 0.02,
        f"driven by the measured A(t), B(t) it misses log rho by {100 * worst:.2g} % of its rise (rms)",
        "2 %",
    )


def equilibrium(evidence: Evidence) -> Finding:
    """Equation (6): rho at the end against rho_eq, averaged over the last tenth."""
    tail = evidence.ratio[-max(1, len(evidence.ratio) // 10) :]
    if not (tail > 0).all():
        return _judged(good=False, measured="a <= 0 in the last tenth of the run: no equilibrium", tolerance="1 %")
    off = np.abs(np.log(tail)).mean(axis=0)
    return _judged(
        float(off.max()) < 0.01, f"|log(rho/rho_eq)| is {off.min():.1e} to {off.max():.1e} over the last tenth", "0.01"
    )


def equal_at_end(evidence: Evidence) -> Finding:
    """Equation (7) replaces rho_k by rho^(1/L): the layer norms must still be equal at the end."""
    norms = evidence.trace["rho_k"][-1]
    spread = float(np.max(np.ptp(norms, axis=1) / norms.mean(axis=1)))
    return _judged(spread < 0.01, f"rho_k at the end differ by {spread:.2g} of their mean", "0.01")


def stationary(evidence: Evidence) -> Finding:
    """Equation (8): the part of dL/dW_k across W_k, at the end over its largest value in the run."""
    trace = evidence.trace
    if evidence.stride != 1 or trace.recipe["optimizer"].get("batch_size"):
        return _untestable("minibatches: the recorded gradients are not those of the full loss")
    along = 2 * (trace["q"] - trace["a"])[..., None] / trace["rho_k"]
    across = np.sqrt(np.maximum(trace["grad_norm"] ** 2 - along**2, 0.0))
    with np.errstate(all="ignore"):
        left = np.median(across[-max(1, len(across) // 100) :], axis=0) / across.max(axis=0)
    worst = float(np.nanmax(left))
    return _judged(worst < 0.05, f"the gradient across V_k ends at {worst:.2g} of its largest value", "0.05")


# --- conjectures of section 3 ------------------------------------------------------------------------------


def transient_first(evidence: Evidence) -> Finding:
    """rho << rho_eq for a time T, then fast growth: little of the rise of log rho happens before T/2."""
    left = [(m, each.T) for m, each in enumerate(evidence.transient.each) if each.T > 0]
    if not left:
        return _judged(good=False, measured="no member has a T in this run", tolerance="a T in every member")
    early = []
    for m, T in left:
        log_rho = evidence.log_rho[:, m]
        rise = float(np.max(log_rho) - log_rho[0])
        early.append(float(log_rho[int(T / 2)] - log_rho[0]) / rise if rise > 0 else 1.0)
    Ts = [T for _, T in left]
    measured = (
        f"T = {min(Ts):.4g} to {max(Ts):.4g} steps in {len(left)} of {evidence.trace.members} members; "
        f"{100 * max(early):.2g} % of the rise of log rho comes before T/2"
    )
    return _judged(len(left) == evidence.trace.members and max(early) < 0.1, measured, "a T in every member, 10 %")


def longer(evidence: Evidence) -> Finding:
    """T against the start, where the members of the run differ in it."""
    starts = evidence.trace["init_rho_k"] if "init_rho_k" in evidence.trace else np.zeros(1)
    T = np.array([each.T for each in evidence.transient.each])
    centres = {
        r: float(np.exp(np.log(T[(starts == r) & (T > 0)]).mean()))
        for r in set(starts.tolist())
        if (T[starts == r] > 0).any()
    }
    if len(centres) < 2:
        return _untestable("one start: needs runs of several, see `rhotrace scaling`")
    ordered = [centres[r] for r in sorted(centres, reverse=True)]
    words = ", ".join(f"{centres[r]:.4g} at {r:g}" for r in sorted(centres, reverse=True))
    return _judged(
        ordered == sorted(ordered),
        f"geometric mean of T, by rho_k(0): {words}; exponents: `rhotrace scaling`",
        "longer at every smaller start",
    )


def ivanov(_: Evidence) -> Finding:
    """Equation (9)."""
    return _untestable("needs runs under the constraint rho <= C to compare with")


def constant_sums(evidence: Evidence) -> Finding:
    """Figure 1 takes A and B as constant: how much A changes until T."""
    factors = []
    for each, series in zip(evidence.transient.each, evidence.series, strict=True):
        if each.T > 0:
            early = series.steps <= each.T
            log_A = np.log(np.where(series.a > 0, series.a, np.nan)) - series.log_rho
            factors.append(float(np.exp(np.nanmax(log_A[early]) - np.nanmin(log_A[early]))))
    if not factors:
        return _untestable("no member has a T")
    ratios = [e.T_constant / e.T for e in evidence.transient.each if e.T > 0 and e.T_constant > 0]
    predicted = (
        f"; the T they imply at step 0 is {min(ratios):.2g} to {max(ratios):.2g} times the true one" if ratios else ""
    )
    return _judged(
        max(factors) < 2, f"A grows {min(factors):.2g}- to {max(factors):.2g}-fold until T{predicted}", "2-fold"
    )


def vanishing_lambda(evidence: Evidence) -> Finding:
    """Figure 2: lambda rho / A = 1 - rho/rho_eq falls from 1 to 0."""
    with np.errstate(all="ignore"):
        share = 1 - 1 / np.where(evidence.ratio > 0, evidence.ratio, np.nan)
    first, last = share[: max(1, len(share) // 100)], share[-max(1, len(share) // 10) :]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a member with a <= 0 throughout has nothing to average
        begins, ends = float(np.nanmin(np.nanmedian(first, axis=0))), float(np.nanmax(np.abs(np.nanmean(last, axis=0))))
    measured = f"lambda rho/A = 1 - rho/rho_eq goes from {begins:.4f} to {ends:.1e}"
    return _judged(begins > 0.5 and ends < 0.01, measured, "from above 0.5 to below 0.01")


def interpolation(evidence: Evidence) -> Finding:
    """Zero error and small loss at the end."""
    loss, error = (float(evidence.trace[name][-1].max()) for name in ("loss", "error"))
    return _judged(
        error == 0 and loss < 0.05,
        f"loss {loss:.2g}, training error {error:.2g} at the last step",
        "loss 0.05, error 0",
    )


def minimum_norm(_: Evidence) -> Finding:
    """Minimum norm among interpolants."""
    return _untestable(
        "nobody knows the smallest rho that interpolates here; runs can only be compared with each other"
    )


# --- remarks and open questions ----------------------------------------------------------------------------


def growing(evidence: Evidence) -> Finding:
    """Remark 1: with the flow term alone, and with 1 as threshold as the memo has it."""
    trace = evidence.trace
    a, q = trace["a"], trace["q"]
    log_eq = trace["log_rho_eq"]
    small = (a > 0) & (evidence.log_rho[:: evidence.stride] < np.nan_to_num(log_eq, nan=-np.inf))
    grows = (a - q > 0)[small]
    share = float(grows.mean()) if len(grows) else np.nan
    end = np.exp(np.nanmin(log_eq[-1])) if np.isfinite(log_eq[-1]).any() else np.nan
    return _judged(
        share == 1.0,
        f"d rho_k/dt > 0 at {100 * share:.4g} % of the steps with a > 0, rho < rho_eq; the threshold is rho_eq = {end:.3g}, not 1",
        "100 %",
    )


def at_least_one(evidence: Evidence) -> Finding:
    """Remark 2: rho_eq >= 1."""
    lowest = float(np.nanmin(evidence.trace["log_rho_eq"]))
    return _judged(lowest >= 0, f"smallest rho_eq of the run is {np.exp(min(lowest, 700)):.3g}", "1")


def unit_margins(_: Evidence, end: End) -> Finding:
    """Remark 3: y_n f_n = 1 at rho = 1."""
    top = float(end.margins_f.max())
    return _judged(
        top > np.log10(0.99),
        f"the largest y_n f_n at the end is 10^{top:.2f}; the labels are met at rho = 10^{-top:.2f}, not 1",
        "0.99",
    )


def weight_normalisation(evidence: Evidence) -> Finding:
    """Remark 4: gamma_k follows equation (3) exactly, under weight normalisation."""
    if evidence.trace.recipe["optimizer"]["kind"] != "weight-norm":
        return _untestable("another optimizer; compare with a weight-norm run of the same recipe")
    return layer_growth(evidence)


def fluctuating(evidence: Evidence) -> Finding:
    """Remark 5 needs two runs."""
    kind = evidence.trace.recipe["optimizer"]["kind"]
    return _untestable(f"one run ({kind}); `rhotrace compare GD SGD` decides it")


def _open(why: str) -> Callable[[Evidence], Finding]:
    def unanswered(_: Evidence) -> Finding:
        return _untestable(why)

    return unanswered


CLAIMS: dict[str, Callable[[Evidence], Finding]] = {
    "unit_inputs": _at_end(unit_inputs),
    "bounded": _at_end(bounded),
    "equal_norms": equal_norms,
    "eq1": flow,
    "eq2": _at_end(homogeneity),
    "eq3": layer_growth,
    "eq4": _at_end(directions),
    "lemma1": balance,
    "eq5": product_growth,
    "eq6": equilibrium,
    "eq7": equal_at_end,
    "eq8": stationary,
    "transient": transient_first,
    "longer": longer,
    "eq9": ivanov,
    "fig1": constant_sums,
    "fig2": vanishing_lambda,
    "interpolation": interpolation,
    "minimum_norm": minimum_norm,
    "growing": growing,
    "at_least_one": at_least_one,
    "unit_margins": _at_end(unit_margins),
    "weightnorm": weight_normalisation,
    "sgd": fluctuating,
    "exponential": _open("needs the exponential loss, which RhoTrace does not train with"),
    "generalisation": _open("needs runs with and without a transient at one norm"),
    "resnets": _open("needs residual networks, which RhoTrace does not have"),
    "small_rho": _open("a question without a stated measure"),
    "controlled": _open("needs rho_k set apart from V_k, which no optimizer here does"),
}
