"""From a study to its page: train what has not been trained, read the runs, and write the answer."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rhotrace.analysis.run_series import RunSeries
from rhotrace.config import recipe as recipes
from rhotrace.config.recipe import Recipe
from rhotrace.config.trusted_code import named
from rhotrace.display.blocks import Block, Code, Data, Heading, Paragraph
from rhotrace.display.html.renderer import report_page
from rhotrace.display.html.report import write_page as write_text
from rhotrace.errors import DataError, RhoTraceError
from rhotrace.runfile.provenance import now, session, versions
from rhotrace.runfile.reader import open_trace
from rhotrace.studies.catalogue import find, recipe_file
from rhotrace.studies.study import Answer, Study, Training
from rhotrace.theory import paper
from rhotrace.training.resume import changes

Trainer = Callable[[Recipe, Path, Path], bool]  # recipe, run file, recipe's file; whether the run was finished


@dataclass(frozen=True)
class Answered:
    """A study with its answer.

    Attributes:
        study: the question.
        scale: ``small`` or ``gpu``.
        answer: to it.
        commands: that train its runs by hand.
        left_out: optional runs whose data are not available, and why.
    """

    study: Study
    scale: str
    answer: Answer
    commands: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def answered(
    study: Study,
    file: Path,
    *,
    scale: str,
    folder: Path,
    train: Trainer,
    open_runs: ExitStack,
    trust_code: bool = False,
) -> Answered | None:
    """Answers a study; runs that are finished are used again, and interrupted ones resumed.

    Args:
        study: to answer.
        file: it is in, for the recipes beside it.
        scale: ``small`` or ``gpu``.
        folder: of the run files.
        train: trains one run.
        open_runs: keeps the run files open, for the figures are drawn later.
        trust_code: run the Python files that the recipes name.

    Returns:
        None if training was interrupted.

    Raises:
        RhoTraceError: the study has no such scale, or a run file of another recipe is in the way.
    """
    if scale not in study.trainings:
        raise RhoTraceError(f"{study.name}: got scale {scale}, expected {' or '.join(study.trainings)}")
    paths, commands, left_out = {}, [], []
    for training in study.trainings[scale]:
        source, path = recipe_file(training, file), folder / file_name(training, scale)
        content = recipes.load(source, list(training.overrides), trust_code=trust_code)
        try:
            if not _finished(path, content) and not train(content, path, source):
                return None
        except DataError as absent:
            if not training.optional:
                raise
            left_out.append(f"{training.name}: {absent.brief}")
            continue
        paths[training.name] = path
        commands.append(_command(training, source, path, content))
    runs = {name: RunSeries(open_runs.enter_context(open_trace(path))) for name, path in paths.items()}
    return Answered(study, scale, study.answer(runs), tuple(commands), tuple(left_out))


def file_name(training: Training, scale: str) -> str:
    """The run file of a training: the small runs have its name, those of another scale the scale's beside it."""
    return f"{training.name}.h5" if scale == "small" else f"{training.name}-{scale}.h5"


def _finished(path: Path, content: Recipe) -> bool:
    """Whether a file is a finished run of a recipe.

    Raises:
        RhoTraceError: it is a finished run of another one.
    """
    if not path.exists():
        return False
    with open_trace(path) as trace:
        if not trace.complete:
            return False
        if changed := changes(trace, content):
            raise RhoTraceError(
                f"{path}: a run of another recipe exists already (differs in {', '.join(changed)}); --runs FOLDER trains elsewhere"
            )
        return True


def _command(training: Training, source: Path, path: Path, content: Recipe) -> str:
    options = [word for override in training.overrides for word in ("--set", override)]
    if named(content.model_dump()):
        options.append("--trust-code")
    return shlex.join(["rhotrace", "train", str(source), *options, "-o", str(path)])


def copy(name: str, to: Path) -> list[Path]:
    """Copies a study, its recipes, and the Python files that these name, into a folder; returns what was written.

    Raises:
        RhoTraceError: there is no such study, a file that a recipe names is missing or outside the recipe's folder, or a
            file of that name with other content exists; then nothing is written.
    """
    study, file = find(name)
    sources = {Path(file.name): file}
    for training in (each for trainings in study.trainings.values() for each in trainings):
        recipe = recipe_file(training, file)
        sources |= {Path(recipe.name): recipe, **_code(recipe, training)}
    missing = []
    for relative, source in sorted(sources.items()):
        target = to / relative
        if not target.exists():
            missing.append((source, target))
        elif not (target.is_file() and target.read_bytes() == source.read_bytes()):
            raise RhoTraceError(f"{target} exists already with other content; choose another folder with -o")
    for source, target in missing:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return [target for _, target in missing]


def _code(recipe: Path, training: Training) -> dict[Path, Path]:
    """The Python files that a recipe names, by their paths from its folder; one with an absolute path stays where it is."""
    named_files = [Path(name) for name in recipes.code_files(recipe, training.overrides)]
    for path in named_files:
        if ".." in path.parts:
            raise RhoTraceError(
                f"{recipe}: names {path}, which is outside its folder and cannot be copied with it; move the file beside the recipe"
            )
        if not (recipe.parent / path).is_file():
            raise RhoTraceError(
                f"{recipe}: names {path}, but {recipe.parent / path} does not exist; nothing was copied"
            )
    return {path: recipe.parent / path for path in named_files if not path.is_absolute()}


def write_page(found: Sequence[Answered], path: Path) -> None:
    """Writes the page of studies as one self-contained HTML file.

    Raises:
        RhoTraceError: it cannot be written.
    """
    html = report_page(
        page(found),
        title=", ".join(one.study.name for one in found),
        made=now(),
        version=versions(),
        command=session()["command"],
        citation=paper.CITATION,
    )
    write_text(path, html)


def page(found: Sequence[Answered]) -> list[Block]:
    """The blocks of a page on one or several studies."""
    return [Data([_data(one) for one in found]), *(block for one in found for block in _section(one))]


def _data(one: Answered) -> dict[str, Any]:
    study, answer = one.study, one.answer
    return {
        "study": study.name,
        "question": study.question,
        "source": study.source,
        "scale": one.scale,
        "verdict": answer.verdict,
        "answer": answer.words,
        "limits": answer.limits,
        "would_change": answer.would_change,
        "values": dict(answer.values),
        "commands": list(one.commands),
        "left_out": list(one.left_out),
    }


def _section(one: Answered) -> Iterator[Block]:
    study, answer = one.study, one.answer
    yield Heading(study.name, 2, study.name)
    yield Paragraph(f"{study.question} ({study.source})")
    yield Paragraph(f"{answer.verdict.capitalize()}: {answer.words}", strong=True, apart=True)
    yield Paragraph(f"Limits: {answer.limits}")
    if one.left_out:
        yield Paragraph(f"Left out: {'; '.join(one.left_out)}.")
    yield Paragraph(f"What would change it: {answer.would_change}")
    yield from answer.details
    yield Heading("Runs", 3, f"{study.name}-runs", folded=True)
    yield Code("\n".join(one.commands))
