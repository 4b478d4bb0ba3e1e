"""One run of a sweep, as the engines train it: what it needs, how it ended, and its training in this process.

An engine is a generator over jobs. It yields the end of each, and None about twice a second, so that the caller can
look at the run files and draw the progress. A worker that dies is replaced, and its run resumes from its last commit. The
first Ctrl-C or SIGTERM lets the runs in training commit and stop; the engine then ends with jobs left over.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rhotrace.errors import RhoTraceError, out_of_memory

TICK = 0.5  # seconds
RETRIES = 5  # of a job whose worker or node died
_LOCKED = 120.0  # seconds to wait for the lock of a worker that was given up; NFS keeps a dead worker's for 90


@dataclass(frozen=True)
class Job:
    """One run to train: the resolved recipe's YAML, the absolute path of the run file, and whether its code may run."""

    recipe: str
    path: str
    device: str
    recipe_file: str
    trust_code: bool = False


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
    """Trains one run in this process; any failure is returned as text, so that the other runs continue."""
    # One thread each, with every engine: there are many runs, and each must resume with the same bits under any engine.
    os.environ["OMP_NUM_THREADS"] = "1"
    from rhotrace.config import recipe
    from rhotrace.runfile.run_lock import is_locked
    from rhotrace.training.train import train

    path, host = Path(job.path), socket.gethostname()
    given_up = time.monotonic() + _LOCKED
    while is_locked(path) and time.monotonic() < given_up:
        time.sleep(TICK)
    try:
        origin = Path(job.recipe_file)
        content = recipe.parse(job.recipe, where=job.path, folder=origin.parent, trust_code=job.trust_code)
        outcome = train(content, path, device=job.device, recipe_file=origin)
    except RhoTraceError as error:
        return End(job.path, "failed", 0.0, host, str(error))
    except KeyboardInterrupt:
        return End(job.path, "interrupted", 0.0, host)
    except Exception as error:
        if where := out_of_memory(error):
            remedy = "lower network.width, data.train or optimizer.batch_size, or train fewer members in a run"
            return End(job.path, "failed", 0.0, host, f"out of memory{where}; {remedy}")
        return End(job.path, "failed", 0.0, host, f"{type(error).__name__}: {one_line(str(error))}")
    return End(job.path, outcome.ended, outcome.seconds, host)


def one_line(text: str) -> str:
    """A message in one line of at most 400 characters."""
    words = " ".join(text.split())
    return words if len(words) <= 400 else f"{words[:397]}..."
