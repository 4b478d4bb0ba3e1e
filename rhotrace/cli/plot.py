"""The command ``plot``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rhotrace.cli.options import AsJson, Theta, check_theta

_WHAT = "rho|layers|transient|margins|loss|fluctuation|phase|scaling"


def plot(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run files, or the folder of a sweep.", metavar="RUN...", show_default=False),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Picture: NAME.png, .svg or .pdf.", show_default=False)
    ],
    what: Annotated[str, typer.Option("--what", help="What to draw.", metavar=_WHAT)] = "rho",
    theta: Theta = 0.5,
    as_json: AsJson = False,
) -> None:
    """Draw runs: norms, margins, loss, the transient, the fluctuation, T over a sweep."""
    from contextlib import ExitStack

    from rhotrace import errors
    from rhotrace.display import formatting
    from rhotrace.display.figures import kinds as plot_kinds
    from rhotrace.display.figures import style as plot_style
    from rhotrace.runfile.reader import open_trace
    from rhotrace.sweeps.index import run_files

    check_theta(theta)
    plot_style.check_format(output, "-o")
    if what == plot_kinds.PHASE:
        plot_kinds.draw_phase(runs, output, theta)
    elif what in plot_kinds.KINDS:
        with ExitStack() as stack:
            traces = [stack.enter_context(open_trace(run)) for run in run_files(runs)]
            plot_kinds.KINDS[what].draw(traces, output, theta)
    else:
        raise errors.choice("--what", what, plot_kinds.SAYS)
    if as_json:
        typer.echo(formatting.to_json({"path": str(output), "what": what, "says": plot_kinds.SAYS[what]}))
    else:
        typer.echo(f"{output}: {plot_kinds.SAYS[what]}")
