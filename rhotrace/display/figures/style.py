"""One style for every figure: readable in print and without colour vision, symbols as in the memo."""

from __future__ import annotations

import re
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rhotrace.display.printable import printable
from rhotrace.errors import RhoTraceError, choice
from rhotrace.recording.quantities import QUANTITIES
from rhotrace.runfile.hdf5_io import refuse_to_replace_a_run
from rhotrace.statistics import extremes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    from rhotrace.recording.quantity import Description

FORMATS = (".png", ".svg", ".pdf")
# Okabe and Ito's colours, distinguishable with any colour vision; in grey, lines also differ in dash or marker.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
DASHES: Any = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (3, 2)), (0, (8, 2)), (0, (1, 3)))
_MOST_LABELS = 12
_LETTERS_PER_INCH, _BESIDE = 14.0, 0.6  # of a title, and the inches left of a panel that its labels take
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
    "axes.unicode_minus": True,
}
# What no style may change. Type 42 is TrueType: publishers refuse the Type 3 fonts that matplotlib embeds by default.
_FIXED: Any = {
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "rhotrace",
    "savefig.bbox": "standard",
}
COLUMN = 3.5  # inches, the width of a column of a two-column paper
_NARROW = 5.0  # inches; in a figure narrower than this, legends stand below and panels below each other


@dataclass(frozen=True)
class Look:
    """How figures look, where the reader chooses; what is None or empty is the figure's own.

    Attributes:
        width: inches.
        height: inches.
        styles: names of matplotlib styles, applied in order on top of RhoTrace's own.
        title: instead of the figure's own; an empty one leaves it out.
    """

    width: float | None = None
    height: float | None = None
    styles: tuple[str, ...] = ()
    title: str | None = None


_OWN = Look()
_CHOSEN: ContextVar[Look] = ContextVar("look", default=_OWN)


def check_format(path: Path | None, option: str = "--plot") -> None:
    """Raises RhoTraceError for a figure's name with an ending that is not one of ``FORMATS``."""
    if path is not None and path.suffix.lower() not in FORMATS:
        raise RhoTraceError(f"{option}: got {path}, expected a name that ends in {', '.join(FORMATS)}")


@contextmanager
def look(chosen: Look) -> Iterator[None]:
    """Within it, figures are drawn as chosen.

    Raises:
        RhoTraceError: matplotlib has no style of such a name.
    """
    if chosen.styles:
        from matplotlib.style import available

        for name in chosen.styles:
            if name not in available:
                raise choice("--style", name, available)
    before = _CHOSEN.set(chosen)
    try:
        yield
    finally:
        _CHOSEN.reset(before)


def narrow(own: float) -> bool:
    """Whether a figure, of a width of its own unless the reader chose another, has no room beside its panels."""
    return (_CHOSEN.get().width or own) < _NARROW


@contextmanager
def letters_as_shapes() -> Iterator[None]:
    """Within it, an SVG contains its letters as shapes, for readers without the fonts; otherwise text stays editable."""
    before = _FIXED["svg.fonttype"]
    _FIXED["svg.fonttype"] = "path"
    try:
        yield
    finally:
        _FIXED["svg.fonttype"] = before


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


def units(quantity: Description) -> str:
    """The units of a quantity, as the run file describes it, behind its name on an axis."""
    return "" if quantity.units == "1" else f" ({quantity.units.replace('^2', '²')})"


