"""How numbers and intervals are written; analysis, which may not import from here, finds it in ``statistics.numbers``."""

from rhotrace.statistics.numbers import count, number, ranged, span, written

__all__ = ["count", "number", "ranged", "span", "written"]
