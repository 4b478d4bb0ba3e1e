"""The live view of a sweep: in a terminal a table of its runs, in a pipe a line from time to time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from rhotrace.display.blocks import Table, table
from rhotrace.display.terminal.renderer import rich_table, say

if TYPE_CHECKING:
    from rhotrace.sweeps.runner import State

_MOST_ROWS = 24


class SweepView:
    """Shows the progress of a sweep's runs; a context manager to be passed as ``watch``.

    Args:
        console: where to.
        every: seconds between two lines in a pipe; the first comes after a second.
    """

    def __init__(self, console: Console, every: float = 10.0) -> None:
        self._console, self._every = console, every
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._began = time.monotonic()
        self._next_line = self._began + min(1.0, every)
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
        """Shows the progress of each run."""
        words = self._words(states)
        if self._console.is_terminal:
            self._live.update(Group(rich_table(_running(states)), Text(words)), refresh=True)
        elif time.monotonic() >= self._next_line:
            say(self._console, words)
            self._next_line = time.monotonic() + self._every

    def _words(self, states: Mapping[str, State]) -> str:
        done = sum(len(s.run.points) * s.steps for s in states.values())
        total = sum(len(s.run.points) * s.run.recipe.steps for s in states.values())
        self._first = done if self._first is None else self._first
        rate = (done - self._first) / max(time.monotonic() - self._began, 1e-9)
        counts = Counter(s.state for s in states.values())
        states_now = ", ".join(f"{n} {state}" for state, n in counts.items())
        left = f", about {(total - done) / rate:.0f} s left" if rate > 0 and done < total else ""
        return f"{states_now}; {100 * done / max(total, 1):.0f} % of all member-steps, {rate:,.0f} a second{left}"


def _running(states: Mapping[str, State]) -> Table:
    """The runs in training first, then those that wait; finished ones only if there is room."""
    order = {"training": 0, "begun": 1, "failed": 2, "interrupted": 3, "waiting": 4}
    shown = sorted(states.values(), key=lambda s: order.get(s.state, 5))[:_MOST_ROWS]
    return table(
        "<run | members | step | <state | time",
        [
            (s.run.name, str(len(s.run.points)), f"{s.steps}/{s.run.recipe.steps}", s.state, f"{s.seconds:.0f} s")
            for s in shown
        ],
    )
