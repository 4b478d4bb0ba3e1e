"""Trains the runs of a sweep in processes of this machine."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from rhotrace.sweeps.job import RETRIES, TICK, End, Engine, Job, train_job
from rhotrace.training.stop_signal import StopRequest

_LAST = 10.0  # seconds for the results of workers that have stopped


def processes(workers: int) -> Engine:
    """Trains in this number of processes of this machine, one run at a time in each."""

    def engine(jobs: Sequence[Job]) -> Iterator[End | None]:
        waiting, deaths = {job.path: job for job in jobs}, 0
        with StopRequest() as stop:
            while waiting and not stop.requested:
                pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _ignore_interrupts)
                running: set[Future[End]] = set()
                try:
                    for end in _drain(pool, workers, list(waiting.values()), running, stop):
                        if end is not None:
                            if end.ended == "interrupted" and not stop.requested:
                                continue  # the worker was stopped, not the sweep: the run resumes in the next pool
                            del waiting[end.path]
                            deaths = 0
                        yield end
                except BrokenProcessPool:  # a worker was killed; the runs resume in new ones
                    deaths += 1
                    if deaths > RETRIES:
                        why = f"a process died {deaths} times before any run ended; is there enough memory?"
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
    """Gives each worker one job at a time: jobs in a pool's queue would still start after the sweep was stopped."""
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
    """The ends of the runs that were in training when the sweep was stopped."""
    done, _ = wait(running, timeout=_LAST)
    for future in done:
        if not future.cancelled() and future.exception() is None:
            yield future.result()


def _ignore_interrupts() -> None:
    # Ctrl-C reaches every process of the terminal and must not kill an idle worker. Training handles it by itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _interrupt(pool: ProcessPoolExecutor) -> None:
    """Lets the runs in training commit and stop, and ends the pool; a second Ctrl-C kills them at once."""
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
