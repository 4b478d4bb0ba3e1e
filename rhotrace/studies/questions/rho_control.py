"""The memo's fifth open question: does controlling rho_k apart from V_k lead to better generalisation?

Each schedule is compared with free norms from the same weights, seed by seed, on MNIST and, where it is available, on CIFAR-10. On one data
set, yes: some schedule has less test error than every free start at the end, and than free norms at the lowest of both. In
part: than free norms at one of these times. No: all have more at the end. Intervals are for all comparisons of schedules at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from rhotrace.analysis.run_series import RunSeries
from rhotrace.display.blocks import Block, Figure, table
from rhotrace.display.figures.curves import Curve, curves_figure
from rhotrace.display.numbers import ranged
from rhotrace.statistics.intervals import Interval, mean
from rhotrace.studies.measures import Floats, each_start, lowest
from rhotrace.studies.study import Answer, Runs, Study, Training, Verdict

# Data sets by title, with the run of free norms and what the names of the others begin with.
_DATA = {
    "3 against 8 (MNIST)": ("starts-gd", "control"),
    "automobile against bird (CIFAR-10)": ("control-cifar-free", "control-cifar"),
}
_BASE, _HELD_AT = "rho_k(0) 1", "rho_k(0) 2"
SCHEDULES = ("linear", "step", "ivanov", "closed-form", "tikhonov", "falling")
_LABELS = {
    "ivanov": "rho <= 16",
    "closed-form": "equation (5)",
    "tikhonov": "lambda constant",
    "falling": "lambda falling",
}


@dataclass(frozen=True, eq=False)
class Found:
    """The schedules on one data set.

    Attributes:
        title: of the data set.
        steps: of the test errors.
        free: test errors of free norms by start.
        controlled: test errors by schedule.
        best_start: the free start with the least test error at the end.
        against: test error of each schedule at the end, less that of free norms from the same weights.
        rival: the same, less that of the best free start.
        at_lowest: lowest test error of each schedule, less the lowest of free norms.
    """

    title: str
    steps: Floats
    free: dict[str, dict[str, Floats]]
    controlled: dict[str, dict[str, Floats]]
    best_start: str
    against: dict[str, Interval]
    rival: dict[str, Interval]
    at_lowest: dict[str, Interval]

    @property
    def verdict(self) -> Verdict:
        """On this data set."""
        return verdict(*(list(of.values()) for of in (self.against, self.rival, self.at_lowest)))


def on(title: str, runs: Runs, sets: int) -> Found:
    """Test errors on one data set, with intervals for the comparisons on ``sets`` of them."""
    name, begin = _DATA[title]
    free_run, held = runs[name], runs[f"{begin}-constant"]
    free = {label: _errors(free_run, mine) for label, mine in each_start(free_run).items()}
    controlled = {f"held, {label or _HELD_AT}": _errors(held, mine) for label, mine in each_start(held).items()}
    for schedule in SCHEDULES:
        run = runs[f"{begin}-{schedule}"]
        controlled[_LABELS.get(schedule, schedule)] = _errors(run, range(run.trace.members))
    best = min(free, key=lambda label: float(free[label]["end"].mean()))

    def less(when: str, base: dict[str, Floats]) -> dict[str, Interval]:
        return {n: difference(own[when], base[when], sets * len(controlled)) for n, own in controlled.items()}

    return Found(
        title=title,
        steps=np.asarray(free_run.trace.step_of("test_error"), dtype=float),
        free=free,
        controlled=controlled,
        best_start=best,
        against=less("end", free[_BASE]),
        rival=less("end", free[best]),
        at_lowest=less("lowest", free[_BASE]),
    )


def _names(free: str, begin: str) -> set[str]:
    return {free, f"{begin}-constant", *(f"{begin}-{schedule}" for schedule in SCHEDULES)}


def answer(runs: Runs) -> Answer:
    """Test error under each schedule against free norms from the same weights, and from the best of the free starts."""
    titles = [title for title, (name, begin) in _DATA.items() if _names(name, begin) <= set(runs)]
    found = [on(title, runs, len(titles)) for title in titles]
    missing = [title for title in _DATA if title not in titles]
    count = sum(len(one.controlled) for one in found)
    return Answer(
        verdict=of_all([one.verdict for one in found]),
        words=" ".join(f"On {one.title}: {_words(one)}" for one in found)
        + " Free norms that are stopped at the right time are the rival that matters."
        + (f" Not trained: {', '.join(missing)}, because the data are not available." if missing else ""),
        limits="a few hundred samples, one network of three layers for each data set, one learning rate, GD; the schedules are "
        f"a handful of many. Intervals of differences are for {count} comparisons at once (Bonferroni). Schedules and the best "
        "free start were looked at on the test set that judges them.",
        would_change="a schedule whose lowest test error is below that of free norms, too.",
        details=tuple(block for one in found for block in _details(one)),
        values={
            one.title: {
                "verdict": one.verdict,
                "against_free": one.against,
                "against_best_start": one.rival,
                "at_lowest": one.at_lowest,
                "best_start": one.best_start,
            }
            for one in found
        },
    )


def _words(one: Found) -> str:
    first = min(one.controlled, key=lambda name: float(one.controlled[name]["end"].mean()))
    return (
        f"of {len(one.controlled)} schedules, {_count(one.against, -1)} end with less test error than free norms from the same weights, "
        f"{_BASE}, and {_count(one.against, 1)} with more. The best at the end is {first}: its test error less that of "
        f"free norms is {ranged(one.against[first])}, and less that of the best free start, {one.best_start}, {ranged(one.rival[first])}. At the lowest test error of "
        f"each run {_count(one.at_lowest, -1)} schedules are better than free norms, and {_count(one.at_lowest, 1)} worse."
    )


def _details(one: Found) -> tuple[Block, ...]:
    rows = [
        (
            name,
            *(ranged(mean(own[key])) for key in ("log_rho", "lowest", "end")),
            *(ranged(of[name]) if name in of else "–" for of in (one.against, one.rival, one.at_lowest)),
        )
        for name, own in [*((f"free, {label}", own) for label, own in one.free.items()), *one.controlled.items()]
    ]
    columns = (
        f"<norms | log rho at the end | lowest test error | at the end | less free, {_BASE} | less the best free start "
        f"| at the lowest, less free"
    )
    return table(columns, rows, one.title), Figure(
        f"Test error on {one.title}: medians over seeds, bands over all.", _drawn(one)
    )


def _drawn(one: Found) -> Callable[[Path], None]:
    def draw(path: Path) -> None:
        curves = [Curve(f"free, {_BASE}", one.steps, one.free[_BASE]["curve"])]
        curves += [Curve(name, one.steps, own["curve"]) for name, own in one.controlled.items()]
        curves_figure(curves, path, x="step", y="test error", title=f"Norms under control, {one.title}", log="x")

    return draw


def _errors(run: RunSeries, members: list[int] | range) -> dict[str, Floats]:
    own = list(members)
    error = run.trace["test_error"][:, own]
    return {"curve": error, "lowest": lowest(run)[0][own], "end": error[-1], "log_rho": run.log_rho[-1, own]}


def difference(of: Floats, base: Floats, comparisons: int) -> Interval:
    """Mean difference seed by seed, with the interval for several comparisons at once."""
    one = mean(of - base)
    degrees = len(of) - 1
    wider = float(stats.t.ppf(1 - 0.025 / comparisons, degrees) / stats.t.ppf(0.975, degrees))
    half = (one.high - one.value) * wider
    return Interval(one.value, one.value - half, one.value + half)


def _count(of: dict[str, Interval], sign: int) -> int:
    return sum(interval.low > 0 if sign > 0 else interval.high < 0 for interval in of.values())


def verdict(against: list[Interval], rival: list[Interval], at_best: list[Interval]) -> Verdict:
    """Whether some schedule is better: at the end against every free start, and at the best time to stop.

    Args:
        against: more test error at the end than free norms from the same weights, for each schedule.
        rival: likewise, than the best of the free starts.
        at_best: more test error at its lowest, than free norms from the same weights at their lowest.
    """
    if any(end.high < 0 and stopped.high < 0 for end, stopped in zip(rival, at_best, strict=True)):
        return "yes"
    if any(interval.high < 0 for interval in [*against, *at_best]):
        return "in part"
    return "no" if all(interval.low > 0 for interval in against) else "undecided"


def of_all(verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict of several data sets: theirs where they agree, in part where one says yes or in part."""
    if len(set(verdicts)) == 1:
        return verdicts[0]
    return "in part" if {"yes", "in part"} & set(verdicts) else "undecided"


