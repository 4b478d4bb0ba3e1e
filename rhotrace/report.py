"""Results as a person reads them in a terminal, and as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shlex
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from rhotrace import memo
from rhotrace.quantities import QUANTITIES

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from rhotrace.analyze import Analysis
    from rhotrace.audit import Audit
    from rhotrace.compare import Comparison, Side
    from rhotrace.recipe import Recipe
    from rhotrace.trace import Trace
    from rhotrace.train import Outcome as RunOutcome
    from rhotrace.transient import Interval, MemberTransient, Pool, TransientFit


def to_json(result: Any) -> str:  # noqa: ANN401 - any result dataclass or plain value
    """A result as JSON; what is not a finite number becomes null."""
    content = (
        dataclasses.asdict(result) if dataclasses.is_dataclass(result) and not isinstance(result, type) else result
    )
    return json.dumps(_finite(content), indent=2, ensure_ascii=False)


def _finite(value: Any) -> Any:  # noqa: ANN401 - JSON values
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def number(value: float, digits: int = 3) -> str:
    """A number to some significant digits; a dash where there is none."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else ("∞" if value > 0 else "-∞")
    if value and abs(value) < 10**digits and abs(value) >= 1e-3:
        return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"
    return f"{value:.0f}" if digits <= math.log10(max(abs(value), 1)) < 7 or value == 0 else f"{value:.{digits - 1}e}"


def ranged(interval: Interval, digits: int = 3) -> str:
    """A value with its 95 % interval."""
    if not math.isfinite(interval.low):
        return number(interval.value, digits)
    return f"{number(interval.value, digits)} [{number(interval.low, digits)}, {number(interval.high, digits)}]"


_NARROWEST = 80  # in a narrower terminal whole rows that wrap are easier to read than columns of single letters


def output() -> Console:
    """The console for results: as wide as the terminal; where there is none, wide enough for every table."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        return Console(width=120)
    return console if console.width >= _NARROWEST else Console(width=_NARROWEST)


def _table(columns: str, title: str = "") -> Table:
    """An empty table; columns are separated by ``|``, and those that begin with ``<`` hold words."""
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title=title or None,
        title_justify="left",
        title_style="bold",
        pad_edge=False,
    )
    for column in columns.split("|"):
        name = column.strip()
        table.add_column(name.lstrip("<"), justify="left" if name.startswith("<") else "right", overflow="fold")
    return table


def _row(table: Table, *cells: str) -> None:
    table.add_row(*map(Text, cells))  # names may hold brackets, which are not markup


def say(console: Console, text: str, style: str = "") -> None:
    """A line of prose: words only, so no markup of names in brackets; wrapped in a terminal, whole in a pipe."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def _title(console: Console, path: str, words: str) -> None:
    say(console, path, "bold")
    say(console, words + "\n")


def headline(summary: dict[str, Any]) -> str:
    """What was run, in two lines."""
    options = ", ".join(
        f"{k.replace('_', ' ')} {v:g}" if isinstance(v, float | int) else f"{k} {v}"
        for k, v in summary["optimizer_options"].items()
        if v is not None
    )
    noise = f", label noise {summary['label_noise']:g}" if summary["label_noise"] else ""
    width = "" if summary["depth"] == 1 else f", width {summary['width']}"
    members = f"{summary['members']} member{'s' if summary['members'] > 1 else ''}"
    return (
        f"{summary['state']}: {summary['steps']} of {summary['planned_steps']} steps, {members}, {summary['wall_seconds']:.0f} s on {summary['device']}\n"
        f"L = {summary['depth']}{width}, {summary['dtype']}; {summary['optimizer']}, {options}; "
        f"{summary['dataset']} {summary['classes']}, N = {summary['samples']}{noise}"
    )


# --- train -------------------------------------------------------------------------------------------------


def training_start(console: Console, recipe: Recipe, path: Path, first: int) -> None:
    """What is about to be trained, from which step, and where it goes."""
    members = len(recipe.seeds)
    say(
        console,
        f"{'training' if first == 0 else f'going on at step {first} with'} {members} network{'s' if members > 1 else ''} of depth {recipe.network.depth} for {recipe.steps} steps "
        f"({recipe.optimizer.kind}, {recipe.data.dataset}) into {path}, {path.stat().st_size / 1e6:.0f} MB reserved",
    )


def training_end(console: Console, outcome: RunOutcome, path: Path, transient: str) -> None:
    """How it ended, what it cost, and what to do next."""
    took = f"{outcome.steps} steps in {outcome.seconds:.1f} s"
    if outcome.seconds_full:
        share = 100 * outcome.seconds_full / outcome.seconds
        took += f", {share:.0f} % of it for full-set sums (record.full_every spaces them out)"
    words = {
        "finished": f"done: {took}; {transient}",
        "interrupted": f"stopped: {took} are recorded, and the same command goes on from there; {transient}",
        "diverged": f"diverged: rho is finite in no member after {took}; the learning rate or the initial scale does not suit",
    }[outcome.ended]
    say(console, words)
    size = f"{path}, {path.stat().st_size / 1e6:.1f} MB"
    say(
        console,
        size
        if outcome.ended == "diverged"
        else f"{size}; next: rhotrace analyze {shlex.quote(str(path))} --fit-transient",
    )


