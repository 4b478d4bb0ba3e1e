"""The figure of ``sweep``: T against one axis, or the phase diagram of T over two."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rhotrace.display.figures.style import DASHES, MARKERS, colour, drawn, empty, legend, plain_ticks
from rhotrace.display.numbers import number
from rhotrace.display.pages.sweep import commonest, key, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from rhotrace.sweeps.results import PointResult, SweepResult

_SYMBOLS = {
    "network.depth": "L",
    "init.rho_k": "$\\rho_k(0)$",
    "init.scale": "He scale",
    "optimizer.lr": "η",
    "optimizer.batch_size": "b",
}
_LETTERS_FIT = 120  # cells with their number in them


def sweep_figure(result: SweepResult, path: Path) -> None:
    """T over two axes as a phase diagram; else T against the first axis, a line for each value of the others."""
    if len(result.axes) == 2:
        _phase_diagram(result, path)
    else:
        _lines(result, path)


def _phase_diagram(result: SweepResult, path: Path) -> None:
    from matplotlib.colors import LogNorm

    down, across = result.axes
    rows = {key(p.values[down]): shown(p.values[down]) for p in result.points}
    columns = {key(p.values[across]): shown(p.values[across]) for p in result.points}
    at_row, at_column = ({name: n for n, name in enumerate(names)} for names in (rows, columns))
    cells: dict[tuple[int, int], PointResult] = {
        (at_row[key(p.values[down])], at_column[key(p.values[across])]): p for p in result.points
    }
    T: NDArray[np.float64] = np.full((len(rows), len(columns)), np.nan)
    for at, point in cells.items():
        T[at] = point.T.value
    with drawn(path, max(4.4, 1.8 + 0.75 * len(columns)), max(2.6, 1.4 + 0.42 * len(rows))) as figure:
        axes = figure.subplots()
        axes.grid(visible=False)
        axes.set_facecolor("0.92")
        if np.isfinite(T).any():
            norm = LogNorm(np.nanmin(T), max(np.nanmax(T), 1.01 * np.nanmin(T)))
            image = axes.imshow(T, norm=norm, cmap="cividis", aspect="auto", origin="lower")
            figure.colorbar(image, label="T, in η · steps")
        else:
            axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(-0.5, len(rows) - 0.5))
        if len(cells) <= _LETTERS_FIT:
            _write_in(axes, cells, T)
        axes.set_xticks(range(len(columns)), list(columns.values()))
        axes.set_yticks(range(len(rows)), list(rows.values()))
        axes.set(xlabel=_SYMBOLS.get(across, across), ylabel=_SYMBOLS.get(down, down))
        axes.set_title("T, geometric mean over seeds")
        figure.set_label(_described(result))


def _write_in(axes: Axes, cells: dict[tuple[int, int], PointResult], T: NDArray[np.float64]) -> None:
    finite = np.log(T[np.isfinite(T)])
    middle = (finite.min() + finite.max()) / 2 if len(finite) else 0.0
    for (row, column), point in cells.items():
        text = f"{point.T.value:.3g}" if point.left else commonest(point)
        if 0 < point.left < point.members:
            text += f"\n{point.left}/{point.members}"
        dark = point.left > 0 and np.log(point.T.value) < middle
        axes.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if dark else "black")


def _lines(result: SweepResult, path: Path) -> None:
    first, *others = result.axes
    curves: dict[str, list[PointResult]] = {}
    for point in result.points:
        label = ", ".join(f"{_SYMBOLS.get(key, key)} = {shown(point.values[key])}" for key in others)
        curves.setdefault(label, []).append(point)
    numeric = all(isinstance(p.values[first], int | float) for p in result.points)
    with drawn(path, 6.6, 3.6) as figure:
        axes = figure.subplots()
        for number, (label, points) in enumerate(curves.items()):
            left = [p for p in points if p.left]
            x = [p.values[first] if numeric else shown(p.values[first]) for p in left]
            T = np.array([p.T.value for p in left])
            ends = np.nan_to_num([[p.T.value - p.T.low for p in left], [p.T.high - p.T.value for p in left]])
            look: Any = {"color": colour(number), "linestyle": DASHES[number % len(DASHES)], "capsize": 2}
            if left:
                axes.errorbar(x, T, yerr=ends, marker=MARKERS[number % len(MARKERS)], markersize=4, label=label, **look)
        axes.set(xlabel=_SYMBOLS.get(first, first), ylabel="T, in η · steps", title="Transient time, 95 % over seeds")
        if not axes.containers:
            empty(axes)
            return
        axes.set_yscale("log")
        plain_ticks(axes.yaxis)
        if numeric and min(p.values[first] for p in result.points) > 0:
            axes.set_xscale("log")
            plain_ticks(axes.xaxis)
        if others:
            legend(axes)
        figure.set_label(_described(result))


def _described(result: SweepResult) -> str:
    T = [point.T.value for point in result.points if point.left]
    found = f"T from {number(min(T))} to {number(max(T))}, learning rate x steps, at {len(T)}" if T else "a T at none"
    return f"Transient time over {' and '.join(result.axes)}: {found} of {len(result.points)} points."
