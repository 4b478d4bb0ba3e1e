"""Repairing a damaged run file: its longest sound beginning is saved in a new file."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rhotrace.config import strict_yaml
from rhotrace.config.recipe import Recipe, digest_of, per_member_of
from rhotrace.errors import RecipeError, TraceError
from rhotrace.runfile import provenance
from rhotrace.runfile.integrity import is_whole
from rhotrace.runfile.layout import SLAB_BYTES, attributes_digest, checksum, fixed_axes, fixed_digest
from rhotrace.runfile.live_checksums import block_is_whole, snapshot_is_whole, written_blocks
from rhotrace.runfile.reader import Trace, open_trace, whole_commits
from rhotrace.runfile.sealing import seal
from rhotrace.runfile.untrusted import DAMAGE
from rhotrace.runfile.writer import Beginning, extend

State = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Repair:
    """What was saved.

    Attributes:
        path: of the damaged file, which is unchanged.
        target: the new file.
        steps: number of steps saved.
        steps_before: number of steps that the damaged file claims.
        snapshots: steps of the snapshots that were saved.
        snapshots_lost: number of snapshots that were not.
        text_lost: whether text attributes (recipe, provenance) were damaged; they are saved as found.
        resumable: the optimizer's state after the last saved step was saved too, so that training can resume.
    """

    path: str
    target: str
    steps: int
    steps_before: int
    snapshots: tuple[int, ...]
    snapshots_lost: int
    text_lost: bool
    resumable: bool


def repair(path: Path, target: Path) -> Repair:
    """Writes the longest sound beginning of a damaged run into a new, finished file.

    Args:
        path: of the damaged file, which is only read.
        target: of the new file.

    Raises:
        TraceError: ``target`` exists already, nothing can be saved, or nothing is damaged.
    """
    if target.exists():
        raise TraceError(f"{target}: a file exists already, and repair never replaces one; choose another with -o FILE")
    opened, cut_short = _open(path)
    with opened as trace:
        if not cut_short and is_whole(trace):
            raise TraceError(f"{path}: nothing to repair: all of its {trace.steps} steps are intact")
        content = _recipe(trace)
        steps = _sound_steps(trace)
        if not steps:
            raise TraceError(f"{path}: nothing can be saved: not even its first steps are intact")
        planned = trace.layout.snapshots
        whole = trace.snapshot if trace.complete else partial(snapshot_is_whole, trace)
        snapshots = [s for s in planned if s <= steps and _readable(partial(whole, s))]
        lost = sum(s not in snapshots for s in trace.due_snapshots)
        state = _sound_state(trace, steps)
        text_lost = attributes_digest(trace.attributes) != trace.attributes.get("attributes_digest")
        texts = {
            "recipe": strict_yaml.write(content),
            "recipe_json": json.dumps(content),
            "recipe_digest": digest_of(content),
        }
        attributes = {**trace.beginning_attributes(), **texts}
        attributes |= {"repaired_from": str(path), "repaired": provenance.now()}
        if text_lost:
            attributes["repaired_text"] = "some of the text attributes were damaged and are saved as they were found"
        fixed = per_member_of(content, trace.layout.per_member)
        lists = _sound_lists(trace, fixed)
        kept = {name: stated for name, stated in trace.layout.lists.items() if name in lists}
        layout = dataclasses.replace(trace.layout, steps=steps, snapshots=snapshots, lists=kept)
        beginning = Beginning(trace, steps, snapshots, state)
        extend(beginning, target, layout, attributes, {**fixed, **lists}).close()
        end = {"ended": "repaired", "finished": provenance.now()}
        seal(target, {**end, "wall_seconds": trace.wall_seconds}, keep_state=bool(state))
        return Repair(str(path), str(target), steps, trace.steps, tuple(snapshots), lost, text_lost, bool(state))


def _open(path: Path) -> tuple[Trace, bool]:
    """The run, and whether its file lost its end."""
    try:
        return open_trace(path), False
    except TraceError as refusal:
        try:
            return open_trace(path, cut_short=True), True
        except TraceError:
            raise refusal from None


def _recipe(trace: Trace) -> dict[str, Any]:
    """The resolved recipe, which a file contains twice: the one that matches the digest, or else one that is valid.

    Raises:
        TraceError: both are damaged.
    """
    found: list[dict[str, Any]] = []
    for read in (lambda: trace.recipe, lambda: strict_yaml.read(trace.attributes["recipe"], "recipe")[0]):
        with contextlib.suppress(TraceError, RecipeError, *DAMAGE):
            content = read()
            if digest_of(content) == trace.attributes.get("recipe_digest"):
                return dict(content)
            found.append(Recipe.model_validate(content).model_dump())
    if not found:
        raise TraceError(f"{trace.path}: nothing can be saved: its recipe is lost")
    return found[-1]


def _readable(read: Callable[[], object]) -> bool:
    """Whether a part of the file reads as sound; ``read`` raises TraceError or returns False where it does not."""
    try:
        return read() is not False
    except (TraceError, *DAMAGE):
        return False


def _sound_lists(trace: Trace, fixed: Mapping[str, Any]) -> dict[str, Any]:
    """The lists of whole numbers that are as they were written; of a live file all or none, for they share a digest."""
    found: dict[str, Any] = {}
    for name, stated in trace.layout.lists.items():
        with contextlib.suppress(TraceError, *DAMAGE):
            values = trace.rows(name, slice(None))
            if values.shape == (stated.size,) and values.dtype == np.dtype("<i8"):
                found[name] = values
    axes = {name: values for name, values in fixed_axes(trace.layout).items() if "/" not in name}
    sound = trace.complete or fixed_digest({**axes, **fixed, **found}) == trace.attributes.get("fixed_digest")
    return found if sound else {}


def _sound_steps(trace: Trace) -> int:
    """Length of the longest beginning of the run in which every quantity reads as it was written."""
    if not trace.complete:
        sound = 0
        for block in written_blocks(trace):
            if not _readable(partial(block_is_whole, trace, block)):
                break
            sound = block.last
        return sound
    slab = trace.layout.steps_within(SLAB_BYTES)
    for first in range(0, trace.steps, slab):
        last = min(first + slab, trace.steps)
        if not _rows_readable(trace, first, last):
            sound, broken = first, last  # a bisection: what is readable to a step is readable before it
            while broken - sound > 1:
                middle = (sound + broken) // 2
                sound, broken = (middle, broken) if _rows_readable(trace, first, middle) else (sound, middle)
            return sound
    return trace.steps


def _rows_readable(trace: Trace, first: int, last: int) -> bool:
    layout = trace.layout
    return all(_readable(partial(trace.rows, q.name, layout.span(q.cadence, first, last))) for q in layout.quantities)


def _sound_state(trace: Trace, steps: int) -> State:
    """The optimizer's state after ``steps`` steps; empty if it is lost."""
    if trace.complete:
        return trace.state() if steps == trace.steps and _readable(trace.state) else {}
    for commit in whole_commits(trace) if _readable(partial(whole_commits, trace)) else ():
        if commit.steps == steps and _readable(partial(trace.state, commit.slot)):
            state = trace.state(commit.slot)
            if checksum(tensor for tensors in state.values() for tensor in tensors) == commit.state_crc:
                return state
    return {}
