"""The process in which wandb works for an export: a script that does not import RhoTrace, so that it starts quickly."""

from __future__ import annotations

import json
import sys
from typing import Any


def log_input() -> None:
    """Logs to wandb what the lines of standard input contain: ``["begin" | "row" | "end", content]`` each."""
    import wandb

    wanted: dict[str, Any] = {
        "mode": "offline",
        "silent": True,
        "console": "off",
        "disable_git": True,
        "disable_code": True,
        "save_code": False,
        "symlink": False,
        "host": "",  # the run was not trained on this host
        "x_disable_meta": True,
        "x_disable_machine_info": True,
        "x_disable_stats": True,
        "x_disable_viewer": True,
        "x_save_requirements": False,
        "x_server_side_derived_summary": True,  # else each row is written a second time, as the summary so far
    }
    settings = {name: value for name, value in wanted.items() if name in wandb.Settings.model_fields}
    run: Any = None
    last: dict[str, float] = {}
    for line in sys.stdin:
        kind, content = json.loads(line)
        if kind == "begin":
            last = {}
            run = wandb.init(project="rhotrace", settings=wandb.Settings(**settings), **content)
            run.define_metric("step")
            run.define_metric("*", step_metric="step")
        elif kind == "row":
            run.log(content, step=content["step"])
            last |= content
        else:
            last.pop("_timestamp", None)
            run.summary.update(last)
            run.finish()
    wandb.teardown()


if __name__ == "__main__":
    log_input()