# --- analyze -----------------------------------------------------------------------------------------------


def print_analysis(console: Console, result: Analysis, *, fits: bool) -> None:
    """All of ``analyze``'s answer."""
    _title(console, result.path, headline(result.summary))
    _print_transient(console, result)
    if fits:
        _print_fits(console, result.transient)
    for pool in result.transient.pools:
        say(console, _pool_words(pool, several=len(result.transient.pools) > 1), "bold")
    console.print()
    _print_audit(console, result.audit)


def _print_transient(console: Console, result: Analysis) -> None:
    table = _table(
        "member | seed | T | T loss | T growth | rho_eq/rho | loss | error | test err",
        "Transient, in steps, and the end of the run",
    )
    theta = result.transient.theta
    failed = []
    for each, final in zip(result.transient.each, result.final, strict=True):
        _row(
            table,
            str(each.member),
            str(final.seed),
            number(each.T, 4),
            number(each.T_loss, 4),
            number(each.T_inflection, 4),
            number(final.rho_eq_over_rho, 4),
            number(final.loss),
            number(final.error),
            number(final.test_error),
        )
        if math.isnan(each.T):
            failed.append(f"member {each.member}: no T, {each.outcome}")
    console.print(table)
    dwell = "held for 10 steps or 5 % of T, whichever is longer"
    others = (
        "T loss: first step from which the loss is below 1/2, likewise; T growth: step at which log rho grows fastest"
    )
    say(console, f"T: first step from which rho >= {theta:g} rho_eq, {dwell}. {others}.")
    for line in failed:
        say(console, line)


def _pool_words(pool: Pool, *, several: bool) -> str:
    where = f" at {pool.label}" if several else ""
    if pool.left == 0:
        return f"No T{where}: none of {pool.members} members left the transient in this run."
    some = "" if pool.left == pool.members else " that left; the others would be later, so this is a lower bound"
    if pool.left == 1:
        return f"T = {number(pool.T.value, 4)} steps{where}; one member of {pool.members} has a T: no interval over members."
    return (
        f"T = {number(pool.T.value, 4)} steps{where}, 95 % interval {number(pool.T.low, 4)} to {number(pool.T.high, 4)} "
        f"(geometric mean of {pool.left} of {pool.members} members{some}; mean {number(pool.mean, 4)} ± {number(pool.std, 3)})."
    )


def _print_fits(console: Console, transient: TransientFit) -> None:
    table = _table(
        "member | window | T fitted | A fitted | log rho_eq fitted | residual | A max/min | holds",
        f"Closed form, constant A and B ({memo.cite('eq5')}), fitted from T/2 to 2T",
    )
    skipped = []
    for each in transient.each:
        if each.fit is None:
            skipped.append(f"member {each.member}: not fitted, {each.no_fit}")
            continue
        fit = each.fit
        shown = ranged if fit.holds else _bare  # an interval around a curve that misses would only mislead
        _row(
            table,
            str(each.member),
            f"{fit.window[0]}–{fit.window[1]}",
            shown(fit.T, 4),
            number(fit.A.value),
            shown(fit.log_rho_eq, 4),
            f"{100 * fit.residual:.2g} %",
            number(fit.A_drift),
            "yes" if fit.holds else "no",
        )
    console.print()
    if table.row_count:
        console.print(table)
        say(
            console,
            "residual: rms of log rho minus fit over the rise in the window (which ends where the run does); the fit holds below 2 %.",
        )
        if any(_beside(each) for each in transient.each):
            say(
                console,
                "Where it does not hold, A was not constant in the window, no interval is given, and T above is the measurement.",
            )
    for line in skipped:
        say(console, line)
    console.print()


def _bare(interval: Interval, digits: int) -> str:
    return number(interval.value, digits)


def _beside(each: MemberTransient) -> bool:
    return each.fit is not None and not each.fit.holds


def _print_audit(console: Console, audit: Audit | None) -> None:
    say(console, "Audit", "bold")
    if audit is None:
        say(console, "fewer than two finite steps: nothing to check")
        return
    step, member, layer = audit.where
    verdict = "holds to rounding" if audit.holds else "does NOT hold"
    say(
        console,
        f"discrete step identity ({memo.cite('eq3')}, with its finite-step term): {verdict} in {audit.checked} checks; "
        f"largest residual {number(audit.residual, 2)} of its largest term (step {step}, member {member}, layer {layer}; rounding explains up to {audit.rounding:g})",
    )
    if math.isfinite(audit.flow):
        say(
            console,
            f"gradient flow's share of all changes of rho_k², in absolute value: {100 * audit.flow:.4g} %; the rest comes from finite steps",
        )
    say(
        console,
        f"balance ({memo.cite('lemma1')}): rho_k² - rho_j² moved by at most {number(audit.balance, 2)} of rho_k²; at the start they differ by {number(audit.balance_start, 2)}",
    )


