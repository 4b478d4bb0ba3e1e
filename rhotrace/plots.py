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

    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from rhotrace.scaling import Scaling
    from rhotrace.simulate import Simulation
    from rhotrace.transient import TransientFit

FORMATS = (".png", ".svg", ".pdf")
# Okabe and Ito's colours, told apart by all kinds of colour vision; for grey, lines differ in dash or marker too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
DASHES: Any = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (3, 2)), (0, (8, 2)), (0, (1, 3)))
_MOST_PANELS, _MOST_LABELS, _MANY = 8, 12, 40
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
        undated = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, metadata=undated[path.suffix.lower()])
        except OSError as problem:
            raise RhoTraceError(f"--plot: {path} cannot be written: {problem.strerror or problem}") from None


def _plain_ticks(axis: Axis) -> None:
    """Ticks of a logarithmic axis of few decades at 1, 2, 5 of each, as plain numbers."""
    low, high = axis.get_view_interval()
    if high > 1e4 * low:
        return
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _legend(axes: Axes, **where: Any) -> None:  # noqa: ANN401
    """A legend of at most a dozen entries; the last two are always there."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > _MOST_LABELS:
        first = _MOST_LABELS - 2
        handles, labels = [*handles[:first], *handles[-2:]], [*labels[: first - 1], "…", *labels[-2:]]
    axes.legend(handles, labels, **where)


def _empty(axes: Axes) -> None:
    """What stands where there is nothing to draw on logarithmic axes."""
    axes.plot([], [])
    axes.set(xticks=[], yticks=[])
    axes.annotate("nothing to draw", (0.5, 0.5), xycoords="axes fraction", ha="center")


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


# --- simulate ----------------------------------------------------------------------------------------------


def memo_figure(simulation: Simulation, path: Path) -> None:
    """Figure 1 of the memo: y = sqrt(rho) against time, a row of panels per depth, a curve per start."""
    depths = list(simulation.t)[:_MOST_PANELS]
    more = f" (the first {len(depths)} of {len(simulation.t)} depths)" if len(depths) < len(simulation.t) else ""
    with _drawn(path, 6.4, 0.6 + 2.4 * len(depths)) as figure:
        axes = figure.subplots(len(depths), 1, squeeze=False)[:, 0]
        for axis, depth in zip(axes, depths, strict=True):
            starts = [each.start for each in simulation.each if each.depth == depth]
            y = simulation.rho_k[depth] ** (depth / 2)
            for number, (start, curve) in enumerate(zip(starts, y, strict=True)):
                shade = 0.15 + 0.85 * number / max(1, len(starts) - 1)
                label = f"$\\rho_k(0)$ = {start:.3g}" if len(starts) <= 8 else None
                axis.plot(simulation.t[depth], curve, color=_ramp(shade), label=label, rasterized=len(starts) > _MANY)
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
        figure.suptitle(f"{memo.cite('fig1')}: ρ in a net with constant A and B{more}", fontsize=10)


def _ramp(share: float) -> tuple[float, float, float]:
    """From light to dark blue, so that an order reads in grey too."""
    light, dark = np.array([0.62, 0.79, 0.93]), np.array([0.0, 0.18, 0.38])
    red, green, blue = light + share * (dark - light)
    return float(red), float(green), float(blue)


def tikhonov_figure(simulation: Simulation, path: Path) -> None:
    """Figure 2 of the memo: lambda of the equivalent Tikhonov problem, and rho, against time."""
    each_apart = len(simulation.each) <= len(COLOURS)  # a look for each curve, or else for each depth
    with _drawn(path, 8.2, 3.2) as figure:
        left, right = figure.subplots(1, 2)
        A, B = simulation.constants.A, simulation.constants.B
        highest, lowest, number = 0.0, np.inf, 0
        for place, (depth, t) in enumerate(simulation.t.items()):
            starts = [each.start for each in simulation.each if each.depth == depth]
            for start, norms in zip(starts, simulation.rho_k[depth], strict=True):
                one = number if each_apart else place
                look = {
                    "color": _colour(one),
                    "linestyle": DASHES[one % len(DASHES)],
                    "rasterized": len(starts) > _MANY,
                }
                label = f"L = {depth}, $\\rho_k(0)$ = {start:.3g}"
                if not each_apart:
                    label = f"L = {depth}, {len(starts)} starts" if start == starts[0] else ""
                rho = norms**depth
                with np.errstate(all="ignore"):
                    strength = theory.tikhonov_lambda(rho, A=A, B=B)
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
        right.set(xlabel="t = η · step", ylabel="$\\rho$", title="norm of the net")
        if A > 0:
            right.axhline(A / B, color="0.4", linestyle=":", label="$\\rho_\\mathrm{eq} = A/B$")
        if len(simulation.t) > 1:  # T of different depths differs by orders of magnitude
            first = min(float(t[1]) for t in simulation.t.values())
            for axis in (left, right):
                axis.set(xscale="log", xlim=(first, None))
        _legend(right, loc="center left", bbox_to_anchor=(1, 0.5))
        figure.suptitle(memo.cite("fig2"), fontsize=10)


def times_figure(simulation: Simulation, path: Path) -> None:
    """T against the start, a line per depth, with the leading law beside it."""
    with _drawn(path, 6.6, 3.6) as figure:
        axis = figure.subplots()
        A = simulation.constants.A
        for number, depth in enumerate(simulation.t):
            mine = [e for e in simulation.each if e.depth == depth and e.T > 0]
            starts, T = np.array([e.start for e in mine]), np.array([e.T for e in mine])
            marker = MARKERS[number % len(MARKERS)]
            marker = marker if len(starts) <= _MANY else ""
            axis.plot(starts, T, marker=marker, markersize=3.5, color=_colour(number), label=f"L = {depth}")
            if depth > 2:
                law = starts ** (2.0 - depth) / (2 * A * (depth - 2))
                axis.plot(starts, law, color=_colour(number), linestyle=":", linewidth=1)
        if any(each.T > 0 for each in simulation.each):
            axis.set(xscale="log", yscale="log")
            _plain_ticks(axis.xaxis)
        else:
            _empty(axis)
        axis.set(
            xlabel="$\\rho_k(0)$",
            ylabel="T, in η · steps",
            title=f"{memo.cite('longer')}: T for A = {A:.3g}, B = {simulation.constants.B:.3g}",
        )
        axis.plot([], [], color="0.3", linestyle=":", linewidth=1, label="$\\rho_k(0)^{-(L-2)}/(2A(L-2))$")
        _legend(axis, loc="center left", bbox_to_anchor=(1, 0.5))


FIGURES: dict[str, Callable[[Simulation, Path], None]] = {"1": memo_figure, "2": tikhonov_figure, "T": times_figure}


# --- analyze -----------------------------------------------------------------------------------------------


def transient_figure(series: Sequence[Series], transient: TransientFit, path: Path) -> None:
    """log10 of rho and rho_eq with T and the driven solution, and below it by how much the driven solution misses."""
    with _drawn(path, 6.6, 5.0) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        shown = list(zip(series, transient.each, strict=True))[: len(COLOURS)]
        for number, (one, each) in enumerate(shown):
            colour, marker = _colour(number), MARKERS[number]
            log_rho = one.log_rho / np.log(10)
            with np.errstate(invalid="ignore", divide="ignore"):
                log_eq = log_rho + np.log10(np.where(one.rho_eq_over_rho > 0, one.rho_eq_over_rho, np.nan))
            solved = driven_log_rho(one) / np.log(10)
            _line(above, one.steps, log_rho, color=colour)
            _line(above, one.steps, log_eq, color=colour, linewidth=0.8, alpha=0.7)
            _line(above, one.steps, solved, color="black", linestyle=(0, (1, 2)), linewidth=1)
            _line(below, one.steps, solved - log_rho, color=colour)
            dot = {"color": colour, "marker": marker, "markersize": 5, "markeredgecolor": "white"}
            above.plot([], [], label=f"member {each.member}", **dot)
            if each.T > 0:
                above.plot(each.T, np.interp(each.T, one.steps, log_rho), **dot)
        above.plot([], [], color="0.4", linewidth=0.8, label="$\\rho_\\mathrm{eq}$ (thin)")
        above.plot([], [], color="black", linestyle=(0, (1, 2)), linewidth=1, label="equation (5), driven")
        above.plot([], [], " ", label=f"marked: T ($\\rho$ = {transient.theta:g} $\\rho_\\mathrm{{eq}}$)")
        if len(transient.pools) == 1 and np.isfinite(transient.pools[0].T.low):
            pool = transient.pools[0].T
            above.axvspan(pool.low, pool.high, color="0.5", alpha=0.15, linewidth=0, label="T over members, 95 %")
        more = f"; the first {len(shown)} of {len(series)} members" if len(shown) < len(series) else ""
        above.set(
            ylabel="$\\log_{10} \\rho$, $\\log_{10} \\rho_\\mathrm{eq}$", title=f"Norm and equilibrium norm{more}"
        )
        above.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        below.set(xlabel="step", ylabel="driven $-$ measured\n$\\log_{10} \\rho$")
        below.axhline(0, color="0.6", linewidth=0.6)


def _line(axes: Axes, steps: NDArray[np.int64], values: NDArray[np.float64], **look: Any) -> None:  # noqa: ANN401
    """A curve of which only the rows that can be seen are drawn."""
    rows = _thinned(values)
    axes.plot(steps[rows], values[rows], **look)


def _thinned(values: NDArray[np.float64], most: int = 4000) -> NDArray[np.int64]:
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


# --- scaling -----------------------------------------------------------------------------------------------


def scaling_figure(result: Scaling, path: Path) -> None:
    """T against rho_k(0), log-log, with the law's slope through each depth's smallest start; beside it the collapse."""
    with _drawn(path, 8.6, 3.6) as figure:
        left, right = figure.subplots(1, 2)
        for number, each in enumerate(result.each):
            points = [p for p in each.points if p.left]
            if not points:
                continue
            start, T = np.array([p.start for p in points]), np.array([p.T.value for p in points])
            ends = np.array([[p.T.value - p.T.low, p.T.high - p.T.value] for p in points]).T
            look = {"color": _colour(number), "marker": MARKERS[number % len(MARKERS)], "markersize": 4}
            measured = f", exponent {each.exponent.value:.2f}".replace("-", "\N{MINUS SIGN}")
            label = f"L = {each.depth}" + (measured if each.depth > 2 and np.isfinite(each.exponent.value) else "")
            left.errorbar(start, T, yerr=np.nan_to_num(ends), capsize=2, label=label, **look)
            if each.depth > 2:
                left.plot(start, T[-1] * (start / start[-1]) ** each.law, ":", color=_colour(number), linewidth=1)
                collapsed = T * start ** (each.depth - 2)
                right.plot(start / start[-1], collapsed / collapsed[-1], **look)
        left.plot([], [], ":", color="0.4", linewidth=1, label="slope $-(L-2)$")
        for axes, scales in ((left, {"xscale": "log", "yscale": "log"}), (right, {"xscale": "log"})):
            if any(len(line.get_xdata()) for line in axes.lines):
                axes.set(**scales)
                for axis in (axes.xaxis, axes.yaxis)[: len(scales)]:
                    _plain_ticks(axis)
            else:
                _empty(axes)
        if right.get_xscale() == "log":
            right.axhline(1, color="0.4", linestyle=":", linewidth=1)
        left.set(xlabel="$\\rho_k(0)$", ylabel="T, in η · steps", title="Transient time, 95 % over seeds")
        right.set(
            xlabel="$\\rho_k(0)$ / smallest",
            ylabel="$T \\rho_k(0)^{L-2}$ / smallest start's",
            title="Collapsed by the law: 1 where it holds",
        )
        figure.legend(*left.get_legend_handles_labels(), loc="outside right center")
