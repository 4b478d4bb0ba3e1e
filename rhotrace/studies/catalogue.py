"""The studies that can be run: those that come with RhoTrace by their names, and copies of them by their files.

The recipes of a study are those beside its file, and otherwise the shipped ones; so a copy may be changed.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
from pathlib import Path

from rhotrace.config import shipped_recipes
from rhotrace.errors import RhoTraceError
from rhotrace.studies import questions
from rhotrace.studies.study import Study, Training


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
