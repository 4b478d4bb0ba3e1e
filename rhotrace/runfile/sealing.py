"""Sealing a finished run: the live file is rewritten once, compressed and with checksums, and the result replaces it.

Rows are written in order of time, not dataset by dataset, so that a sealed file that lost its end
still has the first steps of every dataset.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rhotrace.errors import TraceError
from rhotrace.runfile.hdf5_io import new_hdf5, sync_folder
from rhotrace.runfile.integrity import TAKEN_OVER, examine
from rhotrace.runfile.layout import SLAB_BYTES, Column, Layout, attributes_digest, columns, dimension_sizes, time_axis
from rhotrace.runfile.live_checksums import blocks_are_whole, damaged_block, damaged_snapshots, sessions_are_whole
from rhotrace.runfile.reader import Trace, open_trace
from rhotrace.runfile.writer import AttributeValue, add, add_fixed, attach_scales, reason

_CHUNK_BYTES = 1 << 19  # below HDF5's cache of 1 MiB for each dataset, so that no chunk is compressed twice
_CHUNK_ROWS = 1 << 13


def seal(path: Path, attributes: Mapping[str, AttributeValue], *, keep_state: bool = True) -> None:
    """Turns a live run file into a finished one, cut to the committed steps.

    Args:
        path: of the live file.
        attributes: added to those of the live file.
        keep_state: save the optimizer's state, from which the run can be extended.

    Raises:
        TraceError: the live file is damaged, or there is no room for the finished one beside it.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.seal")
    try:
        with open_trace(path) as live:
            refuse_damaged_description(live)
            refuse_damaged_steps(live)
            described = {**live.attributes, "status": "complete", **attributes}
            if live.layout.open_ended:  # the steps that were taken are now the run's
                taken = live.snapshot_steps()
                described |= dataclasses.replace(live.layout, steps=live.steps, snapshots=taken).attributes()
            if live.sessions:
                described["sessions"] = "\n".join(json.dumps(session) for session in live.sessions)
            with new_hdf5(scratch) as sealed:
                sealed.attrs.update({**described, "attributes_digest": attributes_digest(described)})
                _write_sealed(live, sealed, live.state() if keep_state else {})
        scratch.replace(path)
        sync_folder(path.parent)
    except OSError as problem:
        raise TraceError(
            f"{path}: trained and recorded, but not compressed ({reason(problem)}); the file is readable, "
            "and the same command tries again"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)


def refuse_damaged_description(trace: Trace) -> None:
    """Raises TraceError where what a run file says beside the steps is not as it was written.

    Else copying it into a file with checksums would make it look sound.
    """
    damage = next((check.says for check in examine(trace, TAKEN_OVER) if check.outcome == "wrong"), None)
    if damage:
        raise TraceError(f"{trace.path}: damaged on the disk: {damage}; {_remedy(trace)}")


def refuse_damaged_steps(live: Trace) -> None:
    """Raises TraceError where steps, weights or sessions of a live file are not as they were written."""
    if live.complete:  # HDF5 checks them as it reads them
        return
    if not sessions_are_whole(live):
        what = "the list of its sessions is"
    elif not blocks_are_whole(live):
        what = "the list of its blocks is"
    elif block := damaged_block(live):
        what = f"steps {block.first} to {block.last - 1} are"
    elif damaged := damaged_snapshots(live):
        what = f"the weights at step {damaged[0]} are"
    else:
        return
    raise TraceError(f"{live.path}: {what} damaged on the disk; {_remedy(live)}")


def _remedy(trace: Trace) -> str:
    return f"`rhotrace repair {trace.path}` saves what is sound"


def _write_sealed(live: Trace, sealed: h5py.File, state: Mapping[str, Sequence[Any]]) -> None:
    """Creates every dataset before it fills one, so that their descriptions are in the first bytes of the file."""
    layout, steps = live.layout, live.steps
    taken = live.snapshot_steps()
    cut = dataclasses.replace(layout, steps=steps, snapshots=taken)
    targets = _empty_datasets(live, sealed, cut, state)
    sealed.flush()  # places the descriptions now; HDF5 would put some of them last
    slab = layout.steps_within(SLAB_BYTES)
    for first in range(0, steps, slab):
        last = min(first + slab, steps)
        for cadence, stride in layout.strides.items():
            which = layout.span(cadence, first, last)
            axis = time_axis(cadence, layout.strides)
            targets[axis][which] = np.arange(which.start, which.stop) * stride
        for quantity in layout.quantities:
            which = layout.span(quantity.cadence, first, last)
            targets[quantity.name][which] = live.rows(quantity.name, which)
    for key, tensors in state.items():
        for k, tensor in enumerate(tensors, 1):
            targets[f"checkpoint/{key}{k}"][0] = tensor
    if taken:
        targets["weights/snapshot_step"][:] = taken
    for number, step in enumerate(taken):
        for block, W in zip(layout.blocks, live.snapshot(step), strict=True):
            targets[f"weights/{block.name}"][number] = W
        sealed.flush()


def _empty_datasets(
    live: Trace, sealed: h5py.File, cut: Layout, state: Mapping[str, Sequence[Any]]
) -> dict[str, h5py.Dataset]:
    """The datasets of a sealed file by name; only those that do not depend on time are filled."""
    fixed = {n: live.rows(n, slice(None)) for n in (*live.per_member, *live.layout.lists)}
    add_fixed(sealed, cut, fixed, chunks=True, fletcher32=True)
    sizes = dimension_sizes(cut)
    targets = {}
    for column in columns(cut):
        rows, *width = (sizes[d] for d in column.dims)
        targets[column.path] = add(sealed, column, (rows, *width), **_storage(rows, width, column))
    attach_scales(sealed, cut)
    for key, tensors in state.items():
        for k, tensor in enumerate(tensors, 1):
            column = Column(f"checkpoint/{key}{k}", (), cut.number_type, {})
            targets[column.path] = add(sealed, column, (1, *tensor.shape), **_storage(1, tensor.shape, column))
    return targets


def _storage(rows: int, width: Sequence[int], column: Column) -> dict[str, Any]:
    """Compressed chunks of whole rows; if rows are too large for that, chunks as HDF5 chooses."""
    row_bytes = max(1, np.dtype(column.dtype).itemsize * int(np.prod(width)))
    if not rows:
        return {}
    storage = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "fletcher32": True}
    if row_bytes > 16 * _CHUNK_BYTES:
        return {"chunks": True, **storage}
    together = 1 if column.dims[:2] == ("snapshot", "member") else min(rows, _CHUNK_ROWS, _CHUNK_BYTES // row_bytes)
    return {"chunks": (max(1, together), *width), **storage}
