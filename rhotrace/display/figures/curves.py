"""The figure of a study: a few quantities over time or over a setting, with their spread over networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rhotrace.display.figures.style import DASHES, MARKERS, colour, drawn, legend, plain_ticks

_FEW = 30  # points that are marked


@dataclass(frozen=True)
class Curve:
    """One quantity of several networks.

    Attributes:
        label: in the legend.
        x: (n,), shared by the networks, or (n, M).
        y: (n, M); the line is the median over the networks, the band all of them.
    """

    label: str
    x: NDArray[np.float64] | NDArray[np.int64]
    y: NDArray[np.float64]


def curves_figure(
    curves: Sequence[Curve], path: Path, *, x: str, y: str, title: str, log: str = "", width: float = 6.8
) -> None:
    """Draws curves in one panel.

    Args:
        curves: to draw; where ``x`` differs between networks, each network is a thin line of its own.
        path: of the picture.
        x: name of the horizontal axis.
        y: name of the vertical axis.
        title: of the figure.
        log: the axes that are logarithmic: ``x``, ``y`` or ``xy``.
        width: inches.
    """
    with drawn(path, width, 3.0) as figure:
        axes = figure.subplots()
        for place, curve in enumerate(curves):
            look = {"color": colour(place), "linestyle": DASHES[place % len(DASHES)]}
            if len(curve.x) <= _FEW:
                look |= {"marker": MARKERS[place % len(MARKERS)], "markersize": 3}
            if curve.x.ndim == 2:
                for m in range(curve.y.shape[1]):
                    axes.plot(
                        curve.x[:, m], curve.y[:, m], linewidth=0.8, label=curve.label if m == 0 else None, **look
                    )
            else:
                axes.plot(curve.x, np.median(curve.y, axis=1), label=curve.label, **look)
                if curve.y.shape[1] > 1:
                    low, high = curve.y.min(axis=1), curve.y.max(axis=1)
                    axes.fill_between(curve.x, low, high, color=colour(place), alpha=0.2, linewidth=0)
        axes.set(xlabel=x, ylabel=y, title=title)
        for name in log:
            getattr(axes, f"set_{name}scale")("log")
            plain_ticks(getattr(axes, f"{name}axis"))
        legend(axes)
        figure.set_label(f"{y} against {x}: {', '.join(curve.label for curve in curves)}.")
