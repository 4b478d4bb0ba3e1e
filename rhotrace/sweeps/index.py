"""The index of a sweep: one JSON file that says which member of which run file each point is."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rhotrace.errors import TraceError

INDEX = "sweep.json"
FORMAT = 1


class _Run(BaseModel):
    model_config = ConfigDict(strict=True)
    file: str = Field(pattern=r"^[^/\\\x00]+\.h5$")
    recipe_digest: str


class _Point(BaseModel):
    model_config = ConfigDict(strict=True)
    values: dict[str, Any]
    members: list[Annotated[list[int], Field(min_length=2, max_length=2)]]


class _Index(BaseModel):
    model_config = ConfigDict(strict=True)
    format: Literal[1]
    digest: str
    group_sizes: dict[str, Annotated[int, Field(ge=1)]]
    axes: list[str]
    runs: list[_Run] = Field(min_length=1)
    points: list[_Point] = Field(min_length=1)


def read_index(path: Path) -> dict[str, Any]:
    """The index of a sweep, from its path or that of its folder.

    Raises:
        TraceError: there is none, or it is not an index of a sweep.
    """
    folder = path.parent if path.name == INDEX else path
    content = index_of(folder)
    if content is None:
        remedy = (
            f"`rhotrace sweep SWEEP.yaml -o {folder}` makes one" if not folder.is_file() else "give a sweep's folder"
        )
        raise TraceError(f"{path}: no {INDEX} of a sweep; {remedy}")
    return content


def index_of(folder: Path) -> dict[str, Any] | None:
    """The index in a folder, or None where there is none."""
    path = folder / INDEX
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as problem:
        raise TraceError(
            f"{path}: cannot be read as a sweep's index ({problem}); remove it, and the sweep creates it again"
        ) from None
    try:
        _Index.model_validate(content)
    except ValidationError as invalid:
        fault = invalid.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise TraceError(
            f"{path}: not a sweep's index that this version can read ({where}: {fault['msg']}); remove it, and the sweep creates it again"
        ) from None
    return dict(content)


def run_files(paths: Iterable[Path]) -> list[Path]:
    """Paths of run files, where a sweep's folder or index means all of its files."""
    found: list[Path] = []
    for path in paths:
        if path.name == INDEX or (path / INDEX).is_file():
            folder = path.parent if path.name == INDEX else path
            found += [folder / run["file"] for run in read_index(path)["runs"]]
        else:
            found.append(path)
    return found
