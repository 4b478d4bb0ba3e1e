"""One style for every figure: readable in print and without colour vision, symbols as in the memo."""

from __future__ import annotations

import re
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rhotrace.display.printable import printable
from rhotrace.errors import RhoTraceError
from rhotrace.recording.quantities import QUANTITIES
from rhotrace.runfile.hdf5_io import refuse_to_replace_a_run
from rhotrace.statistics import extremes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from rhotrace.recording.quantity import Description

FORMATS = (".png", ".svg", ".pdf")
# Okabe and Ito's colours, distinguishable with any colour vision; in grey, lines also differ in dash or marker.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
DASHES: Any = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (3, 2)), (0, (8, 2)), (0, (1, 3)))
_MOST_LABELS = 12
_LARGEST = 1e100
_LOG = "\\log"
_MATHEMATICS = (  # of the plain symbols in the table of quantities
    (r"\|\|(\w+)\|\|", r"\\Vert \1 \\Vert"),
    (r"rho", r"\\rho"),
    (r"\berr", r"\\mathrm{err}"),
    (r"\b(log|min)\b ?", r"\\\1 "),
    (r"_([a-z]{2,})", r"_\\mathrm{\1}"),
)
_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "savefig.dpi": 200,
    "svg.hashsalt": "rhotrace",
    "svg.fonttype": "none",
    "axes.unicode_minus": True,
}


def check_format(path: Path | None, option: str = "--plot") -> None:
    """Raises RhoTraceError for a figure's name with an ending that is not one of ``FORMATS``."""
    if path is not None and path.suffix.lower() not in FORMATS:
        raise RhoTraceError(f"{option}: got {path}, expected a name that ends in {', '.join(FORMATS)}")


@contextmanager
def letters_as_shapes() -> Iterator[None]:
    """Within it, an SVG contains its letters as shapes, for readers without the fonts; otherwise text stays editable."""
    before = _STYLE["svg.fonttype"]
    _STYLE["svg.fonttype"] = "path"
    try:
        yield
    finally:
        _STYLE["svg.fonttype"] = before


def described_in(svg: str) -> str:
    """The description in words that our SVG files contain."""
    found = re.search(r"<dc:description>(.*?)</dc:description>", svg, re.DOTALL)
    return unescape(found[1]) if found else ""


def symbol(name: str, *, decimal: bool = False) -> str:
    """A quantity's symbol from the table as mathematics; ``decimal`` where natural logarithms are drawn to base 10."""
    text = QUANTITIES[name].symbol
    for plain, drawn_as in _MATHEMATICS:
        text = re.sub(plain, drawn_as, text)
    return f"${text.replace(_LOG, _LOG + '_{10}' if decimal else _LOG)}$"


def mathematical(words: str) -> str:
    """What distinguishes members, such as ``rho_k(0) 0.5, lr 0.1``, with its symbols as mathematics."""
    words = words.replace("$", "\\$")
    return re.sub(r"\blr (?=\d)", "η = ", words.replace("rho_k(0) ", "$\\rho_k(0)$ = "))


def label(quantity: Description) -> str:
    """Symbol and units of a quantity, as the run file describes it, for an axis."""
    name, units = symbol(quantity.name), quantity.units
    return name if units == "1" else f"{name}  ({units.replace('^2', '²')})"


@contextmanager
def drawn(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure in the house style, saved at the end; its label becomes its description in words."""
    check_format(path)
    refuse_to_replace_a_run(path)
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        about = printable(str(figure.get_label() or "")) or None
        for text in figure.findobj(Text):
            if text.get_text() != (clean := printable(text.get_text())):
                text.set_text(clean)
        known: dict[str, dict[str, Any]] = {
            ".png": {"Software": None, "Description": about},
            ".svg": {"Date": None, "Description": about},
            ".pdf": {"CreationDate": None, "Subject": about},
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(
                path, metadata={key: v for key, v in known[path.suffix.lower()].items() if v or key != "Description"}
            )
        except OSError as problem:
            raise RhoTraceError(f"{path}: the figure cannot be written: {problem.strerror or problem}") from None


def plain_ticks(axis: Axis) -> None:
    """Ticks of a logarithmic axis of few decades at 1, 2, 5 of each, as plain numbers."""
    low, high = axis.get_view_interval()
    if high > 1e4 * low:
        return
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    # Within less than half a decade 1, 2, 5 give a tick or two.
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 5 * low else MaxNLocator(4))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def legend(axes: Axes, **where: Any) -> None:  # noqa: ANN401
    """A legend of at most a dozen entries; the last two are always there."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > _MOST_LABELS:
        first = _MOST_LABELS - 2
        handles, labels = [*handles[:first], *handles[-2:]], [*labels[: first - 1], "…", *labels[-2:]]
    axes.legend(handles, labels, **where)


def drawable(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values without those too large for an axis: the last steps of a run that diverges."""
    return np.where(np.abs(values) < _LARGEST, values, np.nan)


def empty(axes: Axes) -> None:
    """Says that there is nothing to draw, where logarithmic axes would be empty."""
    axes.plot([], [])
    axes.set(xticks=[], yticks=[])
    axes.annotate("nothing to draw", (0.5, 0.5), xycoords="axes fraction", ha="center")


def colour(number: int) -> str:
    """The colour of a curve by its number; colours repeat."""
    return COLOURS[number % len(COLOURS)]


def ramp(share: float) -> tuple[float, float, float]:
    """From light to dark blue, so that the order is visible in grey too."""
    light, dark = np.array([0.62, 0.79, 0.93]), np.array([0.0, 0.18, 0.38])
    red, green, blue = light + share * (dark - light)
    return float(red), float(green), float(blue)


def line(axes: Axes, steps: NDArray[Any], values: NDArray[np.float64], **look: Any) -> None:  # noqa: ANN401
    """A curve, drawn with only the rows that are visible."""
    rows = extremes.thinned(values)
    axes.plot(steps[rows], values[rows], **look)
