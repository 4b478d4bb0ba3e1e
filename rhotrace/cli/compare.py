"""The command ``compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rhotrace.cli.options import AsJson, Plot, Theta
from rhotrace.cli.output import answer


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(help="2 to 20 run files; the others are compared with the first.", show_default=False),
    ],
    predict: Annotated[
        bool, typer.Option("--predict", help="Also predict each fluctuation from the snapshots of the weights.")
    ] = False,
    align: Annotated[Literal["step", "time"], typer.Option(help="Count in steps, or in time, lr x steps.")] = "step",
    window: Annotated[
        str | None,
        typer.Option(
            help="First and last step (or time) of the window; found by default.", metavar="A:B", show_default=False
        ),
    ] = None,
    theta: Theta = 0.5,
    members: Annotated[bool, typer.Option("--members", help="Also print a row for each network.")] = False,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Compare the fluctuation of rho around rho_eq in runs on the same data."""
    from contextlib import ExitStack

    from rhotrace.analysis.fluctuation.comparison import chosen_window
    from rhotrace.analysis.fluctuation.comparison import compare as side_by_side
    from rhotrace.analysis.run_series import RunSeries
    from rhotrace.display.figures.comparison import comparison_figure
    from rhotrace.display.pages.comparison import comparison_page
    from rhotrace.runfile.reader import open_trace
    from rhotrace.sweeps.index import run_files

    with ExitStack() as stack:
        series = [RunSeries(stack.enter_context(open_trace(run)), theta) for run in run_files(runs)]
        result = side_by_side(series, align=align, window=chosen_window(window), predicting=predict)
        if plot:
            comparison_figure(result, series, plot)
    answer(comparison_page(result, members=members), as_json=as_json, plot=plot)
