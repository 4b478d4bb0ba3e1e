"""The command ``export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rhotrace.cli_options import RunFile


def export(
    run: RunFile,
    to: Annotated[str, typer.Option("--to", help="Format.", metavar="csv|parquet|netcdf", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="New file; beside the run by default.", show_default=False)
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Steps from one row to the next.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there already.")] = False,
) -> None:
    """Write a run in a format of other tools: a table with a row for each step and member, or netCDF."""
    from rhotrace.export import ENDINGS
    from rhotrace.export import export as write
    from rhotrace.trace import open_trace

    path = output or run.with_suffix(ENDINGS.get(to, ""))
    with open_trace(run) as trace:
        rows = write(trace, to, path, every=every, force=force)
    typer.echo(f"{path}: {rows} {'steps' if to == 'netcdf' else 'rows'}")
