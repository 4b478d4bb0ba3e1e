"""The command ``plot``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rhotrace.cli.options import AsJson, Theta
from rhotrace.cli.output import answer

_WHAT = "rho|layers|transient|margins|loss|fluctuation|phase|scaling"


def plot(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run files, or the folder of a sweep.", metavar="RUN...", show_default=False),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Figure: NAME.png, .svg or .pdf.", show_default=False)],
    what: Annotated[str, typer.Option("--what", help="What to draw.", metavar=_WHAT)] = "rho",
    theta: Theta = 0.5,
    as_json: AsJson = False,
) -> None:
    """Draw runs: norms, margins, loss, the transient, the fluctuation, T over a sweep."""
    from contextlib import ExitStack

    from rhotrace.display.blocks import Data, Paragraph
    from rhotrace.display.figures.kinds import KINDS, PHASE, SAYS, draw_phase
    from rhotrace.display.figures.style import check_format
    from rhotrace.errors import choice
    from rhotrace.runfile.reader import open_trace
    from rhotrace.sweeps.index import run_files

    check_format(output, "-o")
    if what not in SAYS:
        raise choice("--what", what, SAYS)
    if what == PHASE:
        draw_phase(runs, output, theta)
    else:
        with ExitStack() as stack:
            traces = [stack.enter_context(open_trace(run)) for run in run_files(runs)]
            KINDS[what].draw(traces, output, theta)
    says = SAYS[what]
    data = Data({"path": str(output), "what": what, "says": says})
    answer([data, Paragraph(f"{output}: {says}")], as_json=as_json)
