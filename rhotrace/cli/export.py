"""The command ``export``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from rhotrace.cli.options import AsJson, RunFile


def export(
    run: RunFile,
    to: Annotated[
        str,
        typer.Option(
            "--to", help="Format.", metavar="csv|parquet|netcdf|tensorboard|wandb-offline", show_default=False
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="New file or folder; beside the run by default.", show_default=False),
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Steps from one row to the next.")] = 1,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a file or an export's folder that is there already.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a run in a format of other tools: a table with a row for each step and member, netCDF, or logs."""
    from rhotrace.display import formatting
    from rhotrace.export.tables import ENDINGS
    from rhotrace.export.tables import export as write
    from rhotrace.runfile.reader import open_trace

    path = output or run.with_suffix(ENDINGS.get(to, ""))
    with open_trace(run) as trace:
        rows = write(trace, to, path, every=every, force=force)
    if as_json:
        typer.echo(formatting.to_json({"path": str(path), "format": to, "rows": rows}))
        return
    typer.echo(f"{path}: {rows} {'steps' if to == 'netcdf' else 'rows'}")
    folder = shlex.quote(str(path))
    next_step = {
        "tensorboard": f"look at it with: tensorboard --logdir {folder}",
        "wandb-offline": f"upload it with: wandb sync {folder}/wandb/offline-run-*",
    }
    if to in next_step:
        typer.echo(next_step[to], err=True)
