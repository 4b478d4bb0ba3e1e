"""What the file of a recording says instead of a recipe: the facts that ``rhotrace.record`` found out about the loop."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rhotrace.errors import TraceError

NO_RECIPE = "recorded in a training loop of your own: there is no recipe to build its network or its data from"


def own_loop_facts(path: Path, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The attribute ``own_loop`` of a run file; empty for a run of a recipe.

    Raises:
        TraceError: it is damaged.
    """
    try:
        content = json.loads(attributes.get("own_loop", "{}"))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise TraceError(f"{path}: a damaged run file: the attribute own_loop is not a description")
    return content


def refuse_without_recipe(path: Path, own_loop: Mapping[str, Any]) -> None:
    """Raises TraceError for a recording, from which nothing can be built again."""
    if own_loop:
        raise TraceError(f"{path}: {NO_RECIPE}; that loop resumes it, with rhotrace.record(..., resume=STEP)")
