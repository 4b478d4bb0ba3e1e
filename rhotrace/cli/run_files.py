"""The commands on run files: ``info``, ``verify`` and ``repair``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rhotrace.cli.exit_codes import USER_ERROR
from rhotrace.cli.options import AsJson, RunFile, TrustStored
from rhotrace.cli.output import answer


def info(run: RunFile, as_json: AsJson = False) -> None:
    """Show what a run file contains and where it came from."""
    from rhotrace.analysis.run_summary import summary
    from rhotrace.display.pages.run_files import info_page
    from rhotrace.runfile.reader import open_trace

    with open_trace(run) as trace:
        page = info_page(trace, summary(trace))
    answer(page, as_json=as_json)


def verify(run: RunFile, trust_code: TrustStored = False, as_json: AsJson = False) -> None:
    """Check a run file: checksums, commit counter, shapes, the laws of training, weights against trace and data.

    Exit code 2: a check failed.
    """
    from rhotrace.analysis.rebuild_network import run_stored_code
    from rhotrace.analysis.verification import verify as examine
    from rhotrace.display.pages.run_files import verification_page
    from rhotrace.runfile.reader import open_trace

    with open_trace(run) as trace:
        run_stored_code(trace, allowed=trust_code)
        result = examine(trace)
    answer(verification_page(result), as_json=as_json)
    if not result.sound:
        raise typer.Exit(USER_ERROR)


def repair(
    run: RunFile,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="New run file; NAME.repaired.h5 by default.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Save the sound steps of a damaged run file, up to the first damaged one, in a new file; the old file is unchanged."""
    from rhotrace.display.pages.run_files import repair_page
    from rhotrace.runfile.repair import repair as save

    answer(repair_page(save(run, output or run.with_suffix(".repaired.h5"))), as_json=as_json)
