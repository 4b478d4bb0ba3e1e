"""``analyze`` as a person reads it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rhotrace.display.formatting import headline, number, ranged, row, say, span, table, title
from rhotrace.theory import paper

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from rhotrace.analysis.analyze import Analysis
    from rhotrace.analysis.transient.transient_time import MemberTransient, Pool, TransientFit
    from rhotrace.statistics.intervals import Interval


def print_analysis(console: Console, result: Analysis, *, fits: bool, plot: Path | None = None) -> None:
    """All of ``analyze``'s answer."""
    title(console, result.path, headline(result.summary))
    print_findings(console, result, fits=fits)
    if plot:
        say(console, f"drawn: {plot}")


def print_findings(console: Console, result: Analysis, *, fits: bool) -> None:
    """T by every definition, the end of the run, fits, and the audit of the steps."""
    _print_transient(console, result)
    _print_end(console, result)
    if fits:
        _print_fits(console, result.transient)
    _print_driven(console, result.transient)
    for words in pool_words(result.transient):
        say(console, words, "bold")
    console.print()
    _print_audit(console, result)


def _print_transient(console: Console, result: Analysis) -> None:
    grid = table(
        "member | seed | T | ± (95 %) | T loss | T growth | T driven | T constant",
        "The transient time by each definition, in steps",
    )
    theta = result.transient.theta
    failed = []
    for each, final in zip(result.transient.each, result.final, strict=True):
        row(
            grid,
            str(each.member),
            str(final.seed),
            number(each.T, 4),
            number((each.crossing.high - each.crossing.low) / 2, 2),
            number(each.T_loss, 4),
            number(each.T_inflection, 4),
            number(each.driven.T, 4) if each.driven else "–",
            number(each.T_constant, 4),
        )
        if math.isnan(each.T) and not result.transient.inapplicable:
            failed.append(f"member {each.member}: no T, {each.outcome}")
    console.print(grid)
    say(
        console,
        f"T: first step from which rho >= {theta:g} rho_eq, held for 10 steps or a fifth of T, whichever is longer; ±: of that "
        "crossing, from a cubic through log(rho/rho_eq) around it. T loss: first step from which the loss is below 1/2, likewise. "
        "T growth: step at which log rho grows fastest. T driven: of equation (5) with the measured A(t) and B(t). "
        "T constant: if A and B stayed as they are at step 0.",
    )
    for line in failed:
        say(console, line)


def _print_end(console: Console, result: Analysis) -> None:
    grid = table("member | seed | rho_eq/rho | loss | error | test error", "The last recorded step")
    for final in result.final:
        end = (number(final.rho_eq_over_rho, 4), number(final.loss), number(final.error), number(final.test_error))
        row(grid, str(final.member), str(final.seed), *end)
    console.print()
    console.print(grid)


def _print_driven(console: Console, transient: TransientFit) -> None:
    driven = [each.driven for each in transient.each if each.driven]
    if driven:
        worst = max(driven, key=lambda d: d.largest)
        rms = max(d.rms for d in driven)
        say(
            console,
            f"{paper.cite('eq5')} driven by the measured A(t) and B(t) misses log rho by at most {number(worst.largest, 2)} "
            f"(rms {number(rms, 2)}), where log rho rises by {number(worst.rise)}.",
        )
    ratios = sorted(each.T_constant / each.T for each in transient.each if each.T > 0 and each.T_constant > 0)
    if ratios:
        low, high = number(ratios[0], 2), number(ratios[-1], 2)
        times = low if low == high else f"{low} to {high}"
        say(
            console,
            f"With A and B constant from step 0, the memo's simplification, T would be {times} times the measured one.",
        )


def pool_words(transient: TransientFit) -> list[str]:
    """T over the members that share start and learning rate, a sentence for each."""
    if transient.inapplicable:
        return [f"T: {transient.inapplicable}."]
    return [_pool_words(pool, several=len(transient.pools) > 1) for pool in transient.pools]


def _pool_words(pool: Pool, *, several: bool) -> str:
    where = f" at {pool.label}" if several else ""
    if pool.left == 0:
        return f"No T{where}: none of {pool.members} members left the transient in this run."
    some = "" if pool.left == pool.members else " that left; the others would be later, so this is a lower bound"
    if pool.seeds == 1:
        who = "one member" if pool.left == 1 else f"{pool.left} members that share one seed"
        have = "has" if pool.left == 1 else "have"
        return (
            f"T = {number(pool.T.value, 4)} steps{where}; {who} of {pool.members} {have} a T: no interval over members."
        )
    some += "" if pool.seeds == pool.left else f", which have {pool.seeds} distinct seeds, each counted once"
    return (
        f"T = {number(pool.T.value, 4)} steps{where}, 95 % interval {number(pool.T.low, 4)} to {number(pool.T.high, 4)} "
        f"(geometric mean of {pool.left} of {pool.members} members{some}; Student's t on log T{_bootstrapped(pool)}; "
        f"mean {number(pool.mean, 4)} ± {number(pool.std, 3)})."
    )


def _bootstrapped(pool: Pool) -> str:
    return f", bootstrap {span(pool.bootstrap, 4)}" if math.isfinite(pool.bootstrap.low) else ""


def _print_fits(console: Console, transient: TransientFit) -> None:
    grid = table(
        "member | window | T fitted | A fitted | log rho_eq fitted | residual | A max/min | holds",
        f"Closed form, constant A and B ({paper.cite('eq5')}), fitted from T/2 to 2T",
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
            "residual: rms of log rho minus fit over the rise in the window (which ends where the run does); the fit holds below 2 %. "
            "T fitted: – where it is outside the window. A max/min: of the measured A in the window.",
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


def _print_audit(console: Console, result: Analysis) -> None:
    say(console, "Audit", "bold")
    audit = result.audit
    if audit is None:
        say(console, f"not checked: {result.no_audit}")
        return
    step, member, layer = audit.where
    verdict = "holds to rounding" if audit.holds else "does NOT hold"
    say(
        console,
        f"discrete step identity ({paper.cite('eq3')}, with its finite-step term): {verdict} in {audit.checked} checks; "
        f"largest residual {number(audit.residual, 2)} of its largest term (step {step}, member {member}, layer {layer}; rounding explains up to {audit.rounding:g})",
    )
    if math.isfinite(audit.flow):
        say(
            console,
            f"gradient flow's share of all changes of rho_k², in absolute value: {100 * audit.flow:.4g} %; the rest comes from finite steps",
        )
    say(
        console,
        f"balance ({paper.cite('lemma1')}): rho_k² - rho_j² moved by at most {number(audit.balance, 2)} of rho_k²; at the start they differ by {number(audit.balance_start, 2)}",
    )
