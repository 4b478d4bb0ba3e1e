"""Claims of section 3: the transient, Figures 1 and 2, and where the run ends."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rhotrace.analysis.claims.evidence import Evidence
from rhotrace.analysis.claims.finding import Finding, judged, untestable
from rhotrace.statistics.numbers import written


def transient_first(evidence: Evidence) -> Finding:
    """rho stays small for a time T, then grows fast: little of its rise happens before T/2."""
    Ts, early = [evidence.run.passages[m].T for m in evidence.left], []
    norms = evidence.run.every_step("log_rho")
    for m, T in zip(evidence.left, Ts, strict=True):
        log_rho = norms[:, m]
        rho = np.exp(log_rho - np.max(log_rho))
        early.append(float((rho[int(T / 2)] - rho[0]) / (1 - rho[0])) if rho[0] < 1 else 1.0)
    measured = (
        f"T = {written(min(Ts), 4)} to {written(max(Ts), 4)} steps in {len(Ts)} of {evidence.trace.members} members; "
        f"at most {written(100 * max(early), 2)} % of the rise of rho comes before T/2"
    )
    return judged(max(early) < 0.1, measured, "10 %")


def longer(evidence: Evidence) -> Finding:
    """T (learning rate x steps) against the start, where the members of the run differ in it."""
    trace = evidence.trace
    name, shown = next(((n, s) for n, s in trace.layout.per_member.items() if n.startswith("init_")), ("", ""))
    if not name:
        return untestable("one start: needs several, see `rhotrace scaling`")
    starts, T = (
        trace[name][evidence.left],
        np.array([evidence.run.time_of(m, evidence.run.passages[m].T) for m in evidence.left]),
    )
    log_T = np.log(T)
    centres = {r: float(np.exp(log_T[starts == r].mean())) for r in sorted(set(starts.tolist()), reverse=True)}
    if len(centres) < 2:
        return untestable("one start: needs several, see `rhotrace scaling`")
    words = ", ".join(f"{written(T, 4)} at {r:g}" for r, T in centres.items())
    return judged(
        list(centres.values()) == sorted(centres.values()),
        f"geometric mean of T (lr x steps) by {shown}: {words}; exponents, and depth: `rhotrace scaling`; why: `rhotrace study clock`",
        "longer at every smaller start",
    )


def ivanov(_: Evidence) -> Finding:
    """Equation (9)."""
    return untestable(
        "needs runs under rho <= C, `optimizer: {kind: norm-control, norms: {kind: ivanov, C: …}}`; `rhotrace study equivalent-regularisation`"
    )


def constant_sums(evidence: Evidence) -> Finding:
    """Figure 1 takes A and B as constant: by which factors they change until T."""
    growth: dict[str, list[float]] = {"A": [], "B": []}
    turned = 0
    for m in evidence.left:
        series = evidence.run.members[m]
        early = series.steps <= evidence.run.passages[m].T
        a, q, log_rho = series.a[early], series.q[early], series.log_rho[early]
        turned += int((a <= 0).any())
        for name, values, power in (("A", a, 1), ("B", q, 2)):
            if (values > 0).all():
                growth[name].append(float(np.ptp(np.log(values) - power * log_rho)))
    words = [f"{name} changes by a factor of {factors(logs)}" for name, logs in growth.items() if logs]
    words += [f"A changes sign in {turned} of {len(evidence.left)}"] if turned else []
    each = [evidence.run.transient.each[m] for m in evidence.left]
    ratios = [float(np.log(e.T_constant / e.T)) for e in each if e.T_constant > 0]
    implied = f"; the T that those of step 0 imply is {factors(ratios)} times the true one" if ratios else ""
    steady = not turned and max(growth["A"] + growth["B"], default=np.inf) < np.log(2)
    return judged(steady, f"until T, {', '.join(words)}{implied}", "a factor of 2")


def vanishing_lambda(evidence: Evidence) -> Finding:
    """Figure 2: lambda rho / A = 1 - rho/rho_eq falls from 1 to 0."""
    ratio = evidence.run.rho_eq_over_rho[:, evidence.left]
    with np.errstate(all="ignore"):
        share = 1 - 1 / np.where(ratio > 0, ratio, np.nan)
    begins = [s[np.isfinite(s)][: max(1, len(share) // 100)] for s in share.T]  # from where a > 0
    first = float(min(np.median(s) for s in begins))
    last = float(np.abs(share[-max(1, len(share) // 10) :].mean(axis=0)).max())
    measured = f"lambda rho/A = 1 - rho/rho_eq goes from {first:.4f} to {last:.1e}"
    return judged(first > 0.5 and last < 0.01, measured, "from above 0.5 to below 0.01")


def interpolation(evidence: Evidence) -> Finding:
    """Zero error and small loss at the end."""
    trace, end = evidence.trace, len(evidence.run.steps)
    loss, error = (trace.rows(name, slice(end - 1, end))[0, evidence.left] for name in ("loss", "error"))
    fitted = int(((error == 0) & (loss < 0.05)).sum())
    return judged(
        fitted == len(loss),
        f"in {fitted} of {len(loss)} members; largest loss {written(loss.max(), 2)}, training error {written(error.max(), 2)}",
        "loss 0.05, error 0 at the last step",
    )


def minimum_norm(_: Evidence) -> Finding:
    """Minimum norm among interpolants."""
    return untestable(
        "the smallest rho at which a ReLU network interpolates is not known; runs can only be compared with each other: "
        "`rhotrace study minimum-norm`"
    )


def linear(_: Evidence) -> Finding:
    """What the memo recalls of linear networks."""
    return untestable("recalled from linear networks, where it is known; not a statement on ReLU networks")


def factors(logs: Sequence[float]) -> str:
    """Factors from their logarithms, as ``2.6 to 32`` or ``10^5.2 to 10^5.8``."""
    ends = [np.exp(min(logs)), np.exp(max(logs))]
    low, high = (f"{written(end)}" if 1e-3 < end < 1e3 else f"10^{np.log10(end):.1f}" for end in ends)
    return low if low == high else f"{low} to {high}"
