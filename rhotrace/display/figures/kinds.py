"""What ``rhotrace plot`` can draw, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rhotrace.analysis.applicability import no_balance, no_sums
from rhotrace.analysis.fluctuation import comparison
from rhotrace.analysis.member_bands import WHOLE, View, require_shown, run_names
from rhotrace.analysis.run_series import RunSeries, require_steps
from rhotrace.analysis.scaling.with_start import scaling
from rhotrace.analysis.transient.transient_time import pool
from rhotrace.display.figures import transient as plots
from rhotrace.display.figures.comparison import comparison_figure
from rhotrace.display.figures.quantity import PREFIX, quantity_figure
from rhotrace.display.figures.runs import layers_figure, loss_figure, margins_figure, rho_figure
from rhotrace.display.figures.sweep import sweep_figure
from rhotrace.errors import AnalysisError, RhoTraceError, choice
from rhotrace.runfile.reader import Trace
from rhotrace.sweeps.results import collect


@dataclass(frozen=True)
class Kind:
    """One kind of figure.

    Attributes:
        says: what it shows.
        draw: draws the part of runs that a view shows, with theta, into a file.
        heeds: the fields of a view that it can follow.
        without: what it shows instead of runs that lack a part of it; empty where they have all.
    """

    says: str
    draw: Callable[[Sequence[Trace], Path, float, View], None]
    heeds: frozenset[str] = frozenset()
    without: Callable[[Sequence[Trace]], str] = lambda _: ""

    def shows(self, traces: Sequence[Trace]) -> str:
        """What it shows of these runs."""
        return self.without(traces) or self.says


def transient(traces: Sequence[Trace], path: Path, theta: float, view: View = WHOLE) -> None:
    """T of each member, and equation (5) driven by the measured sums, over the measurement."""
    found = {}
    for name, trace in zip(run_names([trace.path for trace in traces]), traces, strict=True):
        require_steps(trace)
        require_shown(trace, view)
        if why := no_sums(trace):
            raise AnalysisError(f"{trace.path}: nothing to draw: T {why}; draw rho")
        run = RunSeries(trace, theta)
        shown = [m for m in range(trace.members) if not view.members or m in view.members]
        each = tuple(run.transient.each[m] for m in shown)
        pools = pool(each, [run.labels[m] for m in shown], [run.seeds[m] for m in shown])
        found[name] = [run.members[m] for m in shown], replace(run.transient, each=each, pools=pools)
    plots.transient_figure(found, path)


def fluctuation(traces: Sequence[Trace], path: Path, theta: float, _: View = WHOLE) -> None:
    """log(rho/rho_eq) after the transient, and its spectra."""
    runs = [RunSeries(trace, theta) for trace in traces]
    for run in runs:
        require_steps(run.trace)
        if not run.no_equilibrium and run.passages and len(run.delta):
            run.forget("rho_eq_over_rho", "a", "q")  # a long run needs the memory for what follows
    result = comparison.alone(*runs) if len(runs) == 1 else comparison.compare(runs)
    if not any(side.each for side in result.sides):
        side = result.sides[0]
        member, why = next(iter(side.left_out.items()))
        remedy = "" if runs[0].no_equilibrium else "train for longer, or "
        raise AnalysisError(f"{side.path}: nothing to draw: member {member} {why}; {remedy}draw rho")
    comparison_figure(result, runs, path)


def exponents(traces: Sequence[Trace], path: Path, theta: float, _: View = WHOLE) -> None:
    """T against rho_k(0)."""
    plots.scaling_figure(scaling(traces, theta=theta), path)


def _without_rho_eq(traces: Sequence[Trace]) -> str:
    whys = [no_sums(trace) for trace in traces]
    return f"rho; T {whys[0]}" if all(whys) else ""


def _without_balance(traces: Sequence[Trace]) -> str:
    whys = [no_balance(trace) for trace in traces]
    return f"norm of each layer; Lemma 1 {whys[0]}" if all(whys) else ""


_OVER_TIME = frozenset({"members", "steps", "smooth"})
KINDS: dict[str, Kind] = {
    "rho": Kind(
        "rho and rho_eq, T with its interval; several runs in panels of their own",
        rho_figure,
        _OVER_TIME,
        _without_rho_eq,
    ),
    "layers": Kind("norm of each layer, and the balance of Lemma 1", layers_figure, _OVER_TIME, _without_balance),
    "transient": Kind("T of each member, equation (5) driven over the measurement", transient, frozenset({"members"})),
    "margins": Kind("distribution of the margins y_n f_n over time", margins_figure, _OVER_TIME),
    "loss": Kind("loss and error of training and test set", loss_figure, _OVER_TIME),
    "fluctuation": Kind("log(rho/rho_eq) after T, and its spectrum", fluctuation),
    "scaling": Kind("T against rho_k(0) at each depth, and its collapse", exponents),
}
PHASE = "phase"  # of a sweep, not of runs
SAYS = {**{name: kind.says for name, kind in KINDS.items()}, PHASE: "T over the axes of a sweep, from its folder"}


def kind_of(what: str) -> Kind:
    """The kind of figure of a name: one of ``KINDS``, or ``quantity:NAME`` for any recorded quantity.

    Raises:
        RhoTraceError: there is none of that name.
    """
    if what.startswith(PREFIX):
        name = what.removeprefix(PREFIX)
        return Kind(f"{name} over time", partial(quantity_figure, name), _OVER_TIME)
    if what not in KINDS:
        raise choice("--what", what, [*SAYS, f"{PREFIX}NAME"])
    return KINDS[what]


def require_heeded(what: str, view: View) -> None:
    """Raises RhoTraceError for a choice that this kind of figure cannot follow."""
    own = frozenset() if what == PHASE else kind_of(what).heeds
    for name in ("members", "steps", "smooth"):
        if getattr(view, name) != getattr(WHOLE, name) and name not in own:
            others = ", ".join(other for other, kind in KINDS.items() if name in kind.heeds)
            raise RhoTraceError(f"--{name}: got it with --what {what}, expected --what to be one of {others}")


def draw_phase(folders: Sequence[Path], path: Path, theta: float) -> None:
    """T over the axes of a sweep.

    Raises:
        RhoTraceError: more than one folder, or it is not that of a sweep.
    """
    if len(folders) != 1:
        raise RhoTraceError(f"--what {PHASE}: got {len(folders)} paths, expected the folder of one sweep")
    sweep_figure(collect(folders[0], theta=theta), path)
