"""The folders in which data is looked for."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def roots(root: str | None = None) -> list[Path]:
    """The folders that are searched for data, in order: recipe, ``RHOTRACE_DATA``, checkout, user's cache."""
    found = [Path(p).expanduser() for p in (root, os.environ.get("RHOTRACE_DATA")) if p]
    checkout = Path(__file__).resolve().parents[3] / "data"
    if checkout.is_dir():
        found.append(checkout)
    return [*found, cache_root()]


def cache_root() -> Path:
    """The user's own cache folder, into which missing data is downloaded."""
    return Path(platformdirs.user_cache_dir("rhotrace")) / "data"
