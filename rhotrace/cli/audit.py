"""The command ``audit``."""

from __future__ import annotations

from rhotrace.cli.options import AsJson, Plot, RunFile
from rhotrace.cli.output import answer


def audit(run: RunFile, plot: Plot = None, as_json: AsJson = False) -> None:
    """Check every statement of the memo against this run."""
    from rhotrace.analysis.claims.evidence import Evidence
    from rhotrace.analysis.claims.findings import audit_claims
    from rhotrace.analysis.run_analysis import summary
    from rhotrace.display.figures.claims import audit_figure
    from rhotrace.display.pages.claims import claims_page
    from rhotrace.runfile.reader import open_trace

    with open_trace(run) as trace:
        evidence = Evidence(trace)
        claims, about = audit_claims(evidence), summary(trace)
        if plot:
            audit_figure(evidence, claims, plot)
    answer(claims_page(run, about, claims), as_json=as_json, plot=plot)
