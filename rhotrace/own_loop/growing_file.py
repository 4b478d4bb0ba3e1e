"""The run file of a recording, whose number of steps is not known: it has room for some, and is replaced when they are used.

A live run file has a fixed size, which is what makes it safe (``runfile.writer``). When its room is used up, a file of
twice the size is written that begins with all committed steps, and takes its place in one atomic step. A process that is
killed meanwhile leaves the smaller file whole. A recording that is resumed begins with the rows before its checkpoint in
the same way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from rhotrace.errors import TraceError
from rhotrace.runfile import provenance
from rhotrace.runfile.layout import Layout
from rhotrace.runfile.reader import Trace, open_trace
from rhotrace.runfile.sealing import refuse_damaged_description, refuse_damaged_steps, seal
from rhotrace.runfile.writer import AttributeValue, Beginning, TraceWriter, create, extend

Array = NDArray[Any]
ROOM = 1 << 23  # bytes of rows in a new file
_LEAST, _MOST = 256, 1 << 16  # steps


class GrowingFile:
    """Appends steps to a run file for as long as they come.

    Args:
        writer: of the file.
        planned: steps of the snapshots, also those beyond the room that the file has now.
        fixed: arrays that do not grow.
    """

    def __init__(self, writer: TraceWriter, planned: Sequence[int], fixed: Mapping[str, Array]) -> None:
        self._writer, self._planned, self._fixed = writer, planned, fixed

    @classmethod
    def create(
        cls,
        path: Path,
        layout: Layout,
        attributes: Mapping[str, AttributeValue],
        fixed: Mapping[str, Array],
        planned: Sequence[int],
        steps: int | None,
    ) -> GrowingFile:
        """A new file, with room for ``steps`` steps where that is given.

        Raises:
            TraceError: it cannot be written.
        """
        room = steps or min(max(layout.steps_within(ROOM), _LEAST), _MOST)
        return cls(create(path, _with_room(layout, room, planned), attributes, fixed), planned, fixed)

    @classmethod
    def resume(cls, path: Path, layout: Layout, planned: Sequence[int], step: int) -> GrowingFile:
        """An existing file, cut to its first ``step`` steps.

        Raises:
            TraceError: it has fewer, it was recorded with other blocks or quantities, or it is damaged.
        """
        with open_trace(path) as trace:
            refuse_to_resume(trace, step)
            _refuse_another(trace, layout)
            refuse_damaged_description(trace)
            refuse_damaged_steps(trace)
            taken = [s for s in trace.snapshot_steps() if s <= step]
            later = [s for s in planned if s >= step and s not in taken]
            room = min(max(layout.steps_within(ROOM), _LEAST), _MOST)
            longer = _with_room(trace.layout, max(step + room, 2 * step), [*taken, *later])
            kept = trace.beginning_attributes()
            fixed = {
                name: trace.rows(name, slice(None)) for name in trace.per_member
            }  # of the start, as its description
            writer = extend(Beginning(trace, step, taken, {}), path, longer, kept, fixed)
        writer.note_session({"from_step": step, **provenance.session()})
        writer.commit(step, {})
        return cls(writer, [*taken, *later], fixed)

    @property
    def committed(self) -> int:
        """Number of committed steps."""
        return self._writer.committed

    @property
    def layout(self) -> Layout:
        """Of the file as it is now."""
        return self._writer.layout

    def append(self, first: int, last: int, block: Mapping[str, Array]) -> None:
        """Writes and commits the rows of the steps ``first`` to ``last - 1``.

        Raises:
            TraceError: the file cannot be written.
        """
        self._make_room(last)
        self._writer.append(first, last, block)
        self._writer.commit(last, {})

    def snapshot(self, step: int, weights: Sequence[Array]) -> None:
        """Saves the blocks after ``step`` committed steps, a planned one.

        Raises:
            TraceError: the file cannot be written.
        """
        self._make_room(step)
        self._writer.snapshot(step, weights)

    def _make_room(self, steps: int) -> None:
        if steps <= self.layout.steps:
            return
        path, layout = self._writer.path, self.layout
        self._writer.close()
        with open_trace(path) as trace:
            refuse_damaged_description(trace)
            refuse_damaged_steps(trace)
            longer = _with_room(layout, max(2 * layout.steps, steps), self._planned)
            beginning = Beginning(trace, trace.steps, trace.snapshot_steps(), {})
            self._writer = extend(beginning, path, longer, trace.beginning_attributes(), self._fixed)

    def close(self) -> None:
        """Leaves the file as it is after the last commit; it can be resumed."""
        self._writer.close()

    def finish(self) -> None:
        """Turns the file into a finished one, compressed and with checksums.

        Raises:
            TraceError: it is damaged, or there is no room for the finished one beside it.
        """
        seconds, path = self._writer.seconds, self._writer.path
        self._writer.close()
        seal(path, {"ended": "finished", "finished": provenance.now(), "wall_seconds": seconds})


def refuse_to_resume(trace: Trace, step: int) -> None:
    """Raises TraceError if a file cannot be resumed at a step."""
    if not trace.own_loop:
        raise TraceError(
            f"{trace.path}: rhotrace.record: got a run of a recipe, expected a file of rhotrace.record; "
            "`rhotrace train` resumes it"
        )
    if step > trace.steps:
        raise TraceError(
            f"{trace.path}: rhotrace.record: resume: got step {step}, expected at most the {trace.steps} steps that the file "
            "contains; resume from an older checkpoint (save trace.state_dict() in each: it writes the rows before it)"
        )


def _refuse_another(trace: Trace, layout: Layout) -> None:
    """Raises TraceError if a file was recorded with other blocks, quantities or cadences."""
    there = trace.layout
    why = ""
    pairs = {
        "blocks": ([(b.name, b.shape, b.role) for b in own.blocks] for own in (there, layout)),
        "quantities": ([(q.name, q.axes, q.cadence) for q in own.quantities] for own in (there, layout)),
        "cadences": (dict(own.strides) for own in (there, layout)),
        "type": (own.dtype for own in (there, layout)),
    }
    for name, (old, new) in pairs.items():
        if old != new:
            why = f"{name}: got {_first_difference(old, new)}"
            break
    if why:
        raise TraceError(
            f"{trace.path}: rhotrace.record: resume: {why}; record it as before, or record into another file"
        )


def _first_difference(old: Any, new: Any) -> str:  # noqa: ANN401 - lists, mappings or words
    if isinstance(old, list):
        for number in range(max(len(old), len(new))):
            a, b = (own[number] if number < len(own) else None for own in (old, new))
            if a != b:
                return f"{b}, expected {a} as in the file"
    return f"{new}, expected {old} as in the file"


def _with_room(layout: Layout, steps: int, planned: Sequence[int]) -> Layout:
    taken = range(planned.start, min(planned.stop, steps + 1), planned.step) if isinstance(planned, range) else planned
    return dataclasses.replace(layout, steps=steps, snapshots=[s for s in taken if s <= steps], open_ended=True)
