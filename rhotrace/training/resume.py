"""What ``train`` does if the run file already exists: resume the run, extend it, replace it, or refuse and say why."""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rhotrace.config.recipe import Recipe, differences
from rhotrace.config.trusted_code import named, not_loaded
from rhotrace.errors import RecipeError, TraceError
from rhotrace.runfile import provenance
from rhotrace.runfile.layout import Layout
from rhotrace.runfile.reader import Trace, open_trace
from rhotrace.runfile.sealing import refuse_damaged_description, refuse_damaged_steps
from rhotrace.runfile.writer import AttributeValue, Beginning, TraceWriter, create, extend, reopen

# Packages of which another version may round, or draw random numbers, differently.
_DECISIVE = ("rhotrace", "torch", "numpy")
_EARLIER = {"processes": 1, "products": "torch"}  # of files that do not state it, as they are older
_OF_THE_RECIPE = ("recipe", "recipe_json", "recipe_digest")  # root attributes that an extended run replaces
_MOST_SHOWN = 5


@dataclass(frozen=True)
class Continuation:
    """What the user allows if the run file already exists; see ``rhotrace.training.train.train``."""

    force: bool = False
    extend_run: bool = False
    despite_changes: bool = False


@dataclass(frozen=True)
class Begun:
    """A run file ready for its next step.

    Attributes:
        writer: writes into it.
        state: of the optimizer, by name and layer; empty before the first step.
        diverged: its last step is one at which no member is finite.
    """

    writer: TraceWriter
    state: Mapping[str, list[NDArray[Any]]]
    diverged: bool = False


def refuse_to_overwrite(path: Path, steps: int, how: Continuation) -> None:
    """Raises TraceError if a file at ``path`` may be neither replaced nor resumed.

    Args:
        path: of the run file.
        steps: of the recipe.
        how: what the user allows.
    """
    if not path.exists() or (how.force and path.is_file()):
        return
    if not path.is_file():
        what = "a folder" if path.is_dir() else "a special file"
        raise TraceError(f"{path}: got {what}, expected the path of a run file")
    try:
        with open_trace(path) as trace:
            if not trace.complete or (how.extend_run and trace.steps < steps):
                return  # it can be resumed or extended
            ended = trace.attributes.get("ended")
            state = f"a {ended} run of {trace.steps} steps exists already"
            further = "" if ended == "diverged" else f"--steps N (above {trace.steps}) extends it, "
            remedy = f"--force replaces it, {further}-o FILE writes elsewhere"
    except TraceError as problem:
        state = f"a file that is not a readable run exists already ({str(problem).removeprefix(f'{path}: ')})"
        remedy = "--force replaces it, -o FILE writes elsewhere"
    raise TraceError(f"{path}: {state}; {remedy}")


def open_run(
    path: Path,
    recipe: Recipe,
    layout: Layout,
    attributes: Mapping[str, AttributeValue],
    fixed: Mapping[str, NDArray[Any]],
    how: Continuation,
) -> Begun:
    """Creates the run file, or opens the existing one with the optimizer's state after its last committed step.

    The caller must hold the run's lock.

    Raises:
        RecipeError: the existing run has another recipe or other data.
        TraceError: it is damaged, was started under other conditions, or the file cannot be written.
    """
    _remove_leftovers(path)
    if how.force or not path.exists():
        return Begun(create(path, layout, attributes, fixed), {})
    with open_trace(path) as trace:
        refuse_damaged_description(trace)
        _refuse_another_run(trace, recipe, attributes, how)
        if not trace.steps:
            return Begun(create(path, layout, attributes, fixed), {})
        changed = _changed_conditions(trace.attributes, attributes)
        if changed and not how.despite_changes:
            raise TraceError(
                f"{path}: this run was started under other conditions ({_shown(changed)}), so it may not produce the same "
                "bits as an uninterrupted run; --despite-changes resumes anyway, --force starts again"
            )
        refuse_damaged_steps(trace)
        kept = _kept_layout(trace, layout)
        if trace.complete or trace.layout.steps != layout.steps:
            begun = _extended(trace, path, kept, attributes, fixed)
        else:
            begun = Begun(*reopen(path))
        last = begun.writer.committed
        diverged = not np.isfinite(trace.rows("log_rho", slice(last - 1, last))).any()
    conditions = {
        key: attributes[key]
        for key in ("device", "threads", "processes", "products", "git_revision")
        if key in attributes
    }
    begun.writer.note_session({"from_step": begun.writer.committed, **provenance.session(), **conditions})
    return dataclasses.replace(begun, diverged=diverged)


def _kept_layout(trace: Trace, planned: Layout) -> Layout:
    """The planned layout, with the format, the quantities and their order taken from the run's file.

    Raises:
        TraceError: this version cannot record what the file records, or its network or optimizer state differs.
    """
    there = trace.layout
    known = {quantity.name: (quantity.axes, quantity.cadence) for quantity in planned.quantities}
    why = [
        f"its quantity {quantity.name} is unknown to this version, or has another cadence or other axes here"
        for quantity in there.quantities
        if known.get(quantity.name) != (quantity.axes, quantity.cadence)
    ]
    why += [f"its axis {axis} has other values" for axis in there.axes if there.axes[axis] != planned.axes.get(axis)]
    why += [
        f"its {name} is not what this version derives from its recipe"
        for name in ("members", "blocks", "dtype", "state", "facts")
        if getattr(there, name) != getattr(planned, name)
    ]
    if why:
        raise TraceError(
            f"{trace.path}: cannot be resumed: {why[0]}; use the version of RhoTrace that started it, or start again with "
            "--force"
        )
    strides = {cadence: planned.strides.get(cadence, stride) for cadence, stride in there.strides.items()}
    return dataclasses.replace(there, steps=planned.steps, snapshots=planned.snapshots, strides=strides)


