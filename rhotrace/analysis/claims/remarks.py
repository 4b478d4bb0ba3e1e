"""Claims of the remarks, and the open questions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rhotrace.analysis.claims.evidence import Evidence
from rhotrace.analysis.claims.final_network import FinalNetwork
from rhotrace.analysis.claims.finding import Finding, columns, judged, untestable
from rhotrace.analysis.claims.flow import layer_growth
from rhotrace.runfile.layout import SLAB_BYTES
from rhotrace.statistics.numbers import written

Floats = NDArray[np.float64]

_SAME_SPEED = 0.05


def growing(evidence: Evidence) -> Finding:
    """Remark 1: whether the recorded norms shrink where (3) says that they grow, and where that ends."""
    if evidence.minibatches:
        return untestable("minibatches: each step follows a - q of its own batch")
    every, run = evidence.stride, evidence.run
    ratio = columns(run.rho_eq_over_rho, evidence.sound)
    rows = min(len(ratio), (evidence.trace.steps - 2) // every + 1)  # that another step follows
    shrank, size = np.empty((rows, len(evidence.sound))), evidence.trace.layout.steps_within(SLAB_BYTES)
    for first in range(0, rows, size):
        last = min(first + size, rows)
        norms = columns(run.every_step("rho_k", slice(first * every, (last - 1) * every + 2)), evidence.sound)
        shrank[first:last] = (norms[1::every] < norms[:-1:every]).mean(axis=2)  # or stood still, for rounding
    below = ratio[:rows] > 1  # that is a > 0 and rho < rho_eq
    if not below.any():
        return untestable("rho is never below rho_eq")
    share = float(shrank[below].mean())
    beyond = f", and in {written(100 * float(shrank[~below].mean()))} % of the others" if (~below).any() else ""
    return judged(
        share <= 0.01,
        f"rho_k shrinks in {written(100 * share, 2)} % of the steps with mean(f y) > 0 and rho < rho_eq{beyond}: the threshold is "
        "rho_eq, not 1",
        "1 %, for rounding",
    )


def at_least_one(evidence: Evidence) -> Finding:
    """Remark 2: rho_eq >= 1."""
    log_eq, steps = evidence.trace["log_rho_eq"], evidence.trace.step_of("log_rho_eq")
    after = np.concatenate([log_eq[steps >= evidence.run.passages[m].T, m] for m in evidence.left])
    lowest = float(np.nanmin(after)) if np.isfinite(after).any() else np.nan
    return judged(lowest >= 0, f"smallest rho_eq from T on is {written(np.exp(min(lowest, 700)))}", "1")


def unit_margins(_: Evidence, end: FinalNetwork) -> Finding:
    """Remark 3: y_n f_n = 1 at rho = 1; what is said of that point cannot be tested where it is not reached."""
    top = float(end.measured.margins_f.max())
    if not np.isfinite(top):
        return untestable("not attained: no y_n f_n is positive")
    if top <= np.log10(0.99):
        return untestable(
            f"not attained: the largest y_n f_n at the end is 10^{top:.2f}, so labels need rho >= 10^{-top:.2f}"
        )
    return judged(good=True, measured=f"the largest y_n f_n at the end is 10^{top:.2f}", tolerance="0.99")


def weight_normalisation(evidence: Evidence) -> Finding:
    """Remark 4: gamma_k follows equation (3), and the dynamics is that of gradient descent where V_k turns as fast too."""
    if evidence.trace.facts.law != "weight-norm":
        return untestable("another optimizer; compare with a weight-norm run of the same recipe")
    growth = layer_growth(evidence)
    if growth.outcome != "holds" or not evidence.left:
        return growth
    first, last = (_speeds(evidence, at_T=at_T) for at_T in (False, True))
    return judged(
        bool(np.abs(first - 1).max() < _SAME_SPEED),
        f"{growth.measured}; V_k turns at (gamma_k/||v_k||)^2 times the speed of gradient descent, {_span(first)} at the "
        f"start and {_span(last)} at T (1 at the start for optimizer.v_scale 1 alone)",
        f"{growth.tolerance}, and {_SAME_SPEED:g} of the speed at the start",
    )


def _speeds(evidence: Evidence, *, at_T: bool) -> Floats:
    """(gamma_k/||v_k||)^2, by which V_k turns faster than under gradient descent, (members with a T, L)."""
    norms, lengths = evidence.run.every_step("rho_k"), evidence.run.every_step("v_norm")
    rows = [int(evidence.run.passages[m].T) if at_T else 0 for m in evidence.left]
    return np.stack([(norms[row, m] / lengths[row, m]) ** 2 for row, m in zip(rows, evidence.left, strict=True)])


def _span(values: Floats) -> str:
    return " to ".join(dict.fromkeys(f"{written(value)}" for value in (values.min(), values.max())))


def fluctuating(evidence: Evidence) -> Finding:
    """Remark 5 needs two runs."""
    return untestable(f"one run ({evidence.trace.facts.optimizer}); `rhotrace compare GD SGD` decides it")


def exponential(evidence: Evidence) -> Finding:
    """Open question 1."""
    if evidence.trace.facts.loss == "exponential":
        return untestable("this loss has no rho_eq to time a transient by; its margins: `rhotrace plot --what margins`")
    return untestable("needs runs under both losses; `rhotrace study early-stopping`")


def generalisation(_: Evidence) -> Finding:
    """Open question 2."""
    return untestable("needs runs from several starts; `rhotrace study initial-norm weight-sharing`")


def resnets(_: Evidence) -> Finding:
    """Open question 3."""
    return untestable("needs runs of residual and of plain networks; `rhotrace study residual`")


def small_rho(_: Evidence) -> Finding:
    """Open question 4."""
    return untestable("needs runs from several starts; `rhotrace study margin-spread minimum-norm`")


def controlled(_: Evidence) -> Finding:
    """Open question 5."""
    return untestable("needs runs with and without `optimizer: {kind: norm-control}`; `rhotrace study rho-control`")
