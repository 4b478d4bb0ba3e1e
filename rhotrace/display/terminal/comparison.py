"""``compare`` as a person reads it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from rhotrace.analysis.fluctuation.verdict import cautions, labels, verdicts
from rhotrace.display.formatting import headline, number, plain, ranged, row, say, span, table, title

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from rhotrace.analysis.fluctuation.comparison import Comparison
    from rhotrace.analysis.fluctuation.one_run import Side


def print_comparison(console: Console, result: Comparison, *, members: bool = False, plot: Path | None = None) -> None:
    """All of ``compare``'s answer; with ``members`` also a row for each network."""
    for side in result.sides:
        title(console, f"{side.letter}  {side.path}", headline(side.summary))
    print_contrasts(console, result, members=members)
    if plot:
        say(console, f"\ndrawn in {plot}")


def print_contrasts(console: Console, result: Comparison, *, members: bool = False) -> None:
    """What differs, what was measured in each run, and the verdicts."""
    if len(result.sides) > 1:
        _print_differences(console, result)
    _print_runs(console, result)
    _print_theory(console, result)
    if members:
        _print_members(console, result)
    console.print()
    for contrast in result.contrasts:
        if math.isfinite(contrast.ratio.value):
            paired = f", paired over {contrast.paired} seeds" if contrast.paired else ""
            times = f"; T {ranged(contrast.transients)} times" if math.isfinite(contrast.transients.value) else ""
            say(console, f"{contrast.run}/{contrast.base}: fluctuation {ranged(contrast.ratio)}{paired}{times}")
    for caution in cautions(result):
        say(console, f"caution: {caution}")
    for verdict in verdicts(result):
        say(console, f"\n{verdict}", "bold")


def as_plain(result: Comparison) -> dict[str, Any]:
    """The comparison with its words, as a mapping."""
    words = {"cautions": cautions(result), "verdicts": verdicts(result), "labels": labels(result.sides)}
    return {**plain(result), **words}


def _print_differences(console: Console, result: Comparison) -> None:
    if not result.differs:
        say(console, "Their recipes are the same.")
        return
    say(console, "They differ in")
    letters = [side.letter for side in result.sides]
    for key, values in result.differs.items():
        groups: dict[str, list[str]] = {}
        for letter, value in zip(letters, values, strict=True):
            groups.setdefault("none" if value is None else str(value), []).append(letter)
        say(console, f"  {key}: " + "; ".join(f"{value} ({', '.join(who)})" for value, who in groups.items()))


def _print_runs(console: Console, result: Comparison) -> None:
    unit = "steps" if result.align == "step" else "lr x steps"
    grid = table(
        "<run | T | window | offset | fluctuation | tau | independent",
        f"delta = log(rho/rho_eq) after the transient, over members (in {unit})",
    )
    for side in result.sides:
        each = [m.fluctuation for m in side.each]
        row(
            grid,
            side.letter,
            ranged(side.T),
            _window(side),
            ranged(side.offset, 2),
            ranged(side.std),
            number(_middle([m.fluctuation.tau.value * m.unit for m in side.each])),
            number(_middle([f.effective for f in each])),
        )
    console.print()
    console.print(grid)
    say(
        console,
        "T: rho reaches theta rho_eq for good; offset: mean of delta, 0 where rho = rho_eq; fluctuation: standard deviation of delta about a line; tau: integrated autocorrelation time; independent: effective sample size. Brackets are 95 % over members (a single member's of blocks of time); the last two columns are medians.",
    )


def _print_theory(console: Console, result: Comparison) -> None:
    predicted = any(m.prediction for side in result.sides for m in side.each)
    asked = any(side.no_prediction for side in result.sides)
    more = " | linearised | follows | sharpness" if predicted else ""
    grid = table(
        f"<run | log rho | log rho_eq | corr. | lag | skew | jump | over V at rest{more}",
        "What moves, and what theory says of it",
    )
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
        row(grid, *cells)
    console.print()
    console.print(grid)
    rest = (
        " linearised: predicted fluctuation of the network linearised at its copies of the weights under batches drawn afresh, over that measured on the same stretches; follows: its correlation with the run, step by step, under the run's own batches; sharpness: lr times the largest curvature of the linearised loss at the window's last copy of the weights, unstable from near 2."
        if predicted
        else ("" if asked else " --predict adds the theory in which V moves.")
    )
    say(
        console,
        "log rho, log rho_eq: their fluctuations; corr.: between them, at the same step; lag: by how much log rho comes after log rho_eq where they agree most; jump: standard deviation of the change of delta from one evaluation to the next; over V at rest: fluctuation over that of the memo's equation with the directions frozen."
        + rest,
    )


def _print_members(console: Console, result: Comparison) -> None:
    grid = table(
        "<run | member | seed | window | offset | fluctuation | 95 % | tau | 2.5 % | 25 % | 50 % | 75 % | 97.5 %",
        "Each member (in steps; the last columns are quantiles of delta)",
    )
    for side in result.sides:
        for m in side.each:
            f = m.fluctuation
            row(
                grid,
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
    console.print()
    console.print(grid)


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
