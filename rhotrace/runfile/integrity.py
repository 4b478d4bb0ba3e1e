"""Whether a run file is intact as a file, regardless of its numbers: attributes, shapes, checksums, axes.

Each check is a function that says what it found sound, or raises ``Wrong`` or ``NotChecked``. A dataset that cannot be
read is wrong in every check that needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from rhotrace.config import strict_yaml
from rhotrace.config.recipe import digest_of, per_member_of
from rhotrace.errors import RecipeError, TraceError
from rhotrace.runfile.layout import (
    SLAB_BYTES,
    Column,
    attributes_digest,
    checksum,
    columns,
    dimension_sizes,
    fixed_axes,
    fixed_digest,
    list_columns,
    time_axis,
)
from rhotrace.runfile.live_checksums import damaged_block, damaged_snapshots, sessions_are_whole, written_blocks
from rhotrace.runfile.reader import Trace, whole_commits
from rhotrace.runfile.untrusted import DAMAGE, first_line

_TRIES = 3  # a run that is training may overwrite the state while it is checked

Outcome = Literal["sound", "wrong", "not checked"]


@dataclass(frozen=True)
class Check:
    """One check of a run file.

    Attributes:
        name: of the check.
        outcome: of the check.
        says: what was found, and where.
    """

    name: str
    outcome: Outcome
    says: str


@dataclass(frozen=True)
class Verification:
    """All checks of one file.

    Attributes:
        path: of the file.
        steps: number of committed steps.
        complete: whether the run was finished and sealed.
        checks: in the order in which they were made.
    """

    path: str
    steps: int
    complete: bool
    checks: tuple[Check, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return all(check.outcome != "wrong" for check in self.checks)

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong with it as a file, regardless of its numbers."""
        return all(check.outcome != "wrong" for check in self.checks if check.name in STRUCTURE)


class Wrong(Exception):  # noqa: N818 - a finding, not an error of the program
    """The file contradicts itself; the message says where."""


class NotChecked(Exception):  # noqa: N818 - a finding, not an error of the program
    """A check needs something outside the file that is missing; the message says what."""


def is_whole(trace: Trace) -> bool:
    """Whether nothing is wrong with a run file as a file, regardless of its numbers."""
    return all(check.outcome != "wrong" for check in examine(trace, STRUCTURE))


def examine(trace: Trace, checks: Mapping[str, Callable[[Trace], str]]) -> Iterator[Check]:
    """The outcome of each check, in order; what a check raises is its finding."""
    for name, check in checks.items():
        try:
            with np.errstate(all="ignore"):  # damaged numbers overflow
                yield Check(name, "sound", check(trace))
        except (Wrong, TraceError, RecipeError) as found:
            yield Check(name, "wrong", str(found).removeprefix(f"{trace.path}: "))
        except NotChecked as found:
            yield Check(name, "not checked", str(found))
        except DAMAGE as found:  # damage so deep that even its reading fails
            yield Check(name, "wrong", f"cannot be examined ({type(found).__name__}: {first_line(found)})")


def _attributes(trace: Trace) -> str:
    if attributes_digest(trace.attributes) != trace.attributes.get("attributes_digest"):
        raise Wrong("the root attributes (recipe, provenance) are not as they were written: their SHA-256 differs")
    return f"{len(trace.attributes)} root attributes match the SHA-256 they were written with"


def _recipe(trace: Trace) -> str:
    content, _ = strict_yaml.read(trace.attributes["recipe"], "attribute recipe")
    if content != trace.recipe or digest_of(content) != trace.attributes["recipe_digest"]:
        raise Wrong("attributes recipe, recipe_json and recipe_digest do not agree")
    stated = per_member_of(content, trace.layout.per_member)
    for name, expected in stated.items():
        found = trace.rows(name, slice(None))
        if not np.array_equal(found, expected):
            raise Wrong(f"dataset {name}: got {found.tolist()[:5]}, expected {expected.tolist()[:5]}, as in the recipe")
    return f"the recipe, its digest and {', '.join(stated)} agree"


def _commit(trace: Trace) -> str:
    planned = trace.layout.steps
    if trace.complete:
        if trace.steps > planned or (trace.attributes.get("ended") == "finished" and trace.steps != planned):
            raise Wrong(f"got {trace.steps} steps, expected the {planned} planned ones of a finished run")
        return f"{trace.steps} of {planned} planned steps; {trace.attributes.get('ended')}"
    commits = whole_commits(trace)
    if not commits:
        raise Wrong("no intact commit record, so no step is committed")
    if np.count_nonzero(trace.checkpoint("commit")[:, :7].any(axis=1)) > len(commits):
        raise Wrong(
            f"one of the two commit records is damaged; according to the other, {trace.steps} steps are committed"
        )
    ends = {0: 0, **{block.last: number for number, block in enumerate(written_blocks(trace), 1)}}
    for commit in commits:
        if ends.get(commit.steps) != commit.blocks:
            raise Wrong(
                f"the commit record says {commit.steps} steps in {commit.blocks} blocks, but the list of blocks does not"
            )
    return f"{trace.steps} of {planned} planned steps committed, in {commits[0].blocks} blocks"


