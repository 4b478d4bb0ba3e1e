"""Claims of section 2: the assumptions, the flow of the norms, and the motion of the directions."""

from __future__ import annotations

import numpy as np

from rhotrace.analysis.applicability import no_flow, no_sums
from rhotrace.analysis.claims.evidence import Evidence
from rhotrace.analysis.claims.final_network import FinalNetwork
from rhotrace.analysis.claims.finding import Finding, columns, judged, untestable
from rhotrace.analysis.stability import in_words, stability
from rhotrace.statistics.numbers import written


def unit_inputs(_: Evidence, end: FinalNetwork) -> Finding:
    """||x_n|| = 1."""
    worst = max(abs(length - 1) for length in end.inputs)
    measured = (
        f"||x_n|| = 1 to {worst:.1e}"
        if worst < 1e-3
        else f"||x_n|| = {written(end.inputs[0], 4)} to {written(end.inputs[1], 4)}"
    )
    return judged(worst < 1e-6, measured, "1e-6")


def bounded(_: Evidence, end: FinalNetwork) -> Finding:
    """|f(x)| <= 1; and how loose that is."""
    largest = float(end.measured.largest_f.max())
    if not np.isfinite(largest):
        return untestable("every output is zero")
    return judged(largest <= 0, f"largest |f_n| = 10^{largest:.2f}: the bound is loose by that factor", "at most 1")


def equal_norms(evidence: Evidence) -> Finding:
    """Equal layer norms at the start."""
    norms = evidence.trace.rows("rho_k", slice(0, 1))[0]
    spread = float(np.max(np.ptp(norms, axis=1) / norms.mean(axis=1)))
    return judged(spread < 1e-5, f"rho_k(0) differ by {written(spread, 2)} of their mean", "1e-5")


def flow(evidence: Evidence) -> Finding:
    """Discrete steps against the gradient flow of equation (1)."""
    if evidence.audit is None:
        return untestable(evidence.run.no_audit)
    share = evidence.audit.flow
    if not np.isfinite(share):
        return untestable("the steps of weight normalisation add no term to the flow")
    return judged(
        share >= 0.95,
        f"the flow makes {written(100 * share, 4)} % of all changes of rho_k^2, {evidence.audit.rest} the rest",
        "95 %",
    )


def homogeneity(_: Evidence, end: FinalNetwork) -> Finding:
    """<W_k, dL/dW_k> = 2 (q - a), which is what homogeneity says of the loss."""
    worst = float(end.measured.homogeneity.max())
    return judged(
        worst < 1e-9, f"<W_k, dL/dW_k> = 2(q - a) to {worst:.1e} of ||W_k|| ||dL/dW_k|| at step {end.step}", "1e-9"
    )


def layer_growth(evidence: Evidence) -> Finding:
    """Equation (3) with its finite-step term, at every step."""
    if why := no_sums(evidence.trace):
        return untestable(why)
    audit = evidence.run.audit
    if audit is None:
        return untestable(evidence.run.no_audit)
    terms = "its finite-step term" if audit.rest in ("finite steps", "") else f"the terms of {audit.rest}"
    return judged(
        audit.holds,
        f"with {terms}, to {audit.residual:.1e} of rho_k^2 in {audit.checked} checks",
        f"{audit.rounding:g}",
    )


def directions(_: Evidence, end: FinalNetwork) -> Finding:
    """Equation (4) at the run's own weights."""
    worst = float(end.measured.turning.max())
    if not np.isfinite(worst):
        return untestable("the norms of the last weights leave the range of floating point")
    return judged(
        worst < 1e-3,
        f"a short step of gradient descent from the weights at step {end.step} turns V_k as (4) says, to {worst:.1e}",
        "1e-3",
    )


def balance(evidence: Evidence) -> Finding:
    """Lemma 1: rho_k^2 - rho_j^2 is conserved."""
    audit = evidence.audit
    if audit is None:
        return untestable(evidence.run.no_audit)
    return judged(
        audit.balance < 0.05,
        f"rho_k^2 - rho_j^2 moves by at most {written(audit.balance, 2)} of rho_k^2",
        "0.05, for finite steps",
    )


def product_growth(evidence: Evidence) -> Finding:
    """Equation (5), driven by the measured A and B, against the measured rho."""
    if why := no_flow(evidence.trace):
        return untestable(why)
    found = [each.driven for m in evidence.sound if (each := evidence.run.transient.each[m]).driven]
    moved = [d for d in found if d.rise > 0.05]
    if not moved:
        return untestable("log rho moves by less than 0.05" if found else "a or q is not finite throughout")
    worst = max(d.rms / d.rise for d in moved)
    return judged(
        worst < 0.02,
        f"driven by the measured A(t), B(t) it misses log rho by {written(100 * worst, 2)} % of its range (rms)",
        "2 %",
    )


def equilibrium(evidence: Evidence) -> Finding:
    """Equation (6): rho at the end against rho_eq, averaged over the last tenth."""
    ratio = evidence.run.rho_eq_over_rho
    tail = ratio[-max(1, len(ratio) // 10) :, evidence.left]
    if not (tail > 0).all():
        return judged(good=False, measured="a <= 0 in the last tenth of the run: no equilibrium", tolerance="0.01")
    off = np.abs(np.log(tail)).mean(axis=0)
    return judged(
        float(off.max()) < 0.01, f"|log(rho/rho_eq)| is {off.min():.1e} to {off.max():.1e} over the last tenth", "0.01"
    )


def equal_throughout(evidence: Evidence) -> Finding:
    """Equation (7) replaces rho_k by rho^(1/L): the layer norms must be equal at all times."""
    spread = np.nan
    for which in evidence.pieces():
        norms = columns(evidence.run.every_step("rho_k", which), evidence.sound)
        with np.errstate(all="ignore"):
            spread = float(np.fmax(spread, np.fmax.reduce(np.ptp(norms, axis=2) / norms.mean(axis=2), axis=None)))
    return judged(spread < 0.01, f"rho_k differ by at most {written(spread, 2)} of their mean over the run", "0.01")


def stationary(evidence: Evidence) -> Finding:
    """Equation (8): the part of dL/dW_k across W_k, at the end over its largest value in the run."""
    if not evidence.has_across:
        return untestable("needs the gradient of the full loss at every step: full batches, record.full_every 1")
    steps = evidence.trace.steps
    with np.errstate(all="ignore"):
        last = np.median(evidence.across(slice(steps - max(1, steps // 100), steps))[:, evidence.left], axis=0)
        left = last / evidence.largest_across[0][evidence.left]
    worst = float(np.max(np.nan_to_num(left)))
    measured = in_words(stability(evidence.run, evidence.left))
    beside = f" (at the end, {measured})" if measured else ""
    return judged(
        worst < 0.05, f"the gradient across V_k ends at {written(worst, 2)} of its largest value{beside}", "0.05"
    )