def _remove_leftovers(path: Path) -> None:
    """Deletes the scratch files of processes that were killed while they created or sealed the run file."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.*"):
        process, _, ending = left.name.removeprefix(f".{path.name}.").partition(".")
        if process.isdecimal() and ending in ("new", "seal"):  # otherwise it belongs to a file with a longer name
            left.unlink(missing_ok=True)


def changes(trace: Trace, recipe: Recipe) -> dict[str, tuple[Any, Any]]:
    """The keys in which a run's recipe differs from another, with both values; where the data is kept does not count."""
    known = trace.recipe if not_loaded(trace.recipe) else trace.validated_recipe().model_dump()
    changed = differences(known, recipe.model_dump())
    changed.pop("data.root", None)
    return changed


def _refuse_another_run(
    trace: Trace, recipe: Recipe, attributes: Mapping[str, AttributeValue], how: Continuation
) -> None:
    changed = changes(trace, recipe)
    longer = how.extend_run and recipe.steps > trace.steps and recipe.steps >= trace.layout.steps
    if longer:
        changed.pop("steps", None)
    if files := _code_changed(trace, recipe):
        raise RecipeError(
            f"{trace.path}: {' and '.join(files)} changed since this run was started; restore it (`rhotrace info` prints the "
            "copy in the file), or --force starts again, -o FILE writes elsewhere"
        )
    if changed:
        hint = f", --steps {max(changed['steps'])} resumes it" if set(changed) == {"steps"} else ""
        raise RecipeError(
            f"{trace.path}: a run of another recipe exists already ({_shown(changed)}); --force starts again{hint}, "
            "-o FILE writes elsewhere"
        )
    if trace.attributes["data_digest"] != attributes["data_digest"]:
        raise RecipeError(
            f"{trace.path}: a run on other data exists already (digest {trace.attributes['data_digest'][:12]} in the file, "
            f"{str(attributes['data_digest'])[:12]} now); --force starts again, -o FILE writes elsewhere"
        )


def _code_changed(trace: Trace, recipe: Recipe) -> list[str]:
    """The Python files of which the run used another version, each with both SHA-256."""
    there, now = named(trace.recipe), named(recipe.model_dump())
    return [
        f"{file} (SHA-256 {str(there[file])[:12]} in the file, {str(sha)[:12]} now)"
        for file, sha in now.items()
        if file in there and there[file] != sha
    ]


def _shown(changed: Mapping[str, tuple[Any, Any]]) -> str:
    parts = [f"{key}: {there} in the file, {now} now" for key, (there, now) in changed.items()]
    more = [f"and {len(parts) - _MOST_SHOWN} more"] if len(parts) > _MOST_SHOWN else []
    return "; ".join(parts[:_MOST_SHOWN] + more)


def _changed_conditions(there: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What decides a run's bits and differs between the process that started it and this one."""
    pairs = {key: (there.get(key), now.get(key)) for key in ("device", "threads")}
    for key, before in _EARLIER.items():
        pairs[key] = (there.get(key, before), now.get(key, before))
    begun, present = (_versions(str(a.get("versions", ""))) for a in (there, now))
    pairs |= {package: (begun.get(package), present.get(package)) for package in _DECISIVE}
    return {key: (a, b) for key, (a, b) in pairs.items() if a != b}


def _versions(text: str) -> dict[str, str]:
    return dict(part.split(" ", 1) for part in text.split(", ") if " " in part)


def _extended(
    trace: Trace,
    path: Path,
    layout: Layout,
    attributes: Mapping[str, AttributeValue],
    fixed: Mapping[str, NDArray[Any]],
) -> Begun:
    """Replaces the file by a longer live one that begins with all committed steps of ``trace``."""
    if trace.complete:
        steps, state = trace.steps, trace.state()
    else:
        writer, state = reopen(path)  # which finds the newest intact state
        writer.close()
        steps = writer.committed
    if not state:
        ended = trace.attributes.get("ended")
        raise TraceError(
            f"{path}: cannot be extended: it {'was repaired' if ended == 'repaired' else ended} after {steps} steps "
            "and contains no optimizer state; --force starts again"
        )
    there = {name: values for name, values in fixed.items() if name in trace.per_member or name in layout.lists}
    taken = [step for step in trace.snapshot_steps() if step <= steps]
    later = [step for step in layout.snapshots if step >= steps and step not in taken]
    longer = dataclasses.replace(layout, snapshots=[*taken, *later])
    kept = {**trace.beginning_attributes(), **{name: attributes[name] for name in _OF_THE_RECIPE}}
    return Begun(extend(Beginning(trace, steps, taken, state), path, longer, kept, there), state)
