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
from rhotrace.theory.step_laws import ROUNDING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rhotrace.analysis.claims.findings import Claim

Floats = NDArray[np.float64]


def audit_figure(evidence: Evidence, claims: Sequence[Claim], path: Path) -> None:
    """The exact step, the balance of the layers, the distance from rho_eq and the rest of V, each in the worst member."""
    trace = evidence.trace
    dtype, course, steps = trace.attributes["dtype"], evidence.course, np.arange(trace.steps)
    counts = Counter(claim.finding.outcome for claim in claims)
    verdict = (
        f"of {len(claims)} statements, {counts['holds']} held, {counts['fails']} failed, "
        f"{counts['not testable here']} not testable"
    )
    with drawn(path, 6.6, 7.6) as figure:
        axes = figure.subplots(4, 1, sharex=True)
        largest = ""
        if course.residual is None:
            note(axes[0], evidence.run.no_audit)
        else:
            _panel(axes[0], steps[:-1], course.residual, ROUNDING[dtype], "rounding")
            worst = np.nanmax(course.residual, initial=0)
            largest = f" Largest residual of the exact step {worst:.1e}, tolerated {ROUNDING[dtype]:g}."
        axes[0].set(title=f"Exact step: {paper.cite('eq3')} with its finite-step term", ylabel="residual")
        if why := no_balance(trace):
            note(axes[1], why)
        else:
            _panel(axes[1], steps, course.drift, 0.05, "tolerated")
        axes[1].set(title=f"Balance: {paper.cite('lemma1')}", ylabel=f"drift of {symbol('rho_k')}²")
        if why := evidence.run.no_equilibrium:
            note(axes[2], why)
        else:
            _panel(axes[2], evidence.run.steps, course.share, 0.01, "tolerated at the end")
        axes[2].set(title=f"Equilibrium: {paper.cite('eq6')} and {paper.cite('fig2').rpartition(', ')[2]}")
        axes[2].set_ylabel("$|1 - \\rho/\\rho_\\mathrm{eq}|$")
        if course.turning is None:
            note(axes[3], "needs full batches")
        else:
            _panel(axes[3], steps, course.turning, 0.05, "tolerated at the end")
        axes[3].set(title=f"Directions at rest: {paper.cite('eq8')}", ylabel="gradient across\n$V_k$ / its largest")
        axes[3].set_xlabel("step")
        headed(figure, f"Memo 112 compared with this run: {verdict}")
        figure.set_label(f"What the audit measured along the run, in the worst member and layer: {verdict}.{largest}")


def _panel(axes: Axes, steps: NDArray[np.int64], values: Floats, tolerance: float, says: str) -> None:
    """A curve on a logarithmic axis, with its tolerance; zeros are left out."""
    line(axes, steps, drawable(np.where(values > 0, values, np.nan)), color=colour(0), linewidth=1)
    axes.axhline(tolerance, color=colour(1), linestyle=DASHES[1], linewidth=1, label=f"{says}: {tolerance:g}")
    axes.set_yscale("log")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
