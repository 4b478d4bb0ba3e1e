"""The page of ``scaling``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rhotrace.display.as_json import plain
from rhotrace.display.blocks import Block, Data, Paragraph, table
from rhotrace.display.numbers import count, number, ranged, span
from rhotrace.display.pages.headline import title
from rhotrace.theory import paper

if TYPE_CHECKING:
    from rhotrace.analysis.scaling_with_start import Scaling


def scaling_page(result: Scaling) -> list[Block]:
    """T of every start, the exponent of each depth against the law, and how many seeds would narrow its interval."""
    data = {**plain(result), "verdicts": [each.verdict for each in result.each]}
    name = f"T against rho_k(0), from {count(len(result.paths), 'run')}"
    return [Data(data), *title(name, ", ".join(result.paths)), *laws(result)]


def laws(result: Scaling) -> Iterator[Block]:
    """The sentences and tables of ``scaling_page``, the verdicts first."""
    yield from _words(result)
    rows = [
        (
            str(each.depth),
            f"{point.start:g}",
            number(point.T.value, 4),
            span(point.T),
            f"{point.left} of {point.members}",
        )
        for each in result.each
        for point in each.points
    ]
    yield table("L | rho_k(0) | T | 95 % interval | members", rows, "Transient time, learning rate x steps")
    exponents = [
        (
            str(each.depth),
            "log" if each.depth == 2 else f"{each.law:g}",
            ranged(each.exponent),
            ranged(each.local),
            number(each.residual, 2),
            _times(each.raw_factor),
            _times(each.collapsed_factor if each.depth > 2 else math.nan),
            str(each.seeds),
        )
        for each in result.each
    ]
    columns = "L | law | exponent | two smallest | residual | T varies | collapsed | seeds"
    yield table(columns, exponents, f"Exponent of T in rho_k(0), {paper.cite('eq5')}")
    yield Paragraph(
        "exponent: d log T / d log rho_k(0), mean over seeds, with Student's t interval. Columns: scaling --help."
    )


def _words(result: Scaling) -> Iterator[Block]:
    for place, each in enumerate(result.each):
        yield Paragraph(f"L = {each.depth}: {each.verdict}", strong=True, apart=place == 0)
        for caution in each.cautions:
            yield Paragraph(f"caution, L = {each.depth}: {caution}")
    for pair in result.deeper:
        yield Paragraph(
            f"L = {pair.depths[1]} against {pair.depths[0]}: at rho_k(0) = {number(pair.start)}, "
            f"T is {ranged(pair.ratio)} times as long"
        )
    for each in result.each:
        if math.isfinite(each.at_zero.value):
            yield Paragraph(
                f"L = {each.depth}: extrapolated to rho_k(0) -> 0 by its change over the starts, the exponent is "
                f"{ranged(each.at_zero)}: the finite starts move it by "
                f"{number(each.exponent.value - each.at_zero.value, 2)}, which its interval does not include"
            )
        if math.isfinite(each.per_efold.value):
            yield Paragraph(
                f"L = {each.depth}: T grows by {ranged(each.per_efold)} (learning rate x steps) for each e-fold by which "
                f"rho_k(0) is smaller, between the two smallest starts by {ranged(each.local_per_efold)}"
            )
        if each.seeds_needed:
            yield Paragraph(
                f"L = {each.depth}: at this scatter, about {each.seeds_needed} seeds give the exponent to ± {result.target:g}"
            )


def _times(factor: float) -> str:
    return f"× {number(factor)}" if math.isfinite(factor) else "–"
