"""What a page is made of: blocks that say what they are, and leave it to a terminal or to HTML how they look."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Heading:
    """A heading.

    Attributes:
        text: of the heading.
        level: 1 for the page, 2 for its parts, and so on.
        anchor: the name under which a link finds it; a heading that has one opens a section and is in the contents.
        folded: HTML shows the section when the reader opens it.
    """

    text: str
    level: int = 4
    anchor: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Paragraph:
    """A sentence or a few.

    Attributes:
        text: without markup.
        strong: a result that the reader came for.
        apart: begins a new thought, so a terminal prints an empty line above it.
    """

    text: str
    strong: bool = False
    apart: bool = False


@dataclass(frozen=True)
class Column:
    """A column of a table; words are aligned left and may be wrapped, numbers are aligned right and stay whole."""

    name: str
    words: bool = False


@dataclass(frozen=True)
class Table:
    """A table of plain text."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""


@dataclass(frozen=True)
class Figure:
    """A figure with its caption; ``draw`` writes it to the path that it is given."""

    caption: str
    draw: Callable[[Path], None]


@dataclass(frozen=True)
class Code:
    """Text to be copied verbatim; with a file name it can also be downloaded."""

    text: str
    file_name: str = ""


@dataclass(frozen=True)
class Data:
    """The same results for programs: a result dataclass, or plain values; printed by ``--json``."""

    value: Any


Block = Heading | Paragraph | Table | Figure | Code | Data


def table(columns: str, rows: Iterable[Iterable[str]], title: str = "") -> Table:
    """A table whose columns are separated by ``|``; those that begin with ``<`` contain words."""
    names = [name.strip() for name in columns.split("|")]
    return Table(
        tuple(Column(name.removeprefix("<"), words=name.startswith("<")) for name in names),
        tuple(tuple(row) for row in rows),
        title,
    )
