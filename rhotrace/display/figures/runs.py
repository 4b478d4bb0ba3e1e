"""The figures of runs over time: norm and equilibrium norm, layer norms, margins, loss and error; members as bands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rhotrace.analysis.applicability import no_balance
from rhotrace.analysis.member_bands import WHOLE, Band, Floats, Group, View, band, bands, groups
from rhotrace.analysis.run_series import RunSeries
from rhotrace.analysis.transient.transient_time import Outcome
from rhotrace.display.figures.style import (
    DASHES,
    colour,
    drawable,
    drawn,
    headed,
    ink,
    legend,
    mathematical,
    narrow,
    plain_ticks,
    ramp,
    symbol,
    units,
)
from rhotrace.display.numbers import number, span
from rhotrace.errors import AnalysisError
from rhotrace.recording.quantities import QUANTILES
from rhotrace.runfile.layout import SLAB_BYTES
from rhotrace.statistics.extremes import Curve
from rhotrace.theory import paper
from rhotrace.theory.norm_dynamics import THETA

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rhotrace.runfile.reader import Trace

_MOST_COLUMNS = 3
_MOST_PANELS = 6
_MOST_LAYERS_NAMED = 10
_NARROW = 2.0
_FEW_POINTS = 60  # that are marked, for between them nothing was measured
_PER_DECADE = float(np.log(10))


def rho_figure(runs: Sequence[Trace | RunSeries], path: Path, theta: float = THETA, view: View = WHOLE) -> None:
    """log10 of rho, and of rho_eq where the loss has it, with T; several groups in panels of their own, above their distances."""
    shown, more = _few(groups(runs, theta=theta, view=view), _MOST_PANELS)
    below = len(shown) > 1 and any("log_rho_eq" in group.trace for group in shown)
    panels = len(shown) + below
    with drawn(path, 6.8, 3.6 if len(shown) == 1 else 0.7 + 1.5 * panels) as figure:
        axes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
        words = []
        for place, (panel, group) in enumerate(zip(axes, shown, strict=False)):
            words.append(_norms(panel, group, colour(place)))
            if len(shown) > 1:
                panel.set_title(mathematical(group.label))
                panel.sharey(axes[0])
            if below and "log_rho_eq" in group.trace:
                _distance(axes[-1], group, place)
        axes[-1].set_xlabel("step")
        there = any("log_rho_eq" in group.trace for group in shown)  # the square loss alone has it
        both = symbol("log_rho", decimal=True) + (f", {symbol('log_rho_eq', decimal=True)}" if there else "")
        about = f"Norm{' and equilibrium norm' if there else ''}: {_members(shown)}{more}"
        if len(shown) == 1:
            axes[0].set(ylabel=both, title=about)
        else:
            axes[(len(shown) - 1) // 2].set_ylabel(both)
            headed(figure, about)
        if below:
            axes[-1].set(
                yscale="log", ylabel="$|\\log_{10}(\\rho/\\rho_\\mathrm{eq})|$", title="Distance from equilibrium"
            )
        _name_T(axes[0], shown)
        legend(axes[0], columns=3)
        eq = " and equilibrium norm rho_eq" if there else ""
        figure.set_label(f"Norm rho{eq} against the step. {'. '.join(words)}.")


def _norms(axes: Axes, group: Group, own: str) -> str:
    """Draws rho and rho_eq of a group; returns what they do, in words."""
    rho = band(group, ["log_rho"], lambda log_rho: log_rho / _PER_DECADE, "log10")
    end = ""
    _draw(axes, rho, own, label="$\\rho$")
    if "log_rho_eq" in group.trace:
        eq = band(group, ["log_rho_eq"], lambda log_rho_eq: log_rho_eq / _PER_DECADE, "log10")
        _draw(axes, eq, own, label="$\\rho_\\mathrm{eq}$", linestyle=DASHES[1], since=_begun(group))
        end = f", that of rho_eq ends at {eq.ends[1]:.3g}"
    _mark_T(axes, group, own)
    return (
        f"{_named(group)}{group.size}, steps {rho.steps[0]} to {rho.steps[1]}: log10 of rho goes from {rho.ends[0]:.3g} to "
        f"{rho.ends[1]:.3g}{end}; {_T_words(group)}"
    )


def _begun(group: Group) -> int:
    """First step at which every member that ever has a rho_eq has one: before it there is no band over all of them."""
    trace, waiting, last_row = group.trace, list(group.members), -1
    cadence = trace.quantity("log_rho_eq").cadence
    rows, slab = trace.layout.rows(cadence, trace.steps), trace.layout.steps_within(SLAB_BYTES)
    for first in range(0, rows, slab):
        there = np.isfinite(trace.rows("log_rho_eq", slice(first, min(first + slab, rows)))[:, waiting])
        begun = np.asarray(there.any(axis=0))
        last_row = max([last_row, *(first + there.argmax(axis=0)[begun]).tolist()])
        waiting = [m for m, here in zip(waiting, begun, strict=True) if not here]
        if not waiting:
            break
    return max(last_row, 0) * trace.strides[cadence]


def _distance(axes: Axes, group: Group, place: int) -> None:
    """How far rho is from rho_eq in the group's line: here a fluctuation is visible that is thinner than a line above."""

    def distance(log_rho_eq: Floats, log_rho: Floats) -> Floats:
        apart = np.abs(log_rho - log_rho_eq) / _PER_DECADE
        return np.asarray(np.where(apart > 0, apart, np.nan))

    found = band(group, ["log_rho_eq", "log_rho"], distance, "distance")
    look: Any = {"color": colour(place), "linewidth": 0.9, "zorder": 3 - place / 10}  # the first run on top
    axes.plot(*found.middle, label=mathematical(group.label), **look)


