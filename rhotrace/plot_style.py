"""One style for every picture: readable in print and without colour vision, symbols as in the memo."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rhotrace.errors import RhoTraceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")
# Okabe and Ito's colours, told apart by all kinds of colour vision; for grey, lines differ in dash or marker too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
DASHES: Any = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (3, 2)), (0, (8, 2)), (0, (1, 3)))
_MOST_LABELS = 12
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


def check_format(path: Path | None) -> None:
    """Raises RhoTraceError for a picture's name with an ending that is not one of ``FORMATS``."""
    if path is not None and path.suffix.lower() not in FORMATS:
        raise RhoTraceError(f"--plot: got {path}, expected a name that ends in {', '.join(FORMATS)}")


@contextmanager
def drawn(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure in the house style, saved at the end."""
    check_format(path)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        undated = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, metadata=undated[path.suffix.lower()])
        except OSError as problem:
            raise RhoTraceError(f"--plot: {path} cannot be written: {problem.strerror or problem}") from None


def plain_ticks(axis: Axis) -> None:
    """Ticks of a logarithmic axis of few decades at 1, 2, 5 of each, as plain numbers."""
    low, high = axis.get_view_interval()
    if high > 1e4 * low:
        return
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def legend(axes: Axes, **where: Any) -> None:  # noqa: ANN401
    """A legend of at most a dozen entries; the last two are always there."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > _MOST_LABELS:
        first = _MOST_LABELS - 2
        handles, labels = [*handles[:first], *handles[-2:]], [*labels[: first - 1], "…", *labels[-2:]]
    axes.legend(handles, labels, **where)


def empty(axes: Axes) -> None:
    """What stands where there is nothing to draw on logarithmic axes."""
    axes.plot([], [])
    axes.set(xticks=[], yticks=[])
    axes.annotate("nothing to draw", (0.5, 0.5), xycoords="axes fraction", ha="center")


def colour(number: int) -> str:
    """Of a curve by its number; they come round again."""
    return COLOURS[number % len(COLOURS)]


def ramp(share: float) -> tuple[float, float, float]:
    """From light to dark blue, so that an order reads in grey too."""
    light, dark = np.array([0.62, 0.79, 0.93]), np.array([0.0, 0.18, 0.38])
    red, green, blue = light + share * (dark - light)
    return float(red), float(green), float(blue)


def line(axes: Axes, steps: NDArray[Any], values: NDArray[np.float64], **look: Any) -> None:  # noqa: ANN401
    """A curve of which only the rows that can be seen are drawn."""
    rows = thinned(values)
    axes.plot(steps[rows], values[rows], **look)


def thinned(values: NDArray[np.float64], most: int = 4000) -> NDArray[np.int64]:
    """Rows to draw: the ends, and of each stretch of many rows its smallest and its largest number, if it has any."""
    if len(values) <= most:
        return np.arange(len(values))
    stretches = np.array_split(np.arange(len(values)), most // 2)
    finite = np.isfinite(values)
    low, high = np.where(finite, values, np.inf), np.where(finite, values, -np.inf)
    kept = {0, len(values) - 1}
    for rows in stretches:
        kept |= {int(rows[np.argmin(low[rows])]), int(rows[np.argmax(high[rows])])}
    return np.array(sorted(kept))
