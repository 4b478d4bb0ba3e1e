"""A run as runs of Weights & Biases, in its offline mode."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rhotrace.errors import RhoTraceError
from rhotrace.export.member_series import Blocks, about_member, clock, rows
from rhotrace.export.own_folder import mark
from rhotrace.runfile.reader import Trace


def to_wandb(trace: Trace, folder: Path, blocks: Blocks) -> int:
    """Writes runs of Weights & Biases, one for each member, as its offline mode does; ``wandb sync`` uploads them.

    The runs form a group named after the run file. Their configuration is the recipe and the member's own settings;
    their steps are those of the training; numbers keep their float64.

    ``wandb`` works in a process of its own, which sees none of the user's settings for it and never uses the network.

    Args:
        trace: the run.
        folder: of the runs; it is created.
        blocks: gives the run's columns in blocks, named as the series.

    Returns:
        The number of rows, one for each step and member.

    Raises:
        RhoTraceError: wandb is not installed, or failed.
        OSError: the folder cannot be written.
    """
    if not _is_installed("wandb"):
        raise RhoTraceError("--to wandb-offline: needs wandb; python -m pip install 'rhotrace[wandb]'")
    time_of, written = clock(trace), 0
    folder.mkdir()
    with _wandb(folder) as send:
        for member in range(trace.members):
            config = {**trace.recipe, **about_member(trace, member)}
            send("begin", {"name": f"member-{member}", "group": trace.path.stem, "config": config})
            for block in blocks():
                for step, row in rows(trace, block, member):
                    send("row", {"step": step, "_timestamp": time_of(step), **row})
                    written += 1
            send("end", {})
    # wandb does not report what it could not write; on a disk that it filled, the mark cannot be written either.
    mark(trace, folder, "wandb-offline", (folder / "wandb").glob("offline-run-*"))
    return written


def _is_installed(package: str) -> bool:
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None  # a folder of that name, as wandb makes them, is no package


@contextlib.contextmanager
def _wandb(folder: Path) -> Iterator[Callable[[str, Any], None]]:
    """A process that logs what it is sent; see ``wandb_process``.

    Raises:
        RhoTraceError: it ended with an error.
    """
    words = [sys.executable, "-P", str(Path(__file__).with_name("wandb_process.py"))]
    with tempfile.TemporaryDirectory(prefix="rhotrace-") as scratch, tempfile.TemporaryFile() as said:
        # In a session of its own, Ctrl-C reaches this process alone; the other ends when its input ends.
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
            with contextlib.suppress(BrokenPipeError), child:  # after a broken pipe, its exit code and output say why
                yield lambda kind, content: print(json.dumps([kind, content]), file=child.stdin)
        finally:
            child.wait()
        if child.returncode:
            said.seek(0)
            lines = said.read().decode(errors="replace").split("\n")
            why = next((line.strip() for line in reversed(lines) if line.strip()), f"exit code {child.returncode}")
            raise RhoTraceError(f"--to wandb-offline: wandb failed: {why}")


def _environment(folder: Path, scratch: Path) -> dict[str, str]:
    """For the process that logs: the user's, without any setting of wandb, and with those that isolate wandb."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "_WANDB_"))}
    elsewhere = {f"WANDB_{name}_DIR": str(scratch) for name in ("CONFIG", "CACHE", "DATA", "ARTIFACT")}
    off = {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}
    captures = {"WANDB_DISABLE_GIT": "true", "WANDB_DISABLE_CODE": "true"}
    return {**kept, **elsewhere, **off, **captures, "WANDB_DIR": str(folder.resolve())}
