"""``simulate`` as a person reads it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rhotrace.display.formatting import number, row, say, table, title
from rhotrace.theory import paper

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from rhotrace.analysis.transient.simulation import Simulation

_SHOWN = 40


def print_simulation(console: Console, result: Simulation, plot: Path | None) -> None:
    """T of every depth and start, how it depends on the start, and how far closed form and integrator agree."""
    constants = result.constants
    title(
        console,
        f"{paper.cite('eq5')}, equal norms: A = {number(constants.A, 4)}, B = {number(constants.B, 4)}",
        f"A and B: {constants.origin}",
    )
    grid = table("L | rho_k(0) | T | d log T / d log rho_k(0) | for small starts")
    for each in result.each[:_SHOWN]:
        law = "log law" if each.depth == 2 else str(min(2 - each.depth, 0))
        law = law if constants.A > 0 else "–"
        row(grid, str(each.depth), number(each.start, 4), number(each.T, 4), number(each.slope, 4), law)
    console.print(grid)
    if len(result.each) > _SHOWN:
        say(console, f"… and {len(result.each) - _SHOWN} more; --json has them all")
    if constants.A > 0:
        say(
            console,
            f"T: time (learning rate x steps) at which rho = {result.theta:g} rho_eq; 0 where it starts beyond.",
        )
    errors = [each.error for each in result.each if math.isfinite(each.error)]
    if errors:
        say(
            console,
            f"Closed form against an independent integrator, {len(errors)} of {len(result.each)} trajectories: "
            f"largest relative difference {number(max(errors), 2)}.",
        )
    elif constants.A > 0:
        say(console, "Closed form only: an integrator cannot follow these solutions.")
    else:
        say(console, "A <= 0: no equilibrium, no T and no closed form; rho decays, integrated numerically.")
    if plot:
        say(console, f"drawn: {plot}")