def _norms(steps: int) -> dict[str, str]:
    """The schedules of runs of this many steps."""
    part = steps // 8
    found = {
        "linear": f"{{kind: linear, factor: 3.2, steps: {4 * part}}}",
        "step": f"{{kind: step, milestones: [{part}, {2 * part}, {3 * part}], factor: 1.5}}",
        "ivanov": "{kind: ivanov, C: 16}",
        "closed-form": "{kind: closed-form, A: 0.04, B: 0.0013}",
        "tikhonov": "{kind: tikhonov, penalty: 0.0005}",
        "falling": f"{{kind: tikhonov, penalty: 0.01, steps: {4 * part}, power: 3}}",
    }
    return {name: found[name] for name in SCHEDULES}


_LARGE = ("data.train=4000", "data.test=1900", "network.width=512")
_CIFAR = "studies/rho-control-cifar"
_FREE = ("optimizer={kind: gd, lr: 0.05}", "members={grid: {rho_k: [1, 2, 4], seeds: 8}}")


def _trainings(*, large: bool) -> tuple[Training, ...]:
    more = (*_LARGE, "steps=30000") if large else ()
    held = Training("control-constant", "studies/rho-control", ("members={grid: {rho_k: [2, 3, 4], seeds: 8}}", *more))
    digits = [Training("starts-gd", "studies/starts", more), held]
    for name, norms in _norms(4000).items():
        digits.append(Training(f"control-{name}", "studies/rho-control", (f"optimizer.norms={norms}", *more)))
    more = (*_LARGE, "steps=20000") if large else ()
    photographs = {"free": _FREE, "constant": ("init.rho_k=2",)}
    photographs |= {name: (f"optimizer.norms={norms}",) for name, norms in _norms(1600).items()}
    return (
        *digits,
        *(Training(f"control-cifar-{name}", _CIFAR, (*own, *more), optional=True) for name, own in photographs.items()),
    )


STUDY = Study(
    name="rho-control",
    question="Does controlling the norms rho_k independently of the directions V_k lead to better generalisation?",
    source="memo, section 3.2, fifth question",
    trainings={"small": _trainings(large=False), "gpu": _trainings(large=True)},
    answer=answer,
)
