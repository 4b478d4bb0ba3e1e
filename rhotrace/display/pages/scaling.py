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
    from rhotrace.analysis.scaling.with_start import DepthScaling, Scaling


def scaling_page(result: Scaling) -> list[Block]:
    """The exponent of each depth against the law with all its errors, T against depth, the clock, and T of every start."""
    data = {**plain(result), "verdicts": [each.verdict for each in result.each]}
    name = f"T against rho_k(0), from {count(len(result.paths), 'run')}"
    return [Data(data), *title(name, ", ".join(result.paths)), *laws(result)]


def laws(result: Scaling) -> Iterator[Block]:
    """The sentences and tables of ``scaling_page``, the verdicts first."""
    yield from _words(result)
    yield from _against(result)
    yield _exponents(result)
    yield Paragraph("Each column after the interval is a shift of the exponent. Columns: scaling --help.")
    yield from _deeper(result)
    yield from _clock(result)
    rows = [
        (
            str(each.depth),
            f"{point.start:g}",
            number(point.T.value, 4),
            span(point.T),
            f"{point.left} of {point.members}",
            number(point.distance, 2),
        )
        for each in result.each
        for point in each.points
    ]
    yield table(
        "L | rho_k(0) | T | 95 % interval | members | rho_eq/rho at 0", rows, "Transient time, learning rate x steps"
    )
    fits = [
        (
            str(each.depth),
            ranged(each.local),
            number(each.residual, 2),
            _times(each.raw_factor),
            _times(each.collapsed_factor if each.depth > 2 else math.nan),
            str(each.seeds),
            str(each.seeds_needed or "–"),
        )
        for each in result.each
    ]
    columns = f"L | two smallest | residual | T varies | collapsed | seeds | for ± {result.target:g}"
    yield table(columns, fits, "The fits, and the seeds that would give the exponent more narrowly")


def _exponents(result: Scaling) -> Block:
    rows = [
        (
            str(each.depth),
            f"{each.law:g}",
            ranged(each.exponent),
            _shift(found.step) + ("*" if found.step_from == "estimated" else ""),
            _shift(found.start),
            f"{_shift(found.theta[0])} to {_shift(found.theta[1])}" if math.isfinite(found.theta[0]) else "–",
            _shift(found.loss),
            number(found.extrapolated.value, 4),
            span(found.whole, 4),
        )
        for each in result.each
        if each.depth != 2
        for found in (each.systematic,)
    ]
    columns = "L | law | exponent | lr -> 0 | start -> 0 | theta 0.1 to 0.9 | by loss | extrapolated | with all errors"
    return table(columns, rows, f"Exponent of T in rho_k(0), {paper.cite('eq5')}")


def _words(result: Scaling) -> Iterator[Block]:
    for place, each in enumerate(result.each):
        yield Paragraph(f"L = {each.depth}: {each.verdict}", strong=True, apart=place == 0)
        for caution in each.cautions:
            yield Paragraph(f"caution, L = {each.depth}: {caution}")
        if each.depth > 2 and math.isfinite(each.exponent.low):
            yield Paragraph(f"L = {each.depth}: {_late(each)}")
        if math.isfinite(each.per_efold.value):
            yield Paragraph(
                f"L = {each.depth}: T grows by {ranged(each.per_efold)} (learning rate x steps) for each e-fold by which "
                f"rho_k(0) is smaller, between the two smallest starts by {ranged(each.local_per_efold)}"
            )
    several, members = (sum(getattr(each.phases, name) for each in result.each) for name in ("several", "members"))
    if several:
        halves = ", ".join(
            f"{ranged(each.phases.exponent, 2)} at L = {each.depth}"
            for each in result.each
            if math.isfinite(each.phases.exponent.low) and each.depth > 2
        )
        rest = f"; the time of half of the final rise of rho has the exponent {halves}" if halves else ""
        yield Paragraph(
            f"In {several} of {members} networks the loss comes down in two steps or more, with plateaus between. T belongs to the "
            f"first of them{rest}."
        )


def _late(each: DepthScaling) -> str:
    """What finite steps make of T."""
    found = each.systematic
    if found.step_from == "not tested":
        return "finite steps: not tested, for all starts have one learning rate each"
    steps = f"finite steps make T too long by {ranged(found.late, 2)} steps"
    if found.step_from == "measured":
        return f"{steps}, measured between learning rates"
    return f"{steps} (first-order estimate, marked *; members at several learning rates would measure it)"


def _deeper(result: Scaling) -> Iterator[Block]:
    rows = [
        (
            f"{pair.depths[1]} over {pair.depths[0]}",
            f"{pair.start:.3g}",
            ranged(pair.ratio),
            str(pair.seeds),
            pair.verdict,
        )
        for pair in result.deeper
    ]
    if rows:
        yield table("L | rho_k(0) | ratio of T | seeds | <deeper is", rows, "T of each depth over that of the next")


def _clock(result: Scaling) -> Iterator[Block]:
    rows = [
        (
            str(each.depth),
            _times(clock.T.value),
            ranged(clock.early, 4),
            number(clock.worst, 4),
            ranged(clock.to_equal, 4),
            ranged(clock.to_end, 4),
            f"{number(clock.grown[0])} to {number(clock.grown[1])}",
        )
        for each in result.each
        if (clock := each.clock)
    ]
    if rows:
        columns = "L | T varies | to A/10 | worst seed | to equal A | to T | rho(T)/rho(0)"
        yield table(columns, rows, "The clock of the directions, integral of rho_k^(L-2) dt, over the starts of a seed")
        yield Paragraph(
            "Ratios of the largest to the smallest reading: 1 where the clock keeps time. Columns: scaling --help."
        )


def _against(result: Scaling) -> Iterator[Block]:
    rows = [
        (
            each.path,
            " ".join(part for part in (each.optimizer, each.label) if part),
            str(each.depth),
            f"{each.start:g}",
            number(each.T.value, 4),
            number(each.partners.value, 4),
            ranged(each.ratio, 4),
            f"{each.seeds} of {each.of}",
        )
        for each in result.against
    ]
    if rows:
        columns = "<run | <optimizer | L | rho_k(0) | T | T here | ratio | have a T"
        yield table(columns, rows, "T of other runs over T of the same seeds and starts here, learning rate x steps")


def _shift(value: float) -> str:
    return f"{value:+.2g}" if math.isfinite(value) else "–"


def _times(factor: float) -> str:
    return f"× {number(factor)}" if math.isfinite(factor) else "–"
