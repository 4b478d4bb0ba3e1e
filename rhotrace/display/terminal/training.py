"""The live view of a training run on standard error: a progress display in a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from rhotrace.analysis.applicability import no_equilibrium
from rhotrace.analysis.transient.live_follower import TransientWatch
from rhotrace.runfile.layout import SLAB_BYTES
from rhotrace.runfile.reader import open_trace
from rhotrace.statistics.numbers import written

if TYPE_CHECKING:
    from rhotrace.training.train import Progress as Block

_LINE_SECONDS = 5.0
_RATIO = "rho_eq_over_rho"


class TrainingView:
    """Shows blocks of a run as they come; a context manager to be passed as ``train``'s ``watch``.

    Args:
        console: where to.
        path: of the run file; of a resumed run, its first steps are read from there.
        announce: prints what is about to be trained, once everything is checked.

    Attributes:
        transient: T so far.
    """

    def __init__(self, console: Console, path: Path, announce: Callable[[int], None]) -> None:
        self.console, self._path = console, path
        self._announce = announce
        self._before = (0, 0.0)  # steps and seconds at the end of the last block
        self._stride = 1  # steps between rows of rho_eq/rho
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
        """Announces the run, which starts or resumes at step ``first``, and opens the display."""
        self._before = (first, 0.0)
        self._recall(first)
        with contextlib.suppress(OSError):
            self._announce(first)
        if self.console.is_terminal:
            self._live.start()

    def _recall(self, first: int) -> None:
        """Gives ``transient`` the recorded rows: a resumed run may have passed its T long before."""
        with open_trace(self._path) as trace:
            self._stride = trace.strides["full"]
            self.transient.inapplicable = no_equilibrium(trace)
            if self.transient.inapplicable:
                return
            slab = trace.layout.steps_within(SLAB_BYTES)
            for start in range(0, first, slab):
                rows = trace.layout.span("full", start, min(start + slab, first))
                self._follow(rows.start, trace.rows(_RATIO, rows))

    def _follow(self, row: int, ratio: NDArray[np.float64]) -> None:
        self.transient.update(np.arange(row, row + len(ratio)) * self._stride, ratio)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def __call__(self, block: Block) -> None:
        """Shows one block; training continues even if the output can no longer be written."""
        with contextlib.suppress(OSError):
            self._show(block)

    def _show(self, block: Block) -> None:
        if _RATIO in block.block:
            self._follow(-(-block.first // self._stride), block.block[_RATIO])
        state = self._state(block)
        steps, seconds = self._before
        per_second = (block.last - steps) / max(block.seconds - seconds, 1e-9)
        self._before = (block.last, block.seconds)
        rate = f"{per_second:.0f} steps/s"
        if self.console.is_terminal:
            self._bar.update(self._task, total=block.steps, completed=block.last, rate=rate)
            self._text.plain = "\n".join(state)
        elif time.monotonic() >= self._next_line or block.last == block.steps:
            left = (block.steps - block.last) / per_second
            self.console.print(
                f"step {block.last}/{block.steps}  {rate}  {left:.0f} s left  {'  '.join(state)}",
                soft_wrap=True,
                highlight=False,
            )
            self._next_line = time.monotonic() + _LINE_SECONDS

    def _state(self, block: Block) -> list[str]:
        rows = block.block
        measured = {"rho": np.exp(min(_median(rows["log_rho"][-1]), 700))}
        if len(rows["loss"]):
            measured = {"loss": _median(rows["loss"][-1]), **measured}
            measured |= {"rho_eq/rho": _median(rows[_RATIO][-1])} if _RATIO in rows else {}
        medians = "medians: " if rows["log_rho"].shape[1] > 1 else ""
        values = medians + "  ".join(f"{name} {written(x)}" for name, x in measured.items())
        return [values] if self.transient.inapplicable else [self.transient.words(), values]


def _median(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    """Median of the finite members; NaN where there is none."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else np.nan
