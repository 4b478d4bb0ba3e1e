"""Runs side by side: does rho fluctuate around rho_eq more in one than in the other, and by how much?

CBMM Memo 112, remark 5: equation (6) is a critical point under GD but not under SGD.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from string import ascii_uppercase
from typing import Any

import numpy as np

from rhotrace.analysis.fluctuation.noise_scale_exponent import Exponent, Point, exponents
from rhotrace.analysis.fluctuation.one_run import (
    STILL,
    Align,
    Member,
    Side,
    examine,
    pooled,
    transient_of,
    unit_of,
)
from rhotrace.analysis.fluctuation.one_series import FEWEST, SHARES, TRENDS, settled_from
from rhotrace.analysis.run_series import RunSeries, require_steps
from rhotrace.analysis.run_summary import comparable_recipes
from rhotrace.config.recipe import differences
from rhotrace.errors import AnalysisError
from rhotrace.runfile.reader import Trace
from rhotrace.statistics.intervals import NONE, Interval, geometric_mean

MOST_RUNS = 20

Sides = dict[tuple[str, str], Side]  # of one run, by start, and by all that its members differ in beside seeds


@dataclass(frozen=True)
class Choice:
    """The ratio of two runs' fluctuations by one choice of window, and of the trend that is taken from delta.

    Attributes:
        share: of the steps that both have after T, where the window starts.
        trend: what is taken from delta: its mean, a line, a cubic, or its running mean over a tenth of the window.
        ratio: over members, as in ``Contrast``.
    """

    share: float
    trend: str
    ratio: Interval


@dataclass(frozen=True)
class Contrast:
    """One run over another, by their letters.

    Attributes:
        base: the run that is compared with.
        run: the other.
        ratio: of their fluctuations, ``run`` over ``base``.
        paired: number of seeds over which the ratio is paired; 0 where it is not.
        rho: ratio of the fluctuations of log rho alone, over the seeds that they share; as are the two that follow.
        distance: ratio of the root mean squares of delta, in which offset and drift count too.
        tau: ratio of their autocorrelation times.
        transients: ratio of their transient times.
        only_sampling: whether they differ in nothing but that ``base`` draws with replacement and ``run`` shuffles.
        choices: the ratio by each choice of window and trend; empty where the runs have no steps in common after T.
    """

    base: str
    run: str
    ratio: Interval
    paired: int
    rho: Interval
    distance: Interval
    tau: Interval
    transients: Interval
    only_sampling: bool
    choices: tuple[Choice, ...] = ()

    @property
    def robust(self) -> bool:
        """Whether every choice's interval is on the same side of 1 as that of ``ratio``, or contains 1 as it does."""
        sides = {_side(choice.ratio) for choice in self.choices}
        return sides <= {_side(self.ratio)}


@dataclass(frozen=True)
class Comparison:
    """The runs in the order given; one whose members differ in more than their seeds is several sides, one for each group.

    Attributes:
        align: whether windows, T and tau are in steps or in time, lr x steps.
        window: that all runs share, in steps or in time; None where each member has its own.
        sides: the runs, or the groups of their members.
        differs: keys at which their recipes differ, with each side's value; ``members`` where a run has several groups.
        contrasts: every other side against the first run's: the group of the same start and learning rate where
            there is one; then shuffled epochs against draws with replacement, where two runs differ in nothing else.
        exponents: of the fluctuation against eta/b, over the runs that differ in them.
    """

    align: Align
    window: tuple[float, float] | None
    sides: tuple[Side, ...]
    differs: dict[str, tuple[Any, ...]]
    contrasts: tuple[Contrast, ...]
    exponents: tuple[Exponent, ...]


