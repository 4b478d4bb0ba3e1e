"""The page of ``compare``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from rhotrace.analysis.fluctuation.one_series import TRENDS
from rhotrace.analysis.fluctuation.verdict import called, cautions, labels, unpredicted, verdicts
from rhotrace.display.as_json import plain
from rhotrace.display.blocks import Block, Data, Paragraph, Table, table
from rhotrace.display.numbers import number, ranged, span
from rhotrace.display.pages.headline import headline, title

if TYPE_CHECKING:
    from rhotrace.analysis.fluctuation.comparison import Comparison
    from rhotrace.analysis.fluctuation.one_run import Side


def comparison_page(result: Comparison, *, members: bool = False) -> list[Block]:
    """All that ``compare`` found, the answer first; with ``members`` also a row for each network."""
    page: list[Block] = [Data(as_plain(result))]
    names = called(result.sides)
    for side in result.sides:
        page += title(f"{names[side.letter]}  {', '.join(side.files)}", headline(side.summary))
    return [*page, *answers(result), *measured(result, members=members)]


def answers(result: Comparison) -> Iterator[Block]:
    """What was asked for and is not there, the verdicts, the ratios that they rest on, and what weakens them."""
    names, missing = called(result.sides), unpredicted(result)
    for line in missing:
        yield Paragraph(line, strong=True, apart=line == missing[0])
    for verdict in verdicts(result):
        yield Paragraph(verdict, strong=True, apart=True)
    first = True
    for contrast in result.contrasts:
        if math.isfinite(contrast.ratio.value):
            paired = f", paired over {contrast.paired} seeds" if contrast.paired else ""
            times = f"; T {ranged(contrast.transients)} times" if math.isfinite(contrast.transients.value) else ""
            over = f"{names[contrast.run]} over {names[contrast.base]}"
            yield Paragraph(f"{over}: fluctuation {ranged(contrast.ratio)} times{paired}{times}", apart=first)
            first = False
    for caution in cautions(result)[len(missing) :]:
        yield Paragraph(f"caution: {caution}", apart=first)
        first = False


def measured(result: Comparison, *, members: bool = False) -> Iterator[Block]:
    """What differs, and what was measured in each run."""
    if len(result.sides) > 1:
        yield from _differences(result)
    yield from _runs(result)
    yield from _choices(result)
    yield from _theory(result)
    if members:
        yield _members(result)


def as_plain(result: Comparison) -> dict[str, Any]:
    """The comparison with its words, as a mapping."""
    words = {"cautions": cautions(result), "verdicts": verdicts(result), "labels": labels(result.sides)}
    return {**plain(result), **words}


def _differences(result: Comparison) -> Iterator[Block]:
    if not result.differs:
        yield Paragraph("Their recipes are the same.", apart=True)
        return
    yield Paragraph("They differ in", apart=True)
    names = called(result.sides).values()
    for key, values in result.differs.items():
        groups: dict[str, list[str]] = {}
        for name, value in zip(names, values, strict=True):
            groups.setdefault("none" if value is None else str(value), []).append(name)
        yield Paragraph(f"  {key}: " + "; ".join(f"{value} ({', '.join(who)})" for value, who in groups.items()))


def _runs(result: Comparison) -> Iterator[Block]:
    unit = "steps" if result.align == "step" else "lr x steps"
    names, rows = called(result.sides), []
    for side in result.sides:
        each = [m.fluctuation for m in side.each]
        rows.append(
            (
                names[side.letter],
                ranged(side.T),
                _window(side),
                ranged(side.offset, 2),
                ranged(side.std),
                number(_middle([m.fluctuation.tau.value * m.unit for m in side.each])),
                number(_middle([f.effective for f in each])),
            )
        )
    columns = "<run | T | window | offset | fluctuation | tau | independent"
    where = "in the same window" if result.window else "after the transient"
    yield table(columns, rows, f"delta = log(rho/rho_eq) {where}, over members (in {unit})")
    yield Paragraph(
        "fluctuation: standard deviation of delta about a line; brackets: 95 % over members. Columns: compare --help."
    )


def _choices(result: Comparison) -> Iterator[Block]:
    """The ratio by each choice of window and trend, a row for each window of each contrast."""
    names, rows = called(result.sides), []
    for contrast in result.contrasts:
        shares = dict.fromkeys(choice.share for choice in contrast.choices)
        for share in shares:
            cells = [ranged(choice.ratio, 2) for choice in contrast.choices if choice.share == share]
            rows.append(
                [f"{names[contrast.run]} over {names[contrast.base]}", f"last {100 * (1 - share):.0f} %", *cells]
            )
    if rows:
        columns = f"<ratio | of the steps after T | {' | '.join(TRENDS)}"
        yield table(columns, rows, "The ratio by window, and by the trend that is taken from delta")


def _theory(result: Comparison) -> Iterator[Block]:
    predicted = any(m.prediction for side in result.sides for m in side.each)
    asked = any(side.no_prediction for side in result.sides)
    names, rows = called(result.sides), []
    for side in result.sides:
        each = [m.fluctuation for m in side.each]
        cells = [
            names[side.letter],
            number(side.std_rho.value),
            number(side.std_rho_eq.value),
            number(_middle([f.correlation for f in each]), 2),
            number(_middle([m.fluctuation.lag * m.unit for m in side.each])),
            number(_middle([f.skew for f in each]), 2),
            number(_middle([f.jump for f in each])),
            ranged(side.over_frozen),
        ]
        if predicted:
            found = [m.prediction for m in side.each if m.prediction]
            cells += [
                ranged(side.predicted_over),
                number(_middle([p.correlation for p in found if p.held]), 2),
                number(_middle([p.sharpness for p in found]), 2),
                number(max((p.reached for p in found), default=math.nan), 2),
            ]
        rows.append(cells)
    more = " | linearised | follows | sharpness | reached" if predicted else ""
    columns = f"<run | log rho | log rho_eq | corr. | lag | skew | jump | over V at rest{more}"
    yield table(columns, rows, "What moves, and what theory says of it")
    more = "" if predicted or asked else " --predict adds the theory in which V moves."
    yield Paragraph(
        f"over V at rest: measured over the memo's equation with directions frozen. Columns: compare --help.{more}"
    )


def _members(result: Comparison) -> Table:
    names, rows = called(result.sides), []
    for side in result.sides:
        for m in side.each:
            f = m.fluctuation
            rows.append(
                (
                    names[side.letter],
                    str(f.member),
                    str(m.seed),
                    f"{f.window[0]}–{f.window[1]}" + ("" if f.stationary else " drifts"),
                    number(f.offset.value, 2),
                    number(f.std.value),
                    span(f.std),
                    number(f.tau.value),
                    *(number(q, 2) for q in f.quantiles),
                )
            )
    columns = "<run | member | seed | window | offset | fluctuation | 95 % | tau | 2.5 % | 25 % | 50 % | 75 % | 97.5 %"
    return table(columns, rows, "Each member (in steps; the last columns are quantiles of delta)")


def _window(side: Side) -> str:
    """From the earliest start to the last end of the members' windows."""
    if not side.each:
        return "–"
    ends = [tuple(edge * m.unit for edge in m.fluctuation.window) for m in side.each]
    first, last = min(e[0] for e in ends), max(e[1] for e in ends)
    drifting = any(not m.fluctuation.stationary for m in side.each)
    return f"{number(first, 4)}–{number(last, 4)}" + (" drifts" if drifting else "")


def _middle(values: list[float]) -> float:
    return float(np.median(values)) if values else math.nan