def _shapes(trace: Trace) -> str:
    layout = trace.layout
    sizes = {**dimension_sizes(layout), "snapshot": len(layout.snapshots)}
    if trace.complete:
        sizes |= {time_axis(c, layout.strides): layout.rows(c, trace.steps) for c in layout.strides}
        sizes["snapshot"] = len(trace.snapshot_steps())
    expected = {c.path: c for c in columns(layout)}
    for name, values in per_member_of(trace.recipe, layout.per_member).items():
        expected[name] = Column(name, ("member",), values.dtype.str, {})
    present = set(trace.dataset_names())
    expected |= {column.path: column for column in list_columns(layout)}
    if missing := sorted(set(expected) - present):
        raise Wrong(f"missing: {', '.join(missing)}")
    for path, column in expected.items():
        shape, kind, dims, described = trace.description(path)
        wanted = tuple(sizes[d] for d in column.dims)
        if shape != wanted or kind != column.dtype:
            raise Wrong(f"dataset {path}: got {kind} of shape {shape}, expected {column.dtype} of {wanted}")
        if path != column.dims[0] and dims != column.dims:
            raise Wrong(f"dataset {path}: got dimensions {dims}, expected {column.dims}")
        for name, value in column.attributes.items():
            if described.get(name) != value:
                raise Wrong(f"dataset {path}: attribute {name}: got {described.get(name)!r}, expected {value!r}")
    unknown = sorted(present - set(expected) - set(sizes) - {f"weights/{d}" for d in sizes})
    if unknown:
        raise Wrong(f"not in the layout that the file states: {', '.join(unknown)}")
    return f"{len(expected)} datasets have the shape, type, dimensions and attributes that the file's layout states"


def _fixed(trace: Trace) -> str:
    if "fixed_digest" not in trace.attributes:  # of a file that was begun before there was one
        return _recipe(trace)
    layout = trace.layout
    names = [name for name in fixed_axes(layout) if "/" not in name] + [*trace.per_member, *layout.lists]
    if fixed_digest({name: trace.rows(name, slice(None)) for name in names}) != trace.attributes["fixed_digest"]:
        raise Wrong(f"one of the datasets {', '.join(names)} is not as it was written: their SHA-256 differs")
    return f"the datasets {', '.join(names)} have the SHA-256 they were written with"


def _snapshot_steps(trace: Trace) -> str:
    taken = trace.snapshot_steps()
    expected = [step for step in trace.layout.snapshots if step in trace.due_snapshots or step in taken]
    if taken != expected:
        raise Wrong(f"dataset weights/snapshot_step: got {taken}, expected {trace.due_snapshots}")
    return f"{len(taken)} snapshots at their steps"


def _checksums(trace: Trace) -> str:
    _fixed(trace)
    if not trace.complete:
        return _live_checksums(trace)
    read = 0
    for name in trace.dataset_names():
        rows = trace.length(name)
        slab = max(1, rows * SLAB_BYTES // max(1, trace.size_of(name)))
        for first in range(0, rows, slab):
            trace.rows(name, slice(first, first + slab))
        if rows and not trace.is_checksummed(name):
            raise Wrong(f"dataset {name} is not stored in chunks with checksums, though the file is finished")
        read += trace.size_of(name)
    trace.state()
    return f"{read / 1e6:.3g} MB read, and each chunk matches its checksum"


def _live_checksums(trace: Trace) -> str:
    block = damaged_block(trace)
    if block:
        raise Wrong(f"steps {block.first} to {block.last - 1} are not as they were written: their CRC-32 differs")
    damaged = damaged_snapshots(trace)
    if damaged:
        raise Wrong(f"the weights at step {damaged[0]} are not as they were written: their CRC-32 differs")
    if not sessions_are_whole(trace):
        raise Wrong("the list of sessions is not as it was written")
    if not any(_newest_state_is_whole(trace) for _ in range(_TRIES)):
        raise Wrong("the optimizer's state after the newest commit is not as it was written: its CRC-32 differs")
    return f"{trace.steps} steps, {len(trace.snapshot_steps())} snapshots and the optimizer's state match their CRC-32"


def _newest_state_is_whole(trace: Trace) -> bool:
    """Whether training could resume; the older state may be half overwritten by one that is not committed yet."""
    for commit in whole_commits(trace)[:1]:
        state = trace.state(commit.slot)
        return checksum(tensor for tensors in state.values() for tensor in tensors) == commit.state_crc
    return True


def _axes(trace: Trace) -> str:
    for axis in dict.fromkeys(time_axis(cadence, trace.strides) for cadence in trace.strides):
        expected = trace[axis]
        found = trace.rows(axis, slice(len(expected)))
        wrong = np.flatnonzero(found != expected)
        # The newest block of a run that was killed may not have reached its axis yet.
        if len(wrong) and (trace.complete or (found[wrong] != -1).any()):
            row = int(wrong[0])
            raise Wrong(f"dataset {axis}: row {row} says step {found[row]}, expected {expected[row]}")
    _snapshot_steps(trace)
    layout, taken = trace.layout, trace.snapshot_steps()
    for name, values in fixed_axes(replace(layout, snapshots=taken) if trace.complete else layout).items():
        if not np.array_equal(trace.rows(name, slice(None)), values):
            raise Wrong(f"dataset {name}: its values are not those of the axis")
    return "every row is at its step, and every axis has its values"


# What a longer or a finished file of the same run takes over without making it anew, beside the steps and the weights.
TAKEN_OVER: dict[str, Callable[[Trace], str]] = {
    "attributes": _attributes,
    "fixed datasets": _fixed,
    "snapshots": _snapshot_steps,
}

STRUCTURE: dict[str, Callable[[Trace], str]] = {
    "attributes": _attributes,
    "recipe": _recipe,
    "commit counter": _commit,
    "shapes": _shapes,
    "checksums": _checksums,
    "axes": _axes,
}
