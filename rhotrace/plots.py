"""Every picture that RhoTrace draws, in one style: readable in print and without colour vision, symbols as in the memo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rhotrace import memo, theory
from rhotrace.closed_form import Series, driven_log_rho
from rhotrace.errors import RhoTraceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from rhotrace.scaling import Scaling
    from rhotrace.simulate import Simulation
    from rhotrace.transient import TransientFit

FORMATS = (".png", ".svg", ".pdf")
# Okabe and Ito's colours, told apart by all kinds of colour vision; lines differ in dash and weight too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
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
def _drawn(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure in the house style, saved at the end."""
    check_format(path)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        path.parent.mkdir(parents=True, exist_ok=True)
        undated = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
        figure.savefig(path, metadata=undated[path.suffix.lower()])


def _plain_ticks(axis: Axis) -> None:
    """Ticks of a logarithmic axis at 1, 2, 5 of each decade, as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


# --- simulate ----------------------------------------------------------------------------------------------


def memo_figure(simulation: Simulation, path: Path) -> None:
    """Figure 1 of the memo: y = sqrt(rho) against time, a row of panels per depth, a curve per start."""
    depths = list(simulation.t)
    with _drawn(path, 6.4, 0.6 + 2.4 * len(depths)) as figure:
        axes = figure.subplots(len(depths), 1, squeeze=False)[:, 0]
        for axis, depth in zip(axes, depths, strict=True):
            starts = [each.start for each in simulation.each if each.depth == depth]
            y = simulation.rho_k[depth] ** (depth / 2)
            for number, (start, curve) in enumerate(zip(starts, y, strict=True)):
                shade = 0.15 + 0.85 * number / max(1, len(starts) - 1)
                label = f"$\\rho_k(0)$ = {start:.3g}" if len(starts) <= 8 else None
                axis.plot(simulation.t[depth], curve, color=_ramp(shade), label=label)
            axis.set(
                ylabel="$y = \\sqrt{\\rho}$",
                title=f"L = {depth}, A = {simulation.constants.A:.3g}, B = {simulation.constants.B:.3g}",
            )
            if len(starts) <= 8:
                axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
            else:
                axis.annotate(
                    f"{len(starts)} starts, $\\rho_k(0)$ = {starts[0]:.3g} … {starts[-1]:.3g}",
                    (0.02, 0.9),
                    xycoords="axes fraction",
                )
        axes[-1].set_xlabel("t = η · step")
        figure.suptitle(f"{memo.cite('fig1')}: ρ in a net with constant A and B", fontsize=10)


def _ramp(share: float) -> tuple[float, float, float]:
    """From light to dark blue, so that an order reads in grey too."""
    light, dark = np.array([0.62, 0.79, 0.93]), np.array([0.0, 0.18, 0.38])
    red, green, blue = light + share * (dark - light)
    return float(red), float(green), float(blue)


def tikhonov_figure(simulation: Simulation, path: Path) -> None:
    """Figure 2 of the memo: lambda of the equivalent Tikhonov problem, and rho, against time."""
    with _drawn(path, 7.0, 3.0) as figure:
        left, right = figure.subplots(1, 2)
        A, B = simulation.constants.A, simulation.constants.B
        number = 0
        for depth, t in simulation.t.items():
            starts = [each.start for each in simulation.each if each.depth == depth]
            for start, norms in zip(starts, simulation.rho_k[depth], strict=True):
                rho = norms**depth
                label = f"L = {depth}, $\\rho_k(0)$ = {start:.3g}"
                left.plot(t, theory.tikhonov_lambda(rho, A=A, B=B), color=_colour(number), label=label)
                right.plot(t, rho, color=_colour(number))
                number += 1
        left.set(
            xlabel="t = η · step",
            ylabel="$\\lambda = (A - \\rho B)/\\rho$",
            title="λ of the equivalent Tikhonov problem",
        )
        highest = left.get_ylim()[1]
        left.set(yscale="log", ylim=(highest * 1e-4, highest))
        right.set(xlabel="t = η · step", ylabel="$\\rho$", title="norm of the net")
        right.axhline(A / B, color="0.4", linestyle=":", label="$\\rho_\\mathrm{eq} = A/B$")
        right.legend()
        if number <= 7:
            left.legend()
        figure.suptitle(memo.cite("fig2"), fontsize=10)


def times_figure(simulation: Simulation, path: Path) -> None:
    """T against the start, a line per depth, with the leading law beside it."""
    with _drawn(path, 5.0, 3.6) as figure:
        axis = figure.subplots()
        A = simulation.constants.A
        for number, depth in enumerate(simulation.t):
            mine = [e for e in simulation.each if e.depth == depth and e.T > 0]
            starts, T = np.array([e.start for e in mine]), np.array([e.T for e in mine])
            marker = MARKERS[number % len(MARKERS)]
            axis.plot(starts, T, marker=marker, markersize=3.5, color=_colour(number), label=f"L = {depth}")
            if depth > 2:
                law = starts ** (2.0 - depth) / (2 * A * (depth - 2))
                axis.plot(starts, law, color=_colour(number), linestyle=":", linewidth=1)
        axis.set(xscale="log", yscale="log", xlabel="$\\rho_k(0)$", ylabel="T, in η · steps")
        axis.plot([], [], color="0.3", linestyle=":", linewidth=1, label="$\\rho_k(0)^{-(L-2)}/(2A(L-2))$")
        axis.legend()
        _plain_ticks(axis.xaxis)


FIGURES: dict[str, Callable[[Simulation, Path], None]] = {"1": memo_figure, "2": tikhonov_figure, "T": times_figure}


# --- analyze -----------------------------------------------------------------------------------------------


def transient_figure(series: Sequence[Series], transient: TransientFit, path: Path) -> None:
    """log10 of rho and rho_eq with T and the driven solution, and below it by how much the driven solution misses."""
    with _drawn(path, 6.6, 5.0) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        shown = list(zip(series, transient.each, strict=True))[: len(COLOURS)]
        for number, (one, each) in enumerate(shown):
            colour = _colour(number)
            rows = _thinned(one.log_rho)
            steps, log_rho = one.steps[rows], one.log_rho[rows] / np.log(10)
            with np.errstate(invalid="ignore", divide="ignore"):
                log_eq = log_rho + np.log10(np.where(one.rho_eq_over_rho > 0, one.rho_eq_over_rho, np.nan)[rows])
            above.plot(steps, log_rho, color=colour, label=f"member {each.member}")
            above.plot(steps, log_eq, color=colour, linewidth=0.8, alpha=0.7)
            solved = driven_log_rho(one)[rows] / np.log(10)
            above.plot(steps, solved, color="black", linestyle=(0, (1, 2)), linewidth=1)
            below.plot(steps, solved - log_rho, color=colour)
            if each.T > 0:
                above.plot(
                    each.T, np.interp(each.T, steps, log_rho), "o", color=colour, markersize=5, markeredgecolor="white"
                )
        above.plot([], [], color="0.4", linewidth=0.8, label="$\\rho_\\mathrm{eq}$ (thin)")
        above.plot([], [], color="black", linestyle=(0, (1, 2)), linewidth=1, label="equation (5), driven")
        above.plot(
            [], [], "o", color="0.4", markersize=5, label=f"T ($\\rho$ = {transient.theta:g} $\\rho_\\mathrm{{eq}}$)"
        )
        if len(transient.pools) == 1 and np.isfinite(transient.pools[0].T.low):
            pool = transient.pools[0].T
            above.axvspan(pool.low, pool.high, color="0.5", alpha=0.15, linewidth=0, label="T over members, 95 %")
        more = f"; the first {len(shown)} of {len(series)} members" if len(shown) < len(series) else ""
        above.set(
            ylabel="$\\log_{10} \\rho$, $\\log_{10} \\rho_\\mathrm{eq}$", title=f"Norm and equilibrium norm{more}"
        )
        above.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        below.set(xlabel="step", ylabel="driven $-$ measured")
        below.axhline(0, color="0.6", linewidth=0.6)


def _thinned(values: NDArray[np.float64], most: int = 4000) -> NDArray[np.int64]:
    """Rows to draw: the ends, and of each stretch of many rows its smallest and its largest value."""
    if len(values) <= most:
        return np.arange(len(values))
    stretches = np.array_split(np.arange(len(values)), most // 2)
    kept = {0, len(values) - 1}
    for rows in stretches:
        kept |= {int(rows[np.argmin(values[rows])]), int(rows[np.argmax(values[rows])])}
    return np.array(sorted(kept))


# --- scaling -----------------------------------------------------------------------------------------------


def scaling_figure(result: Scaling, path: Path) -> None:
    """T against rho_k(0), log-log, with the law's slope through each depth's smallest start; beside it the collapse."""
    with _drawn(path, 7.4, 3.6) as figure:
        left, right = figure.subplots(1, 2)
        for number, each in enumerate(result.each):
            points = [p for p in each.points if p.left]
            start, T = np.array([p.start for p in points]), np.array([p.T.value for p in points])
            ends = np.array([[p.T.value - p.T.low, p.T.high - p.T.value] for p in points]).T
            look = {"color": _colour(number), "marker": MARKERS[number % len(MARKERS)], "markersize": 4}
            label = f"L = {each.depth}: " + ("log law" if each.depth == 2 else f"{each.exponent.value:.2f}")
            left.errorbar(start, T, yerr=np.nan_to_num(ends), capsize=2, label=label, **look)
            if each.depth != 2 and points:
                left.plot(start, T[-1] * (start / start[-1]) ** each.law, ":", color=_colour(number), linewidth=1)
            collapsed = T * start ** (each.depth - 2)
            if each.depth != 2 and points:
                right.plot(start / start[-1], collapsed / collapsed[-1], label=f"L = {each.depth}", **look)
        left.plot([], [], ":", color="0.4", linewidth=1, label="slope $-(L-2)$")
        left.set(
            xscale="log",
            yscale="log",
            xlabel="$\\rho_k(0)$",
            ylabel="T, in η · steps",
            title="Transient time, and its exponent",
        )
        right.set(
            xscale="log",
            xlabel="$\\rho_k(0)$ / smallest",
            ylabel="$T \\rho_k(0)^{L-2}$ / smallest start's",
            title="In the memo's units",
        )
        right.axhline(1, color="0.4", linestyle=":", linewidth=1)
        for axis in (left.xaxis, right.xaxis, left.yaxis):
            _plain_ticks(axis)
        for axes in (left, right):
            if axes.get_legend_handles_labels()[0]:
                axes.legend()
