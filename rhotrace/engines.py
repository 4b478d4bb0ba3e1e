"""Where the runs of a sweep are trained: in processes of this machine, or on a Ray cluster.

An engine is a generator over jobs: it yields the end of each, and None about twice a second, so that whoever draws
the progress can look at the run files. A worker that dies is replaced, and its run goes on from its last commit.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rhotrace.errors import RhoTraceError

TICK = 0.5  # seconds
RETRIES = 5  # of a job whose worker or node died
_LOCKED = 120.0  # seconds to wait for a worker that was given up to let go of its run file


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
    """Trains one run in this process; what the user has to mend comes back as words."""
    # One thread each, here and on every engine: runs are many, and must go on under any engine with the same bits.
    os.environ["OMP_NUM_THREADS"] = "1"
    from rhotrace import recipe
    from rhotrace.lock import is_locked
    from rhotrace.train import train

    path, host = Path(job.path), socket.gethostname()
    if not path.parent.is_dir():
        return End(job.path, "failed", 0.0, host, f"{path.parent} is not there on {host}; sweep into a shared folder")
    given_up = time.monotonic() + _LOCKED
    while path.exists() and is_locked(path) and time.monotonic() < given_up:
        time.sleep(TICK)
    try:
        outcome = train(
            recipe.parse(job.recipe, where=job.path), path, device=job.device, recipe_file=Path(job.recipe_file)
        )
    except RhoTraceError as error:
        return End(job.path, "failed", 0.0, host, str(error))
    except KeyboardInterrupt:
        return End(job.path, "interrupted", 0.0, host)
    return End(job.path, outcome.ended, outcome.seconds, host)


def processes(workers: int) -> Engine:
    """Trains in so many processes of this machine, one run each at a time."""

    def engine(jobs: Sequence[Job]) -> Iterator[End | None]:
        waiting, deaths = {job.path: job for job in jobs}, 0
        while waiting:
            pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _deaf_to_interrupts)
            try:
                for end in _drain({pool.submit(train_job, job): job for job in waiting.values()}):
                    if end is not None:
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

    return engine


def _drain(futures: dict[Future[End], Job]) -> Iterator[End | None]:
    while futures:
        done, _ = wait(futures, timeout=TICK, return_when=FIRST_COMPLETED)
        for future in done:
            yield future.result()
            del futures[future]
        if not done:
            yield None


def _deaf_to_interrupts() -> None:
    # Ctrl-C reaches every process of the terminal; an idle worker must not die of it. Training listens by itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _interrupt(pool: ProcessPoolExecutor) -> None:
    """Lets the runs in training commit and stop, and ends the pool."""
    pool.shutdown(wait=False, cancel_futures=True)
    while children := multiprocessing.active_children():
        for child in children:
            if child.pid:
                os.kill(child.pid, signal.SIGINT)
        children[0].join(TICK)


def on_ray(address: str, *, gpus: float = 0.0) -> Engine:
    """Trains on a Ray cluster, one task to a run; Ray retries the tasks of workers and nodes that die.

    Args:
        address: ``local`` starts Ray on this machine, ``auto`` finds the cluster that this one belongs to, anything
            else is the address of a cluster.
        gpus: of each task, a fraction to share one.

    Raises:
        RhoTraceError: Ray is not installed, or no cluster is found.
    """
    try:
        import ray
    except ImportError:
        raise RhoTraceError("--ray: Ray is not installed; python -m pip install 'rhotrace[ray]'") from None

    def engine(jobs: Sequence[Job]) -> Iterator[End | None]:
        mine = not ray.is_initialized()
        if mine:
            _connect(ray, address)
        task: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(train_job)
        pending = {task.remote(job): job for job in jobs}
        try:
            while pending:
                done, _ = ray.wait(list(pending), timeout=TICK)
                for reference in done:
                    yield _result(ray, reference, pending.pop(reference))
                if not done:
                    yield None
        finally:
            for reference in pending:
                ray.cancel(reference)  # as Ctrl-C there: the run commits and stops
            if pending:
                ray.wait(list(pending), num_returns=len(pending), timeout=30)
            if mine:
                ray.shutdown()

    return engine


def _connect(ray: Any, address: str) -> None:  # noqa: ANN401 - a module without types
    try:
        ray.init(
            address=None if address == "local" else address,
            include_dashboard=False if address == "local" else None,
            log_to_driver=False,
            logging_level="error",
        )
    except (ConnectionError, ValueError, RuntimeError) as problem:
        first = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise RhoTraceError(f"--ray {address}: no cluster ({first}); start one with `ray start --head`") from None


def _result(ray: Any, reference: Any, job: Job) -> End:  # noqa: ANN401 - a module without types
    try:
        end = ray.get(reference)
    except ray.exceptions.TaskCancelledError:
        return End(job.path, "interrupted", 0.0, "")
    except (ray.exceptions.RayError, OSError, MemoryError) as problem:
        first = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
        return End(job.path, "failed", 0.0, "", f"{type(problem).__name__}: {first}")
    return End(**vars(end)) if not isinstance(end, End) else end