@contextmanager
def drawn(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure in the house style, saved at the end; its label becomes its description in words.

    Args:
        path: of the file.
        width: in inches, unless the reader chose another; see ``look``.
        height: likewise.
    """
    check_format(path)
    refuse_to_replace_a_run(path)
    from matplotlib import rc_context, style
    from matplotlib.figure import Figure

    chosen = _CHOSEN.get()
    with rc_context(_STYLE), style.context(list(chosen.styles)), rc_context(_FIXED):
        figure = Figure(figsize=(chosen.width or width, chosen.height or height), layout="constrained")
        yield figure
        if chosen.title is not None:
            _entitle(figure, chosen.title)
        for text in _texts(figure):
            if text.get_text() != (clean := printable(text.get_text())):
                text.set_text(clean)
        _wrap_titles(figure)
        about = printable(str(figure.get_label() or "")) or None
        known: dict[str, dict[str, Any]] = {
            ".png": {"Software": None, "Description": about},
            ".svg": {"Date": None, "Description": about},
            ".pdf": {"CreationDate": None, "Subject": about},
        }
        _lay_out(figure, path.suffix.lower()[1:])
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(
                path, metadata={key: v for key, v in known[path.suffix.lower()].items() if v or key != "Description"}
            )
        except OSError as problem:
            raise RhoTraceError(f"{path}: the figure cannot be written: {problem.strerror or problem}") from None


def _lay_out(figure: Figure, kind: str) -> None:
    """Lays out a figure for its format. Where this is left to ``savefig``, it draws the figure twice, once to no file."""
    from matplotlib import rcParams
    from matplotlib.backend_bases import get_registered_canvas_class

    get_registered_canvas_class(kind)(figure)
    own, wanted = figure.dpi, rcParams["savefig.dpi"]
    figure.dpi = own if wanted == "figure" else wanted
    if engine := figure.get_layout_engine():
        with suppress(ValueError):  # as matplotlib does, of figures too small for a layout
            engine.execute(figure)
        figure.set_layout_engine(None)
    figure.dpi = own


def _texts(artist: Artist) -> Iterator[Text]:
    """The texts of a figure, but not the labels of ticks: an axis writes those when it is drawn."""
    from matplotlib.axis import Axis
    from matplotlib.text import Text

    if isinstance(artist, Text):
        yield artist
    for child in artist.get_children():
        if isinstance(child, Axis):
            yield child.label
        else:
            yield from _texts(child)


def headed(figure: Figure, text: str) -> None:
    """Gives a figure of several panels a title above all of them."""
    figure.suptitle(text, fontsize=9, x=0.01, ha="left")


def _entitle(figure: Figure, title: str) -> None:
    """Gives a figure another title: the one above all of its panels, or else the first panel's."""
    title = title.replace("$", "\\$")
    if figure.get_suptitle():
        headed(figure, title)
    else:
        figure.axes[0].set_title(title)


def _wrap_titles(figure: Figure) -> None:
    """Breaks titles that are wider than their panel, or than the figure."""
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties

    smaller = _STYLE["axes.titlesize"] / FontProperties(size=rcParams["axes.titlesize"]).get_size_in_points()
    if text := figure.get_suptitle():
        headed(figure, _wrapped(text, figure.get_figwidth()))
    for axes in figure.axes:
        spec = axes.get_subplotspec()
        share = 1.0 if spec is None else len(spec.colspan) / spec.get_gridspec().ncols
        if text := axes.get_title(loc="left"):
            axes.set_title(_wrapped(text, (figure.get_figwidth() * share - _BESIDE) * smaller))


def _wrapped(text: str, inches: float) -> str:
    """Text in lines of a width, broken at spaces that are not inside a formula."""
    lines, room = [""], int(inches * _LETTERS_PER_INCH)
    for word in re.findall(r"(?:(?<!\\)\$[^$]*\$|\S)+", text):
        if lines[-1] and len(_plain(f"{lines[-1]} {word}")) > room:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def _plain(text: str) -> str:
    """A text about as long as it will be when its formulas are set."""
    return re.sub(r"\\[a-z]+|[${}_^\\]", lambda found: "x" if len(found[0]) > 1 else "", text)


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


def legend(axes: Axes, *, columns: int = 2) -> None:
    """A legend of at most a dozen entries, the last two always among them: beside the panel, or below a narrow figure."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > _MOST_LABELS:
        first = _MOST_LABELS - 2
        handles, labels = [*handles[:first], *handles[-2:]], [*labels[: first - 1], "…", *labels[-2:]]
    figure = axes.get_figure(root=True)
    if figure is not None and figure.get_figwidth() < _NARROW:
        figure.legend(handles, labels, loc="outside lower center", ncols=columns)
    else:
        axes.legend(handles, labels, loc="center left", bbox_to_anchor=(1, 0.5))


def drawable(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values without those too large for an axis: the last steps of a run that diverges."""
    return np.where(np.abs(values) < _LARGEST, values, np.nan)


def note(axes: Axes, why: str) -> None:
    """Says in a panel, which has the figure's width, why nothing is drawn there."""
    axes.set_yticks([])
    whole = axes.get_figure(root=True)
    lines = _wrapped(why, 0.7 * whole.get_figwidth()) if whole else why
    text = axes.annotate(lines, (0.5, 0.5), xycoords="axes fraction", ha="center", va="center")
    text.set_in_layout(False)  # a long one must not take the panel's room


def empty(axes: Axes, why: str = "nothing to draw") -> None:
    """Says why there is nothing to draw, where logarithmic axes would be empty."""
    axes.plot([], [])
    axes.set(xticks=[], yticks=[])
    axes.annotate(why, (0.5, 0.5), xycoords="axes fraction", ha="center", va="center")


def colour(number: int) -> str:
    """The colour of a curve by its number, from the reader's style if there is one; colours repeat."""
    known: Any = COLOURS
    if _CHOSEN.get().styles:
        from matplotlib import rcParams

        known = rcParams["axes.prop_cycle"].by_key().get("color", COLOURS)
    return str(known[number % len(known)])


def ink() -> str:
    """The colour of lines that belong to no run: black, or what the reader's style writes in."""
    from matplotlib import rcParams

    return str(rcParams["text.color"])


def ramp(share: float) -> tuple[float, float, float]:
    """From light to dark blue, so that the order is visible in grey too."""
    light, dark = np.array([0.62, 0.79, 0.93]), np.array([0.0, 0.18, 0.38])
    red, green, blue = light + share * (dark - light)
    return float(red), float(green), float(blue)


def line(axes: Axes, steps: NDArray[Any], values: NDArray[np.float64], **look: Any) -> None:  # noqa: ANN401
    """A curve, drawn with only the rows that are visible."""
    axes.plot(*visible(steps, values.__getitem__), **look)


def visible(steps: NDArray[Any], values: Callable[[slice], NDArray[np.float64]]) -> extremes.Curve:
    """The visible rows of a curve whose values are computed piece by piece: those of a long run are never all in memory."""
    rows, kept = extremes.thinned_pieces(values, len(steps))
    return steps[rows], kept
