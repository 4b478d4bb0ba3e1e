"""The index of a sweep: one JSON file that says which member of which run file each point is."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rhotrace.errors import TraceError

INDEX = "sweep.json"
FORMAT = 1


def read_index(path: Path) -> dict[str, Any]:
    """The index of a sweep, from its path or that of its folder.

    Raises:
        TraceError: there is none, or it is no index of a sweep.
    """
    folder = path.parent if path.name == INDEX else path
    content = index_of(folder)
    if content is None:
        raise TraceError(f"{path}: no {INDEX} of a sweep; `rhotrace sweep SWEEP.yaml -o {folder}` makes one")
    return content


def index_of(folder: Path) -> dict[str, Any] | None:
    """The index in a folder, or None where there is none."""
    try:
        content = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as problem:
        raise TraceError(
            f"{folder / INDEX}: cannot be read as a sweep's index ({problem}); remove it to make it again"
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise TraceError(f"{folder / INDEX}: no index of a sweep that this version reads; remove it to make it again")
    return content


def run_files(paths: Iterable[Path]) -> list[Path]:
    """Paths of run files, where the folder or the index of a sweep stands for all of its files."""
    found: list[Path] = []
    for path in paths:
        if path.name == INDEX or (path / INDEX).is_file():
            folder = path.parent if path.name == INDEX else path
            found += [folder / run["file"] for run in read_index(path)["runs"]]
        else:
            found.append(path)
    return found
