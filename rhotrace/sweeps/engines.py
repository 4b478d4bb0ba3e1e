"""Where the runs of a sweep are trained: in processes of this machine, or on a Ray cluster.

An engine is a generator over jobs: it yields the end of each, and None about twice a second, so that whoever draws
the progress can look at the run files. A worker that dies is replaced, and its run goes on from its last commit. The
first Ctrl-C or SIGTERM lets the runs in training commit and stop, and the engine ends with jobs left over.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rhotrace.errors import RhoTraceError
from rhotrace.sweeps.index import INDEX
from rhotrace.training.stop_signal import StopRequest

TICK = 0.5  # seconds
RETRIES = 5  # of a job whose worker or node died
_LOCKED = 120.0  # seconds to wait for a worker that was given up to let go of its run file; NFS keeps a dead one's 90
_STOPPING = 60.0  # seconds for the workers of a cluster to commit and stop; a step of large networks takes long
_CONNECT = 10.0  # seconds


@dataclass(frozen=True)
class Job:
    """One run to train: the resolved recipe's YAML, and the absolute path of the run file."""

    recipe: str
    path: str
    device: str
    recipe_file: str


@dataclass(frozen=True)
class End:
    """How a job ended: ``finished``, ``diverged``, ``interrupted`` or ``failed``, where, and why it failed."""

    path: str
    ended: str
    seconds: float
    host: str
    why: str = ""


Engine = Callable[[Sequence[Job]], Iterator[End | None]]


def train_job(job: Job) -> End:
    """Trains one run in this process; whatever it fails of comes back as words, so that the other runs go on."""
    # One thread each, here and on every engine: runs are many, and must go on under any engine with the same bits.
    os.environ["OMP_NUM_THREADS"] = "1"
    from rhotrace.config import recipe
    from rhotrace.runfile.run_lock import is_locked
    from rhotrace.training.train import train

    path, host = Path(job.path), socket.gethostname()
    given_up = time.monotonic() + _LOCKED
    while is_locked(path) and time.monotonic() < given_up:
        time.sleep(TICK)
    try:
        outcome = train(
            recipe.parse(job.recipe, where=job.path), path, device=job.device, recipe_file=Path(job.recipe_file)
        )
    except RhoTraceError as error:
        return End(job.path, "failed", 0.0, host, str(error))
    except KeyboardInterrupt:
        return End(job.path, "interrupted", 0.0, host)
    except Exception as error:
        return End(job.path, "failed", 0.0, host, f"{type(error).__name__}: {_line(str(error))}")
    return End(job.path, outcome.ended, outcome.seconds, host)


def _line(text: str) -> str:
    """A message in one line, of bearable length."""
    words = " ".join(text.split())
    return words if len(words) <= 400 else f"{words[:397]}..."


# --- processes ---------------------------------------------------------------------------------------------


def processes(workers: int) -> Engine:
    """Trains in so many processes of this machine, one run each at a time."""

    def engine(jobs: Sequence[Job]) -> Iterator[End | None]:
        waiting, deaths = {job.path: job for job in jobs}, 0
        with StopRequest() as stop:
            while waiting and not stop.requested:
                pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _deaf_to_interrupts)
                running: set[Future[End]] = set()
                try:
                    for end in _drain(pool, workers, list(waiting.values()), running, stop):
                        if end is not None:
                            if end.ended == "interrupted" and not stop.requested:
                                continue  # somebody stopped the worker, not the sweep: it goes on in the next pool
                            del waiting[end.path]
                            deaths = 0
                        yield end
                except BrokenProcessPool:  # a worker was killed; the runs go on in new ones
                    deaths += 1
                    if deaths > RETRIES:
                        why = f"a process died {deaths} times and no run ended meanwhile; is there enough memory?"
                        for path in list(waiting):
                            del waiting[path]
                            yield End(path, "failed", 0.0, socket.gethostname(), why)
                finally:
                    _interrupt(pool)
                if stop.requested:
                    yield from _last_ends(running)

    return engine


def _drain(
    pool: ProcessPoolExecutor, workers: int, jobs: Sequence[Job], running: set[Future[End]], stop: StopRequest
) -> Iterator[End | None]:
    """Hands out one job to each worker at a time: what a pool has queued would still begin when it is stopped."""
    todo = iter(jobs)
    while not stop.requested:
        running |= {pool.submit(train_job, job) for job in itertools.islice(todo, workers - len(running))}
        if not running:
            return
        done, _ = wait(running, timeout=TICK, return_when=FIRST_COMPLETED)
        for future in done:
            running.remove(future)
            yield future.result()
        if not done:
            yield None


def _last_ends(running: set[Future[End]]) -> Iterator[End]:
    """Of the runs that were in training when the sweep was stopped."""
    done, _ = wait(running, timeout=_CONNECT)
    for future in done:
        if not future.cancelled() and future.exception() is None:
            yield future.result()


def _deaf_to_interrupts() -> None:
    # Ctrl-C reaches every process of the terminal; an idle worker must not die of it. Training listens by itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _interrupt(pool: ProcessPoolExecutor) -> None:
    """Lets the runs in training commit and stop, and ends the pool; another Ctrl-C does not wait for that."""
    pool.shutdown(wait=False, cancel_futures=True)
    try:
        while children := multiprocessing.active_children():
            for child in children:
                if child.pid:
                    with contextlib.suppress(ProcessLookupError):  # it ended since it was listed
                        os.kill(child.pid, signal.SIGINT)
            children[0].join(TICK)
    except KeyboardInterrupt:
        for child in multiprocessing.active_children():
            child.kill()
        raise


