"""The recipes that come with RhoTrace: inside the installed package, or in the checkout beside it."""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rhotrace.config import strict_yaml
from rhotrace.errors import RecipeError


@dataclass(frozen=True)
class Shipped:
    """One recipe or sweep: its name, such as ``deep8`` or ``sweeps/phase-diagram``, and what it claims to show."""

    name: str
    claim: str


def folder() -> Path:
    """Where the shipped recipes are.

    Raises:
        RecipeError: they are missing, as in a copy of the package's modules alone.
    """
    package = Path(__file__).parents[1]
    for place in (package / "recipes", package.parent / "recipes"):
        if (place / "deep8.yaml").is_file():
            return place
    raise RecipeError(
        "the shipped recipes are not in this installation; install RhoTrace from its wheel or its checkout"
    )


def listing() -> list[Shipped]:
    """All shipped recipes, by name."""
    return [Shipped(name, str(_read(path).get("claim", ""))) for name, path in _paths().items()]


def _paths() -> dict[str, Path]:
    """The file of each shipped recipe, by its name."""
    root = folder()
    paths = sorted(root.rglob("*.yaml"), key=lambda path: (len(path.relative_to(root).parts), path))
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in paths}


def copy(names: Sequence[str], to: Path) -> dict[str, list[Path]]:
    """Copies recipes into a folder; with a sweep, also the recipe that it varies, so that its path remains right.

    Nothing is written unless all of them can be copied.

    Returns:
        The files that were written, by name; one that exists with the same content is left alone.

    Raises:
        RecipeError: no such recipe, or a file of that name with other content exists.
    """
    planned = {name: _planned(name, to) for name in names}
    written: dict[str, list[Path]] = {}
    for name, copies in planned.items():
        missing = {target: source for target, source in copies.items() if not target.exists()}
        for target, source in missing.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        written[name] = list(missing)
    return written


def _planned(name: str, to: Path) -> dict[Path, Path]:
    """The source of each file that a copy would consist of, by its target."""
    root, wanted = folder(), name.removesuffix(".yaml")
    source = root / f"{wanted}.yaml"
    if wanted not in (known := _paths()):
        near = difflib.get_close_matches(wanted, known, 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else "`rhotrace recipe list` shows them"
        raise RecipeError(f"{name}: no shipped recipe; {hint}")
    sources = [source]
    content = _read(source)
    if "axes" in content:
        sources.append((source.parent / str(content["recipe"])).resolve())
    planned = {}
    for each in sources:
        target = to / each.relative_to(root.resolve() if each != source else root)
        if target.exists() and not (target.is_file() and target.read_bytes() == each.read_bytes()):
            raise RecipeError(f"{target} exists already with other content; choose another folder with -o")
        planned[target] = each
    return planned


def _read(path: Path) -> dict[str, Any]:
    content, _ = strict_yaml.read(path.read_text(encoding="utf-8"), str(path))
    return dict(content)
