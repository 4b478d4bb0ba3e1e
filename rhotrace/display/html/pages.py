"""What the HTML pages share: pictures inside them, and their templates."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable
from pathlib import Path

from rhotrace.display.figures import style as plot_style


def embedded(draw: Callable[[Path], None]) -> tuple[str, str]:
    """A picture as a data URL that needs no font of the reader's, and its description in words."""
    with tempfile.TemporaryDirectory() as folder, plot_style.letters_as_shapes():
        path = Path(folder) / "picture.svg"
        draw(path)
        svg = path.read_text(encoding="utf-8")
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}", plot_style.described_in(svg)


def rendered(template: str, **values: object) -> str:
    """A page from its template in the package; every value is escaped where the template does not say otherwise."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("rhotrace.display.html", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
