"""The live view of a training run on standard error: a progress display in a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from rhotrace.transient import DWELL_FRACTION, DWELL_STEPS, THETA

if TYPE_CHECKING:
    from rhotrace.train import Progress as Block

_LINE_SECONDS = 5.0


class TransientWatch:
    """Follows each member's T while it trains, by the rule of ``transient.first_lasting``."""

    def __init__(self) -> None:
        self._since: np.ndarray[tuple[int], np.dtype[np.float64]] | None = None
        self.T: np.ndarray[tuple[int], np.dtype[np.float64]] | None = None

    def update(self, block: Block) -> None:
        """Takes in a block; ``T`` then holds each member's first lasting crossing so far, NaN where none."""
        ratio = block.block["rho_eq_over_rho"]
        if self._since is None or self.T is None:
            self._since, self.T = np.full((2, ratio.shape[1]), np.nan)
        steps = np.linspace(block.first, block.last, len(ratio), endpoint=False)
        for step, row in zip(steps, ratio, strict=True):
            reached = (row > 0) & (row <= 1 / THETA)
            self._since = np.where(reached, np.where(np.isnan(self._since), step, self._since), np.nan)
            lasted = step - self._since >= np.maximum(DWELL_STEPS, DWELL_FRACTION * self._since)
            self.T = np.where(np.isnan(self.T) & lasted, self._since, self.T)

    def words(self) -> str:
        """Such as ``T 4410 (3 of 4 passed)``, the geometric mean of those that passed."""
        if self.T is None or np.isnan(self.T).all():
            return "T not yet"
        passed = self.T[~np.isnan(self.T)]
        return f"T {np.exp(np.log(np.maximum(passed, 1)).mean()):.0f} ({len(passed)} of {len(self.T)} passed)"


class TrainingView:
    """Shows blocks of a run as they come; a context manager to be passed as ``train``'s ``watch``.

    Args:
        console: where to.
        announce: prints what is about to be trained, once all is checked and the first step is near.
    """

    def __init__(self, console: Console, announce: Callable[[int], None]) -> None:
        self.console = console
        self._announce = announce
        self._before = (0, 0.0)  # steps and seconds at the end of the last block
        self.transient = TransientWatch()
        self._bar = Progress(
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._bar.add_task("", total=None, rate="")
        self._text = Text("")
        self._live = Live(Group(self._bar, self._text), console=console, refresh_per_second=4, transient=True)
        self._next_line = time.monotonic() + 1.0

    def __enter__(self) -> TrainingView:
        return self

    def begin(self, first: int) -> None:
        """Announces the run, which starts or goes on at step ``first``, and opens the display."""
        self._before = (first, 0.0)
        with contextlib.suppress(OSError):
            self._announce(first)
        if self.console.is_terminal:
            self._live.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def __call__(self, block: Block) -> None:
        """Shows one block; training goes on where the output cannot be written any more."""
        with contextlib.suppress(OSError):
            self._show(block)

    def _show(self, block: Block) -> None:
        self.transient.update(block)
        state = self._state(block)
        steps, seconds = self._before
        per_second = (block.last - steps) / max(block.seconds - seconds, 1e-9)
        self._before = (block.last, block.seconds)
        rate = f"{per_second:.0f} steps/s"
        if self.console.is_terminal:
            self._bar.update(self._task, total=block.steps, completed=block.last, rate=rate)
            self._text.plain = state
        elif time.monotonic() >= self._next_line or block.last == block.steps:
            left = (block.steps - block.last) / per_second
            self.console.print(
                f"step {block.last}/{block.steps}  {rate}  {left:.0f} s left  {state}",
                soft_wrap=True,
                highlight=False,
            )
            self._next_line = time.monotonic() + _LINE_SECONDS

    def _state(self, block: Block) -> str:
        rows = block.block
        parts = [self.transient.words()]
        if len(rows["loss"]):
            loss, ratio = (_median(rows[n][-1]) for n in ("loss", "rho_eq_over_rho"))
            parts += [f"loss {loss:.3g}", f"rho_eq/rho {ratio:.3g}"]
        log_rho = _median(rows["log_rho"][-1])
        parts.insert(-1 if len(parts) > 1 else 1, f"rho {np.exp(min(log_rho, 700)):.3g}")
        return "  ".join(parts) + ("  (medians of members)" if rows["log_rho"].shape[1] > 1 else "")


def _median(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    """Median of the finite members; NaN where there is none."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else np.nan
