"""Run files of any length, made from the rows of a short run, for benchmarks of what reads them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from rhotrace.runfile.reader import open_trace
from rhotrace.runfile.writer import TraceWriter, create


def begin(short: Path, long: Path, steps: int) -> tuple[TraceWriter, dict[str, NDArray[Any]]]:
    """A live run file that is to have ``steps`` steps, without snapshots or a checkpoint.

    Args:
        short: the run whose recipe and members it has; all its quantities are recorded at every step.
        long: the file to write.
        steps: of the long run.

    Returns:
        The writer of the file, and the rows of the short run by quantity.
    """
    with open_trace(short) as trace:
        layout = replace(trace.layout, steps=steps, snapshots=(), state={}, strides=dict.fromkeys(trace.strides, 1))
        attributes = {name: value for name, value in trace.attributes.items() if name not in {"layout", "status"}}
        per_member = {name: trace[name] for name in (*trace.per_member, *trace.layout.lists)}
        rows = {quantity.name: trace[quantity.name] for quantity in trace.quantities}
    return create(long, layout, attributes, per_member), rows
