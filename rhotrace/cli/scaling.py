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
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Fit T against rho_k(0) at each depth, and compare the exponent with the memo's law.

    exponent: d log T / d log rho_k(0), the mean over seeds of each seed's slope, with Student's t interval.
    two smallest: the same between the two smallest starts.
    residual: rms of log T about each seed's line.
    T varies: largest over smallest T.
    collapsed: the same of T rho_k(0)^(L-2), 1 where the law holds.
    """
    from contextlib import ExitStack

    from rhotrace.analysis.scaling_with_start import scaling as fit
    from rhotrace.display.figures.transient import scaling_figure
    from rhotrace.display.pages.scaling import scaling_page
    from rhotrace.runfile.reader import open_trace
    from rhotrace.sweeps.index import run_files

    with ExitStack() as stack:
        result = fit([stack.enter_context(open_trace(run)) for run in run_files(runs)], theta=theta, target=target)
    if plot:
        scaling_figure(result, plot)
    answer(scaling_page(result), as_json=as_json, plot=plot)
