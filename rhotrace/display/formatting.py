"""How results look in a terminal, and as JSON: numbers, intervals, tables, the headline of a run."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rhotrace.statistics.intervals import Interval


def to_json(result: Any, *, indent: int | None = 2) -> str:  # noqa: ANN401 - any result dataclass or plain value
    """A result as JSON; what is not a finite number becomes null."""
    return json.dumps(_finite(plain(result)), indent=indent, ensure_ascii=False)


def plain(result: Any) -> Any:  # noqa: ANN401 - as ``to_json``
    """A result dataclass as a mapping; anything else as it is."""
    return dataclasses.asdict(result) if dataclasses.is_dataclass(result) and not isinstance(result, type) else result


def _finite(value: Any) -> Any:  # noqa: ANN401 - JSON values
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return _finite(value.tolist())
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def number(value: float, digits: int = 3) -> str:
    """A number to some significant digits; a dash where there is none."""
    value += 0.0  # without the sign of zero
    if not math.isfinite(value):
        return "–" if math.isnan(value) else ("∞" if value > 0 else "-∞")
    if value and abs(value) < 10**digits and abs(value) >= 1e-3:
        return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"
    return f"{value:.0f}" if digits <= math.log10(max(abs(value), 1)) < 7 or value == 0 else f"{value:.{digits - 1}e}"


def ranged(interval: Interval, digits: int = 3) -> str:
    """A value with its 95 % interval."""
    if not math.isfinite(interval.low):
        return number(interval.value, digits)
    return f"{number(interval.value, digits)} [{number(interval.low, digits)}, {number(interval.high, digits)}]"


def span(interval: Interval, digits: int = 3) -> str:
    """The ends of an interval; a dash where it has none."""
    if not math.isfinite(interval.low):
        return "–"
    return f"{number(interval.low, digits)} – {number(interval.high, digits)}"


_WORDS = 24  # columns that a column of words may be narrowed to


class Terminal(Console):
    """A console on which a table that does not fit becomes a list: a paragraph for each row, a line for each cell."""

    def print(self, *objects: Any, **how: Any) -> None:  # noqa: ANN401 - as rich has it
        """As ``rich.console.Console.print``."""
        for each in objects or ("",):
            if isinstance(each, Table) and _width(each) > self.width:
                self._print_list(each)
            else:
                super().print(each, **how)

    def on_broken_pipe(self) -> None:
        """Nobody reads on: the usual silence, and the exit code of a process that the shell's pipe has stopped."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141)

    def _print_list(self, grid: Table) -> None:
        if grid.title:
            super().print(grid.title, style="bold", markup=False, highlight=False)
        names, rows = cells(grid)
        for first, *others in rows:
            super().print(f"{names[0]} {first}", style="bold", markup=False, highlight=False)
            for name, cell in zip(names[1:], others, strict=True):
                super().print(Padding(Text(f"{name}: {cell}"), (0, 0, 0, 2), expand=False))
        super().print()


def cells(grid: Table) -> tuple[list[str], list[list[str]]]:
    """The headings of a table and its rows, as plain text."""
    columns = [[str(cell) for cell in column.cells] for column in grid.columns]
    return [str(column.header) for column in grid.columns], [list(cells) for cells in zip(*columns, strict=True)]


def _width(grid: Table) -> int:
    """Columns that a table needs: numbers whole, words in lines of at least ``_WORDS``."""
    names, rows = cells(grid)
    needed = 0
    for number, column in enumerate(grid.columns):
        widest = max(map(cell_len, [names[number], *(row[number] for row in rows)]))
        needed += 1 + (min(widest, _WORDS) if column.justify == "left" else widest)
    return needed


def output() -> Terminal:
    """The console for results: as wide as the terminal; where there is none, wide enough for every table."""
    console = Terminal()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        return Terminal(width=120)
    return console


def table(columns: str | Sequence[str], heading: str = "") -> Table:
    """An empty table; columns are separated by ``|``, and those that begin with ``<`` hold words.

    Names that somebody else chose come as a list, and are taken as they are.
    """
    grid = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title=heading or None,
        title_justify="left",
        title_style="bold",
        pad_edge=False,
    )
    names = [name.strip() for name in columns.split("|")] if isinstance(columns, str) else columns
    for name in names:
        words = isinstance(columns, str) and name.startswith("<")
        grid.add_column(Text(name[words:]), justify="left" if words else "right", overflow="fold")
    return grid


def row(grid: Table, *cells: str) -> None:
    """Adds a row to a table."""
    grid.add_row(*map(Text, cells))  # names may hold brackets, which are not markup


def say(console: Console, text: str, style: str = "") -> None:
    """A line of prose: words only, so no markup of names in brackets; wrapped in a terminal, whole in a pipe."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def title(console: Console, path: str, words: str) -> None:
    """What a page is about."""
    say(console, path, "bold")
    say(console, words + "\n")


def headline(summary: dict[str, Any]) -> str:
    """What was run, in two lines."""
    options = ", ".join(
        f"{k.replace('_', ' ')} {v:g}" if isinstance(v, float | int) else f"{k} {v}"
        for k, v in summary["optimizer_options"].items()
        if v is not None and (k != "sampling" or summary["optimizer_options"]["batch_size"])
    )
    noise = f", label noise {summary['label_noise']:g}" if summary["label_noise"] else ""
    width = "" if summary["depth"] == 1 else f", width {summary['width']}"
    members = f"{summary['members']} member{'s' if summary['members'] > 1 else ''}"
    return (
        f"{summary['state']}: {summary['steps']} of {summary['planned_steps']} steps, {members}, {summary['wall_seconds']:.0f} s on {summary['device']}\n"
        f"L = {summary['depth']}{width}, {summary['dtype']}; {summary['optimizer']}, {options}; "
        f"{summary['dataset']} {summary['classes']}, N = {summary['samples']}{noise}"
    )
