"""The command ``scaling``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rhotrace.cli.options import AsJson, Plot, Theta
from rhotrace.cli.output import answer


def scaling(
    runs: Annotated[list[Path], typer.Argument(help="Run files made by `rhotrace train`.", show_default=False)],
    theta: Theta = 0.5,
    target: Annotated[
        float, typer.Option(help="Half-width of the exponent's interval to plan seeds for.", min=1e-3)
    ] = 0.1,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            help="Compare T of this run's members with those of the same depth, start, seed and learning rate."
        ),
    ] = None,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Fit T against rho_k(0) at each depth, and compare the exponent with the memo's law.

    exponent: d log T / d log rho_k(0), the mean over seeds of each seed's slope, with Student's t interval, at the largest
    learning rate of each start.
    lr -> 0: shift of the exponent without finite steps, measured where a seed and start have several learning rates, or
    estimated to first order (*).
    start -> 0: its shift for ever smaller starts, extrapolated from the change of the exponent over the starts.
    theta 0.1 to 0.9: its smallest and largest shift by the threshold that defines T.
    by loss: its shift where T is the time at which the loss is halved.
    extrapolated: the exponent for lr -> 0 and rho_k(0) -> 0.
    with all errors: from the lowest to the highest end of its interval over theta 0.1 to 0.7 and over the error of lr -> 0.
    The verdict is whether the law is in it.
    to equal A: reading of the clock, the integral of rho_k^(L-2) dt, at the smallest A = mean(y f) that a start of a seed
    has at T; largest over smallest start.
    to A/10: the same at a tenth of this A, where the outputs are still small.
    to T: the same at each start's own T.
    rho_eq/rho at 0: median size before the first step; there is hardly a transient where it is not far above 1.
    two smallest: the exponent between the two smallest starts.
    residual: rms of log T about each seed's line.
    T varies: largest over smallest T.
    collapsed: the same of T rho_k(0)^(L-2), 1 where the law holds.
    """
    from contextlib import ExitStack

    from rhotrace.analysis.scaling.with_start import scaling as fit
    from rhotrace.display.figures.transient import scaling_figure
    from rhotrace.display.pages.scaling import scaling_page
    from rhotrace.runfile.reader import open_trace
    from rhotrace.sweeps.index import run_files

    with ExitStack() as stack:
        own, others = (
            [stack.enter_context(open_trace(run)) for run in run_files(each)] for each in (runs, against or [])
        )
        result = fit(own, theta=theta, target=target, against=others)
    if plot:
        scaling_figure(result, plot)
    answer(scaling_page(result), as_json=as_json, plot=plot)
