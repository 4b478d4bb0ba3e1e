"""The command ``simulate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rhotrace.cli.options import AsJson, Plot, Theta
from rhotrace.cli.output import answer


def simulate(
    depth: Annotated[str, typer.Option(help="Numbers of layers, such as 2,3,4.", metavar="L,...")] = "",
    start: Annotated[
        str,
        typer.Option(help="Values of rho_k(0): a list 0.1,0.2 or 0.05:0.8:20 for 20 log-spaced ones.", metavar="R,..."),
    ] = "",
    A: Annotated[
        float | None, typer.Option("--A", help="mean(y f), constant; 1 by default.", show_default=False)
    ] = None,
    B: Annotated[
        float | None, typer.Option("--B", help="mean(f^2), constant; 1 by default.", show_default=False)
    ] = None,
    run: Annotated[
        Path | None, typer.Option("--from", help="Take A, B, L and rho_k from this run.", show_default=False)
    ] = None,
    step: Annotated[int, typer.Option(min=0, help="Step of the run to take them at.")] = 0,
    member: Annotated[int, typer.Option(min=0, help="Member of the run to take them from.")] = 0,
    theta: Theta = 0.5,
    until: Annotated[float | None, typer.Option(help="Last time (lr x steps).", show_default=False)] = None,
    figure: Annotated[
        Literal["1", "2", "T"], typer.Option(help="What --plot draws: the memo's Figure 1 or 2, or T.")
    ] = "1",
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Solve the memo's equation (5) without a network: its Figures 1 and 2, and T against start and depth."""
    from rhotrace.analysis.transient.simulation import constants_of, given, numbers, refuse_both
    from rhotrace.analysis.transient.simulation import simulate as solve
    from rhotrace.display.figures.transient import FIGURES
    from rhotrace.display.pages.simulation import simulation_page

    refuse_both(A, B, run)
    if run:
        from rhotrace.runfile.reader import open_trace

        with open_trace(run) as trace:
            constants, depths, starts = constants_of(trace, step=step, member=member)
    else:
        constants, depths, starts = given(1.0 if A is None else A, 1.0 if B is None else B)
    depths = [int(n) for n in numbers("--depth", depth, whole=True)] or depths
    result = solve(depths, numbers("--start", start) or starts, constants, theta=theta, until=until)
    if plot:
        FIGURES[figure](result, plot)
    answer(simulation_page(result), as_json=as_json, plot=plot)
