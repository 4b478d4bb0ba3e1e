"""One writer for each run file: a lock that the operating system releases when its holder ends, however it ends.

The lock file contains the writer's process number and is removed afterwards; readers can query the lock without write
access. The library filelock offers none of these.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from types import TracebackType

from rhotrace.errors import BusyError, TraceError

_PATIENCE = 0.3  # seconds; ``is_locked`` takes the lock for an instant


def lock_path(run: Path) -> Path:
    """The lock file next to a run file; it exists while a process trains, and after one was killed."""
    return run.parent / f".{run.name}.lock"  # also of a path without a name, such as ``/``


def is_locked(run: Path) -> bool:
    """Whether a living process is writing this run file."""
    try:
        descriptor = os.open(lock_path(run), os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


class RunLock:
    """Holds the lock of a run file; a context manager.

    Not a lock on the run file itself: HDF5 readers take ``flock`` on that, and must not be locked out.

    Raises:
        BusyError: another process holds it, or another part of this one.
        TraceError: the folder cannot be written.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self._descriptor = -1

    def __enter__(self) -> RunLock:
        path = lock_path(self.run)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = _lock(path)
        except BlockingIOError:
            holder = _holder(path)
            who = "this process" if holder == str(os.getpid()) else "another process"
            raise BusyError(f"{self.run}: {who} (pid {holder}) is training into this file; wait for it") from None
        except OSError as problem:
            raise TraceError(f"{self.run}: the run file cannot be created: {problem.strerror or problem}") from None
        with contextlib.suppress(OSError):  # a full disk must not stop a run that has already reserved its space
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            if _is_at(
                self._descriptor, lock_path(self.run)
            ):  # else its folder was removed, and the lock may be another's
                lock_path(self.run).unlink()
        os.close(self._descriptor)


def _lock(path: Path) -> int:
    """A descriptor of the lock file, locked.

    Raises:
        BlockingIOError: another process has the lock.
        OSError: the folder cannot be written.
    """
    ends = time.monotonic() + _PATIENCE
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        with contextlib.ExitStack() as otherwise:
            otherwise.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The previous holder may have removed the file after it was opened here and before it was locked.
                if _is_at(descriptor, path):
                    otherwise.pop_all()
                    return descriptor
            except BlockingIOError:
                if time.monotonic() > ends:
                    raise
        time.sleep(_PATIENCE / 10)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the file at a path is the one that is open."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def _holder(path: Path) -> str:
    try:
        return path.read_text(errors="replace")[:20].strip() or "unknown"
    except OSError:
        return "unknown"
