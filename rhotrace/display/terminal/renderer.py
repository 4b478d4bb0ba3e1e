"""Blocks printed in a terminal: lines that wrap, and tables that become lists where they do not fit."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from rhotrace.display.blocks import Block, Code, Data, Figure, Heading, Paragraph, Table
from rhotrace.display.printable import printable

_WORDS = 24  # columns that a column of words may be narrowed to


class Terminal(Console):
    """A console for results, which ends quietly when its reader does."""

    def on_broken_pipe(self) -> None:
        """Ends quietly, with the exit code of a process that a closed pipe has stopped."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141)


def output() -> Terminal:
    """The console for results: as wide as the terminal; without a terminal, wide enough for every table."""
    console = Terminal()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        return Terminal(width=120)
    return console


def show(console: Console, blocks: Iterable[Block]) -> None:
    """Prints blocks; with an empty line above headings, titled tables and paragraphs that stand apart."""
    separated = True  # nothing, or an empty line, is above
    for block in blocks:
        match block:
            case Heading(text):
                _separate(console, separated)
                say(console, text, "bold")
            case Paragraph(text, strong, apart):
                _separate(console, separated or not apart)
                say(console, text, "bold" if strong else "")
            case Table():
                _separate(console, separated or not block.title)
                _print_table(console, block)
            case Code(text):
                say(console, text)
            case Figure(caption):
                say(console, f"figure: {caption}")
            case Data():
                continue
        separated = isinstance(block, Table)


def say(console: Console, text: str, style: str = "") -> None:
    """Prints a line without markup, wrapped only in a terminal."""
    console.print(printable(text), style=style, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def rich_table(table: Table) -> RichTable:
    """A table as rich draws it."""
    grid = RichTable(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title=printable(table.title) or None,
        title_justify="left",
        title_style="bold",
        pad_edge=False,
    )
    for column in table.columns:
        grid.add_column(Text(printable(column.name)), justify="left" if column.words else "right", overflow="fold")
    for row in table.rows:
        grid.add_row(*(Text(printable(cell)) for cell in row))  # names may contain brackets, which are not markup
    return grid


def _separate(console: Console, separated: bool) -> None:
    if not separated:
        console.print()


def _print_table(console: Console, table: Table) -> None:
    if _width(table) <= console.width:
        console.print(rich_table(table))
        return
    if table.title:
        say(console, table.title, "bold")
    for first, *others in table.rows:
        heading = printable(f"{table.columns[0].name} {first}")
        console.print(heading, style="bold", markup=False, highlight=False)
        for column, cell in zip(table.columns[1:], others, strict=True):
            console.print(Padding(Text(printable(f"{column.name}: {cell}")), (0, 0, 0, 2), expand=False))
    console.print()


def _width(table: Table) -> int:
    """Columns that a table needs: numbers are not broken, words are wrapped to no fewer than ``_WORDS``."""
    needed = 0
    for number, column in enumerate(table.columns):
        cells = [column.name, *(row[number] for row in table.rows)]
        widest = max(cell_len(printable(cell)) for cell in cells)
        needed += 1 + (min(widest, _WORDS) if column.words else widest)
    return needed
