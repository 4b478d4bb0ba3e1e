"""Two runs side by side: does rho fluctuate around rho_eq more in one than in the other?

CBMM Memo 112, remark 5: equation (6) is a critical point under GD but not under SGD.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rhotrace import fluctuation
from rhotrace.analyze import delta, fit_transient, require_steps, summary
from rhotrace.errors import AnalysisError
from rhotrace.fluctuation import Fluctuation
from rhotrace.intervals import Interval, geometric_mean, mean
from rhotrace.recipe import differences
from rhotrace.trace import Trace
from rhotrace.transient import Outcome

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
        std_rho: geometric mean over members of the fluctuation of log rho alone.
        std_rho_eq: the same of log rho_eq.
        offset: mean of delta over members, with Student's t interval.
    """

    path: str
    summary: dict[str, Any]
    seeds: tuple[int, ...]
    each: tuple[Fluctuation, ...]
    left_out: dict[int, str]
    std: Interval
    std_rho: float
    std_rho_eq: float
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
    if first.path.samefile(second.path):
        raise AnalysisError(f"{first.path}: got the same run twice, expected two runs to compare")
    sides = _side(first), _side(second)
    differs = differences(first.recipe, second.recipe)
    ratio, paired = _ratio(*sides)
    cautions = tuple(_cautions(sides, differs))
    return Comparison(*sides, differs, ratio, paired, _verdict(sides, ratio), cautions)


def _data(trace: Trace) -> str:
    return f"{trace.recipe['data']['dataset']} {trace.attributes['data_classes']}, N = {trace.attributes['samples']}, seed {trace.recipe['data']['seed']}"


def _side(trace: Trace) -> Side:
    transient = fit_transient(trace, fit=False)
    steps, deltas, log_rho = delta(trace)
    each: list[Fluctuation] = []
    left_out: dict[int, str] = {}
    for member in transient.each:
        if member.outcome not in {Outcome.LEFT, Outcome.NONE}:
            left_out[member.member] = str(member.outcome)
            continue
        after = member.T if member.outcome is Outcome.LEFT else 0.0
        m = member.member
        found = fluctuation.measure(m, steps, deltas[:, m], after, log_rho[:, m])
        if isinstance(found, Fluctuation):
            each.append(found)
        else:
            left_out[member.member] = found
    stds, offsets = np.array([f.std for f in each]), np.array([f.offset for f in each])
    std = geometric_mean(np.maximum(stds, _STILL))
    if len(each) == 1:
        std = Interval(each[0].std, each[0].low, each[0].high)
    return Side(
        path=str(trace.path),
        summary=summary(trace),
        seeds=tuple(map(int, trace["seed"])),
        each=tuple(each),
        left_out=left_out,
        std=std,
        std_rho=geometric_mean(np.maximum([f.std_rho for f in each], _STILL)).value,
        std_rho_eq=geometric_mean(np.maximum([f.std_rho_eq for f in each], _STILL)).value,
        offset=mean(offsets),
    )


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
        said.append(f"the networks differ ({', '.join(network)}): the ratio is not the optimizer's alone")
    for letter, side in zip("AB", sides, strict=True):
        n = len(side.each)
        if side.left_out:
            why = "; ".join(f"member {m}: {reason}" for m, reason in side.left_out.items())
            said.append(f"{letter}: {len(side.left_out)} of {n + len(side.left_out)} members are left out ({why})")
        drifting = sum(not f.stationary for f in side.each)
        if drifting:
            said.append(
                f"{letter}: delta still drifts in {drifting} of {n} members; its fluctuation is about a line through the last half after T"
            )
        short = sum(not f.long_enough for f in side.each)
        if short:
            said.append(
                f"{letter}: the window is under 50 autocorrelation times in {short} of {n} members; tau and the intervals are too optimistic there"
            )
        stepping = [f.std for f in side.each if f.period_two > 0.5]
        if stepping:
            said.append(
                f"{letter}: delta alternates from step to step in {len(stepping)} of {n} members, by {min(stepping):.1g} to "
                f"{max(stepping):.1g}: an oscillation at the edge of stability, not noise"
            )
        swelling = sum(not 0.5 < f.swell < 2 for f in side.each)
        if swelling:
            said.append(
                f"{letter}: the fluctuation changes by more than a factor 2 from the first to the second half of the window "
                f"in {swelling} of {n} members: its size depends on when the run ends"
            )
    return said


def _verdict(sides: Sequence[Side], ratio: Interval) -> str:
    names = [_name(side) for side in sides]
    if names[0] == names[1]:
        names = [f"A ({names[0]})", f"B ({names[1]})"]
    if not np.isfinite(ratio.value):
        return "No verdict: a run has no member that left its transient with enough steps after it."
    if not np.isfinite(ratio.low):
        return (
            f"log(rho/rho_eq) fluctuates {ratio.value:.3g} times as much under {names[1]} as under {names[0]}, "
            "but no interval can be given: train at least 3 members."
        )
    if ratio.low <= 1 <= ratio.high:
        return f"No difference is shown: the ratio's interval {ratio.low:.3g} to {ratio.high:.3g} contains 1."
    more, less, size = sides[1], sides[0], ratio
    if ratio.high < 1:
        more, less, size = sides[0], sides[1], Interval(1 / ratio.value, 1 / ratio.high, 1 / ratio.low)
        names.reverse()
    said = (
        f"log(rho/rho_eq) fluctuates {size.value:.3g} times as much under {names[1]} as under {names[0]} "
        f"(95 % interval {size.low:.3g} to {size.high:.3g})"
    )
    if set(names) == {"SGD", "GD"}:
        said += ", as the memo's remark 5 says" if names[1] == "SGD" else ", against the memo's remark 5"
    return f"{said}. {_which_moves(names[1], more, less)}"


def _which_moves(name: str, more: Side, less: Side) -> str:
    """Whether it is rho or rho_eq that fluctuates: the memo's remark speaks of rho at fixed sums."""
    share = more.std_rho_eq / more.std_rho
    rest = f"log rho {more.std_rho:.2g}, log rho_eq {more.std_rho_eq:.2g}; log rho alone {more.std_rho / less.std_rho:.2g} times as much"
    if share > 2:
        return f"Under {name} it is mostly rho_eq that moves, around a slow rho ({rest})."
    if share < 0.5:
        return f"Under {name} it is mostly rho that moves ({rest})."
    return f"Under {name} both move ({rest})."


def _name(side: Side) -> str:
    optimizer = side.summary["optimizer"]
    batch = side.summary["optimizer_options"].get("batch_size")
    if optimizer == "weight-norm":
        return "weight normalisation" if batch is None else "minibatch weight normalisation"
    return "GD" if batch is None else "SGD"