def layers_figure(runs: Sequence[Trace | RunSeries], path: Path, theta: float = THETA, view: View = WHOLE) -> None:
    """rho_k of every layer, and below it how rho_k^2 moves apart from the layers' mean, where Lemma 1 forbids that."""
    shown = groups(runs, theta=theta, view=view)
    without = all(no_balance(group.trace) for group in shown)

    def column(above: Axes, below: Axes, group: Group) -> str:
        depth = group.trace.depth
        values = [lambda rho_k: rho_k.reshape(len(rho_k), -1), lambda rho_k: rho_k, _apart(group)]
        all_layers, *found = bands(group, ["rho_k"], values, "layers")
        looks: list[Any] = [{"color": ramp(k / max(1, depth - 1)), "linestyle": DASHES[k % 3]} for k in range(depth)]
        for k, (norms, look) in enumerate(zip(found[:depth], looks, strict=True)):
            above.plot(*norms.middle, label=f"layer {k + 1}" if k < _MOST_LAYERS_NAMED else None, **look)
        _fill(above, all_layers, "0.4", 0.2)
        ends = f"the last of {depth} layers goes from norm {norms.ends[0]:.3g} to {norms.ends[1]:.3g}"
        if why := no_balance(group.trace):
            below.set_axis_off()
            if not without:  # the words beside the picture say why; in a narrow column they would cover it
                below.set_title("Lemma 1 does not apply")
            above.set_xlabel("step")
            above.tick_params(labelbottom=True)
            return f"{ends}; the balance of the layers {why}"
        for apart, look in zip(found[depth:], looks, strict=True):
            _draw(below, apart, **look)
        farthest = max(float(np.nanmax(np.abs(c[1]), initial=0)) for one in found[depth:] for c in (one.low, one.high))
        below.ticklabel_format(style="sci", axis="y", scilimits=(-2, 3), useMathText=True)
        return f"{ends}; squared norms move by at most {farthest:.2g} from their mean over the layers"

    moved = "$\\rho_k^2 - \\langle\\rho_j^2\\rangle_j$\nminus start"
    titles = f"Layer norms: {_members(shown)}", f"Balance ({paper.cite('lemma1')}: 0)"
    _columns(path, shown, column, (symbol("rho_k"), moved), titles, below=0.02 if without else 2 / 3)


def _apart(group: Group) -> Callable[[Floats], Floats]:
    """For each layer, rho_k^2 minus its mean over layers, since the start."""
    start = group.trace.rows("rho_k", slice(0, 1))[:, list(group.members)] ** 2

    def of_layers(rho_k: Floats) -> Floats:
        with np.errstate(over="ignore", invalid="ignore"):  # the last steps of a member that diverges
            square = rho_k**2 - start
            return np.asarray(square - square.mean(axis=2)[:, :, None])

    return of_layers


