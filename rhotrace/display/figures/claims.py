"""The figure of ``audit``: what it measured along the run, with its tolerances."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rhotrace.analysis.applicability import no_balance
from rhotrace.analysis.claims.evidence import Evidence
from rhotrace.display.figures.style import DASHES, colour, drawable, drawn, headed, line, note, symbol
from rhotrace.theory import paper
from rhotrace.theory.step_identity import balance_drift
from rhotrace.theory.step_laws import ROUNDING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rhotrace.analysis.claims.findings import Claim

Floats = NDArray[np.float64]


def audit_figure(evidence: Evidence, claims: Sequence[Claim], path: Path) -> None:
    """The exact step, the balance of the layers, the distance from rho_eq and the rest of V, each in the worst member."""
    trace = evidence.trace
    dtype, residual, ratio = trace.attributes["dtype"], evidence.run.step_residuals, evidence.run.rho_eq_over_rho
    steps, rows = np.arange(trace.steps), evidence.run.steps
    with np.errstate(all="ignore"):
        share = np.abs(1 - 1 / np.where(ratio > 0, ratio, np.nan))
        across = None if evidence.across is None else evidence.across / np.nanmax(evidence.across, axis=0)
    counts = Counter(claim.finding.outcome for claim in claims)
    verdict = (
        f"{counts['holds']} statements hold, {counts['fails']} fail, {counts['not testable here']} are not testable"
    )
    with drawn(path, 6.6, 7.6) as figure:
        axes = figure.subplots(4, 1, sharex=True)
        largest = ""
        if residual is None:
            note(axes[0], evidence.run.no_audit)
        else:
            _panel(axes[0], steps[:-1], residual, ROUNDING[dtype], "rounding")
            worst = np.nanmax(residual, initial=0)
            largest = f" Largest residual of the exact step {worst:.1e}, tolerated {ROUNDING[dtype]:g}."
        axes[0].set(title=f"Exact step: {paper.cite('eq3')} with its finite-step term", ylabel="residual")
        if why := no_balance(trace):
            note(axes[1], why)
        else:
            _panel(axes[1], steps, balance_drift(trace["rho_k"]), 0.05, "tolerated")
        axes[1].set(title=f"Balance: {paper.cite('lemma1')}", ylabel=f"drift of {symbol('rho_k')}²")
        if why := evidence.run.no_equilibrium:
            note(axes[2], why)
        else:
            _panel(axes[2], rows, share, 0.01, "tolerated at the end")
        axes[2].set(title=f"Equilibrium: {paper.cite('eq6')} and {paper.cite('fig2').rpartition(', ')[2]}")
        axes[2].set_ylabel("$|1 - \\rho/\\rho_\\mathrm{eq}|$")
        if across is None:
            note(axes[3], "needs full batches")
        else:
            _panel(axes[3], steps, across, 0.05, "tolerated at the end")
        axes[3].set(title=f"Directions at rest: {paper.cite('eq8')}", ylabel="gradient across\n$V_k$ / its largest")
        axes[3].set_xlabel("step")
        headed(figure, f"Memo 112 compared with this run: {verdict}")
        figure.set_label(f"What the audit measured along the run, in the worst member and layer: {verdict}.{largest}")


def _panel(axes: Axes, steps: NDArray[np.int64], values: Floats, tolerance: float, says: str) -> None:
    """The largest over members and layers at each step, on a logarithmic axis; zeros are left out."""
    flat = values.reshape(len(values), -1)
    worst = np.max(np.where(np.isfinite(flat), flat, -np.inf), axis=1)
    line(axes, steps, drawable(np.where(worst > 0, worst, np.nan)), color=colour(0), linewidth=1)
    axes.axhline(tolerance, color=colour(1), linestyle=DASHES[1], linewidth=1, label=f"{says}: {tolerance:g}")
    axes.set_yscale("log")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
