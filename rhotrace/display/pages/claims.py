"""The page of ``audit``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rhotrace.display.as_json import plain
from rhotrace.display.blocks import Block, Data, Heading, Paragraph, table
from rhotrace.display.pages.headline import headline, title
from rhotrace.theory import paper

if TYPE_CHECKING:
    from rhotrace.analysis.claims.findings import Claim

_SHORT = {"holds": "holds", "fails": "FAILS", "not testable here": "–"}


def claims_page(path: Path, summary: dict[str, Any], claims: Sequence[Claim], cautions: Sequence[str]) -> list[Block]:
    """The memo, statement by statement, compared with one run; then where the memo contradicts itself."""
    data = {
        "path": str(path),
        "cautions": list(cautions),
        "claims": [plain(claim) for claim in claims],
        "errata": [plain(erratum) for erratum in paper.ERRATA],
    }
    return [
        Data(data),
        *title(str(path), headline(summary)),
        *statements(claims, cautions),
        Heading("Where the memo's own words or factors do not agree"),
        *errata(),
    ]


def statements(claims: Sequence[Claim], cautions: Sequence[str] = ()) -> Iterator[Block]:
    """What to know about the run first; then every statement with what was measured, and how many hold."""
    for caution in cautions:
        yield Paragraph(caution, strong=True)
    rows = []
    for claim in claims:
        finding = claim.finding
        tolerance = f" ({finding.tolerance})" if finding.tolerance else ""
        rows.append((claim.place, claim.says, _SHORT[finding.outcome], finding.measured + tolerance))
    columns = "<where | <the memo says | <this run | <measured, in the worst member (tolerance)"
    yield table(columns, rows, paper.CITATION)
    yield Paragraph("–: not testable on this run alone, for the reason given.")
    counts = Counter(claim.finding.outcome for claim in claims)
    verdict = f"{counts['holds']} hold, {counts['fails']} fail, {counts['not testable here']} not testable here"
    yield Paragraph(verdict, strong=True)


def errata() -> Iterator[Block]:
    """Where the memo contradicts itself."""
    for erratum in paper.ERRATA:
        yield Paragraph(f"{paper.STATEMENTS[erratum.key].place}: {erratum.says}. {erratum.derivation}")
