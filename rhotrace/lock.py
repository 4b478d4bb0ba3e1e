"""One writer to a run file: a lock that the operating system drops when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from rhotrace.errors import TraceError


def lock_path(run: Path) -> Path:
    """The lock file beside a run file; it exists while a process trains there, or after one was killed."""
    return run.with_name(f".{run.name}.lock")


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

    Not a lock on the run file itself: HDF5 readers take ``flock`` on that, and must not be shut out.

    Raises:
        TraceError: another process holds it, or the folder cannot be written.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self._descriptor = -1

    def __enter__(self) -> RunLock:
        path = lock_path(self.run)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            while True:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    # The holder before may have removed the file between our opening and our locking it.
                    if path.exists() and os.fstat(descriptor).st_ino == path.stat().st_ino:
                        break
                except BlockingIOError:
                    holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
                    os.close(descriptor)
                    raise TraceError(
                        f"{self.run}: another process (pid {holder}) is training into this file; wait for it, or use -o FILE"
                    ) from None
                os.close(descriptor)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        except OSError as problem:
            raise TraceError(f"{self.run}: the run file cannot be made: {problem.strerror or problem}") from None
        self._descriptor = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        lock_path(self.run).unlink(missing_ok=True)
        os.close(self._descriptor)