def compare(
    runs: Sequence[Trace | RunSeries],
    *,
    align: Align = "step",
    window: tuple[float, float] | None = None,
    theta: float | None = None,
    predicting: bool = False,
) -> Comparison:
    """Compares the fluctuation of rho around rho_eq in runs on the same data, in one window.

    By default the window is the earliest that every run has and in which no member of any run has a trend.

    Members of a run that differ in their start or learning rate are not pooled: each group of them is a side of its own.
    Recordings of one description, each with a seed of its own, are the members of one run where others are compared with it.

    Args:
        runs: 2 to 20 runs; the others are compared with the first. A ``RunSeries`` has a theta of its own.
        align: count in steps, or in time, lr x steps.
        window: first and last step (or time) to look at, in place of the window that is found; never before T.
        theta: the transient ends at rho = theta rho_eq; 1/2 by default.
        predicting: also predict each fluctuation from the snapshots; needs the data.

    Raises:
        AnalysisError: too few or too many runs, different data or numbers of outputs, a run without steps, or one
            given twice.
    """
    traces = [run.trace if isinstance(run, RunSeries) else run for run in runs]
    _refuse(traces)
    alike = _alike(traces)
    shared, common = (window, window) if window else _common(runs, theta, align)
    grouped = [  # run by run, so that the series of many runs are not kept
        _sides(
            RunSeries.of(run, theta),
            letter,
            align=align,
            window=shared,
            common=common,
            since_T=window is None,
            predicting=predicting,
        )
        for letter, run in zip(ascii_uppercase, runs, strict=False)
    ]
    grouped = [_pooled([grouped[number] for number in numbers]) for numbers in alike]
    sides = [side for own in grouped for side in own.values()]
    if window and not any(side.each for side in sides):
        why = next(reason for side in sides for reason in side.left_out.values())
        raise AnalysisError(f"--window: it leaves no member of any run ({why}); choose a window after T")
    return _compared([[traces[number] for number in numbers] for numbers in alike], grouped, align, shared)


def alone(run: Trace | RunSeries, *, theta: float | None = None) -> Comparison:
    """The fluctuation of a single run; its groups of members are compared with each other where it has several.

    Raises:
        AnalysisError: the run has no steps.
    """
    run = RunSeries.of(run, theta)
    require_steps(run.trace)
    return _compared([[run.trace]], [_sides(run, "A")], "step", None)


def _sides(run: RunSeries, letter: str, **how: Any) -> Sides:  # noqa: ANN401 - keywords of ``examine``
    """A side for each group of a run's members, lettered A, or A1, A2 and so on, by start and learning rate."""
    groups = run.groups()
    return {
        (run.starts[members[0]], run.labels[members[0]]): examine(
            run, letter if len(groups) == 1 else f"{letter}{number}", group=group, members=members, **how
        )
        for number, (group, members) in enumerate(groups.items(), 1)
    }


def _alike(traces: Sequence[Trace]) -> list[list[int]]:
    """The runs to compare, by their places: recordings of one description whose seeds differ are one run.

    Where that would leave a single run, each recording is a run of its own.
    """
    apart = [[number] for number in range(len(traces))]
    found: dict[str, list[int]] = {}
    for number, trace in enumerate(traces):
        recipe = {key: value for key, value in trace.recipe.items() if key not in ("members", "steps", "record")}
        found.setdefault(json.dumps(recipe, sort_keys=True) if trace.own_loop else str(number), []).append(number)
    for key, numbers in list(found.items()):
        if len({int(traces[number]["seed"][0]) for number in numbers}) < len(numbers):
            del found[key]
            found |= {str(number): [number] for number in numbers}
    return sorted(found.values()) if len(found) > 1 else apart


def _pooled(alike: Sequence[Sides]) -> Sides:
    """The sides of one run; of several recordings, their only sides as one."""
    if len(alike) == 1:
        return alike[0]
    kind, _ = next(iter(alike[0].items()))
    return {kind: pooled([side for own in alike for side in own.values()])}


def _common(
    runs: Sequence[Trace | RunSeries], theta: float | None, align: Align
) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
    """The window in which no member of any run has a trend, and all that the runs share after T; None where they do not overlap."""
    series = [RunSeries.of(run, theta) for run in runs]
    members = [
        (run, m, after, unit_of(run, m, align))
        for run in series
        for m in range(run.trace.members)
        if not run.no_equilibrium and (after := transient_of(run, m)) is not None
    ]
    if not members:
        return None, None
    last = min(float(run.steps[-1]) * unit for run, _, _, unit in members)
    settled: list[float] = []
    for run, m, after, unit in members:
        rows = (run.steps >= after) & (run.steps <= round(last / unit, 6))
        if rows.sum() >= FEWEST and np.isfinite(run.delta[rows, m]).all():
            start, _ = settled_from(run.delta[rows, m])
            settled.append(float(run.steps[rows][start]) * unit)
    latest_T = max(after * unit for _, _, after, unit in members)
    if not settled or latest_T >= last:
        return None, None
    return (max(settled), last), (max(latest_T, 0.0), last)


