"""``audit`` as a person reads it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from rhotrace.display.formatting import headline, row, say, table, title
from rhotrace.theory import paper

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from rhotrace.analysis.claims.findings import Claim


_SHORT = {"holds": "holds", "fails": "FAILS", "not testable here": "–"}


def print_claims(
    console: Console,
    path: Path,
    summary: dict[str, Any],
    claims: tuple[Claim, ...],
    plot: Path | None = None,
    cautions: Sequence[str] = (),
) -> None:
    """The memo, statement by statement, against one run; then where the memo contradicts itself."""
    title(console, str(path), headline(summary))
    print_statements(console, claims, cautions)
    print_errata(console)
    if plot:
        say(console, f"\ndrawn in {plot}")


def print_statements(console: Console, claims: Sequence[Claim], cautions: Sequence[str] = ()) -> None:
    """What to know about the run first; every statement with what was measured, and how many hold."""
    for caution in cautions:
        say(console, caution, "bold")
    grid = table("<where | <the memo says | <this run | <measured, in the worst member (tolerance)", paper.CITATION)
    for claim in claims:
        finding = claim.finding
        tolerance = f" ({finding.tolerance})" if finding.tolerance else ""
        row(grid, claim.place, claim.says, _SHORT[finding.outcome], finding.measured + tolerance)
    console.print(grid)
    say(console, "–: not testable on this run alone, for the reason given.")
    counts = Counter(claim.finding.outcome for claim in claims)
    say(console, ", ".join(f"{counts[o]} {o}" for o in ("holds", "fails", "not testable here")), "bold")


def print_errata(console: Console) -> None:
    """Where the memo contradicts itself."""
    say(console, "\nWhere the memo's own words or factors do not agree", "bold")
    for erratum in paper.ERRATA:
        say(console, f"{paper.STATEMENTS[erratum.key].place}: {erratum.says}. {erratum.derivation}")
