"""Which Python files a recipe names, and the one place that lets them run.

A recipe names code in two places: ``network.build`` of the kind ``module`` names a function of a file, and ``code`` lists
files that register components, quantities and cadences. Both are relative to the recipe's folder. A resolved recipe has
the SHA-256 of each file, so its digest is that of the code too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rhotrace.config import strict_yaml
from rhotrace.errors import RecipeError, nearest_file
from rhotrace.models import own_code
from rhotrace.models.datasets import DATASETS
from rhotrace.models.initial_weights import INITIALISERS
from rhotrace.models.losses import LOSSES
from rhotrace.models.networks import NETWORKS
from rhotrace.models.optimizers import OPTIMIZERS
from rhotrace.recording.quantity import CADENCES, QUANTITIES

_TABLES: tuple[Any, ...] = (DATASETS, NETWORKS, LOSSES, INITIALISERS, OPTIMIZERS, QUANTITIES, CADENCES)
_ACTIVE: dict[str, tuple[str, list[tuple[Any, str]]]] = {}  # by file: the version that ran last, and what it registered

Refuse = Callable[..., RecipeError]


def named(content: Mapping[str, Any]) -> dict[str, str | None]:
    """The files that a recipe's plain content names, with the SHA-256 that it states of each."""
    found: dict[str, str | None] = {}
    code, network = content.get("code"), content.get("network")
    if isinstance(code, dict):
        found.update({str(file): sha if isinstance(sha, str) else None for file, sha in code.items()})
    elif isinstance(code, list):
        found.update({file: None for file in code if isinstance(file, str)})
    if isinstance(network, dict) and network.get("kind") == "module" and isinstance(network.get("build"), str):
        file, colon, _ = network["build"].rpartition(":")
        stated = network.get("sha256")
        if colon and file:
            found.setdefault(file, stated if isinstance(stated, str) else None)
    return found


def resolve(content: dict[str, Any], folder: Path, refuse: Refuse, *, trust: bool) -> dict[str, Any]:
    """Runs the files that a recipe names and states the SHA-256 of each.

    Args:
        content: of the recipe, as read.
        folder: of the recipe.
        refuse: makes an error from a message and the key that it is about.
        trust: whether the user allows the code to run.

    Returns:
        The content with the files' SHA-256.

    Raises:
        RecipeError: the user has not allowed it, or a file is missing, has changed or fails.
    """
    sources: dict[str, str] = {}
    for file, stated in named(content).items():
        key = ("network", "build") if not _is_listed(content, file) else ("code",)
        if not file.endswith(".py") or not file.isprintable() or len(file) > 500:
            raise refuse(f"got {file[:60]!r}, expected the path of a Python file, NAME.py", *key)
        if not trust:
            raise refuse(
                f"names Python code, {file}, which would run with all your rights; read it, then allow it with --trust-code",
                *key,
            )
        source = _read(folder, file, refuse, *key)
        if stated and stated != source.sha256:
            raise refuse(
                f"{file} has changed: its SHA-256 is {source.sha256[:12]}, the recipe states {stated[:12]}; "
                "restore the file, or remove the SHA-256 from the recipe",
                *key,
            )
        try:
            _activate(source)
        except RecipeError as problem:
            raise refuse(str(problem), *key) from None
        sources[file] = source.sha256
    return _stated(content, sources) if sources else content


def _is_listed(content: Mapping[str, Any], file: str) -> bool:
    code = content.get("code")
    return isinstance(code, list | dict) and file in code


def _stated(content: dict[str, Any], sources: Mapping[str, str]) -> dict[str, Any]:
    content = dict(content)
    code = content.get("code")
    if isinstance(code, list | dict) and set(map(str, code)) <= set(sources):
        content["code"] = {file: sources[file] for file in map(str, code)}
    network = content.get("network")
    if isinstance(network, dict) and network.get("kind") == "module":
        file = str(network.get("build")).rpartition(":")[0]
        content["network"] = {**network, **({"sha256": sources[file]} if file in sources else {})}
    return content


def _read(folder: Path, file: str, refuse: Refuse, *key: str) -> own_code.Source:
    path = folder / file
    try:
        return own_code.Source(file, strict_yaml.read_file(path, "Python file"), str(path.absolute()))
    except FileNotFoundError:
        near = nearest_file(path, "*.py")
        raise refuse(f"{path}: no such file{f'; did you mean {near}?' if near else ''}", *key) from None
    except RecipeError as problem:
        raise refuse(str(problem), *key) from None


def _activate(source: own_code.Source) -> None:
    """Runs a file unless this version of it ran last; what another version had registered is removed first."""
    last, registered = _ACTIVE.get(source.name, ("", []))
    if last == source.sha256:
        return
    for table, name in registered:
        with suppress(KeyError):
            table.unregister(name)
    _ACTIVE.pop(source.name, None)
    before = [set(table) for table in _TABLES]
    fresh: list[tuple[Any, str]] = []
    try:
        own_code.run(source)
        _ACTIVE[source.name] = (source.sha256, fresh)
    finally:
        fresh += [(table, n) for table, there in zip(_TABLES, before, strict=True) for n in table if n not in there]
        if source.name not in _ACTIVE:
            for table, name in fresh:
                table.unregister(name)


def run_stored(content: Mapping[str, Any], attributes: Mapping[str, Any], where: str) -> None:
    """Runs the copies of a recipe's code that a run file stores.

    Args:
        content: the recipe of the file.
        attributes: of the file.
        where: the file, for messages.

    Raises:
        RecipeError: a copy is missing, is not the one that trained, or fails.
    """
    texts = own_code.texts(attributes)
    for file, stated in named(content).items():
        source = own_code.Source(file, texts.get(file, ""), f"{file} in {where}")
        if file not in texts or source.sha256 != stated:
            raise RecipeError(f"{where}: --trust-code: its copy of {file} is missing or damaged")
        try:
            _activate(source)
        except RecipeError as problem:
            raise RecipeError(f"{where}: {problem}") from None


def stored_code(content: Mapping[str, Any]) -> dict[str, str]:
    """The attribute of a run file that keeps the texts of a recipe's code, all of which has run; none without code."""
    texts = {file: own_code.text_of(stated or "") for file, stated in named(content).items()}
    return {"code": json.dumps(texts)} if texts else {}


def forget() -> None:
    """Takes back every permission: no file counts as run, and what the files registered is gone."""
    for _, registered in _ACTIVE.values():
        for table, name in registered:
            with suppress(KeyError):
                table.unregister(name)
    _ACTIVE.clear()
    own_code.forget()


def refuse_unloaded(content: Mapping[str, Any]) -> None:
    """Raises RecipeError where a recipe's components are those of files that have not run."""
    files = [file for file in not_loaded(content) if _is_listed(content, file)]
    if files:
        raise RecipeError(
            f"its recipe needs code of its own, {', '.join(files)}; --trust-code runs the copy in the file"
        )


def not_loaded(content: Mapping[str, Any]) -> list[str]:
    """The files of a recipe's plain content of which another version, or none, ran last in this process."""
    return [file for file, stated in named(content).items() if _ACTIVE.get(file, ("", []))[0] != stated]