def margins_figure(runs: Sequence[Trace | RunSeries], path: Path, theta: float = THETA, view: View = WHOLE) -> None:
    """Distribution of the margins y_n f_n of the normalised network over time, and of y_n g_n below it."""
    require_outputs(runs)
    shown = groups(runs, theta=theta, view=view)
    power = -min((_decade(group) for group in shown[:_MOST_COLUMNS]), default=0)
    scale = power * _PER_DECADE

    def normalised(margins: Floats, log_rho: Floats) -> Floats:
        with np.errstate(all="ignore"):
            return np.asarray(margins * np.exp(scale - log_rho)[:, :, None])

    def column(above: Axes, below: Axes, group: Group) -> str:
        of_f, of_g = _distributions(group, [normalised, lambda margins, _: margins], f"margins, 10^{power}")
        _draw_distribution(above, of_f)
        ends = _draw_distribution(below, of_g)
        label = band(group, ["log_rho"], lambda log_rho: np.exp(np.minimum(scale - log_rho, 700)), f"met, 10^{power}")
        met = label.middle
        low, high = above.get_ylim()
        above.plot(*met, color=ink(), linewidth=1, linestyle=DASHES[1], label="label met: $1/\\rho$")
        above.set_ylim(low, high + 0.1 * (high - low))
        below.axhline(1, color=ink(), linewidth=1, linestyle=DASHES[1])
        return f"at the end the median sample's margin y g is {ends[0]:.2g}, the smallest {ends[1]:.2g}"

    several = any(int(group.trace.attributes["outputs"]) > 1 for group in shown)
    f, g = ("true minus best other $f$", "true minus best other $g$") if several else ("$y_n f_n$", "$y_n g_n$")
    unit = f", in units of $10^{{{-power}}}$" if power else ""
    f_title = "Margins of the normalised network $f = g/\\rho$"
    if len(shown) == 1 and len(shown[0].members) > 1:
        f_title += f", network {shown[0].members[shown[0].typical]} of {len(shown[0].members)}"
    titles = f_title, "Margins of the network $g$"
    _columns(path, shown, column, (f"{f}{unit}", g), titles)


def _distributions(group: Group, values: Sequence[Callable[[Floats, Floats], Floats]], known: str) -> list[list[Band]]:
    """Smallest value and quantiles of each of several values of the margins.

    Each is made of margins, (n, members, k), and log rho, (n, members); ``known`` names all of them.
    """
    names = ["margin_quantile", "margin_min", "log_rho"]

    def of(value: Callable[[Floats, Floats], Floats]) -> Callable[..., Floats]:
        return lambda quantiles, smallest, log_rho: value(np.dstack([smallest, quantiles]), log_rho)

    found = bands(group, names, [of(value) for value in values], known)
    size = 1 + len(QUANTILES)
    return [found[place * size : (place + 1) * size] for place in range(len(values))]


def _draw_distribution(axes: Axes, found: list[Band]) -> tuple[float, float]:
    """Draws quantiles and smallest value of the margins; returns the median's and the smallest's last value."""
    smallest, *quantiles = (one.middle for one in found)
    middle = quantiles[QUANTILES.index(0.5)]
    for low, high, alpha in ((0.05, 0.95, 0.18), (0.25, 0.75, 0.35)):
        around = Band(quantiles[QUANTILES.index(low)], middle, quantiles[QUANTILES.index(high)])
        _fill(axes, around, colour(0), alpha, label=f"{100 * low:.0f} % to {100 * high:.0f} %")
    axes.plot(*middle, color=colour(0), label="median sample")
    axes.plot(*smallest, color=colour(1), linewidth=0.9, linestyle=DASHES[1], label="smallest")
    axes.axhline(0, color="0.5", linewidth=0.6)
    return float(middle[1][-1]), float(smallest[1][-1])


def _decade(group: Group) -> int:
    """Power of ten of the largest median margin of f."""
    margins = band(
        group,
        ["margin_quantile", "log_rho"],
        lambda m, r: (np.log(np.maximum(np.abs(m[:, :, QUANTILES.index(0.75)]), 1e-300)) - r) / _PER_DECADE,
        "decade",
    ).high[1]
    top = float(np.nanmax(margins, initial=-np.inf))
    return int(np.floor(top)) if np.isfinite(top) and not -1 <= top < 2 else 0


