"""The command ``watch``."""

from __future__ import annotations

from typing import Annotated

import typer

from rhotrace.cli.options import RunFile, Theta
from rhotrace.cli.output import say


def watch(
    run: RunFile,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between updates.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Show the current state once.")] = False,
    web: Annotated[bool, typer.Option("--web", help="Show it in a browser on this machine instead.")] = False,
    theta: Theta = 0.5,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port for --web; 0 takes a free one.")] = 8765,
    as_json: Annotated[bool, typer.Option("--json", help="Print each update as a line of JSON.")] = False,
) -> None:
    """Follow a run from another terminal while it trains, without disturbing the training."""
    try:
        from rhotrace.analysis.transient.live_follower import Follower
        from rhotrace.display.printable import printable
        from rhotrace.display.terminal.renderer import output
        from rhotrace.display.terminal.watch import wait_for
        from rhotrace.display.terminal.watch import watch as show

        follower = Follower(run, theta=theta)
        if not once:
            wait_for(output(), run)
        if web:
            from rhotrace.display.html.watch_server import serve

            shown = printable(str(run))
            serve(follower, port, every=every, announce=lambda url: typer.echo(f"{url} shows {shown}; Ctrl-C stops"))
            return
        last = show(output(), follower, every=every, once=once, as_json=as_json)
    except KeyboardInterrupt:
        say("stopped watching; training continues")
        return
    if last.state == "interrupted" and not as_json:
        say("No process is training this run; the same `rhotrace train` command resumes it.")
