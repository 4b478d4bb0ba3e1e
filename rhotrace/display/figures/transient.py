"""The figures of ``simulate``, ``analyze`` and ``scaling``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rhotrace.analysis.transient.closed_form_fit import Series
from rhotrace.display.figures.style import (
    COLOURS,
    DASHES,
    MARKERS,
    colour,
    drawn,
    empty,
    headed,
    ink,
    legend,
    mathematical,
    narrow,
    plain_ticks,
    ramp,
    symbol,
    visible,
)
from rhotrace.display.numbers import number, ranged
from rhotrace.statistics.extremes import Curve
from rhotrace.theory import norm_dynamics, paper

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rhotrace.analysis.scaling.with_start import DepthScaling, Point, Scaling
    from rhotrace.analysis.transient.simulation import Simulation
    from rhotrace.analysis.transient.transient_time import TransientFit

_TRANSIENT_WIDTH = 6.6  # inches
_MOST_PANELS, _MANY, _MOST_RUNS = 8, 40, 4
_ONE_START = "one start at each depth has no slope;\ntrain with several values of members.rho_k"

# --- simulate ----------------------------------------------------------------------------------------------


def memo_figure(simulation: Simulation, path: Path) -> None:
    """Figure 1 of the memo: y = sqrt(rho) against time, a row of panels per depth, a curve per start."""
    depths = list(simulation.t)[:_MOST_PANELS]
    more = f" (the first {len(depths)} of {len(simulation.t)} depths)" if len(depths) < len(simulation.t) else ""
    with drawn(path, 6.4, 0.6 + 2.4 * len(depths)) as figure:
        axes = figure.subplots(len(depths), 1, squeeze=False)[:, 0]
        for axis, depth in zip(axes, depths, strict=True):
            starts = [each.start for each in simulation.each if each.depth == depth]
            y = simulation.rho_k[depth] ** (depth / 2)
            for number, (start, curve) in enumerate(zip(starts, y, strict=True)):
                shade = 0.15 + 0.85 * number / max(1, len(starts) - 1)
                label = f"$\\rho_k(0)$ = {start:.3g}" if len(starts) <= 8 else None
                axis.plot(simulation.t[depth], curve, color=ramp(shade), label=label, rasterized=len(starts) > _MANY)
            if simulation.constants.A > 0:
                axis.set_xlim(-0.02 * (end := _settled(simulation.t[depth], y)), end)
            axis.set(
                ylabel="$y = \\sqrt{\\rho}$",
                title=f"L = {depth}, A = {simulation.constants.A:.3g}, B = {simulation.constants.B:.3g}",
            )
            if len(starts) <= 8:
                axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
            else:
                axis.annotate(
                    f"{len(starts)} starts, $\\rho_k(0)$ = {starts[0]:.3g} … {starts[-1]:.3g}",
                    (0.98, 0.88),
                    xycoords="axes fraction",
                    ha="right",
                )
        axes[-1].set_xlabel("t = η · step")
        headed(figure, f"{paper.cite('fig1')}: ρ of a network with constant A and B{more}")
        figure.set_label(f"Square root of rho against time for constant A and B. {_T_of(simulation)}")


def _settled(t: NDArray[np.float64], curves: NDArray[np.float64]) -> float:
    """A time by which every curve has come within 1 % of its end, with some room."""
    moving = np.abs(curves - curves[:, -1:]) > 0.01 * np.abs(curves[:, -1:])
    last = np.flatnonzero(moving.any(axis=0))
    return float(min(t[-1], 1.2 * t[last[-1]])) if len(last) else float(t[-1])


def tikhonov_figure(simulation: Simulation, path: Path) -> None:
    """Figure 2 of the memo: lambda of the equivalent Tikhonov problem, and rho, against time."""
    each_apart = len(simulation.each) <= len(COLOURS)  # a look for each curve, or else for each depth
    with drawn(path, 8.2, 3.2) as figure:
        left, right = figure.subplots(1, 2)
        A, B = simulation.constants.A, simulation.constants.B
        highest, lowest, number = 0.0, np.inf, 0
        for place, (depth, t) in enumerate(simulation.t.items()):
            starts = [each.start for each in simulation.each if each.depth == depth]
            for start, norms in zip(starts, simulation.rho_k[depth], strict=True):
                one = number if each_apart else place
                look = {
                    "color": colour(one),
                    "linestyle": DASHES[one % len(DASHES)],
                    "rasterized": len(starts) > _MANY,
                }
                label = f"L = {depth}, $\\rho_k(0)$ = {start:.3g}"
                if not each_apart:
                    label = f"L = {depth}, {len(starts)} starts" if start == starts[0] else ""
                rho = norms**depth
                with np.errstate(all="ignore"):
                    strength = norm_dynamics.tikhonov_lambda(rho, A=A, B=B)
                if 0 < strength[0] < np.inf:
                    highest, lowest = max(highest, float(strength[0])), min(lowest, float(strength[0]))
                left.plot(t, strength, **look)
                right.plot(t, rho, label=label or None, **look)
                number += 1
        left.set(
            xlabel="t = η · step",
            ylabel="$\\lambda = (A - \\rho B)/\\rho$",
            title="λ of the equivalent Tikhonov problem",
        )
        if highest > 0:  # above rho_eq lambda is negative: not on a logarithmic axis
            left.set(yscale="log", ylim=(max(lowest * 1e-3, highest * 1e-12), highest * 1.5))
        right.set(xlabel="t = η · step", ylabel="$\\rho$", title="norm of the network")
        if A > 0:
            right.axhline(A / B, color="0.4", linestyle=":", label="$\\rho_\\mathrm{eq} = A/B$")
        if len(simulation.t) > 1:  # T of different depths differs by orders of magnitude
            first = min(float(t[1]) for t in simulation.t.values())
            for axis in (left, right):
                axis.set(xscale="log", xlim=(first, None))
        legend(right, columns=1)
        headed(figure, paper.cite("fig2"))
        figure.set_label(f"Lambda of the equivalent Tikhonov problem, and rho, against time. {_T_of(simulation)}")


def times_figure(simulation: Simulation, path: Path) -> None:
    """T against the start, a line per depth, with the leading law beside it."""
    with drawn(path, 6.6, 3.6) as figure:
        axis = figure.subplots()
        A = simulation.constants.A
        for number, depth in enumerate(simulation.t):
            mine = [e for e in simulation.each if e.depth == depth and e.T > 0]
            starts, T = np.array([e.start for e in mine]), np.array([e.T for e in mine])
            marker = MARKERS[number % len(MARKERS)]
            marker = marker if len(starts) <= _MANY else ""
            axis.plot(starts, T, marker=marker, markersize=3.5, color=colour(number), label=f"L = {depth}")
            if depth > 2:
                law = starts ** (2.0 - depth) / (2 * A * (depth - 2))
                axis.plot(starts, law, color=colour(number), linestyle=":", linewidth=1)
        if any(each.T > 0 for each in simulation.each):
            axis.set(xscale="log", yscale="log")
            plain_ticks(axis.xaxis)
        else:
            empty(axis)
        axis.set(
            xlabel="$\\rho_k(0)$",
            ylabel="T, in η · steps",
            title=f"{paper.cite('longer')}: T for A = {A:.3g}, B = {simulation.constants.B:.3g}",
        )
        axis.plot([], [], color="0.3", linestyle=":", linewidth=1, label="$\\rho_k(0)^{-(L-2)}/(2A(L-2))$")
        legend(axis)
        figure.set_label(f"Transient time T against the start rho_k(0), a line for each depth. {_T_of(simulation)}")


def _T_of(simulation: Simulation) -> str:
    """The range of T at each depth, in words."""
    words = []
    for depth in list(simulation.t)[:_MOST_PANELS]:
        T = [each.T for each in simulation.each if each.depth == depth and each.T > 0]
        words.append(f"L = {depth}: " + (f"T from {number(min(T))} to {number(max(T))}" if T else "no T"))
    return "; ".join(words) + "."


FIGURES: dict[str, Callable[[Simulation, Path], None]] = {"1": memo_figure, "2": tikhonov_figure, "T": times_figure}


# --- analyze -----------------------------------------------------------------------------------------------


def transient_figure(
    runs: Mapping[str, tuple[Sequence[Series], TransientFit]], path: Path, kept: dict[Any, Any] | None = None
) -> None:
    """log10 of rho and rho_eq with T and the driven solution, and below it the error of the driven solution.

    Args:
        runs: by name, the members' series and their transients; at most four are drawn.
        path: of the figure.
        kept: where the members' curves are kept, to draw them again; see ``RunSeries.kept``.
    """
    kept = {} if kept is None else kept
    shown = list(runs.items())[:_MOST_RUNS]
    more = f"; the first {len(shown)} of {len(runs)} runs" if len(shown) < len(runs) else ""
    with drawn(path, _TRANSIENT_WIDTH, 5.0 * len(shown)) as figure:
        pairs = figure.subplots(2 * len(shown), 1, squeeze=False, height_ratios=(3, 1) * len(shown))[:, 0]
        words = []
        for row, (name, (series, transient)) in enumerate(shown):
            above, below = pairs[2 * row : 2 * row + 2]
            below.sharex(above)
            above.tick_params(labelbottom=False)
            title = mathematical(f"{name}: norm" if len(runs) > 1 else "Norm") + " and equilibrium norm" + more
            curves = [_known(kept, (name, m), one) for m, one in enumerate(series[: len(COLOURS)])]
            _members_driven(above, below, series, transient, title, curves)
            if row == len(shown) - 1 or not narrow(_TRANSIENT_WIDTH):  # below a narrow figure there is one legend
                legend(above)
            T = ", ".join(number(each.T, 4) for each in transient.each)
            missed = [each.driven.largest for each in transient.each if each.driven]
            driven = f"; equation (5), driven, misses log rho by at most {max(missed):.2g}" if missed else ""
            words.append(f"{name + ': ' if name else ''}T of each member: {T} steps{driven}")
        figure.set_label(f"Norm, equilibrium norm and the driven solution against the step. {'. '.join(words)}.")


@dataclass(frozen=True)
class _Driven:
    """Curves of one member: log10 of rho, of rho_eq and of the driven rho, and by how much the last is off the first."""

    log_rho: Curve
    log_rho_eq: Curve
    solved: Curve
    apart: Curve


def _known(kept: dict[Any, Any], name: tuple[str, int], one: Series) -> _Driven:
    """The curves of one member, computed where they are not kept yet."""
    key = "driven", *name
    found: _Driven | None = kept.get(key)
    if found is None:
        log_rho, solved = partial(_log10_rho, one), one.driven()
        solved /= np.log(10)
        with np.errstate(invalid="ignore"):  # both are infinite where a layer is zero
            values = log_rho, partial(_log10_rho_eq, one), solved.__getitem__, partial(_apart, solved, log_rho)
            found = kept[key] = _Driven(*(visible(one.steps, each) for each in values))
    return found


def _members_driven(
    above: Axes,
    below: Axes,
    series: Sequence[Series],
    transient: TransientFit,
    title: str,
    curves: Sequence[_Driven],
) -> None:
    shown = list(zip(series, transient.each, strict=True))[: len(COLOURS)]
    for place, ((one, each), curve) in enumerate(zip(shown, curves, strict=True)):
        own, marker, log_rho = colour(place), MARKERS[place], partial(_log10_rho, one)
        above.plot(*curve.log_rho, color=own)
        above.plot(*curve.log_rho_eq, color=own, linewidth=0.8, alpha=0.7)
        above.plot(*curve.solved, color=ink(), linestyle=(0, (1, 2)), linewidth=1)
        below.plot(*curve.apart, color=own)
        dot: Any = {"color": own, "marker": marker, "markersize": 5, "markeredgecolor": "white"}
        above.plot([], [], label=f"member {each.member}", **dot)
        if each.T > 0:
            after = int(np.searchsorted(one.steps, each.T))
            around = slice(max(after - 1, 0), after + 1)
            above.plot(each.T, np.interp(each.T, one.steps[around], log_rho(around)), **dot)
    above.plot([], [], color="0.4", linewidth=0.8, label="$\\rho_\\mathrm{eq}$ (thin)")
    above.plot([], [], color=ink(), linestyle=(0, (1, 2)), linewidth=1, label="equation (5), driven")
    above.plot([], [], " ", label=f"marker: T ($\\rho$ = {transient.theta:g} $\\rho_\\mathrm{{eq}}$)")
    if len(transient.pools) == 1 and np.isfinite(transient.pools[0].T.low):
        pool = transient.pools[0].T
        above.axvspan(pool.low, pool.high, color="0.5", alpha=0.15, linewidth=0, label="T over members, 95 %")
    more = f"; the first {len(shown)} of {len(series)} members" if len(shown) < len(series) else ""
    above.set(ylabel=f"{symbol('log_rho', decimal=True)}, {symbol('log_rho_eq', decimal=True)}", title=f"{title}{more}")
    below.set(xlabel="step", ylabel=f"driven $-$ measured\n{symbol('log_rho', decimal=True)}")
    below.axhline(0, color="0.6", linewidth=0.6)


def _log10_rho(one: Series, rows: slice) -> NDArray[np.float64]:
    return np.asarray(one.log_rho[rows] / np.log(10))


def _log10_rho_eq(one: Series, rows: slice) -> NDArray[np.float64]:
    ratio = one.rho_eq_over_rho[rows]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(_log10_rho(one, rows) + np.log10(np.where(ratio > 0, ratio, np.nan)))


def _apart(
    solved: NDArray[np.float64], measured: Callable[[slice], NDArray[np.float64]], rows: slice
) -> NDArray[np.float64]:
    return np.asarray(solved[rows] - measured(rows))


# --- scaling -----------------------------------------------------------------------------------------------


def scaling_figure(result: Scaling, path: Path) -> None:
    """T against rho_k(0), log-log, with the law's slope through each depth's smallest start; beside it the collapse."""
    several = any(len(_left(each)) > 1 for each in result.each)
    width, shape = 8.6, (1, 2)
    slim = narrow(width)
    apart = " " if slim else "\n"
    with drawn(path, width, 5.6 if slim else 3.6) as figure:
        left, right = figure.subplots(*(shape[::-1] if slim else shape))
        for number, each in enumerate(result.each):
            points = _left(each)
            if not points:
                continue
            start, T = np.array([p.start for p in points]), np.array([p.T.value for p in points])
            ends = np.array([[p.T.value - p.T.low, p.T.high - p.T.value] for p in points]).T
            look = {"color": colour(number), "marker": MARKERS[number % len(MARKERS)], "markersize": 4}
            measured = f",{apart}exponent {ranged(each.exponent)}".replace("-", "\N{MINUS SIGN}")
            label = f"L = {each.depth}" + (measured if each.depth > 2 and np.isfinite(each.exponent.value) else "")
            left.errorbar(start, T, yerr=np.nan_to_num(ends), capsize=2, label=label, **look)
            if each.depth > 2 and len(points) > 1:
                left.plot(start, T[-1] * (start / start[-1]) ** each.law, ":", color=colour(number), linewidth=1)
                collapsed = T * start ** (each.depth - 2)
                right.plot(start / start[-1], collapsed / collapsed[-1], **look)
        if several:
            left.plot([], [], ":", color="0.4", linewidth=1, label="slope $-(L-2)$")
        for axes, scales in ((left, {"xscale": "log", "yscale": "log"}), (right, {"xscale": "log"})):
            if any(len(line.get_xdata()) for line in axes.lines):
                axes.set(**scales)
                for axis in (axes.xaxis, axes.yaxis)[: len(scales)]:
                    plain_ticks(axis)
            elif any(_left(each) for each in result.each):
                empty(axes, "needs several starts at L > 2" if several else _ONE_START)
            else:
                empty(axes)
        if right.get_xscale() == "log":
            right.axhline(1, color="0.4", linestyle=":", linewidth=1)
        left.set(xlabel="$\\rho_k(0)$", ylabel="T, in η · steps", title="Transient time, 95 % over seeds")
        right.set(
            xlabel="$\\rho_k(0)$ / smallest",
            ylabel="$T \\rho_k(0)^{L-2}$ / smallest start's",
            title="Collapsed by the law (1 where it holds)",
        )
        where: Any = {"loc": "outside lower center"} if slim else {"loc": "outside right center"}
        figure.legend(*left.get_legend_handles_labels(), **where)
        laws = [f"L = {e.depth}: exponent {ranged(e.exponent)}, law {e.law:g}" for e in result.each if e.depth > 2]
        said = "; ".join(laws) if several else _ONE_START.replace("\n", " ")
        figure.set_label(f"Transient time T against rho_k(0), and collapsed by the law. {said}.")


def _left(each: DepthScaling) -> list[Point]:
    """The starts from which a network left its transient."""
    return [point for point in each.points if point.left]
