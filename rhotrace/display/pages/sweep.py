"""The pages of ``sweep``: the plan, the end of the runs, and T of every point."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rhotrace.display.as_json import plain
from rhotrace.display.blocks import Block, Column, Data, Heading, Paragraph, Table
from rhotrace.display.numbers import count, number, span

if TYPE_CHECKING:
    from rhotrace.sweeps.results import PointResult, SweepResult
    from rhotrace.sweeps.runner import Plan, State

LEFT = "left the transient"


def plan_page(plan: Plan) -> Iterator[Block]:
    """How many points, networks and runs, and how much memory and disk they take."""
    sweep, largest = plan.sweep, max(len(run.points) for run in plan.runs)
    steps = {run.recipe.steps for run in plan.runs}
    each = f"{min(steps)} to {max(steps)}" if len(steps) > 1 else f"{min(steps)}"
    sizes = {"members": plan.members, "memory": plan.memory, "free": plan.free, "disk": plan.disk}
    runs = [{"name": run.name, "members": len(run.points), "steps": run.recipe.steps} for run in plan.runs]
    yield Data({"folder": str(plan.folder), "points": len(sweep.points), **sizes, "runs": runs})
    yield Heading(f"{sweep.path}: {', '.join(sweep.axes)} over {sweep.recipe}", level=1)
    yield Paragraph(
        f"{count(len(sweep.points), 'point')} x {count(len(sweep.seeds), 'seed')} = {count(plan.members, 'network')} in "
        f"{count(len(plan.runs), 'run')} of at most {count(largest, 'member')}, {each} steps each"
    )
    yield Paragraph(
        f"memory: about {plan.memory / 1e9:.1f} GB for the largest run, of {plan.free / 1e9:.1f} GB free; "
        f"disk: about {plan.disk / 1e9:.2g} GB while they train; into {plan.folder}"
    )
    if plan.memory > plan.free:
        yield Paragraph(
            "caution: even a run of one member takes more memory than is free; lower data.train or network.width"
        )


def end_page(states: Mapping[str, State]) -> Iterator[Block]:
    """How the runs ended: what was set aside, what failed and why, and how many are done."""
    for state in states.values():
        for note in state.notes:
            yield Paragraph(f"note: {note}")
        if state.state == "failed":
            yield Paragraph(f"failed: {state.run.name}: {state.why}")
    counts = Counter(state.state for state in states.values())
    yield Paragraph("runs: " + ", ".join(f"{n} {state}" for state, n in counts.items()))


def sweep_page(result: SweepResult, states: Mapping[str, State]) -> Iterator[Block]:
    """T of every point; with two axes as a table of one against the other."""
    runs = {name: {"state": state.state, "why": state.why} for name, state in states.items()}
    yield Data({**plain(result), "runs": runs})
    yield Heading(result.folder, level=1)
    if len(result.axes) == 2:
        yield from _square(result)
    else:
        yield _list(result)
    for missing in result.missing:
        yield Paragraph(f"missing: {missing}")


def _list(result: SweepResult) -> Table:
    columns = tuple(Column(name) for name in (*result.axes, "T", "95 % interval", "left", "others"))
    rows = []
    for point in result.points:
        others = ", ".join(f"{n} {_short(why)}" for why, n in point.outcomes.items() if why != LEFT)
        values = [shown(value) for value in point.values.values()]
        rows.append((*values, number(point.T.value, 4), span(point.T), f"{point.left} of {point.members}", others))
    return Table(columns, tuple(rows), "Transient time, lr x steps")


def _square(result: SweepResult) -> Iterator[Block]:
    down, across = result.axes
    columns = {key(p.values[across]): shown(p.values[across]) for p in result.points}
    lines: dict[str, dict[str, PointResult]] = {}
    for point in result.points:
        lines.setdefault(key(point.values[down]), {})[key(point.values[across])] = point
    rows = []
    for cells in lines.values():
        name = shown(next(iter(cells.values())).values[down])
        rows.append((name, *(_cell(cells[column]) if column in cells else "" for column in columns)))
    names = (down.rpartition(".")[2], *columns.values())
    yield Table(tuple(map(Column, names)), tuple(rows), f"T (lr x steps) by {down}, and {across} across")
    yield Paragraph(
        "T: geometric mean over the seeds that left their transient, ± its 95 % interval; (n of m): only n of m seeds did; "
        "none: rho started at or above theta rho_eq; never: rho did not get there within the steps."
    )


def _cell(point: PointResult) -> str:
    if not point.left:
        return commonest(point)
    part = "" if point.left == point.members else f" ({point.left} of {point.members})"
    half = (point.T.high / point.T.low) ** 0.5 - 1 if point.T.low > 0 else math.nan
    sure = f" ± {100 * half:.0f} %" if math.isfinite(half) else ""
    return f"{number(point.T.value)}{sure}{part}"


def commonest(point: PointResult) -> str:
    """How most of a point's networks ended, in a word."""
    return _short(max(point.outcomes, key=lambda outcome: point.outcomes[outcome]))


def _short(outcome: str) -> str:
    """``never left the transient`` is never, ``no transient: ...`` none; of the others the words before the colon."""
    known = {"never": "never", "no": "none", "decayed": "decayed", "oscillating": "oscillating"}
    return known.get(outcome.partition(" ")[0], outcome.partition(":")[0])


def key(value: Any) -> str:  # noqa: ANN401 - any recipe value
    """A key that distinguishes a value of an axis from every other."""
    return json.dumps(value, sort_keys=True)


def shown(value: Any) -> str:  # noqa: ANN401 - any recipe value
    """A value of an axis as tables show it: a number to six digits."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
