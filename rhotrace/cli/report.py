"""The command ``report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rhotrace.cli.options import AsJson, Theta, TrustStored
from rhotrace.cli.output import answer


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="1 to 20 run files, or the folder of a sweep.", metavar="RUN...", show_default=False),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="HTML file.")] = Path("report.html"),
    theta: Theta = 0.5,
    trust_code: TrustStored = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is not a report.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a self-contained HTML report of runs: claims, fits, figures, provenance."""
    from contextlib import ExitStack

    from rich.console import Console

    from rhotrace.analysis.rebuild_network import run_stored_code
    from rhotrace.display.blocks import Data, Paragraph
    from rhotrace.display.html.report import write_report
    from rhotrace.runfile.provenance import session
    from rhotrace.runfile.reader import open_trace
    from rhotrace.sweeps.index import run_files

    with ExitStack() as stack:
        traces = [stack.enter_context(open_trace(run)) for run in run_files(runs)]
        run_stored_code(*traces, allowed=trust_code)
        with Console(stderr=True).status("analyzing and drawing"):
            titles = write_report(traces, output, theta=theta, command=session()["command"], force=force)
    size = output.stat().st_size
    data = Data({"path": str(output), "bytes": size, "sections": titles})
    words = Paragraph(f"{output}: {size / 1e6:.1f} MB, self-contained; open it in any browser")
    answer([data, words], as_json=as_json)
