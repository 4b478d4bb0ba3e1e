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
    """Measure the transient time T of a run and audit its steps.

    T: first step from which rho >= theta rho_eq, held for 10 steps or a fifth of T, whichever is longer.
    ±: of that crossing, from a cubic through log(rho/rho_eq) around it.
    T loss: first step from which the loss is below 1/2, held likewise.
    T growth: step at which log rho grows fastest.
    T driven: T of equation (5) with the measured A(t) and B(t).
    T constant: T if A and B kept their values of step 0.
    plateau: the loss crosses its level at least 5 times as slowly as the levels around it, and stays as long as the fall took.

    Columns of --fit-transient, where the fit holds below a residual of 2 %; elsewhere A was not constant, and no interval is given.
    residual: rms of log rho minus the fit, over its rise in the window, which ends where the run does.
    T fitted: a dash if it is outside the window.
    A max/min: of the measured A in the window.
    """
    from rhotrace.analysis.analyze import analyze as examine
    from rhotrace.analysis.run_series import RunSeries, require_steps
    from rhotrace.display.pages.analysis import analysis_page
    from rhotrace.runfile.reader import open_trace

    with open_trace(run) as trace:
        require_steps(trace)
        series = RunSeries(trace, theta)
        result = examine(series, fit=fit_transient)
        if plot:
            from rhotrace.display.figures.transient import transient_figure

            transient_figure({"": (series.members, result.transient)}, plot)
    answer(analysis_page(result, fits=fit_transient), as_json=as_json, plot=plot)
