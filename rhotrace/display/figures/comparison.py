"""The figure of ``compare``: delta of each run, spectra, and the fluctuation with its predictions and against eta/b."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rhotrace.analysis.fluctuation.one_run import STILL
from rhotrace.analysis.fluctuation.verdict import called
from rhotrace.analysis.run_series import RunSeries
from rhotrace.display.figures.style import (
    DASHES,
    MARKERS,
    colour,
    drawn,
    empty,
    ink,
    line,
    mathematical,
    narrow,
    plain_ticks,
)
from rhotrace.display.numbers import ranged

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rhotrace.analysis.fluctuation.comparison import Comparison
    from rhotrace.analysis.fluctuation.one_run import Side
    from rhotrace.runfile.reader import Trace

_MOST_STRIPS = 8
_NAMES_FIT = 3  # below the points, side by side
_WIDTH, _STRIP, _BELOW = 9.0, 0.75, 3.0  # inches
_REACH = 6.0  # standard deviations beyond the offset that a strip shows, of the run that needs most


def comparison_figure(result: Comparison, runs: Sequence[Trace | RunSeries], path: Path) -> None:
    """Above, delta of one member of each run on one scale; below, spectra, fluctuations, and their law or their course."""
    of = {str(run.trace.path): run for run in map(RunSeries.of, runs)}
    shown = result.sides[:_MOST_STRIPS]
    names, slim = called(result.sides), narrow(_WIDTH)
    heights = _STRIP * len(shown) + 0.4, _BELOW * (2.4 if slim else 1)
    with drawn(path, _WIDTH, sum(heights) + 0.2) as figure:
        above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
        strips = above.subplots(len(shown), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for number, (axes, side) in enumerate(zip(strips, shown, strict=True)):
            _strip(axes, number, side, of, mathematical(names[side.letter]))
        first = [side.each[0].fluctuation for side in shown if side.each]
        largest = max((abs(f.offset.value) + _REACH * f.std.value for f in first), default=0.0)
        if largest > STILL:
            strips[0].set_ylim(-largest, largest)
        more = f" (the first {len(shown)} of {len(result.sides)} runs)" if len(shown) < len(result.sides) else ""
        strips[0].set_title(
            f"$\\delta = \\log(\\rho/\\rho_\\mathrm{{eq}})$ of one member{more}; shaded: outside its window"
        )
        strips[-1].set_xlabel("step" if result.align == "step" else "t = η · step")
        left, middle, right = below.subplots(*((3, 1) if slim else (1, 3)))
        _spectra(left, result, names)
        _fluctuations(middle, result, names)
        if result.exponents:
            _against_noise(right, result)
        else:
            _over_time(right, result, names)
        sizes = [f"{names[side.letter]}: {ranged(side.std)}" for side in result.sides]
        figure.set_label(
            "log(rho/rho_eq) of each run after its transient, spectra and sizes. Fluctuation, " + "; ".join(sizes) + "."
        )


def _strip(axes: Axes, number: int, side: Side, runs: Mapping[str, RunSeries], label: str) -> None:
    axes.annotate(label, (0.995, 0.97), xycoords="axes fraction", ha="right", va="top", fontsize=8)
    axes.axhline(0, color="0.6", linewidth=0.6)
    axes.set_ylabel("δ", rotation=0)
    if not side.each:
        axes.annotate("no member left its transient", (0.5, 0.2), xycoords="axes fraction", ha="center")
        return
    member = side.each[0]
    path, column = side.place(member.fluctuation.member)
    times = runs[path].steps * member.unit
    line(axes, times, runs[path].delta[:, column], color=colour(number), linewidth=0.7)
    first, last = (edge * member.unit for edge in member.fluctuation.window)
    for edge in ((0.0, first), (last, float(times[-1]))):
        axes.axvspan(*edge, color="0.5", alpha=0.12, linewidth=0)


def _spectra(axes: Axes, result: Comparison, names: dict[str, str]) -> None:
    axes.set(
        xlabel="frequency, cycles per step" if result.align == "step" else "frequency, cycles per unit of time",
        ylabel="power density of δ",
        title="Spectrum, mean over members",
    )
    some = [(n, side.spectrum) for n, side in enumerate(result.sides) if side.spectrum]
    for number, found in some:
        look: Any = {"color": colour(number), "linestyle": DASHES[number % len(DASHES)], "linewidth": 1}
        axes.plot(
            found.frequency,
            np.maximum(found.density, STILL**2),
            label=mathematical(names[result.sides[number].letter]),
            **look,
        )
    if not some:
        empty(axes)
        return
    axes.set(xscale="log", yscale="log")
    axes.legend(ncols=2 if len(some) > 4 else 1, loc="best", fontsize=7)


def _fluctuations(axes: Axes, result: Comparison, names: dict[str, str]) -> None:
    """Each run's fluctuation with its interval; hollow, what theory gives for it."""
    drawn_any = False
    for number, side in enumerate(result.sides):
        std = side.std.value
        if not std > STILL:
            continue
        drawn_any = True
        ends = np.nan_to_num([[std - side.std.low], [side.std.high - std]])
        axes.errorbar(number, std, yerr=ends, fmt=MARKERS[number % len(MARKERS)], color=colour(number), capsize=2)
        hollow: Any = {"markerfacecolor": "none", "markeredgecolor": ink(), "markersize": 6}
        if np.isfinite(side.predicted_over.value):
            axes.plot(number, std * side.predicted_over.value, "D", **hollow)
        if np.isfinite(side.over_frozen.value):
            axes.plot(number, std / side.over_frozen.value, "v", **hollow)
    predicted = any(
        np.isfinite(value.value) for side in result.sides for value in (side.predicted_over, side.over_frozen)
    )
    axes.set(ylabel="fluctuation of δ", title="Size, and as predicted (hollow)" if predicted else "Size")
    if not drawn_any:
        empty(axes)
        return
    axes.set(yscale="log", xlim=(-0.6, len(result.sides) - 0.4))
    few = len(result.sides) <= _NAMES_FIT
    ticks = [_broken(names[side.letter]) for side in result.sides]
    axes.set_xticks(range(len(ticks)), ticks)
    if not few:
        axes.tick_params(axis="x", labelrotation=90, labelsize=7)
    if any(np.isfinite(side.predicted_over.value) for side in result.sides):
        axes.plot([], [], "D", color=ink(), markerfacecolor="none", label="network linearised")
    if any(np.isfinite(side.over_frozen.value) for side in result.sides):
        axes.plot([], [], "v", color=ink(), markerfacecolor="none", label="V at rest")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, loc="best")


