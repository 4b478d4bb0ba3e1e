"""The command ``compare``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rhotrace.cli.options import AsJson, Plot, Theta, TrustStored
from rhotrace.cli.output import answer

if TYPE_CHECKING:
    from rhotrace.runfile.reader import Trace

Runs = Annotated[
    list[Path],
    typer.Argument(
        help="2 to 20 run files; the others are compared with the first. Recordings that differ in seed= alone are one run.",
        show_default=False,
    ),
]


def compare(
    runs: Runs,
    predict: Annotated[
        bool, typer.Option("--predict", help="Also predict each fluctuation from the snapshots of the weights.")
    ] = False,
    align: Annotated[Literal["step", "time"], typer.Option(help="Count in steps, or in time, lr x steps.")] = "step",
    window: Annotated[
        str | None,
        typer.Option(
            help="First and last step (or time) of the window, the same for all runs; found by default.",
            metavar="A:B",
            show_default=False,
        ),
    ] = None,
    theta: Theta = 0.5,
    trust_code: TrustStored = False,
    members: Annotated[bool, typer.Option("--members", help="Also print a row for each network.")] = False,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Compare the fluctuation of rho around rho_eq in runs on the same data, in one window.

    The window is the earliest that all runs have and in which no member of any run has a trend; --window chooses another.

    First table, of delta = log(rho/rho_eq) after the transient; brackets are 95 % intervals over members (of one member, over time).
    T: first step from which rho stays at or above theta rho_eq.
    offset: mean of delta, 0 where rho = rho_eq.
    fluctuation: standard deviation of delta about a line.
    tau: integrated autocorrelation time, the median over members.
    independent: effective sample size, the median over members.

    Second table: the ratio by other choices, of the window (the last part of the steps that all runs have after T) and of
    what is taken from delta (its mean, a line, a cubic, or its running mean over a tenth of the window).

    Third table.
    log rho, log rho_eq: their fluctuations.
    corr.: correlation between them at the same step.
    lag: delay of log rho behind log rho_eq at which they agree most.
    jump: standard deviation of the change of delta from one evaluation to the next.
    over V at rest: fluctuation over that of the memo's equation with the directions frozen.

    With --predict, the network linearised at its snapshots. The prediction starts anew at each snapshot.
    linearised: fluctuation predicted under freshly drawn batches, over that measured on the same stretches.
    follows: correlation of the prediction with the run, step by step, under the run's own batches.
    sharpness: lr times the largest curvature of the linearised loss at the last snapshot.
    reached: the largest sharpness along the predicted motion; a stretch that reaches 1.5 or diverges (∞) has no prediction.
    """
    from rhotrace.analysis.fluctuation import comparison
    from rhotrace.analysis.run_series import RunSeries
    from rhotrace.display.figures.comparison import comparison_figure
    from rhotrace.display.pages.comparison import comparison_page
    from rhotrace.sweeps.index import run_files

    with ExitStack() as stack:
        series = [RunSeries(_opened(run, stack, trust_code), theta) for run in run_files(runs)]
        result = comparison.compare(series, align=align, window=comparison.chosen_window(window), predicting=predict)
        if plot:
            comparison_figure(result, series, plot)
    answer(comparison_page(result, members=members), as_json=as_json, plot=plot)


def _opened(run: Path, stack: ExitStack, trust_code: bool) -> Trace:
    from rhotrace.analysis.rebuild_network import run_stored_code
    from rhotrace.runfile.reader import open_trace

    trace = stack.enter_context(open_trace(run))
    run_stored_code(trace, allowed=trust_code)
    return trace
