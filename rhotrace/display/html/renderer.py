"""Blocks as a self-contained HTML page: pictures inside it, templates, and every text escaped."""

from __future__ import annotations

import base64
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from rhotrace.display.as_json import to_json
from rhotrace.display.blocks import Block, Data, Figure, Heading
from rhotrace.display.figures import style as plot_style
from rhotrace.display.printable import printable

_WIDE, _NARROW = 9.2, 3.7  # inches: the pages' columns at 96 dots to the inch
_PATH = re.compile(r' d="[^"]*"')
_DECIMALS = re.compile(r"(\.\d\d)\d+")  # of a point, beyond the hundredth, too small to see
_SYMBOL = re.compile(
    r"(?<![\w.-])(?:(?<!/)|(?<=rho/))(?P<base>rho(?=_(?:eq|k|j)(?!\w)|(?!_))|(?:gamma|V|W|f|y)(?=_[kjn](?!\w)))"
    r"(?:_(?P<below>eq|[kjn]))?(?:\^(?P<power>\d))?(?![\w-]|\.\w)"
)
_GREEK = {"rho": "ρ", "gamma": "γ"}


@dataclass(frozen=True)
class Picture:
    """A figure that has been drawn.

    Attributes:
        caption: below it.
        wide: the picture as a data URL, for a desktop.
        narrow: the same, drawn for a phone.
        alt: what it shows, in words.
    """

    caption: str
    wide: str
    narrow: str
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
        return "picture", embedded(block.draw, block.caption)
    return type(block).__name__.lower(), block


def embedded(draw: Callable[[Path], None], caption: str = "") -> Picture:
    """A picture as data URLs that need none of the reader's fonts, drawn for a wide and for a narrow window."""
    sources, alt = [], ""
    with tempfile.TemporaryDirectory() as folder, plot_style.letters_as_shapes():
        path = Path(folder) / "picture.svg"
        for width in (_WIDE, _NARROW):
            with plot_style.look(plot_style.Look(width=width)):
                draw(path)
            svg = path.read_text(encoding="utf-8")
            alt = alt or plot_style.described_in(svg)
            svg = _PATH.sub(lambda found: _DECIMALS.sub(r"\1", found[0]), svg)
            sources.append(f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}")
    return Picture(caption, sources[0], sources[1], alt)


def mathematics(text: str) -> Markup:
    """Text in which rho, rho_eq, rho_k, V_k, y_n and the like, and their powers, are MathML; everything else is escaped."""
    from markupsafe import escape

    return Markup(_SYMBOL.sub(_mathml, str(escape(text))))  # noqa: S704 - escaped just now


def _mathml(found: re.Match[str]) -> str:
    name, below, power = found["base"], found["below"], found["power"]
    words = f"{name}{f'_{below}' if below else ''}{f'^{power}' if power else ''}"
    base = f"<mi>{_GREEK.get(name, name)}</mi>"
    under = f"<mi>{below}</mi>" if below else ""
    above = f"<mn>{power}</mn>" if power else ""
    tag = {(True, True): "msubsup", (True, False): "msub", (False, True): "msup"}.get((bool(below), bool(power)))
    inner = f"<{tag}>{base}{under}{above}</{tag}>" if tag else base
    return f'<math alttext="{words}">{inner}</math>'


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
    environment.filters["mathematics"] = mathematics
    return environment.get_template(template).render(**values)