def loss_figure(runs: Sequence[Trace | RunSeries], path: Path, theta: float = THETA, view: View = WHOLE) -> None:
    """Loss of training and test set, and below it their errors; bands over the networks are of the training set."""

    def column(above: Axes, below: Axes, group: Group) -> str:
        ends = {}
        for axes, names in ((above, ("loss", "test_loss")), (below, ("error", "test_error"))):
            for place, (quantity, dashes, of) in enumerate(zip(names, DASHES, ("training", "test"), strict=False)):
                if quantity not in group.trace:
                    continue
                found = band(group, [quantity], drawable, "drawable")
                ends[quantity] = found.ends[1]
                alpha = 0.0 if place else 0.2  # two bands on top of each other would hide one another
                _draw(axes, found, colour(place), alpha, label=of, linestyle=dashes)
        below.set_ylim(0, None)
        of_test = [f" ({number(ends[name])}{of})" if name in ends else "" for name, of in tested]
        return f"loss of one of them ends at {number(ends['loss'])}{of_test[0]}, error at {number(ends['error'])}{of_test[1]}"

    tested = ("test_loss", " on the test set"), ("test_error", "")
    require_outputs(runs)
    shown = groups(runs, theta=theta, view=view)
    labels = f"loss{units(shown[0].trace.quantity('loss'))}", "error"
    _columns(path, shown, column, labels, (f"Loss: {_members(shown)}", "Fraction misclassified"), logarithmic=True)


def require_outputs(runs: Sequence[Trace | RunSeries]) -> None:
    """Raises AnalysisError where a recording has no loss and no margins on its training set."""
    for trace in (RunSeries.of(run).trace for run in runs):
        if "loss" not in trace:
            raise AnalysisError(
                f"{trace.path}: nothing to draw: the outputs on the training set were not recorded; give data=... to "
                "rhotrace.record, or draw rho or layers"
            )


def watch_figure(curves: Mapping[str, Curve], passed: Sequence[float], path: Path) -> None:
    """Medians of rho and rho_eq so far, with every T so far, and of the loss below them; for the page of ``watch``."""
    with drawn(path, 7.2, 4.6) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        for name, text, dashes in (
            ("log_rho", "$\\rho$", DASHES[0]),
            ("log_rho_eq", "$\\rho_\\mathrm{eq}$", DASHES[1]),
        ):
            steps, values = curves[name]
            above.plot(steps, values / _PER_DECADE, color=colour(0), linestyle=dashes, label=text)
        for T in passed:
            above.axvline(T, color="0.4", linewidth=1, linestyle=DASHES[2])
        if passed:
            above.plot([], [], color="0.4", linewidth=1, linestyle=DASHES[2], label="T of a network")
        steps, loss = curves["loss"]
        below.plot(steps, drawable(loss), color=colour(0))
        below.set(xlabel="step", ylabel="loss")
        _logarithmic(below)
        above.set_ylabel(f"{symbol('log_rho', decimal=True)}, {symbol('log_rho_eq', decimal=True)}")
        legend(above, columns=3)
        figure.set_label(
            f"Norm, equilibrium norm and loss up to step {curves['log_rho'][0][-1]}, medians over the networks."
        )


# --- what they share ---------------------------------------------------------------------------------------


def _few(found: list[Group], most: int) -> tuple[list[Group], str]:
    """The groups that fit in a figure, and words for the others."""
    return found[:most], f" (the first {most} of {len(found)} groups)" if len(found) > most else ""


def _members(shown: Sequence[Group]) -> str:
    """What a line and a band mean."""
    if all(len(group.members) == 1 for group in shown):
        return "one network each" if len(shown) > 1 else "one network"
    if len(shown) > 1:
        return "the network of median T in each group, band over all"
    (group,) = shown
    why = " (median T)" if np.isfinite(group.T.T.value) else ""
    return f"network {group.members[group.typical]}{why}, band over all {len(group.members)}"


def _named(group: Group) -> str:
    return f"{group.label}: " if group.label else ""


def _T_words(group: Group) -> str:
    T = group.T.T
    if all(each.outcome is Outcome.INAPPLICABLE for each in group.passages):
        return "T does not apply"
    if not np.isfinite(T.value):
        return "no network left its transient"
    sure = f" (95 % {span(T, 4)})" if np.isfinite(T.low) else ""
    return f"T = {number(T.value, 4)} steps{sure}"


