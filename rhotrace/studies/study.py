"""What a study is: a question, the recipes whose runs answer it, and a function from those runs to an answer.

A study is one Python file with a ``STUDY`` in it, beside its recipes. Those that come with RhoTrace are in the folder
``questions``; a copy of one is run by its path, and may be changed.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rhotrace.analysis.run_series import RunSeries
from rhotrace.config import shipped_recipes
from rhotrace.display.blocks import Block
from rhotrace.errors import RhoTraceError
from rhotrace.studies import questions

SCALES = ("small", "gpu")
Verdict = Literal["yes", "no", "in part", "undecided"]


@dataclass(frozen=True)
class Training:
    """One run of a study.

    Attributes:
        name: of the run; also of its file, ``NAME.h5``.
        recipe: name of a shipped recipe, or of a file beside the study, without ``.yaml``.
        overrides: of the recipe, such as ``steps=4000``.
    """

    name: str
    recipe: str
    overrides: tuple[str, ...] = ()


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


def shipped() -> dict[str, Study]:
    """The studies that come with RhoTrace, by name."""
    modules = (
        importlib.import_module(f"{questions.__name__}.{m.name}") for m in pkgutil.iter_modules(questions.__path__)
    )
    found = [module.STUDY for module in modules]
    return {study.name: study for study in sorted(found, key=lambda study: study.name)}


def find(name: str) -> tuple[Study, Path]:
    """A study and its file: a shipped one by its name, one's own by the path of its Python file.

    Raises:
        RhoTraceError: there is none, or the file does not define one.
    """
    known = shipped()
    if name in known:
        return known[name], file_of(name)
    path = Path(name)
    if path.suffix == ".py":
        return _own(path), path
    near = difflib.get_close_matches(name, known, 1, 0.5)
    hint = f"did you mean {near[0]}?" if near else "`rhotrace study list` shows them"
    raise RhoTraceError(f"{name}: no such study; {hint}")


def file_of(name: str) -> Path:
    """The Python file of a shipped study."""
    return Path(questions.__path__[0]) / f"{name.replace('-', '_')}.py"


def _own(path: Path) -> Study:
    if not path.is_file():
        raise RhoTraceError(f"{path}: no such file; `rhotrace study copy NAME` writes a study to start from")
    spec = importlib.util.spec_from_file_location(f"study_{path.stem}", path)
    assert spec is not None  # noqa: S101 - for the type checker: the name ends in .py
    assert spec.loader is not None  # noqa: S101 - likewise
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as problem:  # whatever the file does
        raise RhoTraceError(f"{path}: cannot be imported: {type(problem).__name__}: {problem}") from problem
    study = getattr(module, "STUDY", None)
    if not isinstance(study, Study):
        raise RhoTraceError(f"{path}: got {type(study).__name__}, expected STUDY = Study(...) at the top of the file")
    return study


def recipe_file(training: Training, study_file: Path) -> Path:
    """The recipe of a training: the file beside the study first, so that a copy can be changed; then the shipped one.

    Raises:
        RhoTraceError: there is neither.
    """
    for path in (
        study_file.parent / f"{Path(training.recipe).name}.yaml",
        shipped_recipes.folder() / f"{training.recipe}.yaml",
    ):
        if path.is_file():
            return path
    raise RhoTraceError(
        f"{study_file}: {training.name}: no recipe {training.recipe}.yaml beside it, and none of that name is shipped"
    )
