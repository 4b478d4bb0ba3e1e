"""By what power the time of a step grows with each size of a run, beside the power of its products and of the bare loop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rhotrace.config import recipe

from .limits import work
from .loops import bare, one_by_one, traced
from .measure import Effort, Loop, Row
from .workloads import DEEP8

AXES = {
    "N": ("data.train={}", (200, 400, 800, 1600)),
    "width": ("network.width={}", (64, 128, 256, 512)),
    "depth": ("network.depth={}", (4, 8, 16, 32)),
    "members": ("members.seeds={}", (1, 2, 4, 8, 16)),
}
SHORT = ("network.width=16", "data.train=100")
TOLERANCE = 0.05  # of a measured exponent


def growth(_: Path, effort: Effort) -> Iterator[Row]:
    """A row for each axis; for the steps, the whole training and not a step grows."""
    for name, (override, every) in list(AXES.items())[: 1 if effort.quick else None]:
        values = every[: 2 if effort.quick else None]
        contents = [recipe.parse(DEEP8, [override.format(value)]) for value in values]
        took = [_each(traced(content), effort) for content in contents]
        usual = one_by_one if name == "members" else bare
        theirs = [_each(usual(content), effort) for content in contents]
        yield row(name, values, took, [work(content)[0] for content in contents], theirs)
    values = (10, 20) if effort.quick else (1000, 2000, 4000, 8000)
    go = traced(recipe.parse(DEEP8, list(SHORT)))
    yield row("steps", values, [min(go(steps) for _ in range(2)) for steps in values], list(values), None)


def _each(go: Loop, effort: Effort) -> float:
    """Seconds of a step."""
    steps = 3
    go(steps)
    steps = max(steps, int(effort.seconds / max(go(steps) / steps, 1e-5)))
    return min(go(steps) / steps for _ in range(2))


def row(name: str, values: tuple[int, ...], took: list[float], needed: list[float], theirs: list[float] | None) -> Row:
    """The exponents, and whether that of the time is worse than both that of the products and that of the bare loop."""
    measured, arithmetic = exponent(values, took), exponent(values, needed)
    found = {"what": name, "values": list(values), "us": [1e6 * t for t in took], "exponent": measured}
    found |= {"arithmetic": arithmetic, "goal": arithmetic + TOLERANCE}
    if theirs:
        found |= {"us_other": [1e6 * t for t in theirs], "exponent_other": exponent(values, theirs)}
    if measured > found["goal"]:
        steps = ", ".join(f"{exponent(values[k : k + 2], took[k : k + 2]):.2f}" for k in range(len(values) - 1))
        beside = f"; the bare loop's is {found['exponent_other']:.2f} at the same sizes" if theirs else ""
        found["why"] = f"{measured:.2f} against {arithmetic:.2f}{beside}. From each size to the next: {steps}."
    return found


def exponent(values: tuple[int, ...], y: list[float]) -> float:
    """Slope of log y over log values."""
    return float(np.polyfit(np.log(values), np.log(y), 1)[0])