def _mark_T(axes: Axes, group: Group, own: str, text: str | None = None) -> None:
    T = group.T.T
    if not np.isfinite(T.value):
        return
    low, high = T.low, T.high
    if len(group.members) == 1:  # of one network the crossing has an interval of its own
        low, high = group.passages[0].crossing.low, group.passages[0].crossing.high
    if not group.view.steps[0] <= T.value <= (group.view.steps[1] or np.inf):
        return
    axes.axvline(T.value, color=own, linewidth=1, linestyle=DASHES[2], label=text)
    if np.isfinite(low):
        axes.axvspan(
            max(low, group.view.steps[0]), min(high, group.view.steps[1] or np.inf), color=own, alpha=0.12, linewidth=0
        )


def _name_T(axes: Axes, shown: Sequence[Group]) -> None:
    """T in the legend, once for all groups."""
    if any(np.isfinite(group.T.T.value) for group in shown):
        axes.plot([], [], color="0.4", linewidth=1, linestyle=DASHES[2], label="T, 95 %")


def _draw(
    axes: Axes,
    found: Band,
    color: Any,  # noqa: ANN401 - matplotlib's
    alpha: float = 0.2,
    since: int = 0,
    **look: Any,  # noqa: ANN401 - matplotlib's
) -> None:
    """A network as a line, and the band of all around it where there are several, from the step ``since`` on."""
    few: Any = {"marker": ".", "markersize": 3} if len(found.middle[0]) <= _FEW_POINTS else {}
    axes.plot(*found.middle, color=color, **few, **look)
    if alpha and not np.array_equal(found.low[1], found.high[1], equal_nan=True):
        _fill(axes, found, color, alpha, since=since)


def _logarithmic(axes: Axes) -> None:
    """A logarithmic axis of values that may hardly differ: never so narrow that its ticks are long numbers."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high < _NARROW * low:
        axes.set_ylim(low / _NARROW, high * _NARROW)
    plain_ticks(axes.yaxis)


def _fill(axes: Axes, found: Band, color: Any, alpha: float, since: int = 0, **look: Any) -> None:  # noqa: ANN401 - matplotlib's
    steps = np.union1d(found.low[0], found.high[0])
    steps = steps[steps >= since]
    low, high = (np.interp(steps, *curve) for curve in (found.low, found.high))
    axes.fill_between(steps, low, high, color=color, alpha=alpha, linewidth=0, **look)


def _columns(
    path: Path,
    found: list[Group],
    column: Callable[[Axes, Axes, Group], str],
    labels: tuple[str, str],
    titles: tuple[str, str],
    *,
    logarithmic: bool = False,
    below: float = 2 / 3,
) -> None:
    """Two panels for each group, one above the other; ``column`` draws them and returns what they show, in words.

    ``below`` is the height of the lower panels, in that of the upper ones.
    """
    shown, more = _few(found, _MOST_COLUMNS)
    words = []
    width = 2.2 + max(3.6 * len(shown), 4.4)
    with drawn(path, width, 4.8) as figure:
        axes = figure.subplots(2, len(shown), sharex="col", sharey="row", squeeze=False, height_ratios=(1, below))
        for (above, under), group in zip(axes.T, shown, strict=True):
            said = column(above, under, group)
            words.append(f"{_named(group)}{group.size}, {said}; {_T_words(group)}")
            _mark_T(above, group, "0.4", "T, 95 %")
            under.set_xlabel("step")
            above.set_title(mathematical(group.label) or titles[0])
        if logarithmic:
            _logarithmic(axes[0, 0])
        for row, text, title in zip(axes, labels, ("", titles[1]), strict=True):
            first = next((panel for panel in row if panel.axison), None)
            if first is not None:
                first.set_ylabel(text)
                first.tick_params(labelleft=True)
                first.set_title(title or first.get_title(loc="left"))
        where: Any = {"loc": "outside lower center", "ncols": 2} if narrow(width) else {"loc": "outside right upper"}
        figure.legend(*axes[0, -1].get_legend_handles_labels(), **where)
        if any(group.label for group in shown):
            headed(figure, f"{titles[0]}{more}")
        figure.set_label(f"{titles[0]}, against the step. {'. '.join(words)}.".replace("$", "").replace("\\", ""))