def _broken(name: str) -> str:
    """A name in lines, for the narrow place below a point."""
    return mathematical(name.replace("-", "-\n").replace(", ", ",\n"))


def _against_noise(axes: Axes, result: Comparison) -> None:
    axes.set(xlabel="η/b", ylabel="fluctuation of δ", title="Against the noise scale")
    for number, side in enumerate(result.sides):
        points = [(m.lr / side.batch, m.fluctuation.std.value) for m in side.each if side.batch]
        points = [(scale, std) for scale, std in points if std > STILL]
        if points:
            axes.plot(*zip(*points, strict=True), MARKERS[number % len(MARKERS)], color=colour(number), markersize=4)
    axes.set(xscale="log", yscale="log")
    for number, fit in enumerate(result.exponents):
        scales = np.array([fit.scales[0], fit.scales[-1]])
        look: Any = {"color": "0.3", "linestyle": DASHES[number % len(DASHES)], "linewidth": 1}
        value = f"{fit.joint.value:.2f}".replace("-", "\N{MINUS SIGN}")
        axes.plot(scales, fit.level * scales**fit.joint.value, label=f"(η/b)$^{{{value}}}$, {fit.sampling}", **look)
    axes.legend(fontsize=7)
    plain_ticks(axes.yaxis)


def _over_time(axes: Axes, result: Comparison, names: dict[str, str]) -> None:
    """The size of the steps of delta in twelve pieces of the time after T, of the member that the strips show."""
    axes.set(xlabel="step" if result.align == "step" else "t = η · step", ylabel="size of the jumps of δ (std)")
    axes.set_title("Size of the jumps after T")
    some = False
    for number, side in enumerate(result.sides):
        decay = side.each[0].fluctuation.decay if side.each else None
        if decay is None:
            continue
        some = True
        look: Any = {"color": colour(number), "marker": MARKERS[number % len(MARKERS)], "markersize": 3, "linewidth": 1}
        axes.plot(
            np.array(decay.steps) * side.each[0].unit, decay.sizes, label=mathematical(names[side.letter]), **look
        )
    if not some:
        empty(axes)
        return
    axes.set(xscale="log", yscale="log")
    plain_ticks(axes.xaxis)
    axes.legend(fontsize=7)
