"""Two runs side by side: does rho fluctuate around rho_eq more in one than in the other?

CBMM Memo 112, remark 5: equation (6) is a critical point under GD but not under SGD.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from rhotrace import fluctuation
from rhotrace.analyze import delta, fit_transient, require_steps, summary
from rhotrace.errors import AnalysisError
from rhotrace.fluctuation import Fluctuation
from rhotrace.recipe import differences
from rhotrace.trace import Trace
from rhotrace.transient import Interval, Outcome, geometric_mean

_STILL = 1e-12  # a fluctuation this small is rounding, and a ratio to it means nothing


@dataclass(frozen=True)
class Side:
    """One run of a comparison.

    Attributes:
        path: of the run file.
        summary: as ``rhotrace info`` has it.
        seeds: of the members' weights.
        each: the fluctuation of each member that has one.
        left_out: why a member has none, by its number.
        std: geometric mean over members with its interval (Student's t over members; a single
            member's block bootstrap).
        offset: mean of delta over members, with Student's t interval.
    """

    path: str
    summary: dict[str, Any]
    seeds: tuple[int, ...]
    each: tuple[Fluctuation, ...]
    left_out: dict[int, str]
    std: Interval
    offset: Interval


@dataclass(frozen=True)
class Comparison:
    """Both runs, the ratio of their fluctuations (second over first), and what follows in words."""

    first: Side
    second: Side
    differs: dict[str, tuple[Any, Any]]
    ratio: Interval
    paired: int
    verdict: str
    cautions: tuple[str, ...]


def compare(first: Trace, second: Trace) -> Comparison:
    """Compares the fluctuation of rho around rho_eq in two runs on the same data.

    Raises:
        AnalysisError: the runs have different data, or one has no steps.
    """
    for trace in (first, second):
        require_steps(trace)
    if first.attributes["data_digest"] != second.attributes["data_digest"]:
        raise AnalysisError(
            f"{first.path} and {second.path} trained on different data ({_data(first)}; {_data(second)}); "
            "compare runs whose recipes have the same data section"
        )
    sides = _side(first), _side(second)
    differs = differences(first.recipe, second.recipe)
    ratio, paired = _ratio(*sides)
    cautions = tuple(_cautions(sides, differs))
    return Comparison(*sides, differs, ratio, paired, _verdict(sides, ratio), cautions)


def _data(trace: Trace) -> str:
    return f"{trace.recipe['data']['dataset']} {trace.attributes['data_classes']}, N = {trace.attributes['samples']}, seed {trace.recipe['data']['seed']}"


def _side(trace: Trace) -> Side:
    transient = fit_transient(trace, fit=False)
    steps, deltas = delta(trace)
    each: list[Fluctuation] = []
    left_out: dict[int, str] = {}
    for member in transient.each:
        if member.outcome not in {Outcome.LEFT, Outcome.NONE}:
            left_out[member.member] = str(member.outcome)
            continue
        after = member.T if member.outcome is Outcome.LEFT else 0.0
        found = fluctuation.measure(member.member, steps, deltas[:, member.member], after)
        if isinstance(found, Fluctuation):
            each.append(found)
        else:
            left_out[member.member] = found
    stds, offsets = np.array([f.std for f in each]), np.array([f.offset for f in each])
    std = geometric_mean(np.maximum(stds, _STILL))
    if len(each) == 1:
        std = Interval(each[0].std, each[0].low, each[0].high)
    return Side(
        str(trace.path),
        summary(trace),
        tuple(map(int, trace["seed"])),
        tuple(each),
        left_out,
        std,
        _mean(offsets),
    )


def _mean(values: np.ndarray[Any, Any]) -> Interval:
    if len(values) < 2:
        return Interval(float(values[0]) if len(values) else np.nan, np.nan, np.nan)
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Interval(float(values.mean()), float(values.mean() - half), float(values.mean() + half))


def _ratio(first: Side, second: Side) -> tuple[Interval, int]:
    """Ratio of fluctuations with its interval, paired over members that share a seed where three or more do."""
    if not first.each or not second.each:
        return Interval(np.nan, np.nan, np.nan), 0
    by_seed = [{side.seeds[f.member]: np.log(max(f.std, _STILL)) for f in side.each} for side in (first, second)]
    shared = (
        sorted(set(by_seed[0]) & set(by_seed[1]))
        if all(len(b) == len(s.each) for b, s in zip(by_seed, (first, second), strict=True))
        else []
    )
    if len(shared) >= 3:
        return geometric_mean(np.exp([by_seed[1][s] - by_seed[0][s] for s in shared])), len(shared)
    centre = np.log(max(second.std.value, _STILL)) - np.log(max(first.std.value, _STILL))
    errors = []
    for side in (first, second):
        low, high = max(side.std.low, _STILL), max(side.std.high, _STILL)
        errors.append((np.log(high) - np.log(low)) / 2)
    half = float(np.hypot(*errors))  # NaN where either side has no interval
    return Interval(float(np.exp(centre)), float(np.exp(centre - half)), float(np.exp(centre + half))), 0


def _cautions(sides: Sequence[Side], differs: dict[str, tuple[Any, Any]]) -> list[str]:
    said = []
    network = [key for key in differs if key.startswith(("network", "init"))]
    if network:
        said.append(f"the networks differ too ({', '.join(network)}): the ratio is not the optimizer's alone")
    for side in sides:
        n = len(side.each)
        if side.left_out:
            why = "; ".join(f"member {m}: {reason}" for m, reason in side.left_out.items())
            said.append(f"{side.path}: {len(side.left_out)} of {n + len(side.left_out)} members are left out ({why})")
        drifting = sum(not f.stationary for f in side.each)
        if drifting:
            said.append(
                f"{side.path}: delta still drifts in {drifting} of {n} members; its fluctuation is about a line through the last half after T"
            )
        short = sum(not f.long_enough for f in side.each)
        if short:
            said.append(
                f"{side.path}: the window is under 50 autocorrelation times in {short} of {n} members; tau and the intervals are too optimistic there"
            )
        stepping = sum(f.period_two > 0.5 for f in side.each)
        if stepping:
            said.append(
                f"{side.path}: delta alternates from step to step in {stepping} of {n} members: an oscillation at the edge of stability, not noise"
            )
    return said


def _verdict(sides: Sequence[Side], ratio: Interval) -> str:
    names = [_name(side) for side in sides]
    if names[0] == names[1]:
        names = [f"the first run ({names[0]})", f"the second run ({names[1]})"]
    if not np.isfinite(ratio.value):
        return "No verdict: a run has no member that left its transient with enough steps after it."
    if not np.isfinite(ratio.low):
        return f"{names[1]} fluctuates {ratio.value:.3g} times as much as {names[0]}, but no interval can be given: train at least 3 members."
    if ratio.low > 1:
        more, less, size = names[1], names[0], ratio
    elif ratio.high < 1:
        more, less, size = names[0], names[1], Interval(1 / ratio.value, 1 / ratio.high, 1 / ratio.low)
    else:
        return f"No difference is shown: the ratio's interval {ratio.low:.3g} to {ratio.high:.3g} contains 1."
    said = f"rho fluctuates around rho_eq {size.value:.3g} times as much under {more} as under {less} (95 % interval {size.low:.3g} to {size.high:.3g})"
    if {more, less} == {"SGD", "GD"}:
        held = "as the memo's remark 5 says" if more == "SGD" else "against the memo's remark 5"
        return f"{said}, {held}."
    return f"{said}."


def _name(side: Side) -> str:
    optimizer = side.summary["optimizer"]
    batch = side.summary["optimizer_options"].get("batch_size")
    if optimizer == "weight-norm":
        return "weight normalisation" if batch is None else "minibatch weight normalisation"
    return "GD" if batch is None else "SGD"
