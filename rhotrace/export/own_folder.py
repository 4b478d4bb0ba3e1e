"""Folders that an export made, which ``--force`` may replace; a mark in them tells them from the user's own."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from rhotrace.runfile.reader import Trace

_MARK = "rhotrace-export.json"  # in a folder that ``export`` made; it names what in the folder is an export


def mark(trace: Trace, folder: Path, kind: str, parts: Iterable[Path]) -> None:
    """Marks a folder as an export of this kind, which consists of these parts of it."""
    about = {"format": kind, "run": trace.path.name, "parts": sorted(str(part.relative_to(folder)) for part in parts)}
    (folder / _MARK).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def why_not_own(folder: Path, kind: str) -> str:
    """Why a folder must not be replaced by an export of this kind; empty where it contains such an export alone."""
    try:
        about = json.loads((folder / _MARK).read_text(encoding="utf-8"))
        made, parts = str(about["format"]), [folder / name for name in about["parts"]]
    except (OSError, ValueError, KeyError, TypeError):
        return f"it does not contain {_MARK}, as an export does"
    if made != kind:
        return f"it is an export to {made}"
    for path in sorted(folder.rglob("*")):
        own = path == folder / _MARK or any(path.is_relative_to(part) for part in parts)
        if not own and (path.is_symlink() or not path.is_dir()):
            return f"it also contains {path.relative_to(folder)}"
    return ""
