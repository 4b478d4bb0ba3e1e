"""The command ``export``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from rhotrace.cli.options import AsJson, RunFile
from rhotrace.cli.output import answer, say


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
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file or export folder.")] = False,
    as_json: AsJson = False,
) -> None:
    """Export a run to other tools: a table with a row for each step and member, netCDF, or logs."""
    from rhotrace.display.blocks import Data, Paragraph
    from rhotrace.export.tables import ENDINGS
    from rhotrace.export.tables import export as write
    from rhotrace.runfile.reader import open_trace

    path = output or run.with_suffix(ENDINGS.get(to, ""))
    with open_trace(run) as trace:
        rows = write(trace, to, path, every=every, force=force)
    data = Data({"path": str(path), "format": to, "rows": rows})
    answer([data, Paragraph(f"{path}: {rows} {'steps' if to == 'netcdf' else 'rows'}")], as_json=as_json)
    folder = shlex.quote(str(path))
    next_step = {
        "tensorboard": f"next: tensorboard --logdir {folder}",
        "wandb-offline": f"to upload it: wandb sync {folder}/wandb/offline-run-*",
    }
    if to in next_step and not as_json:
        say(next_step[to])
