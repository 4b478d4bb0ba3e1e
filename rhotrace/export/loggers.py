"""A run for the tools that show the logs of trainings: TensorBoard, and Weights & Biases in its offline mode.

Each member becomes a run of the tool, so that members can be compared in it. A series is named after its quantity, with
the layer or quantile behind a slash (``rho_k/1``, ``margin_quantile/0.5``), under which both tools group their charts.
What was not evaluated at a step, or is NaN, is left out.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rhotrace.errors import RhoTraceError, TraceError
from rhotrace.runfile.reader import Trace

Blocks = Callable[[], Iterable[Mapping[str, NDArray[Any]]]]
Row = dict[str, float]

_MARK = "rhotrace-export.json"  # stands in a folder that ``export`` made, and names what in it is an export


def own_export(folder: Path, kind: str) -> str:
    """Why a folder must not be replaced by an export of this kind; nothing where it holds such an export alone."""
    try:
        about = json.loads((folder / _MARK).read_text(encoding="utf-8"))
        made, parts = str(about["format"]), [folder / name for name in about["parts"]]
    except (OSError, ValueError, KeyError, TypeError):
        return f"it holds no {_MARK}, as an export does"
    if made != kind:
        return f"it is an export to {made}"
    for path in sorted(folder.rglob("*")):
        own = path == folder / _MARK or any(path.is_relative_to(part) for part in parts)
        if not own and (path.is_symlink() or not path.is_dir()):
            return f"it also holds {path.relative_to(folder)}"
    return ""


def _mark(trace: Trace, folder: Path, kind: str, parts: Iterable[Path]) -> None:
    about = {"format": kind, "run": trace.path.name, "parts": sorted(str(part.relative_to(folder)) for part in parts)}
    (folder / _MARK).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _clock(trace: Trace) -> Callable[[int], float]:
    """Time of a step in seconds since 1970: the start, and the step's share of the time spent in training."""
    try:
        start = datetime.fromisoformat(trace.attributes["started"]).timestamp()
    except (TypeError, ValueError):
        raise TraceError(f"{trace.path}: a damaged run file: the attribute started is no time") from None
    seconds = float(np.nan_to_num(trace.wall_seconds)) / trace.steps
    return lambda step: start + step * seconds


def _rows(trace: Trace, block: Mapping[str, NDArray[Any]], member: int) -> Iterator[tuple[int, Row]]:
    """A member's steps of a block: the step, and each value that is there by the name of its series."""
    traced = {quantity.name for quantity in trace.quantities}
    names = [name for name in block if name.partition("/")[0] in traced]
    values = [block[name][member :: trace.members].tolist() for name in names]
    steps = block["step"][member :: trace.members].tolist()
    for step, row in zip(steps, zip(*values, strict=True), strict=True):
        yield step, {name: value for name, value in zip(names, row, strict=True) if value == value}  # noqa: PLR0124 - NaN


def _about_member(trace: Trace, member: int) -> dict[str, float]:
    """What may set a member apart from the others."""
    return {"member": member, **{name: trace[name][member].item() for name in trace.per_member}}


# --- TensorBoard -------------------------------------------------------------------------------------------


def to_tensorboard(trace: Trace, folder: Path, blocks: Blocks) -> int:
    """Writes a log folder of TensorBoard with a run for each member: ``member-0``, ``member-1``, ...

    TensorBoard keeps its values as float32: each is the nearest one to the trace's float64. A step's time is the run's
    start plus the step's share of the time spent in training. The recipe and what the member differs in from the others
    are text.

    Args:
        trace: the run.
        folder: new, of the log.
        blocks: gives the run's columns, named as the series, in blocks.

    Returns:
        The number of rows, of a step and member each.

    Raises:
        RhoTraceError: TensorBoard is not installed.
        OSError: the folder cannot be written.
    """
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_SCALAR, Summary
        from tensorboard.summary.writer.record_writer import RecordWriter
    except ImportError:
        raise RhoTraceError(
            "--to tensorboard: needs tensorboard; python -m pip install 'rhotrace[tensorboard]'"
        ) from None
    time_of, rows = _clock(trace), 0
    files = [folder / f"member-{m}" / f"events.out.tfevents.{int(time_of(0)):010d}" for m in range(trace.members)]
    says = {q.name: f"{q.says} (symbol {q.symbol}, units {q.units})" for q in trace.quantities}
    told: list[set[str]] = [set() for _ in files]  # TensorBoard reads what a series is from its first value

    def value(name: str, number: float, member: int) -> Any:  # noqa: ANN401 - a message of protobuf
        with np.errstate(over="ignore"):  # beyond float32 lies its infinity
            single = Summary.Value(tag=name, simple_value=np.float32(number))
        if name not in told[member]:
            told[member].add(name)
            single.metadata.plugin_data.plugin_name = "scalars"
            single.metadata.data_class = DATA_CLASS_SCALAR
            single.metadata.display_name = name
            single.metadata.summary_description = says[name.partition("/")[0]]
        return single

    for member, path in enumerate(files):
        path.parent.mkdir(parents=True)
        with path.open("wb") as file:
            for event in (Event(file_version="brain.Event:2"), Event(summary=_texts(trace, member))):
                event.wall_time = time_of(0)
                RecordWriter(file).write(event.SerializeToString())
    for block in blocks():
        for member, path in enumerate(files):
            with path.open("ab") as file:
                for step, row in _rows(trace, block, member):
                    summary = Summary(value=[value(name, number, member) for name, number in row.items()])
                    event = Event(wall_time=time_of(step), step=step, summary=summary)
                    RecordWriter(file).write(event.SerializeToString())
        rows += len(block["step"])
    _mark(trace, folder, "tensorboard", [path.parent for path in files])
    return rows


