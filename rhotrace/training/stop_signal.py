"""Stopping a run cleanly from the keyboard or by a signal."""

from __future__ import annotations

import signal
import threading
from typing import Any


class StopRequest:
    """Turns the first Ctrl-C or SIGTERM into a request to stop after the current step; a second one ends the process.

    A context manager. Outside the main thread, where Python allows no signal handlers, it does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _note(self, number: int, _frame: object) -> None:
        self.requested = True
        signal.signal(number, self._before[number])

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
