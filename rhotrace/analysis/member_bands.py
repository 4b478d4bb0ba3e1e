"""The members of a run as a band, with one of them as its line, reduced to what can be seen.

The line is the network of median T and not a median over networks: where these leave their transients one by one, a
median over them takes values for a while that none of them ever has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rhotrace.analysis.run_series import RunSeries, require_steps
from rhotrace.analysis.transient.transient_time import Passage, Pool, pool
from rhotrace.runfile.layout import SLAB_BYTES
from rhotrace.runfile.reader import Trace
from rhotrace.statistics.extremes import Curve, Envelope, over_members

Floats = NDArray[np.float64]

_STRETCHES = 400  # of a curve, each with its smallest and its largest value: a page is about as many dots wide


@dataclass(frozen=True)
class Band:
    """Members over time; each curve has steps of its own, which are those of its extremes.

    Attributes:
        low: smallest finite value over the members.
        middle: the typical member's; see ``Group``.
        high: their largest.
    """

    low: Curve
    middle: Curve
    high: Curve

    @property
    def steps(self) -> tuple[int, int]:
        """The first and the last."""
        return int(self.middle[0][0]), int(self.middle[0][-1])

    @property
    def ends(self) -> tuple[float, float]:
        """The line's first and last value."""
        return float(self.middle[1][0]), float(self.middle[1][-1])


@dataclass(frozen=True)
class Group:
    """The members of a run that share initial scale and learning rate: what a band may be drawn of.

    Attributes:
        trace: the run.
        members: their numbers.
        label: what tells the group from others of the pictures, empty where there is only one.
        passages: how each of them left its transient.
        T: over them, in steps.
    """

    trace: Trace
    members: tuple[int, ...]
    label: str
    passages: tuple[Passage, ...]
    T: Pool

    @property
    def typical(self) -> int:
        """Place among the members of the one with the median T, the lower of two; the first where none has a T."""
        order = sorted((p.T, place) for place, p in enumerate(self.passages) if p.T > 0)
        return order[(len(order) - 1) // 2][1] if order else 0

    @property
    def size(self) -> str:
        """How many there are, in words."""
        return f"{len(self.members)} network{'s' if len(self.members) > 1 else ''}"


def groups(runs: Sequence[Trace | RunSeries], *, theta: float | None = None) -> list[Group]:
    """The groups of all runs, in order.

    Args:
        runs: the runs; a ``RunSeries`` has a theta of its own.
        theta: the transient ends at rho = theta rho_eq; 1/2 by default.

    Raises:
        AnalysisError: a run has no steps.
    """
    each, found = [RunSeries.of(run, theta) for run in runs], []
    for run, name in zip(each, run_names([run.trace.path for run in each]), strict=True):
        require_steps(run.trace)
        pools = pool(run.passages, run.labels, run.seeds)
        for (own, members), one in zip(run.groups().items(), pools, strict=True):
            label = ", ".join(part for part in (name if len(runs) > 1 else "", own) if part)
            found.append(Group(run.trace, tuple(members), label, tuple(run.passages[m] for m in members), one))
    return found


def run_names(paths: Sequence[Path]) -> list[str]:
    """A short name of each run: that of its file; with its folder where two are the same."""
    stems = [path.stem for path in paths]
    return [s if stems.count(s) == 1 else f"{p.parent.name}/{s}" for p, s in zip(paths, stems, strict=True)]


def band(group: Group, names: Sequence[str], value: Callable[..., Floats]) -> Band:
    """The band of one value; see ``bands``."""
    return bands(group, names, [value])[0]


def bands(group: Group, names: Sequence[str], values: Sequence[Callable[..., Floats]]) -> list[Band]:
    """The bands of values that are computed from quantities of one time axis, which are read once.

    Args:
        group: whose members.
        names: of the quantities; one that is recorded more often than the first is taken at the first's rows.
        values: each from their rows, (n, members, ...), to (n, members).
    """
    trace, members = group.trace, list(group.members)
    cadence = trace.quantity(names[0]).cadence
    every, rows = trace.strides[cadence], trace.layout.rows(cadence, trace.steps)
    strides = [every // trace.strides[trace.quantity(name).cadence] for name in names]
    curves = [[Envelope(_STRETCHES, expected=rows) for _ in range(3)] for _ in values]
    slab = trace.layout.steps_within(SLAB_BYTES)
    for first in range(0, rows, slab):
        last = min(first + slab, rows)
        taken = [
            trace.rows(name, slice(first * k, (last - 1) * k + 1))[::k][:, members]
            for name, k in zip(names, strides, strict=True)
        ]
        for value, triple in zip(values, curves, strict=True):
            found = value(*taken)
            low, _, high = over_members(found)
            for curve, over in zip(triple, (low, found[:, group.typical], high), strict=True):
                curve.extend(over)
    return [Band(*((at * every, kept) for at, kept in (curve.curve() for curve in triple))) for triple in curves]
