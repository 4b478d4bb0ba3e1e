"""``scaling`` as a person reads it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rhotrace.display.formatting import number, ranged, row, say, span, table, title
from rhotrace.theory import paper

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from rhotrace.analysis.scaling_with_start import Scaling


def _times(factor: float) -> str:
    return f"× {number(factor)}" if math.isfinite(factor) else "–"


def print_scaling(console: Console, result: Scaling, plot: Path | None) -> None:
    """T of every start, the exponent of each depth against the law, and what it would take to know it better."""
    title(
        console,
        f"T against rho_k(0), from {len(result.paths)} run{'s' if len(result.paths) > 1 else ''}",
        ", ".join(result.paths),
    )
    print_laws(console, result)
    if plot:
        say(console, f"drawn: {plot}")


def print_laws(console: Console, result: Scaling) -> None:
    """The tables and sentences of ``print_scaling``."""
    grid = table("L | rho_k(0) | T | 95 % interval | members", "Transient time, learning rate x steps")
    for each in result.each:
        for point in each.points:
            left = f"{point.left} of {point.members}"
            row(grid, str(each.depth), f"{point.start:g}", number(point.T.value, 4), span(point.T), left)
    console.print(grid)
    grid = table(
        "L | law | exponent | two smallest | residual | T varies | collapsed | seeds",
        f"Exponent of T in rho_k(0), {paper.cite('eq5')}",
    )
    for each in result.each:
        row(
            grid,
            str(each.depth),
            "log" if each.depth == 2 else f"{each.law:g}",
            ranged(each.exponent),
            ranged(each.local),
            number(each.residual, 2),
            _times(each.raw_factor),
            _times(each.collapsed_factor if each.depth > 2 else math.nan),
            str(each.seeds),
        )
    console.print(grid)
    say(
        console,
        "exponent: d log T / d log rho_k(0), mean over seeds of each seed's slope, with Student's t interval; two smallest: between "
        "the two smallest starts; residual: rms of log T about each seed's line; T varies: largest over smallest T; collapsed: "
        "the same of T rho_k(0)^(L-2), 1 where the law holds.",
    )
    console.print()
    for each in result.each:
        say(console, f"L = {each.depth}: {each.verdict}", "bold")
        if math.isfinite(each.per_efold.value):
            say(
                console,
                f"L = {each.depth}: T grows by {ranged(each.per_efold)} (learning rate x steps) for each e-fold by which rho_k(0) "
                f"is smaller, between the two smallest starts by {ranged(each.local_per_efold)}",
            )
        if each.seeds_needed:
            say(
                console,
                f"L = {each.depth}: at this scatter, about {each.seeds_needed} seeds give the exponent to ± {result.target:g}",
            )
        for caution in each.cautions:
            say(console, f"caution, L = {each.depth}: {caution}")
    for pair in result.deeper:
        say(
            console,
            f"L = {pair.depths[1]} against {pair.depths[0]}: at rho_k(0) = {number(pair.start)}, T is {ranged(pair.ratio)} times as long",
        )
