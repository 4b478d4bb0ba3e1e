"""The process in which wandb works for an export: a script that knows nothing of RhoTrace, so that it starts soon."""

from __future__ import annotations

import json
import os
import struct
import sys
from pathlib import Path
from typing import Any

_BLOCK = 1 << 15


def log_as_told() -> None:
    """Logs to wandb what the lines of standard input say: ``["begin" | "row" | "end", content]`` each."""
    import wandb

    wanted: dict[str, Any] = {
        "mode": "offline",
        "silent": True,
        "console": "off",
        "disable_git": True,
        "disable_code": True,
        "save_code": False,
        "symlink": False,
        "host": "",  # it did not train there
        "x_disable_meta": True,
        "x_disable_machine_info": True,
        "x_disable_stats": True,
        "x_disable_viewer": True,
        "x_save_requirements": False,
        "x_server_side_derived_summary": True,  # or each row is written a second time, as the summary so far
    }
    settings = {name: value for name, value in wanted.items() if name in wandb.Settings.model_fields}
    run: Any = None
    last: dict[str, float] = {}
    logged: dict[str, int] = {}
    for line in sys.stdin:
        kind, content = json.loads(line)
        if kind == "begin":
            last, rows = {}, 0
            run = wandb.init(project="rhotrace", settings=wandb.Settings(**settings), **content)
            run.define_metric("step")
            run.define_metric("*", step_metric="step")
        elif kind == "row":
            run.log(content, step=content["step"])
            last |= content
            rows += 1
        else:
            last.pop("_timestamp", None)
            run.summary.update(last)
            run.finish()
            logged[run.id] = rows
    wandb.teardown()
    # wandb tells nobody of what it could not write.
    for name, rows in logged.items():
        (path,) = (Path(os.environ["WANDB_DIR"]) / "wandb").glob(f"*/run-{name}.wandb")
        if (held := rows_in(path)) != rows:
            sys.exit(f"{path.name} holds {held} of {rows} rows; is the disk full?")


def rows_in(path: Path) -> int:
    """Rows of history in a file of the offline mode: a log in blocks, whose records may lie in several parts."""
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2  # its names are made when it is loaded
    rows, at, whole = 0, 7, b""  # behind the mark of the file
    with path.open("rb") as file:
        file.seek(at)
        while len(head := file.read(7)) == 7:
            _, size, kind = struct.unpack("<IHB", head)
            part = file.read(size)
            at += 7 + len(part)
            whole = part if kind in (1, 2) else whole + part  # 1: whole, 2: first, 3: middle, 4: last
            if kind in (1, 4) and len(part) == size:
                rows += messages.Record.FromString(whole).WhichOneof("record_type") == "history"
            if (left := _BLOCK - at % _BLOCK) < 7:  # no room for another head: padding
                file.seek(left, os.SEEK_CUR)
                at += left
    return rows


if __name__ == "__main__":
    log_as_told()
