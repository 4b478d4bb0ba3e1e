"""The command ``watch``."""

from __future__ import annotations

from typing import Annotated

import typer

from rhotrace.cli_options import RunFile


def watch(
    run: RunFile,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds from one look to the next.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once and leave.")] = False,
    web: Annotated[bool, typer.Option("--web", help="Show it in a browser of this machine instead.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of --web; 0 takes a free one.")] = 8765,
    as_json: Annotated[bool, typer.Option("--json", help="Print each look as a line of JSON.")] = False,
) -> None:
    """Follow a run from another terminal while it trains; the training does not notice."""
    try:
        from rhotrace import report
        from rhotrace.watch import Follower
        from rhotrace.watch_view import wait_for
        from rhotrace.watch_view import watch as show

        follower = Follower(run)
        if not once:
            wait_for(report.output(), run)
        if web:
            from rhotrace.watch_web import serve

            serve(follower, port, every=every, announce=lambda url: typer.echo(f"{url} shows {run}; Ctrl-C leaves"))
            return
        last = show(report.output(), follower, every=every, once=once, as_json=as_json)
    except KeyboardInterrupt:
        typer.echo("left; a training goes on by itself", err=True)
        return
    if last.state == "interrupted" and not as_json:
        typer.echo("nobody trains it now; the same `rhotrace train` command goes on from there", err=True)
