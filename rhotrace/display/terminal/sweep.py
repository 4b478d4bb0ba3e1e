"""``sweep`` as a person reads it: the plan, the runs while they train, and T of every point."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rhotrace.display.formatting import number, row, say, span, table

if TYPE_CHECKING:
    from pathlib import Path

    from rhotrace.sweeps.results import PointResult, SweepResult
    from rhotrace.sweeps.runner import Plan, State

LEFT = "left the transient"
_MOST_ROWS = 24
_LINE_SECONDS = 10.0


def print_plan(console: Console, plan: Plan) -> None:
    """How many points, networks and runs, and what memory and disk they take."""
    sweep, largest = plan.sweep, max(len(run.points) for run in plan.runs)
    steps = {run.recipe.steps for run in plan.runs}
    told = f"{min(steps)} to {max(steps)}" if len(steps) > 1 else f"{min(steps)}"
    say(console, f"{sweep.path}: {', '.join(sweep.axes)} over {sweep.recipe}", "bold")
    say(
        console,
        f"{_many(len(sweep.points), 'point')} x {_many(len(sweep.seeds), 'seed')} = {_many(plan.members, 'network')} in "
        f"{_many(len(plan.runs), 'run')} of at most {_many(largest, 'member')}, {told} steps each",
    )
    say(
        console,
        f"memory: about {plan.memory / 1e9:.1f} GB for the largest run, of {plan.free / 1e9:.1f} GB free; "
        f"disk: about {plan.disk / 1e9:.2g} GB while they train; into {plan.folder}",
    )
    if plan.memory > plan.free:
        say(console, "caution: a run of one member takes more than is free; lower data.train or network.width")


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


class SweepView:
    """The live table of a sweep; in a pipe, a line now and then. A context manager, to be passed as ``watch``."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._began = time.monotonic()
        self._next_line = self._began + 1.0
        self._first: float | None = None  # member-steps that were there at the start

    def __enter__(self) -> SweepView:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._live.stop()

    def __call__(self, states: Mapping[str, State]) -> None:
        """Shows where each run stands."""
        words = self._words(states)
        if self._console.is_terminal:
            self._live.update(Group(_running(states), Text(words)), refresh=True)
        elif time.monotonic() >= self._next_line:
            say(self._console, words)
            self._next_line = time.monotonic() + _LINE_SECONDS

    def _words(self, states: Mapping[str, State]) -> str:
        done = sum(len(s.run.points) * s.steps for s in states.values())
        total = sum(len(s.run.points) * s.run.recipe.steps for s in states.values())
        self._first = done if self._first is None else self._first
        rate = (done - self._first) / max(time.monotonic() - self._began, 1e-9)
        counts = Counter(s.state for s in states.values())
        told = ", ".join(f"{n} {state}" for state, n in counts.items())
        left = f", about {(total - done) / rate:.0f} s left" if rate > 0 and done < total else ""
        return f"{told}; {100 * done / max(total, 1):.0f} % of all member-steps, {rate:,.0f} a second{left}"


def _running(states: Mapping[str, State]) -> Table:
    """The runs in training first, then those that wait; finished ones only while there is room."""
    order = {"training": 0, "begun": 1, "failed": 2, "interrupted": 3, "waiting": 4}
    shown = sorted(states.values(), key=lambda s: order.get(s.state, 5))[:_MOST_ROWS]
    grid = table("<run | members | step | <state | time")
    for s in shown:
        row(grid, s.run.name, str(len(s.run.points)), f"{s.steps}/{s.run.recipe.steps}", s.state, f"{s.seconds:.0f} s")
    return grid


def print_end(console: Console, states: Mapping[str, State]) -> None:
    """What became of the runs: what was set aside, what failed and why, and how many are done."""
    for state in states.values():
        for note in state.notes:
            say(console, f"note: {note}")
        if state.state == "failed":
            say(console, f"failed: {state.run.name}: {state.why}")
    counts = Counter(state.state for state in states.values())
    say(console, "runs: " + ", ".join(f"{n} {state}" for state, n in counts.items()))


def print_sweep(console: Console, result: SweepResult, plot: Path | None) -> None:
    """T of every point; with two axes as a table of one against the other."""
    say(console, result.folder, "bold")
    if len(result.axes) == 2:
        _print_square(console, result)
    else:
        _print_list(console, result)
    for missing in result.missing:
        say(console, f"missing: {missing}")
    if plot:
        say(console, f"\ndrawn in {plot}")


def _print_list(console: Console, result: SweepResult) -> None:
    grid = table((*result.axes, "T", "95 % interval", "left", "others"), "Transient time, lr x steps")
    for point in result.points:
        others = ", ".join(f"{n} {_short(why)}" for why, n in point.outcomes.items() if why != LEFT)
        values = [shown(value) for value in point.values.values()]
        row(grid, *values, number(point.T.value, 4), span(point.T), f"{point.left} of {point.members}", others)
    console.print(grid)


def _print_square(console: Console, result: SweepResult) -> None:
    down, across = result.axes
    columns = {key(p.values[across]): shown(p.values[across]) for p in result.points}
    rows: dict[str, dict[str, PointResult]] = {}
    for point in result.points:
        rows.setdefault(key(point.values[down]), {})[key(point.values[across])] = point
    first = down.rpartition(".")[2]
    grid = table((first, *columns.values()), f"T (lr x steps) by {down}, and {across} across")
    for cells in rows.values():
        name = shown(next(iter(cells.values())).values[down])
        row(grid, name, *(_cell(cells[column]) if column in cells else "" for column in columns))
    console.print(grid)
    say(
        console,
        "T: geometric mean over the seeds that left their transient, with ± of its 95 % interval; (n of m): not all did; "
        "none: rho started at or above theta rho_eq; never: it did not get there within the steps.",
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
    """``never left the transient`` is never, ``no transient: ...`` none; of the others what stands before the colon."""
    known = {"never": "never", "no": "none", "decayed": "decayed", "oscillating": "oscillating"}
    return known.get(outcome.partition(" ")[0], outcome.partition(":")[0])


def key(value: Any) -> str:  # noqa: ANN401 - any recipe value
    """What tells a value of an axis from every other."""
    return json.dumps(value, sort_keys=True)


def shown(value: Any) -> str:  # noqa: ANN401 - any recipe value
    """A value of an axis as it is written in tables: a number to six digits."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
