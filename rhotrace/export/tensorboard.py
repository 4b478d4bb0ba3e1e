"""A run as a log folder of TensorBoard.

Written with TensorBoard's own messages and record writer rather than with torch's ``SummaryWriter``, which cannot write
a series' description, makes an event of each value instead of each row, and keeps a thread and a file open per member.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rhotrace.errors import RhoTraceError
from rhotrace.export.member_series import Blocks, about_member, clock, rows
from rhotrace.export.own_folder import mark
from rhotrace.runfile.reader import Trace


def to_tensorboard(trace: Trace, folder: Path, blocks: Blocks) -> int:
    """Writes a log folder of TensorBoard with a run for each member: ``member-0``, ``member-1``, ...

    TensorBoard keeps its values as float32: each is the nearest one to the trace's float64. A step's time is the run's
    start plus the step's share of the time spent in training. The recipe and the member's own settings are written as
    text.

    Args:
        trace: the run.
        folder: of the log; it is created.
        blocks: gives the run's columns in blocks, named as the series.

    Returns:
        The number of rows, one for each step and member.

    Raises:
        RhoTraceError: TensorBoard is not installed.
        OSError: the folder cannot be written.
    """
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.scalar.metadata import create_summary_metadata
        from tensorboard.plugins.text.summary_v2 import text_pb
        from tensorboard.summary.writer.record_writer import RecordWriter
    except ImportError:
        raise RhoTraceError(
            "--to tensorboard: needs tensorboard; python -m pip install 'rhotrace[tensorboard]'"
        ) from None
    time_of, written = clock(trace), 0
    files = [folder / f"member-{m}" / f"events.out.tfevents.{int(time_of(0)):010d}" for m in range(trace.members)]
    says = {q.name: f"{q.says} (symbol {q.symbol}, units {q.units})" for q in trace.quantities}
    described: list[set[str]] = [set() for _ in files]  # TensorBoard takes a description from a series' first value

    def value(name: str, number: float, member: int) -> Any:  # noqa: ANN401 - a message of protobuf
        about = None
        if name not in described[member]:
            described[member].add(name)
            about = create_summary_metadata(display_name=name, description=says[name.partition("/")[0]])
        with np.errstate(over="ignore"):  # values beyond float32 become infinite
            return Summary.Value(tag=name, simple_value=np.float32(number), metadata=about)

    for member, path in enumerate(files):
        path.parent.mkdir(parents=True)
        texts = [Event(summary=text_pb(name, text)) for name, text in _texts(trace, member).items()]
        with path.open("wb") as file:
            for event in (Event(file_version="brain.Event:2"), *texts):
                event.wall_time = time_of(0)
                RecordWriter(file).write(event.SerializeToString())
    for block in blocks():
        for member, path in enumerate(files):
            with path.open("ab") as file:
                for step, row in rows(trace, block, member):
                    summary = Summary(value=[value(name, number, member) for name, number in row.items()])
                    event = Event(wall_time=time_of(step), step=step, summary=summary)
                    RecordWriter(file).write(event.SerializeToString())
        written += len(block["step"])
    mark(trace, folder, "tensorboard", [path.parent for path in files])
    return written


def _texts(trace: Trace, member: int) -> dict[str, str]:
    """What TensorBoard shows beside a member's series, in Markdown."""
    recipe = "\n".join(f"    {line}" for line in str(trace.attributes["recipe"]).splitlines())  # indented: it is code
    facts = "\n".join(f"| {name} | {value} |" for name, value in about_member(trace, member).items())
    return {"recipe": recipe, "member": f"| | |\n|---|---|\n{facts}"}