# --- compare -----------------------------------------------------------------------------------------------


def print_comparison(console: Console, result: Comparison) -> None:
    """All of ``compare``'s answer."""
    for letter, side in zip("AB", (result.first, result.second), strict=True):
        _title(console, f"{letter}  {side.path}", headline(side.summary))
    if result.differs:
        say(console, "They differ in " + "; ".join(f"{key}: {a} | {b}" for key, (a, b) in result.differs.items()))
    else:
        say(console, "Their recipes are the same.")
    table = _table(
        "run | member | window | offset | fluctuation | 95 % interval | tau | independent | log rho | log rho_eq",
        "delta = log(rho/rho_eq) after the transient",
    )
    for letter, side in zip("AB", (result.first, result.second), strict=True):
        for f in side.each:
            _row(
                table,
                letter,
                str(f.member),
                f"{f.window[0]}–{f.window[1]}" + ("" if f.stationary else " drifts"),
                number(f.offset),
                number(f.std),
                f"{number(f.low)} – {number(f.high)}" if math.isfinite(f.low) else "–",
                number(f.tau),
                number(f.effective),
                number(f.std_rho, 2),
                number(f.std_rho_eq, 2),
            )
    console.print()
    console.print(table)
    say(
        console,
        "offset: mean of delta (natural logarithm); fluctuation: its standard deviation about a line, with its block-bootstrap interval; tau: integrated autocorrelation time in steps; independent: effective sample size; last columns: the same standard deviation of log rho and of log rho_eq alone.",
    )
    console.print()
    for letter, side in zip("AB", (result.first, result.second), strict=True):
        if side.each:
            say(console, _side_words(letter, side))
    paired = f", paired over {result.paired} seeds" if result.paired else ""
    if math.isfinite(result.ratio.value):
        say(console, f"ratio of fluctuations B/A: {ranged(result.ratio)}{paired}")
    for caution in result.cautions:
        say(console, f"caution: {caution}")
    say(console, f"\n{result.verdict}", "bold")


def _side_words(letter: str, side: Side) -> str:
    offset = side.offset
    at = f"rho = {number(math.exp(offset.value), 4)} rho_eq on average"
    return f"{letter}: fluctuation {ranged(side.std)} over {len(side.each)} members; {at}"


# --- info and quantities -----------------------------------------------------------------------------------


_PROVENANCE = (
    *("started", "finished", "command", "folder", "versions", "python", "platform", "threads"),
    *("git_revision", "recipe_digest", "data_digest"),
)


def print_info(console: Console, trace: Trace, summary: dict[str, Any]) -> None:
    """What a run file holds and where it came from."""
    snapshots = trace.snapshot_steps()
    diff = trace.attributes.get("git_diff")
    _title(console, f"{trace.path}, {summary['bytes'] / 1e6:.2f} MB", headline(summary))
    table = _table("<key | <value")
    for key in _PROVENANCE:
        if trace.attributes.get(key) not in (None, ""):
            _row(table, key.replace("_", " "), str(trace.attributes[key]))
    _row(table, "git diff", f"{len(diff.splitlines())} lines, kept in the attribute git_diff" if diff else "none")
    _row(table, "snapshots", "at steps " + ", ".join(map(str, snapshots)) if snapshots else "none")
    _row(table, "quantities", ", ".join(q.name for q in trace.quantities))
    console.print(table)
    say(console, "Recipe", "bold")
    say(console, trace.attributes["recipe"])


def quantity_rows() -> list[dict[str, str]]:
    """The quantities table as plain rows."""
    return [
        {
            "quantity": q.name,
            "symbol": q.symbol,
            "axes": ", ".join(("time", *q.axes)),
            "units": q.units,
            "memo": memo.STATEMENTS[q.equation].place if q.equation else "",
            "cost": q.cost,
            "says": q.says,
        }
        for q in QUANTITIES
    ]


def print_quantities(console: Console) -> None:
    """The table of everything that a run records."""
    rows = quantity_rows()
    table = _table(" | ".join(f"<{name}" for name in rows[0]))
    for row in rows:
        _row(table, *row.values())
    console.print(table)
    say(console, f"memo: {memo.CITATION}.")
    say(
        console,
        "cost: free = at every step; forward = every record.full_every steps (every step under full batch); test = every record.test_every steps.",
    )


def quantities_markdown() -> str:
    """The same table for the README."""
    rows = quantity_rows()
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    lines += [
        "| " + " | ".join(f"`{v}`" if k == "quantity" else v.replace("|", "\\|") for k, v in row.items()) + " |"
        for row in rows
    ]
    return "\n".join(lines)
