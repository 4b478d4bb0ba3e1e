"""``compare`` as a person reads it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rhotrace.report import headline, number, ranged, row, say, table, title

if TYPE_CHECKING:
    from rich.console import Console

    from rhotrace.compare import Comparison, Side


def print_comparison(console: Console, result: Comparison) -> None:
    """All of ``compare``'s answer."""
    for letter, side in zip("AB", (result.first, result.second), strict=True):
        title(console, f"{letter}  {side.path}", headline(side.summary))
    if result.differs:
        say(console, "They differ in " + "; ".join(f"{key}: {a} | {b}" for key, (a, b) in result.differs.items()))
    else:
        say(console, "Their recipes are the same.")
    grid = table(
        "run | member | window | offset | fluctuation | 95 % interval | tau | independent | log rho | log rho_eq",
        "delta = log(rho/rho_eq) after the transient",
    )
    for letter, side in zip("AB", (result.first, result.second), strict=True):
        for f in side.each:
            row(
                grid,
                letter,
                str(f.member),
                f"{f.window[0]}–{f.window[1]}" + ("" if f.stationary else " drifts"),
                number(f.offset),
                number(f.std),
                f"{number(f.low)} – {number(f.high)}" if math.isfinite(f.low) else "–",
                number(f.tau),
                number(f.effective),
                number(f.std_rho, 2),
                number(f.std_rho_eq, 2),
            )
    console.print()
    console.print(grid)
    say(
        console,
        "offset: mean of delta (natural logarithm); fluctuation: its standard deviation about a line, with its block-bootstrap interval; tau: integrated autocorrelation time in steps; independent: effective sample size; last columns: the same standard deviation of log rho and of log rho_eq alone.",
    )
    console.print()
    for letter, side in zip("AB", (result.first, result.second), strict=True):
        if side.each:
            say(console, _side_words(letter, side))
    paired = f", paired over {result.paired} seeds" if result.paired else ""
    if math.isfinite(result.ratio.value):
        say(console, f"ratio of fluctuations B/A: {ranged(result.ratio)}{paired}")
    for caution in result.cautions:
        say(console, f"caution: {caution}")
    say(console, f"\n{result.verdict}", "bold")


def _side_words(letter: str, side: Side) -> str:
    offset = side.offset
    at = f"rho = {number(math.exp(offset.value), 4)} rho_eq on average"
    return f"{letter}: fluctuation {ranged(side.std)} over {len(side.each)} members; {at}"
