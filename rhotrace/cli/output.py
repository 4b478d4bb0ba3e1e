"""How a command answers: with a page, or with its data as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rhotrace.display.blocks import Block


def answer(page: Iterable[Block], *, as_json: bool, plot: Path | None = None) -> None:
    """Prints a page on standard output, or with ``as_json`` only its data; ``plot`` is the figure that was drawn."""
    from rhotrace.display.as_json import to_json
    from rhotrace.display.blocks import Data, Paragraph
    from rhotrace.display.terminal.renderer import output, show

    blocks = list(page)
    if as_json:
        for block in blocks:
            if isinstance(block, Data):
                typer.echo(to_json(block.value))
        return
    show(output(), [*blocks, Paragraph(f"drawn in {plot}", apart=True)] if plot else blocks)


def say(text: str) -> None:
    """Prints a message on standard error."""
    from rhotrace.display.printable import printable

    typer.echo(printable(text), err=True)
