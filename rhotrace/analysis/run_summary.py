"""What was run, in a few values: state, size, network, optimizer and data of a run file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from rhotrace.errors import TraceError
from rhotrace.runfile.reader import Trace
from rhotrace.runfile.run_lock import is_locked


def summary(trace: Trace) -> dict[str, Any]:
    """What was run, in the words of ``rhotrace info``."""
    recipe, attributes = trace.recipe, trace.attributes
    planned = recipe["steps"]  # None of a recording, whose end is not planned
    state = str(attributes.get("ended", "finished"))
    if not trace.complete:
        state = "training now" if is_locked(trace.path) else "interrupted"
    optimizer = {name: value for name, value in recipe["optimizer"].items() if not _is_off(trace, name, value)}
    for name in ("schedule", "norms"):
        if name in optimizer:
            optimizer[name] = optimizer[name]["kind"]
    return {
        "state": state,
        "steps": trace.steps,
        "planned_steps": None if planned is None else int(planned),
        "members": trace.members,
        "depth": trace.depth,
        "width": recipe["network"].get("width"),
        "network": {name: value for name, value in recipe["network"].items() if name != "dtype"},
        "dtype": attributes["dtype"],
        "loss": trace.facts.loss,
        "optimizer": optimizer.pop("kind"),
        "optimizer_options": optimizer,
        "per_member": {name: trace[name].tolist() for name in trace.layout.per_member},  # overrules the options
        "dataset": recipe["data"]["dataset"],
        "classes": attributes["data_classes"],
        "samples": int(attributes["samples"]),
        "label_noise": recipe["data"]["label_noise"],
        "device": attributes["device"],
        "wall_seconds": trace.wall_seconds,
        "bytes": trace.path.stat().st_size,
    }


def _is_off(trace: Trace, name: str, value: Any) -> bool:  # noqa: ANN401 - of a recipe
    """Whether an option of the optimizer that few runs have does nothing in this one."""
    if name == "schedule":
        return bool(value["kind"] == "constant")
    off = {"weight_decay": 0, "momentum": 0, "v_scale": 1}
    return name in off and value == off[name] and name not in trace.layout.per_member


def comparable_recipes(traces: Sequence[Trace]) -> list[dict[str, Any]]:
    """The recipes, to find their differences: older files lack options that have been added since.

    Today's defaults stand for these, where today's version knows the components.
    """
    recipes = [trace.recipe for trace in traces]
    if len({frozenset(_keys(recipe)) for recipe in recipes}) > 1:
        with suppress(TraceError):
            return [trace.validated_recipe().model_dump() for trace in traces]
    return recipes


def _keys(content: Any, path: str = "") -> Iterator[str]:  # noqa: ANN401 - of a recipe
    if isinstance(content, dict):
        for name, value in content.items():
            yield f"{path}.{name}"
            yield from _keys(value, f"{path}.{name}")