def _texts(trace: Trace, member: int) -> Any:  # noqa: ANN401 - a message of protobuf
    """The summary with the texts that TensorBoard shows beside a member's series, in Markdown."""
    from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    recipe = "\n".join(f"    {line}" for line in str(trace.attributes["recipe"]).splitlines())  # indented: it is code
    facts = "\n".join(f"| {name} | {value} |" for name, value in _about_member(trace, member).items())
    plugin = SummaryMetadata.PluginData(plugin_name="text")
    summary = Summary()
    for name, text in {"recipe": recipe, "member": f"| | |\n|---|---|\n{facts}"}.items():
        summary.value.add(
            tag=name,
            metadata=SummaryMetadata(plugin_data=plugin, data_class=DATA_CLASS_TENSOR),
            tensor=TensorProto(dtype=DT_STRING, string_val=[text.encode()], tensor_shape=TensorShapeProto()),
        )
    return summary


# --- Weights & Biases --------------------------------------------------------------------------------------


def to_wandb(trace: Trace, folder: Path, blocks: Blocks) -> int:
    """Writes runs of Weights & Biases as its offline mode does, to be uploaded by ``wandb sync``; one for each member.

    The runs form a group named after the run file. Their configuration is the recipe and what the member differs in
    from the others; their steps are those of the training; numbers keep their float64.

    ``wandb`` works in a process of its own, which sees none of the user's settings of it, and never touches the network.

    Args:
        trace: the run.
        folder: new, of the runs.
        blocks: gives the run's columns, named as the series, in blocks.

    Returns:
        The number of rows, of a step and member each.

    Raises:
        RhoTraceError: wandb is not installed, or failed.
        OSError: the folder cannot be written.
    """
    if not _is_installed("wandb"):
        raise RhoTraceError("--to wandb-offline: needs wandb; python -m pip install 'rhotrace[wandb]'")
    time_of, rows = _clock(trace), 0
    folder.mkdir()
    with _wandb(folder) as tell:
        for member in range(trace.members):
            config = {**trace.recipe, **_about_member(trace, member)}
            tell("begin", {"name": f"member-{member}", "group": trace.path.stem, "config": config})
            for block in blocks():
                for step, row in _rows(trace, block, member):
                    tell("row", {"step": step, "_timestamp": time_of(step), **row})
                    rows += 1
            tell("end", {})
    _mark(trace, folder, "wandb-offline", (folder / "wandb").glob("offline-run-*"))
    return rows


def _is_installed(package: str) -> bool:
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None  # a folder of that name, as wandb makes them, is no package


@contextlib.contextmanager
def _wandb(folder: Path) -> Iterator[Callable[[str, Any], None]]:
    """A process that logs what it is told to; see ``export_wandb``.

    Raises:
        RhoTraceError: it ended with an error.
    """
    words = [sys.executable, "-P", str(Path(__file__).with_name("wandb_process.py"))]
    with tempfile.TemporaryDirectory(prefix="rhotrace-") as scratch, tempfile.TemporaryFile() as said:
        # In a session of its own, Ctrl-C reaches this process alone: the other ends when it is told nothing more.
        child = subprocess.Popen(  # noqa: S603 - fixed words
            words,
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=said,
            text=True,
            encoding="utf-8",
            env=_environment(folder, Path(scratch)),
            start_new_session=True,
        )
        try:
            with contextlib.suppress(BrokenPipeError), child:  # where it broke, it has ended and said why
                yield lambda kind, content: print(json.dumps([kind, content]), file=child.stdin)
        finally:
            child.wait()
        if child.returncode:
            said.seek(0)
            lines = said.read().decode(errors="replace").split("\n")
            why = next((line.strip() for line in reversed(lines) if line.strip()), f"exit code {child.returncode}")
            raise RhoTraceError(f"--to wandb-offline: wandb failed: {why}")


def _environment(folder: Path, scratch: Path) -> dict[str, str]:
    """For the process that logs: the user's, without any setting of wandb, and with what keeps wandb to itself."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "_WANDB_"))}
    elsewhere = {f"WANDB_{name}_DIR": str(scratch) for name in ("CONFIG", "CACHE", "DATA", "ARTIFACT")}
    off = {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}
    captures = {"WANDB_DISABLE_GIT": "true", "WANDB_DISABLE_CODE": "true"}
    return {**kept, **elsewhere, **off, **captures, "WANDB_DIR": str(folder.resolve())}
