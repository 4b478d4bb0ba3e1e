"""A study as a user writes one: two runs of a few steps, and whether the second ends at a larger norm."""

from __future__ import annotations

from pathlib import Path

from small import SMALL

STUDY = '''\
"""A study of two runs."""

from pathlib import Path

from rhotrace.display.blocks import Figure, table
from rhotrace.display.figures.curves import Curve, curves_figure
from rhotrace.display.numbers import ranged
from rhotrace.statistics.intervals import mean
from rhotrace.studies.measures import sign
from rhotrace.studies.study import Answer, Study, Training


def answer(runs):
    more = mean(runs["large"].log_rho[-1] - runs["small"].log_rho[-1])

    def draw(path: Path) -> None:
        curves = [Curve(name, run.steps, run.log_rho) for name, run in runs.items()]
        curves_figure(curves, path, x="step", y="log rho", title="Two starts")

    return Answer(
        verdict=sign(more),
        words=f"log rho is larger by {ranged(more)}.",
        limits="three seeds.",
        would_change="other seeds.",
        details=(table("<run | end", [("large", "1")]), Figure("Both runs.", draw)),
        values={"more": more},
    )


STUDY = Study(
    name="own",
    question="Does a larger start end at a larger norm?",
    source="a test",
    trainings={"small": (Training("small", "own"), Training("large", "own", ("init.rho_k=2",)))},
    answer=answer,
)
'''


def write_study(folder: Path, text: str = STUDY) -> Path:
    """Writes the study and its recipe, and returns the study's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "own.yaml").write_text(SMALL)
    path = folder / "own.py"
    path.write_text(text)
    return path
