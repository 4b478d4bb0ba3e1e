"""Blocks as a self-contained HTML page: pictures inside it, templates, and every text escaped."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rhotrace.display.as_json import to_json
from rhotrace.display.blocks import Block, Data, Figure, Heading
from rhotrace.display.figures import style as plot_style
from rhotrace.display.printable import printable


@dataclass(frozen=True)
class Picture:
    """A figure that has been drawn.

    Attributes:
        caption: below it.
        source: the picture as a data URL.
        alt: what it shows, in words.
    """

    caption: str
    source: str
    alt: str


@dataclass(frozen=True)
class Section:
    """A heading with an anchor, and the blocks below it, each with the name of its kind."""

    heading: Heading
    blocks: tuple[tuple[str, Block | Picture], ...]


def report_page(blocks: Iterable[Block], **values: object) -> str:
    """A page of blocks, the first of which is a heading with an anchor; its data are embedded as JSON.

    Args:
        blocks: of the page.
        values: that the template ``report.html.j2`` asks for beside the sections.
    """
    shown = list(blocks)
    data = [block.value for block in shown if isinstance(block, Data)]
    results = to_json(data[0] if len(data) == 1 else data).replace("<", "\\u003c")
    sections = list(_sections([block for block in shown if not isinstance(block, Data)]))
    return rendered("report.html.j2", sections=sections, results=results, **values)


def _sections(blocks: list[Block]) -> Iterator[Section]:
    starts = [n for n, block in enumerate(blocks) if isinstance(block, Heading) and block.anchor]
    for start, end in zip(starts, [*starts[1:], len(blocks)], strict=True):
        heading = blocks[start]
        assert isinstance(heading, Heading)  # noqa: S101 - for the type checker
        yield Section(heading, tuple(_named(block) for block in blocks[start + 1 : end]))


def _named(block: Block) -> tuple[str, Block | Picture]:
    if isinstance(block, Figure):
        return "picture", Picture(block.caption, *embedded(block.draw))
    return type(block).__name__.lower(), block


def embedded(draw: Callable[[Path], None]) -> tuple[str, str]:
    """A picture as a data URL that needs none of the reader's fonts, and its description in words."""
    with tempfile.TemporaryDirectory() as folder, plot_style.letters_as_shapes():
        path = Path(folder) / "picture.svg"
        draw(path)
        svg = path.read_text(encoding="utf-8")
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}", plot_style.described_in(svg)


def _finalized(value: object) -> object:
    """A value of a template without control characters; text that is HTML already keeps its type."""
    return type(value)(printable(value)) if isinstance(value, str) else value


def rendered(template: str, **values: object) -> str:
    """A page from its template in the package; every value is escaped unless the template says otherwise."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("rhotrace.display.html", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalized,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
