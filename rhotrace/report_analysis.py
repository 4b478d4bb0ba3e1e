"""``analyze`` as a person reads it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rhotrace import memo
from rhotrace.report import headline, number, ranged, row, say, table, title

if TYPE_CHECKING:
    from rich.console import Console

    from rhotrace.analyze import Analysis
    from rhotrace.audit import Audit
    from rhotrace.transient import Interval, MemberTransient, Pool, TransientFit


def print_analysis(console: Console, result: Analysis, *, fits: bool) -> None:
    """All of ``analyze``'s answer."""
    title(console, result.path, headline(result.summary))
    _print_transient(console, result)
    if fits:
        _print_fits(console, result.transient)
    for pool in result.transient.pools:
        say(console, _pool_words(pool, several=len(result.transient.pools) > 1), "bold")
    console.print()
    _print_audit(console, result.audit)


def _print_transient(console: Console, result: Analysis) -> None:
    grid = table(
        "member | seed | T | T loss | T growth | rho_eq/rho | loss | error | test err",
        "Transient, in steps, and the end of the run",
    )
    theta = result.transient.theta
    failed = []
    for each, final in zip(result.transient.each, result.final, strict=True):
        row(
            grid,
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
    console.print(grid)
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
    grid = table(
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
        row(
            grid,
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
    if grid.row_count:
        console.print(grid)
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