def _compared(
    runs: Sequence[Sequence[Trace]], grouped: Sequence[Sides], align: Align, window: tuple[float, float] | None
) -> Comparison:
    """All sides against those of the first run; a run of several files is several recordings."""
    recipes = _recipes(runs)
    first = grouped[0]
    pairs: dict[tuple[str, str], tuple[Side, Side, bool]] = {}
    for number, own in enumerate(grouped):
        for kind, side in own.items():
            base = _nearest(kind, first) if number else next(iter(first.values()))
            if side is not base:
                pairs[base.letter, side.letter] = base, side, False
    for a, b in _sampling_pairs(recipes):  # which have the same members, and so the same groups
        for base, side in zip(grouped[a].values(), grouped[b].values(), strict=True):
            pairs[base.letter, side.letter] = base, side, True
    contrasts = tuple(_contrast(base, side, only_sampling=sampling) for base, side, sampling in pairs.values())
    sides = tuple(side for own in grouped for side in own.values())
    return Comparison(align, window, sides, _differences(recipes, grouped), contrasts, exponents(_points(sides)))


def _nearest(kind: tuple[str, str], sides: Sides) -> Side:
    """The side of the same start and learning rate; else that of the same start; else the first."""
    same_start = (side for (start, _), side in sides.items() if start == kind[0])
    return sides.get(kind) or next(same_start, next(iter(sides.values())))


def chosen_window(text: str | None) -> tuple[float, float] | None:
    """A window from its ends, such as 2000:6000; an end that is left out is not limited.

    Raises:
        AnalysisError: the text is no window.
    """
    if text is None:
        return None
    first, colon, last = text.partition(":")
    with contextlib.suppress(ValueError):
        ends = float(first or 0), float(last or "inf")
        if colon and 0 <= ends[0] < ends[1]:
            return ends
    raise AnalysisError(f"--window: got {text!r}, expected FIRST:LAST, such as 2000:6000 or 2000:")


def _refuse(traces: Sequence[Trace]) -> None:
    if not 2 <= len(traces) <= MOST_RUNS:
        raise AnalysisError(
            f"got {len(traces)} run{'' if len(traces) == 1 else 's'}, expected 2 to {MOST_RUNS} to compare"
        )
    for trace in traces:
        require_steps(trace)
    first = traces[0]
    for number, trace in enumerate(traces):
        if trace.attributes["data_digest"] != first.attributes["data_digest"]:
            raise AnalysisError(
                f"{first.path} and {trace.path} trained on different data ({_data(first)}; {_data(trace)}); "
                "compare runs whose recipes have the same data section"
            )
        if any(trace.path.samefile(other.path) for other in traces[:number]):
            raise AnalysisError(f"{trace.path}: got the same run twice, expected different runs to compare")


def _data(trace: Trace) -> str:
    data = trace.recipe["data"]
    kind = f"{data['dataset']} {trace.attributes['data_classes']}, N = {trace.attributes['samples']}".replace(" ,", ",")
    if trace.own_loop:
        return f"{kind}, digest {data['digest'][:12]}"
    return f"{kind}, label noise {data['label_noise']:g}, seed {data['seed']}"


def _recipes(runs: Sequence[Sequence[Trace]]) -> list[dict[str, Any]]:
    """The recipe of each run, to find their differences; that of several recordings has the seeds of all."""
    recipes = comparable_recipes([traces[0] for traces in runs])
    for number, traces in enumerate(runs):
        if len(traces) > 1:
            seeds = [seed for trace in traces for seed in trace.recipe["members"]["seeds"]]
            recipes[number] = {**recipes[number], "members": {**recipes[number]["members"], "seeds": seeds}}
    return recipes


def _differences(recipes: Sequence[dict[str, Any]], grouped: Sequence[Sides]) -> dict[str, tuple[Any, ...]]:
    keys = dict.fromkeys(key for recipe in recipes[1:] for key in differences(recipes[0], recipe))

    def value(recipe: Any, key: str) -> Any:  # noqa: ANN401 - recipe values
        for part in key.split("."):
            recipe = recipe.get(part) if isinstance(recipe, dict) else None
        return recipe

    found = {
        key: tuple(value(recipe, key) for recipe, own in zip(recipes, grouped, strict=True) for _ in own)
        for key in keys
    }
    groups = tuple(side.group or "all" for own in grouped for side in own.values())
    return {**found, "members": groups} if any(len(own) > 1 for own in grouped) else found


