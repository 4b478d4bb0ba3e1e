"""The command ``quantities``."""

from __future__ import annotations

from rhotrace.cli.options import AsJson
from rhotrace.cli.output import answer


def quantities(as_json: AsJson = False) -> None:
    """List everything that a run records, with symbols, units and equations."""
    from rhotrace.display.pages.quantities import quantities_page

    answer(quantities_page(), as_json=as_json)
