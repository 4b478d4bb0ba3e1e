"""The page of ``analyze``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rhotrace.analysis.plateaus import arrival
from rhotrace.analysis.stability import in_words
from rhotrace.display.blocks import Block, Data, Heading, Paragraph, Table, table
from rhotrace.display.numbers import count, number, ranged, span
from rhotrace.display.pages.headline import headline, title
from rhotrace.theory import paper

if TYPE_CHECKING:
    from rhotrace.analysis.analyze import Analysis
    from rhotrace.analysis.transient.transient_time import Pool, TransientFit
    from rhotrace.statistics.intervals import Interval


def analysis_page(result: Analysis, *, fits: bool) -> list[Block]:
    """All that ``analyze`` found; with ``fits`` also the closed-form fits."""
    return [Data(result), *title(result.path, headline(result.summary)), *findings(result, fits=fits)]


def findings(result: Analysis, *, fits: bool) -> Iterator[Block]:
    """T by every definition, the end of the run, fits, and the audit of the steps."""
    applies = not result.transient.inapplicable
    if applies:
        yield from _transient(result)
    yield _end(result)
    if fits and applies:
        yield from _fits(result.transient)
    yield from _driven(result.transient)
    for words in pool_words(result.transient):
        yield Paragraph(words, strong=True)
    yield from _plateaus(result)
    if said := in_words(result.stability):
        yield Paragraph(f"At the end, {said}.")
    yield from _audit(result)


def _transient(result: Analysis) -> Iterator[Block]:
    theta = result.transient.theta
    rows, without = [], []
    for each, final in zip(result.transient.each, result.final, strict=True):
        rows.append(
            (
                str(each.member),
                str(final.seed),
                number(each.T, 4),
                number((each.crossing.high - each.crossing.low) / 2, 2),
                number(each.T_loss, 4),
                number(each.T_inflection, 4),
                number(each.driven.T, 4) if each.driven else "–",
                number(each.T_constant, 4),
            )
        )
        if each.caution:
            without.append(Paragraph(f"caution: member {each.member}: {each.caution}"))
        if math.isnan(each.T):
            without.append(Paragraph(f"member {each.member}: no T, {each.outcome}"))
    columns = "member | seed | T | ± (95 %) | T loss | T growth | T driven | T constant"
    yield table(columns, rows, "The transient time by each definition, in steps")
    yield Paragraph(
        f"T: first step from which rho >= {theta:g} rho_eq, held for 10 steps or a fifth of T, whichever is longer. "
        "±: of that crossing, from a cubic through log(rho/rho_eq) around it. "
        "T loss: first step from which the loss is below 1/2, held likewise. "
        "T growth: step at which log rho grows fastest. T driven: T of equation (5) with the measured A(t) and B(t). "
        "T constant: T if A and B kept their values of step 0."
    )
    yield from without


def _end(result: Analysis) -> Table:
    rows = [
        (
            str(final.member),
            str(final.seed),
            number(final.rho_eq_over_rho, 4),
            number(final.loss),
            number(final.error),
            number(final.test_error),
        )
        for final in result.final
    ]
    return table("member | seed | rho_eq/rho | loss | error | test error", rows, "The last recorded step")


def _driven(transient: TransientFit) -> Iterator[Block]:
    driven = [each.driven for each in transient.each if each.driven]
    if driven:
        worst = max(driven, key=lambda d: d.largest)
        rms = max(d.rms for d in driven)
        yield Paragraph(
            f"{paper.cite('eq5')} driven by the measured A(t) and B(t) misses log rho by at most "
            f"{number(worst.largest, 2)} (rms {number(rms, 2)}), where log rho rises by {number(worst.rise)}.",
            apart=True,
        )
    ratios = sorted(each.T_constant / each.T for each in transient.each if each.T > 0 and each.T_constant > 0)
    if ratios:
        low, high = number(ratios[0], 2), number(ratios[-1], 2)
        times = low if low == high else f"{low} to {high}"
        yield Paragraph(
            f"With A and B constant from step 0, the memo's simplification, T would be {times} times the measured one."
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
        have = "one member has" if pool.left == 1 else f"{pool.left} members that share one seed have"
        return f"T = {number(pool.T.value, 4)} steps{where}; {have} a T, of {pool.members}: no interval over members."
    some += "" if pool.seeds == pool.left else f", which have {pool.seeds} distinct seeds, each counted once"
    return (
        f"T = {number(pool.T.value, 4)} steps{where}, 95 % interval {number(pool.T.low, 4)} to {number(pool.T.high, 4)} "
        f"(geometric mean of {pool.left} of {pool.members} members{some}; Student's t on log T{_bootstrapped(pool)}; "
        f"mean {number(pool.mean, 4)} ± {number(pool.std, 3)})."
    )


def _bootstrapped(pool: Pool) -> str:
    return f", bootstrap {span(pool.bootstrap, 4)}" if math.isfinite(pool.bootstrap.low) else ""


def _plateaus(result: Analysis) -> Iterator[Block]:
    """What T does not say where the loss comes down in several steps."""
    end = result.summary["steps"] - 1
    arrived = [
        (each.member, reached)
        for each, found in zip(result.transient.each, result.plateaus, strict=True)
        if each.T > 0 and (reached := arrival(found, each.T, end))
    ]
    if arrived:
        which = ", ".join(str(member) for member, _ in arrived)
        levels, errors, lasts = zip(*((p.level, p.error, float(p.last)) for _, p in arrived), strict=True)
        yield Paragraph(
            f"In {count(len(arrived), 'member')} ({which}) T is the arrival at a plateau and not the end of learning: the "
            f"loss stays near {_from_to(levels)}, with a training error of {_from_to(errors)}, until step {_from_to(lasts, 4)}."
        )
    rows = [
        (str(final.member), str(final.seed), f"{p.first}–{p.last}", number(p.level), number(p.error))
        for final, found in zip(result.final, result.plateaus, strict=True)
        if len(found) > 1
        for p in found
    ]
    if rows:
        yield table("member | seed | steps | loss | error", rows, "Plateaus of the loss")
        yield Paragraph(
            "plateau: the loss crosses its level at least 5 times as slowly as the levels above and below it, and stays at "
            "least as long as the fall to it took; loss and error are medians. A loss that does not fall in steps is not listed."
        )


def _from_to(values: Sequence[float], digits: int = 3) -> str:
    low, high = number(min(values), digits), number(max(values), digits)
    return low if low == high else f"{low} to {high}"


def _fits(transient: TransientFit) -> Iterator[Block]:
    rows, skipped = [], []
    for each in transient.each:
        if each.fit is None:
            skipped.append(Paragraph(f"member {each.member}: not fitted, {each.no_fit}"))
            continue
        fit = each.fit
        shown = ranged if fit.holds else _bare  # an interval around a curve that misses would only mislead
        rows.append(
            (
                str(each.member),
                f"{fit.window[0]}–{fit.window[1]}",
                shown(fit.T, 4),
                number(fit.A.value),
                shown(fit.log_rho_eq, 4),
                f"{100 * fit.residual:.2g} %",
                number(fit.A_drift),
                "yes" if fit.holds else "no",
            )
        )
    if rows:
        columns = "member | window | T fitted | A fitted | log rho_eq fitted | residual | A max/min | holds"
        yield table(columns, rows, f"Closed form, constant A and B ({paper.cite('eq5')}), fitted from T/2 to 2T")
        yield Paragraph(
            "residual: rms of log rho minus the fit, over its rise in the window (which ends where the run does); "
            "the fit holds below 2 %. T fitted: – if it is outside the window. A max/min: of the measured A in the window."
        )
        if any(each.fit is not None and not each.fit.holds for each in transient.each):
            yield Paragraph(
                "Where the fit does not hold, A was not constant in the window, so no interval is given; "
                "T above is the measurement."
            )
    yield from skipped


def _bare(interval: Interval, digits: int) -> str:
    return number(interval.value, digits)


def _audit(result: Analysis) -> Iterator[Block]:
    yield Heading("Audit")
    audit = result.audit
    if audit is None:
        yield Paragraph(f"not checked: {result.no_audit}")
        return
    step, member, layer = audit.where
    verdict = "holds to rounding" if audit.holds else "does NOT hold"
    yield Paragraph(
        f"discrete step identity ({paper.cite('eq3')}, with its finite-step term): {verdict} in {audit.checked} checks; "
        f"largest residual {number(audit.residual, 2)} of its largest term (step {step}, member {member}, layer {layer}; "
        f"rounding explains up to {audit.rounding:g})"
    )
    if math.isfinite(audit.flow):
        yield Paragraph(
            f"gradient flow's share of all changes of rho_k², in absolute value: {100 * audit.flow:.4g} %; "
            f"the rest comes from {audit.rest}"
        )
    yield Paragraph(
        f"balance ({paper.cite('lemma1')}): rho_k² - rho_j² moved by at most {number(audit.balance, 2)} of rho_k²; "
        f"at the start they differ by {number(audit.balance_start, 2)}"
    )
