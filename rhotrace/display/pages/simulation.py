"""The page of ``simulate``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rhotrace.display.blocks import Block, Data, Paragraph, table
from rhotrace.display.numbers import number
from rhotrace.display.pages.headline import title
from rhotrace.theory import paper

if TYPE_CHECKING:
    from rhotrace.analysis.transient.simulation import Simulation

_SHOWN = 40


def simulation_page(result: Simulation) -> Iterator[Block]:
    """T of every depth and start, how it depends on the start, and how far closed form and integrator agree."""
    constants = result.constants
    yield Data(result)
    yield from title(
        f"{paper.cite('eq5')}, equal norms: A = {number(constants.A, 4)}, B = {number(constants.B, 4)}",
        f"A and B: {constants.origin}",
    )
    rows = []
    for each in result.each[:_SHOWN]:
        law = "log law" if each.depth == 2 else str(min(2 - each.depth, 0))
        law = law if constants.A > 0 else "–"
        rows.append((str(each.depth), number(each.start, 4), number(each.T, 4), number(each.slope, 4), law))
    yield table("L | rho_k(0) | T | d log T / d log rho_k(0) | for small starts", rows)
    if len(result.each) > _SHOWN:
        yield Paragraph(f"… and {len(result.each) - _SHOWN} more; --json prints them all")
    if constants.A > 0:
        yield Paragraph(
            f"T: time (learning rate x steps) at which rho = {result.theta:g} rho_eq; 0 if rho starts above that."
        )
    errors = [each.error for each in result.each if math.isfinite(each.error)]
    if errors:
        yield Paragraph(
            f"Closed form against an independent integrator, {len(errors)} of {len(result.each)} trajectories: "
            f"largest relative difference {number(max(errors), 2)}."
        )
    elif constants.A > 0:
        yield Paragraph("Closed form only: an integrator cannot follow these solutions.")
    else:
        yield Paragraph("A <= 0: no equilibrium, no T and no closed form; rho decays, integrated numerically.")
