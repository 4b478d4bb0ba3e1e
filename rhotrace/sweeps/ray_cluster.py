"""Trains the runs of a sweep on a Ray cluster."""

from __future__ import annotations

import contextlib
import io
import math
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rhotrace.errors import RhoTraceError
from rhotrace.sweeps.index import INDEX
from rhotrace.sweeps.job import RETRIES, TICK, End, Engine, Job, one_line, train_job
from rhotrace.training.stop_signal import StopRequest

_STOPPING = 60.0  # seconds for the workers of a cluster to commit and stop; a step of large networks takes long
_CONNECT = 10.0  # seconds


@dataclass(frozen=True)
class _Origin:
    """What a worker on another machine must know about the process that runs the sweep."""

    folder: str
    command: tuple[str, ...]
    data: str | None


def on_ray(address: str, *, gpus: float = 0.0, memory: float = 0.0) -> Engine:
    """Trains on a Ray cluster, one task per run; Ray retries the tasks of workers and nodes that die.

    All machines must share the folder of the run files.

    Args:
        address: ``local`` starts Ray on this machine, ``auto`` finds the cluster that this machine belongs to, anything
            else is the address of a cluster.
        gpus: of each task; a fraction shares one.
        memory: of each task, in bytes, so that no node takes more tasks at once than fit; 0 asks for none.

    Raises:
        RhoTraceError: Ray is not installed, no cluster is found, or no node of it has what a task needs.
    """
    try:
        import ray
    except ImportError:
        raise RhoTraceError("--ray: Ray is not installed; python -m pip install 'rhotrace[ray]'") from None
    if gpus > 1 and gpus % 1:
        raise RhoTraceError(f"--gpus: got {gpus:g}, expected a fraction of one, or a whole number")

    def engine(jobs: Sequence[Job]) -> Iterator[End | None]:
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.redirect_stdout(_Brief()))
            if not ray.is_initialized():
                _connect(ray, address)
                stack.callback(ray.shutdown)
            needs = {"CPU": 1.0, "GPU": gpus, "memory": float(math.ceil(memory))}
            _require_a_node(ray, address, needs)
            options: dict[str, Any] = {"num_cpus": 1, "num_gpus": gpus, "max_retries": RETRIES}
            if needs["memory"]:
                options["memory"] = int(needs["memory"])
            task = ray.remote(**options)(_train_there)
            origin = _Origin(str(Path.cwd()), tuple(sys.argv), _data_root())
            yield from _tasks(ray, lambda job: task.remote(job, origin), jobs)

    return engine


def _tasks(ray: Any, submit: Callable[[Job], Any], jobs: Sequence[Job]) -> Iterator[End | None]:  # noqa: ANN401 - a module without types
    pending, stopped, ends = {submit(job): job for job in jobs}, Counter[str](), math.inf
    with StopRequest() as stop:
        while pending and time.monotonic() < ends:
            if stop.requested and ends == math.inf:
                ends = time.monotonic() + _STOPPING
                for reference in pending:
                    ray.cancel(reference)  # like Ctrl-C in the worker: the run commits and stops
            done, _ = ray.wait(list(pending), timeout=TICK)
            for reference in done:
                job = pending.pop(reference)
                end = _result(ray, reference, job)
                if end is not None and end.ended == "interrupted" and not stop.requested:
                    stopped[job.path] += 1  # by a node that is shut down, which Ray does not count as a failure
                    if stopped[job.path] <= RETRIES:
                        pending[submit(job)] = job
                        continue
                yield end
            if not done:
                yield None


def _train_there(job: Job, origin: _Origin) -> End:
    """``train_job`` on any machine, with the folder, command and data root of the process that runs the sweep."""
    host, folder = socket.gethostname(), Path(job.path).parent
    if not (folder / INDEX).is_file():
        why = f"{folder} on {host} is not the sweep's folder; choose a folder that all machines of the cluster share"
        return End(job.path, "failed", 0.0, host, why)
    with contextlib.suppress(OSError):  # relative paths are those of the sweep's process
        os.chdir(origin.folder)
    sys.argv = list(origin.command)  # for the record in the run file
    if origin.data:
        os.environ.setdefault("RHOTRACE_DATA", origin.data)
    return train_job(job)


def _data_root() -> str | None:
    given = os.environ.get("RHOTRACE_DATA")
    return str(Path(given).expanduser().absolute()) if given else None


def _connect(ray: Any, address: str) -> None:  # noqa: ANN401 - a module without types
    quiet = {"log_to_driver": False, "logging_level": "error"}
    try:
        if address == "local":
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a Ray that is started here reports no usage
            ray.init(address="local", include_dashboard=False, **quiet)
        else:
            _check_connection(os.environ.get("RAY_ADDRESS", "") if address == "auto" else address)
            ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError, ImportError) as problem:
        why = one_line(str(problem)) or type(problem).__name__
        remedy = "" if address == "local" else "; start one with `ray start --head`, or use --ray local"
        raise RhoTraceError(f"--ray {address}: no cluster ({why}){remedy}") from None


def _check_connection(address: str) -> None:
    """Fails at once where no cluster answers; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT).close()


def _require_a_node(ray: Any, address: str, needs: dict[str, float]) -> None:  # noqa: ANN401 - a module without types
    """Raises RhoTraceError where no node has it; Ray would wait for one without a message."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(node.get(kind, 0.0) >= amount for kind, amount in needs.items()) for node in nodes):
        return

    def words(has: dict[str, float]) -> str:
        return f"{has.get('CPU', 0):g} CPU, {has.get('GPU', 0):g} GPU, {has.get('memory', 0) / 1e9:.1f} GB of memory"

    there = "; ".join(sorted({words(node) for node in nodes})[:4]) or "none"
    raise RhoTraceError(
        f"--ray {address}: no node has what a run needs ({words(needs)}; nodes: {there}); "
        "--gpus and --members-per-run ask for less"
    )


def _result(ray: Any, reference: Any, job: Job) -> End | None:  # noqa: ANN401 - a module without types
    """How a task ended; None if it was stopped before it started training."""
    try:
        end: End = ray.get(reference)
    except ray.exceptions.TaskCancelledError:
        return None
    except ray.exceptions.RayError as problem:
        last = (str(problem).strip().splitlines() or [""])[-1]  # the first lines say where, the last says what
        return End(job.path, "failed", 0.0, "", f"{type(problem).__name__}: {one_line(last)}")
    return end


class _Brief(io.TextIOBase):
    """Replaces stdout while Ray works, and sends the first line of what is written there to stderr.

    Ray prints long messages about nodes that died to stdout, from its own thread or when it shuts down; stdout is for
    the results.
    """

    def write(self, text: str) -> int:
        """Writes the first line of the text to stderr."""
        if first := text.partition("\n")[0].strip():
            print(first, file=sys.stderr)
        return len(text)
