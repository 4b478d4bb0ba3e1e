"""The command ``analyze``."""

from __future__ import annotations

from typing import Annotated

import typer

from rhotrace.cli.options import AsJson, Plot, RunFile, Theta
from rhotrace.cli.output import answer


def analyze(
    run: RunFile,
    fit_transient: Annotated[
        bool, typer.Option("--fit-transient", help="Also fit the memo's closed form to each member.")
    ] = False,
    theta: Theta = 0.5,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Measure the transient time T of a run and audit its steps."""
    from rhotrace.analysis.analyze import analyze as examine
    from rhotrace.analysis.run_series import RunSeries, require_steps
    from rhotrace.display.figures.transient import transient_figure
    from rhotrace.display.pages.analysis import analysis_page
    from rhotrace.runfile.reader import open_trace

    with open_trace(run) as trace:
        require_steps(trace)
        series = RunSeries(trace, theta)
        result = examine(series, fit=fit_transient)
        if plot:
            transient_figure({"": (series.members, result.transient)}, plot)
    answer(analysis_page(result, fits=fit_transient), as_json=as_json, plot=plot)
