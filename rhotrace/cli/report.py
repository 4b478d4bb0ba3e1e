"""The command ``report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rhotrace.cli.options import AsJson, Theta, check_theta


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="1 to 20 run files, or the folder of a sweep.", metavar="RUN...", show_default=False),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="HTML file.")] = Path("report.html"),
    theta: Theta = 0.5,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is no report.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write one HTML file that tells what runs showed: claims, fits, pictures, provenance. It needs no network."""
    from contextlib import ExitStack

    from rich.console import Console

    from rhotrace.display.formatting import to_json
    from rhotrace.display.html.report import write_report
    from rhotrace.runfile.provenance import session
    from rhotrace.runfile.reader import open_trace
    from rhotrace.sweeps.index import run_files

    check_theta(theta)
    with ExitStack() as stack:
        traces = [stack.enter_context(open_trace(run)) for run in run_files(runs)]
        with Console(stderr=True).status("examining and drawing"):
            titles = write_report(traces, output, theta=theta, command=session()["command"], force=force)
    size = output.stat().st_size
    if as_json:
        typer.echo(to_json({"path": str(output), "bytes": size, "sections": titles}))
    else:
        typer.echo(f"{output}: {size / 1e6:.1f} MB, complete in itself; open it in any browser")