def _sampling_pairs(recipes: Sequence[dict[str, Any]]) -> list[tuple[int, int]]:
    """(with replacement, shuffled) of each two runs that differ in their sampling alone."""
    wanted = {"optimizer.sampling": ("with-replacement", "shuffled")}
    return [
        (a, b)
        for a, first in enumerate(recipes)
        for b, second in enumerate(recipes)
        if _of_training(differences(first, second)) == wanted and first["optimizer"].get("batch_size")
    ]


def _of_training(found: dict[str, Any]) -> dict[str, Any]:
    """Differences of recipes without those in how long a run was trained and what it recorded."""
    return {key: value for key, value in found.items() if key != "steps" and not key.startswith("record")}


# --- one run against another -------------------------------------------------------------------------------


def _contrast(base: Side, run: Side, *, only_sampling: bool) -> Contrast:
    return Contrast(
        base.letter,
        run.letter,
        *_ratio(base, run),
        rho=_paired(base, run, lambda m: m.fluctuation.std_rho.value),
        distance=_paired(base, run, lambda m: m.fluctuation.distance),
        tau=_paired(base, run, lambda m: m.fluctuation.tau.value * m.unit),
        transients=_paired(base, run, lambda m: m.T * m.unit),
        only_sampling=only_sampling,
        choices=tuple(_choices(base, run)),
    )


def _choices(base: Side, run: Side) -> Iterator[Choice]:
    """The ratio by each choice of window and trend."""
    if not base.choices or not run.choices:
        return
    for at, (share, trend) in enumerate(product(SHARES, TRENDS)):
        ratio = _paired(base, run, lambda m, at=at: m.choices[at])  # type: ignore[misc]
        if not np.isfinite(ratio.value):
            value = run.choices[at] / base.choices[at]
            ratio = Interval(value, np.nan, np.nan)
        yield Choice(share, trend, ratio)


def _side(ratio: Interval) -> int:
    """1 where a ratio is above 1, -1 where it is below, 0 where its interval contains 1 or there is none."""
    return int(ratio.low > 1) - int(ratio.high < 1)


def _points(sides: Sequence[Side]) -> list[Point]:
    return [
        Point(
            optimizer=side.summary["optimizer"],
            sampling=side.summary["optimizer_options"].get("sampling", ""),
            seed=member.seed,
            lr=member.lr,
            batch=side.batch,
            std=member.fluctuation.std.value,
            start=member.start,
        )
        for side in sides
        if side.batch
        for member in side.each
        if member.fluctuation.std.value > STILL
    ]


def _ratio(first: Side, second: Side) -> tuple[Interval, int]:
    """Ratio of fluctuations with its interval, paired over members that share a seed where three or more do."""
    if not first.each or not second.each:
        return NONE, 0
    logs = [{m.seed: np.log(max(m.fluctuation.std.value, STILL)) for m in side.each} for side in (first, second)]
    shared = _shared(first, second)
    if len(shared) >= 3:
        return geometric_mean(np.exp([logs[1][s] - logs[0][s] for s in shared])), len(shared)
    ends = np.log(np.maximum([[s.std.value, s.std.low, s.std.high] for s in (first, second)], STILL))
    centre = ends[1, 0] - ends[0, 0]
    half = float(np.hypot(*(ends[:, 2] - ends[:, 1]))) / 2  # NaN where either side has no interval
    return Interval(float(np.exp(centre)), float(np.exp(centre - half)), float(np.exp(centre + half))), 0


def _paired(base: Side, run: Side, value: Callable[[Member], float]) -> Interval:
    """Geometric mean over shared seeds of a value's ratio, run over base; NaN where no seed has both."""
    first, second = ({m.seed: value(m) for m in side.each} for side in (base, run))
    ratios = [second[seed] / first[seed] for seed in _shared(base, run) if first[seed] > STILL and second[seed] > STILL]
    return geometric_mean(np.array(ratios)) if ratios else NONE


def _shared(first: Side, second: Side) -> list[int]:
    """Seeds of members in both runs; none where a run has a seed more than once."""
    seeds = [[m.seed for m in side.each] for side in (first, second)]
    return sorted(set(seeds[0]) & set(seeds[1])) if all(len(set(s)) == len(s) for s in seeds) else []
