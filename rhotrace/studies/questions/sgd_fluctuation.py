"""Remark 5 of the memo: does rho fluctuate around rho_eq under SGD, and not under GD?"""

from __future__ import annotations

from pathlib import Path

from rhotrace.analysis.fluctuation.comparison import compare
from rhotrace.display.blocks import Figure, table
from rhotrace.display.figures.curves import Curve, curves_figure
from rhotrace.display.numbers import ranged
from rhotrace.studies.study import Answer, Runs, Study, Training, Verdict

_PAIRS = {"wrong labels": ("noisy49-gd", "noisy49-sgd"), "clean labels": ("deep8", "deep8-sgd")}
LARGE = 2.0  # times GD's: what counts as a fluctuation of SGD's own


def answer(runs: Runs) -> Answer:
    """The ratio of the fluctuations of log(rho/rho_eq), SGD over GD, seed by seed, with wrong and with clean labels."""
    found = {title: compare([runs[gd], runs[sgd]]) for title, (gd, sgd) in _PAIRS.items()}
    ratio = {title: one.contrasts[0].ratio for title, one in found.items()}
    alone = {title: one.contrasts[0].rho for title, one in found.items()}

    def draw(path: Path) -> None:
        names = _PAIRS["wrong labels"]
        curves = [Curve(name, runs[name].steps, runs[name].delta) for name in reversed(names)]
        curves_figure(curves, path, x="step", y="log(rho/rho_eq)", title="4 against 9, a fifth of the labels wrong")

    rows = [
        (title, *(ranged(side.std) for side in one.sides), ranged(ratio[title]), ranged(alone[title]))
        for title, one in found.items()
    ]
    said = "; ".join(f"{ranged(ratio[title])} with {title}" for title in _PAIRS)
    rho = "; ".join(f"{ranged(alone[title])} with {title}" for title in _PAIRS)
    return Answer(
        verdict=verdict([(one.low, one.high) for one in ratio.values()]),
        words=f"the standard deviation of log(rho/rho_eq) under SGD is this many times that under GD: {said}. Of log rho alone: {rho}.",
        limits="four seeds of each; a fluctuation is about a line after T, so the ratio depends on window and drift "
        "(`rhotrace compare` states both).",
        would_change=f"more seeds or longer runs, with intervals of both ratios on one side of {LARGE:g}.",
        details=(
            table("<labels | GD | SGD | SGD/GD | SGD/GD, log rho alone", rows),
            Figure("log(rho/rho_eq): medians over seeds, bands over all.", draw),
        ),
        values={"ratio": ratio, "rho_alone": alone},
    )


def verdict(ratios: list[tuple[float, float]]) -> Verdict:
    """Yes where every interval is above twice, no where every one is below, in part where some are above."""
    above, below = [low > LARGE for low, _ in ratios], [high < LARGE for _, high in ratios]
    if all(above):
        return "yes"
    if any(above):
        return "in part"
    return "no" if all(below) else "undecided"


_RUNS = tuple(Training(name, name) for pair in _PAIRS.values() for name in pair)
_SEEDS = ("members.seeds=32",)

STUDY = Study(
    name="sgd-fluctuation",
    question="Does rho keep fluctuating around rho_eq under SGD, where it settles under GD?",
    source="memo, section 3.1, fifth remark",
    trainings={"small": _RUNS, "gpu": tuple(Training(run.name, run.recipe, _SEEDS) for run in _RUNS)},
    answer=answer,
)
