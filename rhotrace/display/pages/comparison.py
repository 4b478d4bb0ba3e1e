"""The page of ``compare``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from rhotrace.analysis.fluctuation.verdict import cautions, labels, verdicts
from rhotrace.display.as_json import plain
from rhotrace.display.blocks import Block, Data, Paragraph, Table, table
from rhotrace.display.numbers import number, ranged, span
from rhotrace.display.pages.headline import headline, title

if TYPE_CHECKING:
    from rhotrace.analysis.fluctuation.comparison import Comparison
    from rhotrace.analysis.fluctuation.one_run import Side


def comparison_page(result: Comparison, *, members: bool = False) -> list[Block]:
    """All that ``compare`` found; with ``members`` also a row for each network."""
    page: list[Block] = [Data(as_plain(result))]
    for side in result.sides:
        group = f", {side.group}" if side.group else ""
        page += title(f"{side.letter}  {side.path}{group}", headline(side.summary))
    return [*page, *contrasts(result, members=members)]


def contrasts(result: Comparison, *, members: bool = False) -> Iterator[Block]:
    """What differs, what was measured in each run, and the verdicts."""
    if len(result.sides) > 1:
        yield from _differences(result)
    yield from _runs(result)
    yield from _theory(result)
    if members:
        yield _members(result)
    first = True
    for contrast in result.contrasts:
        if math.isfinite(contrast.ratio.value):
            paired = f", paired over {contrast.paired} seeds" if contrast.paired else ""
            times = f"; T {ranged(contrast.transients)} times" if math.isfinite(contrast.transients.value) else ""
            words = f"{contrast.run}/{contrast.base}: fluctuation {ranged(contrast.ratio)}{paired}{times}"
            yield Paragraph(words, apart=first)
            first = False
    for caution in cautions(result):
        yield Paragraph(f"caution: {caution}", apart=first)
        first = False
    for verdict in verdicts(result):
        yield Paragraph(verdict, strong=True, apart=True)


def as_plain(result: Comparison) -> dict[str, Any]:
    """The comparison with its words, as a mapping."""
    words = {"cautions": cautions(result), "verdicts": verdicts(result), "labels": labels(result.sides)}
    return {**plain(result), **words}


def _differences(result: Comparison) -> Iterator[Block]:
    if not result.differs:
        yield Paragraph("Their recipes are the same.", apart=True)
        return
    yield Paragraph("They differ in", apart=True)
    letters = [side.letter for side in result.sides]
    for key, values in result.differs.items():
        groups: dict[str, list[str]] = {}
        for letter, value in zip(letters, values, strict=True):
            groups.setdefault("none" if value is None else str(value), []).append(letter)
        yield Paragraph(f"  {key}: " + "; ".join(f"{value} ({', '.join(who)})" for value, who in groups.items()))


def _runs(result: Comparison) -> Iterator[Block]:
    unit = "steps" if result.align == "step" else "lr x steps"
    rows = []
    for side in result.sides:
        each = [m.fluctuation for m in side.each]
        rows.append(
            (
                side.letter,
                ranged(side.T),
                _window(side),
                ranged(side.offset, 2),
                ranged(side.std),
                number(_middle([m.fluctuation.tau.value * m.unit for m in side.each])),
                number(_middle([f.effective for f in each])),
            )
        )
    columns = "<run | T | window | offset | fluctuation | tau | independent"
    yield table(columns, rows, f"delta = log(rho/rho_eq) after the transient, over members (in {unit})")
    yield Paragraph(
        "T: first step from which rho stays at or above theta rho_eq; offset: mean of delta, 0 where rho = rho_eq; "
        "fluctuation: standard deviation of delta about a line; tau: integrated autocorrelation time; independent: "
        "effective sample size. Brackets: 95 % intervals over members (of a single member, over blocks of time). "
        "The last two columns are medians."
    )


def _theory(result: Comparison) -> Iterator[Block]:
    predicted = any(m.prediction for side in result.sides for m in side.each)
    asked = any(side.no_prediction for side in result.sides)
    rows = []
    for side in result.sides:
        each = [m.fluctuation for m in side.each]
        cells = [
            side.letter,
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
                *(number(_middle([getattr(p, name) for p in found]), 2) for name in ("correlation", "sharpness")),
            ]
        rows.append(cells)
    more = " | linearised | follows | sharpness" if predicted else ""
    columns = f"<run | log rho | log rho_eq | corr. | lag | skew | jump | over V at rest{more}"
    yield table(columns, rows, "What moves, and what theory says of it")
    words = (
        "log rho, log rho_eq: their fluctuations; corr.: correlation between them at the same step; lag: delay of log rho "
        "behind log rho_eq at which they agree most; jump: standard deviation of the change of delta from one evaluation "
        "to the next; over V at rest: fluctuation over that of the memo's equation with the directions frozen."
    )
    if predicted:
        words += (
            " linearised: fluctuation predicted by the network linearised at its snapshots, under freshly drawn batches, "
            "over that measured on the same stretches; follows: correlation of the prediction with the run, step by step, "
            "under the run's own batches; sharpness: lr times the largest curvature of the linearised loss at the "
            "window's last snapshot, unstable from near 2."
        )
    elif not asked:
        words += " --predict adds the theory in which V moves."
    yield Paragraph(words)


def _members(result: Comparison) -> Table:
    rows = []
    for side in result.sides:
        for m in side.each:
            f = m.fluctuation
            rows.append(
                (
                    side.letter,
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
