"""The memo's fifth open question: does controlling rho_k apart from V_k lead to better generalisation?"""

from __future__ import annotations

from pathlib import Path

from scipy import stats

from rhotrace.analysis.run_series import RunSeries
from rhotrace.display.blocks import Figure, table
from rhotrace.display.figures.curves import Curve, curves_figure
from rhotrace.display.numbers import ranged
from rhotrace.statistics.intervals import Interval, mean
from rhotrace.studies.measures import Floats, each_start, lowest
from rhotrace.studies.study import Answer, Runs, Study, Training, Verdict

_SCHEDULES = {"linear": "control-linear", "step": "control-step", "rho <= 16": "control-ivanov"}


def answer(runs: Runs) -> Answer:
    """Test error under each schedule against free norms from the same weights, and from the best of the free starts."""
    free_run = runs["starts-gd"]
    free = {label: _errors(free_run, mine) for label, mine in each_start(free_run).items()}
    base = free["rho_k(0) 1"]
    held = runs["control-constant"]
    controlled = {f"held, {label}": _errors(held, mine) for label, mine in each_start(held).items()}
    controlled |= {name: _errors(runs[run], range(runs[run].trace.members)) for name, run in _SCHEDULES.items()}
    best_start = min(free, key=lambda label: float(free[label]["end"].mean()))
    against = {name: difference(found["end"], base["end"], len(controlled)) for name, found in controlled.items()}
    rival = {
        name: difference(found["end"], free[best_start]["end"], len(controlled)) for name, found in controlled.items()
    }
    at_best = {name: difference(found["lowest"], base["lowest"], len(controlled)) for name, found in controlled.items()}
    first = min(controlled, key=lambda name: float(controlled[name]["end"].mean()))

    def draw(path: Path) -> None:
        steps = free_run.trace.step_of("test_error")
        curves = [Curve("free, rho_k(0) 1", steps, base["curve"])]
        curves += [Curve(name, steps, found["curve"]) for name, found in controlled.items()]
        curves_figure(curves, path, x="step", y="test error", title="Norms under control", log="x")

    rows = [
        (
            name,
            *(ranged(mean(found[key])) for key in ("log_rho", "lowest", "end")),
            *(ranged(one[name]) if name in one else "–" for one in (against, rival)),
        )
        for name, found in [*((f"free, {label}", found) for label, found in free.items()), *controlled.items()]
    ]
    return Answer(
        verdict=verdict(list(against.values()), list(rival.values()), list(at_best.values())),
        words=f"of {len(controlled)} schedules, {_count(against, -1)} end with less test error than free norms from rho_k(0) = 1, "
        f"and {_count(against, 1)} with more. The best at the end is {first}, with {ranged(against[first])} more than free norms "
        f"from rho_k(0) = 1, and {ranged(rival[first])} more than the best free start, {best_start}. At the lowest test error of "
        f"each run {_count(at_best, -1)} schedules are better than free norms from rho_k(0) = 1, and {_count(at_best, 1)} worse: free norms "
        "that are stopped at the right time are the rival that matters.",
        limits="one pair of digits, 400 samples, one network of three layers, one learning rate, GD; the schedules are "
        f"a handful of many. Intervals of differences are for {len(controlled)} comparisons at once (Bonferroni). Schedules and the best "
        "free start were looked at on the test set that judges them.",
        would_change="a schedule whose lowest test error is below that of free norms, too.",
        details=(
            table(
                "<norms | log rho at the end | lowest test error | at the end | more than free, rho_k(0) 1 | more than the best free start",
                rows,
            ),
            Figure("Test error: medians over seeds, bands over all.", draw),
        ),
        values={"against_free": against, "against_best_start": rival, "at_lowest": at_best, "best_start": best_start},
    )


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


_LARGE = ("data.train=4000", "data.test=1900", "network.width=512", "steps=30000")
_RUNS = (
    Training("starts-gd", "studies/starts"),
    Training("control-constant", "studies/rho-control", ("members={grid: {rho_k: [2, 3, 4], seeds: 8}}",)),
    Training("control-linear", "studies/rho-control", ("optimizer.norms={kind: linear, factor: 3.2, steps: 2000}",)),
    Training(
        "control-step",
        "studies/rho-control",
        ("optimizer.norms={kind: step, milestones: [500, 1000, 1500], factor: 1.5}",),
    ),
    Training("control-ivanov", "studies/rho-control", ("optimizer.norms={kind: ivanov, C: 16}",)),
)

STUDY = Study(
    name="rho-control",
    question="Does controlling the norms rho_k independently of the directions V_k lead to better generalisation?",
    source="memo, section 3.2, fifth question",
    trainings={
        "small": _RUNS,
        "gpu": tuple(Training(run.name, run.recipe, (*run.overrides, *_LARGE)) for run in _RUNS),
    },
    answer=answer,
)
