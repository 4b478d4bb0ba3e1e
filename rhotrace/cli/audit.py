"""The command ``audit``."""

from __future__ import annotations

from rhotrace.cli.options import AsJson, Plot, RunFile, Theta, TrustStored
from rhotrace.cli.output import answer


def audit(
    run: RunFile, theta: Theta = 0.5, trust_code: TrustStored = False, plot: Plot = None, as_json: AsJson = False
) -> None:
    """Check every statement of the memo against this run."""
    from rhotrace.analysis.claims.evidence import Evidence
    from rhotrace.analysis.claims.findings import audit_claims, cautions
    from rhotrace.analysis.rebuild_network import run_stored_code
    from rhotrace.analysis.run_series import RunSeries
    from rhotrace.analysis.run_summary import summary
    from rhotrace.display.figures.claims import audit_figure
    from rhotrace.display.pages.claims import claims_page
    from rhotrace.runfile.reader import open_trace

    with open_trace(run) as trace:
        run_stored_code(trace, allowed=trust_code)
        evidence = Evidence(RunSeries(trace, theta))
        claims, about, warned = audit_claims(evidence), summary(trace), cautions(evidence)
        if plot:
            audit_figure(evidence, claims, plot)
    answer(claims_page(run, about, claims, warned), as_json=as_json, plot=plot)