# --- Ray ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Asker:
    """What a worker elsewhere must know of the process that runs the sweep."""

    folder: str
    command: tuple[str, ...]
    data: str | None


def on_ray(address: str, *, gpus: float = 0.0, memory: float = 0.0) -> Engine:
    """Trains on a Ray cluster, one task to a run; Ray retries the tasks of workers and nodes that die.

    The folder of the run files must be one that all machines share.

    Args:
        address: ``local`` starts Ray on this machine, ``auto`` finds the cluster that this one belongs to, anything
            else is the address of a cluster.
        gpus: of each task, a fraction to share one.
        memory: of each task, in bytes, so that no node takes more tasks at once than fit; 0 does not ask.

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
            _refuse_what_no_node_has(ray, address, needs)
            options: dict[str, Any] = {"num_cpus": 1, "num_gpus": gpus, "max_retries": RETRIES}
            if needs["memory"]:
                options["memory"] = int(needs["memory"])
            task = ray.remote(**options)(_train_there)
            asker = _Asker(str(Path.cwd()), tuple(sys.argv), _data_root())
            yield from _tasks(ray, lambda job: task.remote(job, asker), jobs)

    return engine


def _tasks(ray: Any, submit: Callable[[Job], Any], jobs: Sequence[Job]) -> Iterator[End | None]:  # noqa: ANN401 - a module without types
    pending, stopped, ends = {submit(job): job for job in jobs}, Counter[str](), math.inf
    with StopRequest() as stop:
        while pending and time.monotonic() < ends:
            if stop.requested and ends == math.inf:
                ends = time.monotonic() + _STOPPING
                for reference in pending:
                    ray.cancel(reference)  # as Ctrl-C there: the run commits and stops
            done, _ = ray.wait(list(pending), timeout=TICK)
            for reference in done:
                job = pending.pop(reference)
                end = _result(ray, reference, job)
                if end is not None and end.ended == "interrupted" and not stop.requested:
                    stopped[job.path] += 1  # by a node that is being taken down: Ray calls that an end, not a death
                    if stopped[job.path] <= RETRIES:
                        pending[submit(job)] = job
                        continue
                yield end
            if not done:
                yield None


def _train_there(job: Job, asker: _Asker) -> End:
    """``train_job`` on whichever machine this is, made to be as in the process that asks."""
    host, folder = socket.gethostname(), Path(job.path).parent
    if not (folder / INDEX).is_file():
        why = f"{folder} on {host} is not that of the sweep; sweep into a folder that all machines of the cluster share"
        return End(job.path, "failed", 0.0, host, why)
    with contextlib.suppress(OSError):  # relative paths are the asker's
        os.chdir(asker.folder)
    sys.argv = list(asker.command)  # for the record in the run file
    if asker.data:
        os.environ.setdefault("RHOTRACE_DATA", asker.data)
    return train_job(job)


def _data_root() -> str | None:
    given = os.environ.get("RHOTRACE_DATA")
    return str(Path(given).expanduser().absolute()) if given else None


def _connect(ray: Any, address: str) -> None:  # noqa: ANN401 - a module without types
    quiet = {"log_to_driver": False, "logging_level": "error"}
    try:
        if address == "local":
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a Ray of our own tells nobody
            ray.init(address="local", include_dashboard=False, **quiet)
        else:
            _knock(os.environ.get("RAY_ADDRESS", "") if address == "auto" else address)
            ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError, ImportError) as problem:
        why = _line(str(problem)) or type(problem).__name__
        remedy = "" if address == "local" else "; start one with `ray start --head`, or use --ray local"
        raise RhoTraceError(f"--ray {address}: no cluster ({why}){remedy}") from None


def _knock(address: str) -> None:
    """Fails at once where nobody listens; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT).close()


def _refuse_what_no_node_has(ray: Any, address: str, needs: dict[str, float]) -> None:  # noqa: ANN401 - a module without types
    """Ray would wait without a word for a node that has it."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(node.get(kind, 0.0) >= amount for kind, amount in needs.items()) for node in nodes):
        return

    def words(has: dict[str, float]) -> str:
        return f"{has.get('CPU', 0):g} CPU, {has.get('GPU', 0):g} GPU, {has.get('memory', 0) / 1e9:.1f} GB of memory"

    there = "; ".join(sorted({words(node) for node in nodes})[:4]) or "none"
    raise RhoTraceError(
        f"--ray {address}: no node has what a run needs ({words(needs)}; there are nodes of: {there}); "
        "--gpus and --members-per-run ask for less"
    )


def _result(ray: Any, reference: Any, job: Job) -> End | None:  # noqa: ANN401 - a module without types
    """How a task ended; None if it was stopped before it trained."""
    try:
        end: End = ray.get(reference)
    except ray.exceptions.TaskCancelledError:
        return None
    except ray.exceptions.RayError as problem:
        last = (str(problem).strip().splitlines() or [""])[-1]  # the first ones are where, the last is what
        return End(job.path, "failed", 0.0, "", f"{type(problem).__name__}: {_line(last)}")
    return end


class _Brief(io.TextIOBase):
    """Stands for stdout while Ray works, and sends the first line of whatever is written there to stderr.

    Ray prints long messages about nodes that died, from a thread of its own or when it shuts down, to stdout; that is for
    the results, which come later.
    """

    def write(self, text: str) -> int:
        """Writes."""
        if first := text.partition("\n")[0].strip():
            print(first, file=sys.stderr)
        return len(text)
