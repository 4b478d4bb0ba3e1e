"""The page of ``analyze``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rhotrace.analysis.plateaus import arrival
from rhotrace.analysis.stability import in_words
from rhotrace.display.blocks import Block, Data, Heading, Paragraph, Table, table
from rhotrace.display.numbers import count, number, ranged, span, written
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
    """The answer first: T, how the members ended and what to know; then T by every definition, the end, fits, the audit."""
    applies = not result.transient.inapplicable
    for place, words in enumerate(pool_words(result.transient)):
        yield Paragraph(words, strong=True, apart=place == 0)
    yield from outcome(result)
    if applies:
        yield from _transient(result)
    yield from _plateaus(result)
    yield _end(result)
    if fits and applies:
        yield from _fits(result.transient)
    if result.summary["optimizer"] != "norm-control":
        yield from _driven(result.transient)
    if result.left_out and any(each.driven for each in result.transient.each):
        yield Paragraph(
            f"{paper.cite('eq5')} has no {' and no '.join(result.left_out)}, which this run has: its solutions, driven or "
            "with constant A and B, need not follow the run."
        )
    if said := in_words(result.stability):
        yield Paragraph(f"At the end, {said}.")
    yield from _audit(result)


def outcome(result: Analysis) -> Iterator[Block]:
    """Where T is not the end, how the members ended, and the one thing to know before anything else is read."""
    yield from _arrived(result)
    ends = {
        name: [value for final in result.final if math.isfinite(value := getattr(final, key))]
        for name, key in (("loss", "loss"), ("error", "error"), ("test error", "test_error"))
    }
    said = "; ".join(f"{name} {_from_to(values)}" for name, values in ends.items() if values)
    yield Paragraph(f"At the last step: {said}." if said else "No member has a finite loss at the last step.")
    without = [each for each in result.transient.each if math.isnan(each.T)]
    if result.audit and not result.audit.holds:
        yield Paragraph("Note: the exact step identity does NOT hold in this run; see the audit below.", strong=True)
    elif result.summary["state"] != "finished":
        yield Paragraph(
            f"Note: the run is not finished ({result.summary['state']}); all of this may change.", strong=True
        )
    elif without and not result.transient.inapplicable:
        whys = Counter(str(each.outcome) for each in without)
        why = "; ".join(f"{n}: {outcome}" for outcome, n in whys.items())
        yield Paragraph(
            f"Note: {len(without)} of {count(len(result.transient.each), 'member')} without a T ({why}).", strong=True
        )


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
    yield Paragraph(f"T: first step from which rho stays at or above {theta:g} rho_eq. Columns: analyze --help.")
    yield from without


def _end(result: Analysis) -> Table:
    """Without rho_eq/rho where the loss has none."""
    there = not result.transient.inapplicable or any(math.isfinite(final.rho_eq_over_rho) for final in result.final)
    rows = [
        (
            str(final.member),
            str(final.seed),
            *([number(final.rho_eq_over_rho, 4)] if there else []),
            number(final.loss),
            number(final.error),
            number(final.test_error),
        )
        for final in result.final
    ]
    ratio = "rho_eq/rho | " if there else ""
    return table(f"member | seed | {ratio}loss | error | test error", rows, "The last recorded step")


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


def _arrived(result: Analysis) -> Iterator[Block]:
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
            f"loss stays near {_from_to(levels)}, with a training error of {_from_to(errors)}, until step {_from_to(lasts, 4)}.",
            strong=True,
        )


def _plateaus(result: Analysis) -> Iterator[Block]:
    """Where the loss of a member stays, one after the other."""
    rows = [
        (str(final.member), str(final.seed), f"{p.first}–{p.last}", number(p.level), number(p.error))
        for final, found in zip(result.final, result.plateaus, strict=True)
        if len(found) > 1
        for p in found
    ]
    if rows:
        yield table("member | seed | steps | loss | error", rows, "Plateaus of the loss")
        yield Paragraph(
            "loss and error are medians; a loss that does not fall in steps is not listed. Plateau: analyze --help."
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
                f"{written(100 * fit.residual, 2)} %",
                number(fit.A_drift),
                "yes" if fit.holds else "no",
            )
        )
    if rows:
        columns = "member | window | T fitted | A fitted | log rho_eq fitted | residual | A max/min | holds"
        yield table(columns, rows, f"Closed form, constant A and B ({paper.cite('eq5')}), fitted from T/2 to 2T")
        yield Paragraph(
            "residual: rms of the misfit over the rise of log rho; below 2 % the fit holds. Columns: analyze --help."
        )
    yield from skipped


def _bare(interval: Interval, digits: int) -> str:
    return number(interval.value, digits)


def _audit(result: Analysis) -> Iterator[Block]:
    yield Heading("Audit")
    audit = result.audit
    if audit is None:
        yield Paragraph(f"not checked: {result.no_audit.removeprefix('does not apply: ')}")
        return
    step, member, layer = audit.where
    held = result.summary["optimizer"] == "norm-control"
    identity = "the norms follow their schedule" if held else f"{paper.cite('eq3')}, with its finite-step term"
    verdict = "holds to rounding" if audit.holds else "does NOT hold"
    yield Paragraph(
        f"discrete step identity ({identity}): {verdict} in {audit.checked} checks; "
        f"largest residual {number(audit.residual, 2)} of its largest term (step {step}, member {member}, layer {layer}; "
        f"rounding explains up to {audit.rounding:g})"
    )
    if math.isfinite(audit.flow):
        yield Paragraph(
            f"gradient flow's share of all changes of rho_k², in absolute value: {written(100 * audit.flow, 4)} %; "
            f"the rest comes from {audit.rest}"
        )
    if result.no_balance:
        return
    yield Paragraph(
        f"balance ({paper.cite('lemma1')}): rho_k² - rho_j² moved by at most {number(audit.balance, 2)} of rho_k²; "
        f"at the start they differ by {number(audit.balance_start, 2)}"
    )
