"""What a study is: a question, the recipes whose runs answer it, and a function from those runs to an answer.

A study is one Python file that defines ``STUDY``. Those that come with RhoTrace are in the folder ``questions``, their
recipes in ``recipes/studies``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rhotrace.analysis.run_series import RunSeries
from rhotrace.display.blocks import Block

Verdict = Literal["yes", "no", "in part", "undecided"]


@dataclass(frozen=True)
class Training:
    """One run of a study.

    Attributes:
        name: of the run, by which ``answer`` finds it at any scale; also of its file, ``NAME.h5`` or ``NAME-gpu.h5``.
        recipe: name of a shipped recipe, or of a file beside the study, without ``.yaml``.
        overrides: of the recipe, such as ``steps=4000``.
        optional: where its data are not available, the study is answered without it.
    """

    name: str
    recipe: str
    overrides: tuple[str, ...] = ()
    optional: bool = False


@dataclass(frozen=True)
class Answer:
    """What the runs say.

    Attributes:
        verdict: on the question as it is put.
        words: the result with its 95 % interval.
        limits: where the result holds, and what it does not show.
        would_change: what measurement would change the verdict.
        details: tables and figures.
        values: the numbers behind the words, by name.
    """

    verdict: Verdict
    words: str
    limits: str
    would_change: str
    details: tuple[Block, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)


Runs = Mapping[str, RunSeries]


@dataclass(frozen=True)
class Study:
    """A question and how it is answered.

    Attributes:
        name: by which a user calls it.
        question: in one sentence.
        source: who asks it: a paper and its section.
        trainings: the runs for each scale: ``small`` takes minutes on two processor cores.
        answer: from the runs, by name, to the answer.
    """

    name: str
    question: str
    source: str
    trainings: Mapping[str, tuple[Training, ...]]
    answer: Callable[[Runs], Answer]
