"""The command ``watch``."""

from __future__ import annotations

from typing import Annotated

import typer

from rhotrace.cli.options import RunFile, Theta, check_theta


def watch(
    run: RunFile,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds from one look to the next.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once and leave.")] = False,
    web: Annotated[bool, typer.Option("--web", help="Show it in a browser of this machine instead.")] = False,
    theta: Theta = 0.5,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of --web; 0 takes a free one.")] = 8765,
    as_json: Annotated[bool, typer.Option("--json", help="Print each look as a line of JSON.")] = False,
) -> None:
    """Follow a run from another terminal while it trains; the training does not notice."""
    check_theta(theta)
    try:
        from rhotrace.analysis.transient.live_follower import Follower
        from rhotrace.display import formatting
        from rhotrace.display.terminal.watch import wait_for
        from rhotrace.display.terminal.watch import watch as show

        follower = Follower(run, theta=theta)
        if not once:
            wait_for(formatting.output(), run)
        if web:
            from rhotrace.display.html.watch_server import serve

            serve(follower, port, every=every, announce=lambda url: typer.echo(f"{url} shows {run}; Ctrl-C leaves"))
            return
        last = show(formatting.output(), follower, every=every, once=once, as_json=as_json)
    except KeyboardInterrupt:
        typer.echo("left; a training goes on by itself", err=True)
        return
    if last.state == "interrupted" and not as_json:
        typer.echo("nobody trains it now; the same `rhotrace train` command goes on from there", err=True)
