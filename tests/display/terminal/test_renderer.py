"""Blocks in a terminal: what is printed of each, where empty lines stand, and what becomes of a table that is too wide."""

from __future__ import annotations

import io

from rhotrace.display.blocks import Code, Data, Figure, Heading, Paragraph, table
from rhotrace.display.terminal.renderer import Terminal, show

GRID = table(
    "member | T | <what became of it",
    [("0", "123456789", "left [the] transient"), ("1", "–", "never left")],
    "A title",
)


def printed(*blocks, width: int = 80) -> list[str]:
    out = io.StringIO()
    show(Terminal(file=out, width=width), blocks)
    return [line.rstrip() for line in out.getvalue().split("\n")[:-1]]


def test_a_table_that_does_not_fit_becomes_a_list_with_every_cell():
    assert printed(GRID, width=24) == [
        "A title",
        "member 0",
        "  T: 123456789",
        "  what became of it:",
        "  left [the] transient",
        "member 1",
        "  T: –",
        "  what became of it:",
        "  never left",
        "",
    ]
    assert any("123456789  left [the] transient" in line for line in printed(GRID))


def test_words_are_printed_as_they_are_and_empty_lines_separate_thoughts():
    words = Paragraph("[b]brackets[/b]\nare no markup")
    lines = printed(
        Data(1), Heading("A"), words, Paragraph("more"), Paragraph("new", apart=True), Heading("B"), Code("x: 1")
    )
    assert lines == ["A", "[b]brackets[/b]", "are no markup", "more", "", "new", "", "B", "x: 1"]


def test_one_empty_line_stands_above_and_below_a_table():
    lines = printed(Paragraph("before"), GRID, Paragraph("after", apart=True))
    assert lines[:3] == ["before", "", "A title"]
    assert lines[-3:-1] == [lines[-3], ""]
    assert lines[-3]
    assert lines[-1] == "after"


def test_a_terminal_names_a_figure_by_its_caption():
    assert printed(Figure("T against rho_k(0).", lambda path: path.unlink())) == ["figure: T against rho_k(0)."]


def test_a_pipe_gets_each_line_whole_and_a_terminal_wraps_it():
    long = "word " * 30
    assert printed(Paragraph(long), width=40) == [long.rstrip()]
    out = io.StringIO()
    show(Terminal(file=out, width=40, force_terminal=True), [Paragraph(long)])
    assert max(map(len, out.getvalue().splitlines())) <= 40
