"""How numbers and intervals are written, in tables and in sentences."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rhotrace.statistics.intervals import Interval


def number(value: float, digits: int = 3) -> str:
    """A number to some significant digits; a dash where there is none."""
    value += 0.0  # without the sign of zero
    if not math.isfinite(value):
        return "–" if math.isnan(value) else ("∞" if value > 0 else "-∞")
    if value and abs(value) < 10**digits and abs(value) >= 1e-3:
        return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"
    return f"{value:.0f}" if digits <= math.log10(max(abs(value), 1)) < 7 or value == 0 else f"{value:.{digits - 1}e}"


def written(value: float, digits: int = 3) -> str:
    """A number in a sentence, such as 1,080: to some significant digits, without zeros at the end."""
    rounded = float(f"{value:.{digits - 1}e}")
    if 10**digits <= abs(rounded) < 1e7:
        return f"{rounded:,.0f}"
    return f"{value:.{digits}g}".replace("inf", "infinity")


def ranged(interval: Interval, digits: int = 3) -> str:
    """A value with its 95 % interval."""
    if not math.isfinite(interval.low):
        return number(interval.value, digits)
    return f"{number(interval.value, digits)} [{number(interval.low, digits)}, {number(interval.high, digits)}]"


def span(interval: Interval, digits: int = 3) -> str:
    """The ends of an interval; a dash where it has none."""
    if not math.isfinite(interval.low):
        return "–"
    return f"{number(interval.low, digits)} – {number(interval.high, digits)}"


def count(number: int, thing: str) -> str:
    """A number of things: ``1 run``, ``2 runs``."""
    return f"{number} {thing}{'' if number == 1 else 's'}"
