"""``rhotrace audit``: one run held against the memo, statement by statement.

Each claim is a function of the ``Evidence`` that returns a ``Finding``: what was measured, what is tolerated, and
whether the statement holds in this run, fails, or cannot be tested on it. Figures are of the worst member.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rhotrace.analysis.claims.evidence import End, Evidence
from rhotrace.analysis.run_analysis import require_steps
from rhotrace.runfile.reader import Trace
from rhotrace.theory import paper

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


def audit_claims(run: Trace | Evidence) -> tuple[Claim, ...]:
    """Goes through the memo's statements in its own order, on a run or on what is gathered of it.

    Raises:
        AnalysisError: the run has fewer than two committed steps.
    """
    evidence = run if isinstance(run, Evidence) else Evidence(run)
    require_steps(evidence.trace)
    return tuple(
        Claim(key, statement.place, statement.says, CLAIMS[key](evidence))
        for key, statement in paper.STATEMENTS.items()
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


def _after_T(claim: Callable[[Evidence], Finding]) -> Callable[[Evidence], Finding]:
    """A claim about the members that left the transient: a run that ends within it says nothing of what comes after."""

    def held(evidence: Evidence) -> Finding:
        members = len(evidence.transient.each)
        if not evidence.left:
            outcomes = Counter(str(each.outcome) for each in evidence.transient.each)
            return _untestable("no member has a T: " + "; ".join(f"{n} {o}" for o, n in outcomes.items()))
        finding = claim(evidence)
        some = "" if len(evidence.left) == members else f"in the {len(evidence.left)} of {members} members with a T: "
        return replace(finding, measured=some + finding.measured)

    return held


def _factors(logs: Sequence[float]) -> str:
    """Factors from their logarithms, as ``2.6 to 32`` or ``10^5.2 to 10^5.8``."""
    ends = [np.exp(min(logs)), np.exp(max(logs))]
    low, high = (f"{end:.3g}" if 1e-3 < end < 1e3 else f"10^{np.log10(end):.1f}" for end in ends)
    return low if low == high else f"{low} to {high}"


# --- assumptions and the flow ------------------------------------------------------------------------------


def unit_inputs(_: Evidence, end: End) -> Finding:
    """||x_n|| = 1."""
    worst = max(abs(length - 1) for length in end.inputs)
    measured = (
        f"||x_n|| = 1 to {worst:.1e}" if worst < 1e-3 else f"||x_n|| = {end.inputs[0]:.4g} to {end.inputs[1]:.4g}"
    )
    return _judged(worst < 1e-6, measured, "1e-6")


def bounded(_: Evidence, end: End) -> Finding:
    """|f(x)| <= 1; and how loose that is."""
    largest = float(end.largest_f.max())
    if not np.isfinite(largest):
        return _untestable("every output is zero")
    return _judged(largest <= 0, f"largest |f_n| = 10^{largest:.2f}: the bound is loose by that factor", "at most 1")


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
    if not np.isfinite(worst):
        return _untestable("the norms of the last weights leave the range of floating point")
    return _judged(
        worst < 1e-3,
        f"a short step of gradient descent from the weights at step {end.step} turns V_k as (4) says, to {worst:.1e}",
        "1e-3",
    )


def balance(evidence: Evidence) -> Finding:
    """Lemma 1: rho_k^2 - rho_j^2 is conserved."""
    audit = evidence.audit
    if audit is None:
        return _untestable("fewer than two finite steps")
    return _judged(
        audit.balance < 0.05,
        f"rho_k^2 - rho_j^2 moves by at most {audit.balance:.2g} of rho_k^2",
        "0.05, for finite steps",
    )


def product_growth(evidence: Evidence) -> Finding:
    """Equation (5), driven by the measured A and B, against the measured rho."""
    found = [each.driven for each in evidence.transient.each if each.driven]
    moved = [d for d in found if d.rise > 0.05]
    if not moved:
        return _untestable("log rho moves by less than 0.05" if found else "a or q is not finite throughout")
    worst = max(d.rms / d.rise for d in moved)
    return _judged(
        worst < 0.02,
        f"driven by the measured A(t), B(t) it misses log rho by {100 * worst:.2g} % of its range (rms)",
        "2 %",
    )


def equilibrium(evidence: Evidence) -> Finding:
    """Equation (6): rho at the end against rho_eq, averaged over the last tenth."""
    tail = evidence.ratio[-max(1, len(evidence.ratio) // 10) :, evidence.left]
    if not (tail > 0).all():
        return _judged(good=False, measured="a <= 0 in the last tenth of the run: no equilibrium", tolerance="0.01")
    off = np.abs(np.log(tail)).mean(axis=0)
    return _judged(
        float(off.max()) < 0.01, f"|log(rho/rho_eq)| is {off.min():.1e} to {off.max():.1e} over the last tenth", "0.01"
    )


def equal_throughout(evidence: Evidence) -> Finding:
    """Equation (7) replaces rho_k by rho^(1/L): the layer norms must be equal at all times."""
    norms = evidence.trace["rho_k"]
    with np.errstate(all="ignore"):
        spread = float(np.nanmax(np.ptp(norms, axis=2) / norms.mean(axis=2)))
    return _judged(spread < 0.01, f"rho_k differ by at most {spread:.2g} of their mean over the run", "0.01")


def stationary(evidence: Evidence) -> Finding:
    """Equation (8): the part of dL/dW_k across W_k, at the end over its largest value in the run."""
    if evidence.across is None:
        return _untestable("needs the gradient of the full loss at every step: full batches, record.full_every 1")
    across = evidence.across[:, evidence.left]
    with np.errstate(all="ignore"):
        left = np.median(across[-max(1, len(across) // 100) :], axis=0) / across.max(axis=0)
    worst = float(np.max(np.nan_to_num(left)))
    return _judged(worst < 0.05, f"the gradient across V_k ends at {worst:.2g} of its largest value", "0.05")


# --- conjectures of section 3 ------------------------------------------------------------------------------


def transient_first(evidence: Evidence) -> Finding:
    """rho stays small for a time T, then grows fast: little of its rise happens before T/2."""
    Ts, early = [evidence.transient.each[m].T for m in evidence.left], []
    for m, T in zip(evidence.left, Ts, strict=True):
        log_rho = evidence.log_rho[:, m]
        rho = np.exp(log_rho - np.max(log_rho))
        early.append(float((rho[int(T / 2)] - rho[0]) / (1 - rho[0])) if rho[0] < 1 else 1.0)
    measured = (
        f"T = {min(Ts):.4g} to {max(Ts):.4g} steps in {len(Ts)} of {evidence.trace.members} members; "
        f"at most {100 * max(early):.2g} % of the rise of rho comes before T/2"
    )
    return _judged(max(early) < 0.1, measured, "10 %")


def longer(evidence: Evidence) -> Finding:
    """T (learning rate x steps) against the start, where the members of the run differ in it."""
    trace = evidence.trace
    name, shown = ("init_rho_k", "rho_k(0)") if "init_rho_k" in trace else ("init_scale", "scale")
    starts, T = trace[name][evidence.left], np.array([evidence.transient.each[m].T for m in evidence.left])
    log_T = np.log(T * trace["lr"][evidence.left])
    centres = {r: float(np.exp(log_T[starts == r].mean())) for r in sorted(set(starts.tolist()), reverse=True)}
    if len(centres) < 2:
        return _untestable("one start: needs several, see `rhotrace scaling`")
    words = ", ".join(f"{T:.4g} at {r:g}" for r, T in centres.items())
    return _judged(
        list(centres.values()) == sorted(centres.values()),
        f"geometric mean of T (lr x steps) by {shown}: {words}; exponents, and depth: `rhotrace scaling`",
        "longer at every smaller start",
    )


def ivanov(_: Evidence) -> Finding:
    """Equation (9)."""
    return _untestable("needs runs under the constraint rho <= C to compare with")


def constant_sums(evidence: Evidence) -> Finding:
    """Figure 1 takes A and B as constant: by which factors they change until T."""
    growth: dict[str, list[float]] = {"A": [], "B": []}
    turned = 0
    for m in evidence.left:
        series = evidence.series[m]
        early = series.steps <= evidence.transient.each[m].T
        a, q, log_rho = series.a[early], series.q[early], series.log_rho[early]
        turned += int((a <= 0).any())
        for name, values, power in (("A", a, 1), ("B", q, 2)):
            if (values > 0).all():
                growth[name].append(float(np.ptp(np.log(values) - power * log_rho)))
    words = [f"{name} changes by a factor of {_factors(logs)}" for name, logs in growth.items() if logs]
    words += [f"A changes sign in {turned} of {len(evidence.left)}"] if turned else []
    each = [evidence.transient.each[m] for m in evidence.left]
    ratios = [float(np.log(e.T_constant / e.T)) for e in each if e.T_constant > 0]
    implied = f"; the T that those of step 0 imply is {_factors(ratios)} times the true one" if ratios else ""
    steady = not turned and max(growth["A"] + growth["B"], default=np.inf) < np.log(2)
    return _judged(steady, f"until T, {', '.join(words)}{implied}", "a factor of 2")


def vanishing_lambda(evidence: Evidence) -> Finding:
    """Figure 2: lambda rho / A = 1 - rho/rho_eq falls from 1 to 0."""
    ratio = evidence.ratio[:, evidence.left]
    with np.errstate(all="ignore"):
        share = 1 - 1 / np.where(ratio > 0, ratio, np.nan)
    begins = [s[np.isfinite(s)][: max(1, len(share) // 100)] for s in share.T]  # from where a > 0
    first = float(min(np.median(s) for s in begins))
    last = float(np.abs(share[-max(1, len(share) // 10) :].mean(axis=0)).max())
    measured = f"lambda rho/A = 1 - rho/rho_eq goes from {first:.4f} to {last:.1e}"
    return _judged(first > 0.5 and last < 0.01, measured, "from above 0.5 to below 0.01")


def interpolation(evidence: Evidence) -> Finding:
    """Zero error and small loss at the end."""
    loss, error = (evidence.trace[name][-1, evidence.left] for name in ("loss", "error"))
    fitted = int(((error == 0) & (loss < 0.05)).sum())
    return _judged(
        fitted == len(loss),
        f"in {fitted} of {len(loss)} members; largest loss {loss.max():.2g}, training error {error.max():.2g}",
        "loss 0.05, error 0 at the last step",
    )


def minimum_norm(_: Evidence) -> Finding:
    """Minimum norm among interpolants."""
    return _untestable(
        "nobody knows the smallest rho that interpolates in a ReLU network; runs can only be compared with each other"
    )


def linear(_: Evidence) -> Finding:
    """What the memo recalls of linear networks."""
    return _untestable("recalled from linear networks, where it is known; not a statement on ReLU networks")


# --- remarks and open questions ----------------------------------------------------------------------------


def growing(evidence: Evidence) -> Finding:
    """Remark 1: whether the recorded norms shrink where (3) says that they grow, and where that ends."""
    if evidence.minibatches:
        return _untestable("minibatches: each step follows a - q of its own batch")
    trace, every = evidence.trace, evidence.stride
    norms, ratio = trace["rho_k"], evidence.ratio
    rows = np.arange(len(ratio))[np.arange(len(ratio)) * every + 1 < len(norms)]
    shrank = (norms[rows * every + 1] < norms[rows * every]).mean(axis=2)  # or stood still, for rounding
    below = ratio[rows] > 1  # that is a > 0 and rho < rho_eq
    if not below.any():
        return _untestable("rho is never below rho_eq")
    share = float(shrank[below].mean())
    beyond = f", and in {100 * float(shrank[~below].mean()):.3g} % of the others" if (~below).any() else ""
    return _judged(
        share <= 0.01,
        f"rho_k shrinks in {100 * share:.2g} % of the steps with mean(f y) > 0 and rho < rho_eq{beyond}: the threshold is "
        "rho_eq, not 1",
        "1 %, for rounding",
    )


def at_least_one(evidence: Evidence) -> Finding:
    """Remark 2: rho_eq >= 1."""
    log_eq, steps = evidence.trace["log_rho_eq"], evidence.trace.step_of("log_rho_eq")
    after = np.concatenate([log_eq[steps >= evidence.transient.each[m].T, m] for m in evidence.left])
    lowest = float(np.nanmin(after)) if np.isfinite(after).any() else np.nan
    return _judged(lowest >= 0, f"smallest rho_eq from T on is {np.exp(min(lowest, 700)):.3g}", "1")


def unit_margins(_: Evidence, end: End) -> Finding:
    """Remark 3: y_n f_n = 1 at rho = 1; what is said of that point cannot be tested where it is not reached."""
    top = float(end.margins_f.max())
    if not np.isfinite(top):
        return _untestable("not attained: no y_n f_n is positive")
    if top <= np.log10(0.99):
        return _untestable(
            f"not attained: the largest y_n f_n at the end is 10^{top:.2f}, so labels need rho >= 10^{-top:.2f}"
        )
    return _judged(good=True, measured=f"the largest y_n f_n at the end is 10^{top:.2f}", tolerance="0.99")


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
    "eq6": _after_T(equilibrium),
    "eq7": equal_throughout,
    "eq8": _after_T(stationary),
    "transient": _after_T(transient_first),
    "longer": _after_T(longer),
    "eq9": ivanov,
    "fig1": _after_T(constant_sums),
    "fig2": _after_T(vanishing_lambda),
    "interpolation": _after_T(interpolation),
    "linear": linear,
    "minimum_norm": minimum_norm,
    "growing": growing,
    "at_least_one": _after_T(at_least_one),
    "unit_margins": _at_end(unit_margins),
    "weightnorm": weight_normalisation,
    "sgd": fluctuating,
    "exponential": _open("needs the exponential loss, which RhoTrace does not train with"),
    "generalisation": _open("needs runs with and without a transient at one norm"),
    "resnets": _open("needs residual networks, which RhoTrace does not have"),
    "small_rho": _open("a question without a stated measure"),
    "controlled": _open("needs rho_k set apart from V_k, which no optimizer here does"),
}
