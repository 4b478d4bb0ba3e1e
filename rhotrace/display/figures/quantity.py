"""The figure of any recorded quantity over time: a line for each value along its axis, the members as a band."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rhotrace.analysis.member_bands import WHOLE, Band, Floats, View, bands, groups
from rhotrace.display.figures.style import (
    DASHES,
    colour,
    drawable,
    drawn,
    headed,
    legend,
    mathematical,
    plain_ticks,
    ramp,
    units,
)
from rhotrace.display.numbers import number
from rhotrace.errors import AnalysisError, choice
from rhotrace.recording import shipped
from rhotrace.recording.quantity import CADENCES, QUANTITIES
from rhotrace.theory.norm_dynamics import THETA

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rhotrace.runfile.reader import Trace

_REGISTERS = shipped.REGISTERED  # imported for what they register
PREFIX = "quantity:"
_MOST_PANELS = 6
_MOST_NAMED = 10
_FEW_POINTS = 60  # that are marked, for between them nothing was measured
_WIDE = 100.0  # ratio of the lines' largest value to their smallest from which the axis is logarithmic


def quantity_figure(name: str, traces: Sequence[Trace], path: Path, theta: float = THETA, view: View = WHOLE) -> None:
    """Draws a quantity: a panel for each group of members, or one for all groups where it has only the axis ``member``.

    Raises:
        RhoTraceError: a run did not record it.
    """
    for trace in traces:
        _require(trace, name)
    described, shown = traces[0].quantity(name), groups(traces, theta=theta, view=view)
    several = len(described.axes) > 1
    some = shown[:_MOST_PANELS]
    panels = len(some) if several else 1
    said, found = [], []
    with drawn(path, 6.8, 3.0 if panels == 1 else 0.7 + 1.5 * panels) as figure:
        every = figure.subplots(panels, 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for place, group in enumerate(some):
            axes, labels = every[place if several else 0], _labels(group.trace, name)
            values = [_column(number) for number in range(len(labels))]
            for at, (label, one) in enumerate(zip(labels, bands(group, [name], values), strict=True)):
                look = _look(at / max(1, len(labels) - 1), at) if several else {"color": colour(place)}
                in_legend = label if several and len(labels) <= _MOST_NAMED else "" if several else group.label
                _line(axes, one, mathematical(in_legend) or None, look)
                said.append(f"{', '.join(filter(None, (group.label, label)))} {_ends(one)}".strip())
                found.append(one)
            if several and panels > 1:
                axes.set_title(mathematical(group.label))
        _scale(every[0], found)
        every[-1].set_xlabel("step")
        every[(panels - 1) // 2].set_ylabel(f"{name}{units(described)}")
        more = f" (the first {len(some)} of {len(shown)} groups)" if len(some) < len(shown) else ""
        says = described.says.replace("$", "\\$") + more
        if panels > 1:
            headed(figure, says)
        else:
            every[0].set_title(says)
        legend(every[0], columns=3 if several else 2)
        figure.set_label(f"{described.says}{more}, against the step. {'; '.join(said)}.")


def _require(trace: Trace, name: str) -> None:
    if name in {quantity.name for quantity in trace.quantities}:
        return
    if name in QUANTITIES and CADENCES[QUANTITIES[name].cadence].default is None:
        asks = f"record.every.{QUANTITIES[name].cadence}"
        raise AnalysisError(f"{trace.path}: the run did not record {name}; in a recipe, {asks} asks for it")
    raise choice(f"{trace.path}: --what {PREFIX}NAME", name, [quantity.name for quantity in trace.quantities])


def _labels(trace: Trace, name: str) -> list[str]:
    """The lines of a quantity: one for each coordinate along its axes other than ``member``."""
    labels = [""]
    for axis in trace.quantity(name).axes[1:]:
        at = range(1, trace.depth + 1) if axis == "layer" else trace.layout.axes[axis]
        labels = [f"{before} {axis} {value:g}".strip() for before in labels for value in at]
    return labels


def _column(place: int) -> Any:  # noqa: ANN401 - takes rows (n, members, ...) to (n, members)
    def of(rows: Floats) -> Floats:
        return drawable(rows.reshape(*rows.shape[:2], -1)[:, :, place])

    return of


def _look(share: float, place: int) -> dict[str, Any]:
    return {"color": ramp(share), "linestyle": DASHES[place % len(DASHES)]}


def _line(axes: Axes, found: Band, label: str | None, look: dict[str, Any]) -> None:
    few: Any = {"marker": ".", "markersize": 3} if len(found.middle[0]) <= _FEW_POINTS else {}
    axes.plot(*found.middle, label=label, **few, **look)
    if not np.array_equal(found.low[1], found.high[1], equal_nan=True):
        steps = np.union1d(found.low[0], found.high[0])
        low, high = (np.interp(steps, *curve) for curve in (found.low, found.high))
        axes.fill_between(steps, low, high, color=look["color"], alpha=0.2, linewidth=0)


def _ends(found: Band) -> str:
    return f"goes from {number(found.ends[0])} to {number(found.ends[1])}"


def _scale(axes: Axes, found: Sequence[Band]) -> None:
    """A logarithmic axis for positive values of several orders of magnitude."""
    values, low = (np.concatenate([getattr(one, name)[1] for one in found]) for name in ("middle", "low"))
    values, low = values[np.isfinite(values)], low[np.isfinite(low)]
    if len(values) and low.min() > 0 and values.max() > _WIDE * values.min():
        axes.set_yscale("log")
        plain_ticks(axes.yaxis)
