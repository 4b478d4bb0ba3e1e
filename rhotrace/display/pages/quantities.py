"""The page of ``quantities``, and the same table for the README."""

from __future__ import annotations

from rhotrace.display.blocks import Block, Data, Paragraph, table
from rhotrace.models.losses import Square
from rhotrace.recording import shipped
from rhotrace.recording.quantities import QUANTITIES
from rhotrace.recording.quantity import CADENCES
from rhotrace.theory import paper

_REGISTERS = shipped.REGISTERED  # imported for what they register


def quantities_page() -> list[Block]:
    """The table of everything that a run records."""
    rows = _rows()
    return [
        Data(rows),
        table(" | ".join(f"<{name}" for name in rows[0]), [row.values() for row in rows]),
        Paragraph(f"memo: {paper.CITATION}."),
        Paragraph(
            "cadence: step = at every step; full = every record.full_every steps (with full batches, every step); "
            "test = every record.test_every steps; any other = as record.every says, by default never. "
            "needs: what is computed for it, beside what each step has in hand."
        ),
        table(
            "<record.every | <what is computed, and its cost",
            [(c.name, c.says) for c in CADENCES.values() if c.default is None],
        ),
    ]


def quantities_markdown() -> str:
    """The same table for docs/run-file.md."""
    rows = _rows()
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    lines += [
        "| " + " | ".join(f"`{v}`" if k == "quantity" else v.replace("|", "\\|") for k, v in row.items()) + " |"
        for row in rows
    ]
    return "\n".join(lines)


def _rows() -> list[dict[str, str]]:
    return [
        {
            "quantity": q.name,
            "symbol": q.symbol,
            "axes": ", ".join(("time", *q.axes)),
            "units": q.units,
            "memo": paper.STATEMENTS[q.equation].place if q.equation else "",
            "cadence": q.cadence,
            "needs": ", ".join(quantity.needs),
            "says": q.says,
        }
        for q, quantity in ((quantity.describe(Square()), quantity) for quantity in QUANTITIES.values())
    ]
