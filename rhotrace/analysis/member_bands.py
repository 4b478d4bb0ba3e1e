"""The members of a run as a band, with one of them as its line, reduced to what can be seen.

The line is the network of median T and not a median over networks: where these leave their transients one by one, a
median over them takes values for a while that none of them ever has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rhotrace.analysis.run_series import RunSeries, require_steps
from rhotrace.analysis.transient.transient_time import Passage, Pool, pool
from rhotrace.errors import AnalysisError
from rhotrace.runfile.layout import SLAB_BYTES
from rhotrace.runfile.reader import Trace
from rhotrace.statistics.extremes import Curve, Envelope, ends_over_members

Floats = NDArray[np.float64]

_LARGEST = 1e100  # the last values of a network that diverges are left out of a mean
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
class View:
    """The part of runs that a figure shows.

    Attributes:
        members: numbers of the networks; all if empty.
        steps: the first and the last; None for the end of the run.
        smooth: each value is the mean over so many steps around it.
    """

    members: tuple[int, ...] = ()
    steps: tuple[int, int | None] = (0, None)
    smooth: int = 1


WHOLE = View()


@dataclass(frozen=True)
class Group:
    """The members of a run that share initial scale and learning rate: what a band may be drawn of.

    Attributes:
        trace: the run.
        members: their numbers.
        label: what tells the group from others of the pictures, empty where there is only one.
        passages: how each of them left its transient.
        T: over them, in steps.
        view: the part of the run that is shown.
        kept: bands of the run that have been computed, to draw them again; see ``bands``.
    """

    trace: Trace
    members: tuple[int, ...]
    label: str
    passages: tuple[Passage, ...]
    T: Pool
    view: View = WHOLE
    kept: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def typical(self) -> int:
        """Place among the members of the one with the median T, the lower of two; the first where none has a T."""
        order = sorted((p.T, place) for place, p in enumerate(self.passages) if p.T > 0)
        return order[(len(order) - 1) // 2][1] if order else 0

    @property
    def size(self) -> str:
        """How many there are, in words."""
        return f"{len(self.members)} network{'s' if len(self.members) > 1 else ''}"


def groups(runs: Sequence[Trace | RunSeries], *, theta: float | None = None, view: View = WHOLE) -> list[Group]:
    """The groups of all runs, in order.

    Args:
        runs: the runs; a ``RunSeries`` has a theta of its own.
        theta: the transient ends at rho = theta rho_eq; 1/2 by default.
        view: the part of the runs that is shown; T is over the members that it shows.

    Raises:
        AnalysisError: a run has no steps, or not the members and steps that are to be shown.
    """
    each, found = [RunSeries.of(run, theta) for run in runs], []
    for run, name in zip(each, run_names([run.trace.path for run in each]), strict=True):
        require_steps(run.trace)
        require_shown(run.trace, view)
        for own, all_members in run.groups().items():
            members = tuple(m for m in all_members if not view.members or m in view.members)
            if not members:
                continue
            passages = tuple(run.passages[m] for m in members)
            (one,) = pool(passages, [run.labels[m] for m in members], [run.seeds[m] for m in members])
            label = ", ".join(part for part in (name if len(runs) > 1 else "", own) if part)
            found.append(Group(run.trace, members, label, passages, one, view, run.kept))
    return found


def require_shown(trace: Trace, view: View) -> None:
    """Raises AnalysisError where a run has not the members and steps of a view."""
    if absent := [m for m in view.members if m >= trace.members]:
        raise AnalysisError(f"--members: got {absent[0]}, but the members of {trace.path} are 0 to {trace.members - 1}")
    first, last = view.steps
    if first >= trace.steps - 1 or (last is not None and last > trace.steps - 1):
        raise AnalysisError(
            f"--steps: got {first}:{'' if last is None else last}, but the steps of {trace.path} are 0 to {trace.steps - 1}"
        )


def run_names(paths: Sequence[Path]) -> list[str]:
    """A short name of each run: that of its file; with its folder where two are the same."""
    stems = [path.stem for path in paths]
    return [s if stems.count(s) == 1 else f"{p.parent.name}/{s}" for p, s in zip(paths, stems, strict=True)]


def band(group: Group, names: Sequence[str], value: Callable[..., Floats], known: str = "") -> Band:
    """The band of one value; see ``bands``."""
    return bands(group, names, [value], known)[0]


def bands(group: Group, names: Sequence[str], values: Sequence[Callable[..., Floats]], known: str = "") -> list[Band]:
    """The bands of values that are computed from quantities of one time axis, which are read once.

    Args:
        group: whose members.
        names: of the quantities; one that is recorded more often than the first is taken at the first's rows.
        values: each from their rows, (n, members, ...), to (n, members), or to (n, members, k) for k bands.
        known: a name for these values of these quantities, under which the run keeps the bands.
    """
    key = known, tuple(names), group.members, group.view
    found: list[Band] | None = group.kept.get(key) if known else None
    if found is None:
        found = group.kept[key] = _bands(group, names, values)
    return found


def _bands(group: Group, names: Sequence[str], values: Sequence[Callable[..., Floats]]) -> list[Band]:
    trace, members, view = group.trace, list(group.members), group.view
    cadence = trace.quantity(names[0]).cadence
    every, recorded = trace.strides[cadence], trace.layout.rows(cadence, trace.steps)
    # the rows to show, at least one of a quantity that is seldom recorded
    begin = min(-(-view.steps[0] // every), recorded - 1)
    end = recorded if view.steps[1] is None else max(begin + 1, min(recorded, view.steps[1] // every + 1))
    around = (view.smooth // every) // 2  # rows on either side that are averaged
    strides = [every // trace.strides[trace.quantity(name).cadence] for name in names]
    curves: list[list[Envelope]] = []
    slab = trace.layout.steps_within(SLAB_BYTES)
    for first in range(begin, end, slab):
        last = min(first + slab, end)
        low, high = max(0, first - around), min(recorded, last + around)
        taken = [
            trace.rows(name, slice(low * k, (high - 1) * k + 1))[::k][:, members]
            for name, k in zip(names, strides, strict=True)
        ]
        place = 0
        for value in values:
            computed = value(*taken)
            for each in [computed] if computed.ndim == 2 else np.moveaxis(computed, 2, 0):
                found = _smoothed(each, around)[first - low : last - low]
                smallest, largest = ends_over_members(found)
                if first == begin:
                    curves.append([Envelope(_STRETCHES, expected=end - begin) for _ in range(3)])
                for curve, over in zip(curves[place], (smallest, found[:, group.typical], largest), strict=True):
                    curve.extend(over)
                place += 1
    return [
        Band(*(((at + begin) * every, kept) for at, kept in (curve.curve() for curve in triple))) for triple in curves
    ]


def _smoothed(values: Floats, around: int) -> Floats:
    """The mean of the finite values within so many rows on either side, (n, members); fewer at the ends."""
    if not around:
        return values
    finite = np.abs(values) < _LARGEST
    sums = np.cumsum(np.where(finite, values, 0.0), axis=0)
    counts = np.cumsum(finite, axis=0)
    rows = np.arange(len(values))
    last, first = np.minimum(rows + around, len(values) - 1), rows - around
    within = [
        total[last] - np.where((first > 0)[:, None], total[np.maximum(first - 1, 0)], 0) for total in (sums, counts)
    ]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(within[1] > 0, within[0] / within[1], np.nan))
