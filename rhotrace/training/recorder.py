"""The bookkeeping of the training loop: rows of quantities on the device, handed over in blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rhotrace.errors import TraceError
from rhotrace.recording.moment import Moment
from rhotrace.recording.quantity import Quantity
from rhotrace.runfile.layout import Layout, dimension_sizes
from rhotrace.training.copy_out import Filled

if TYPE_CHECKING:
    import torch

    from rhotrace.models.optimizers import State

BLOCK_STEPS = 1024
BLOCK_BYTES = 1 << 26

Block = dict[str, NDArray[np.float64]]


class Recorder:
    """Rows of the measured quantities, kept on the device until a block of steps is full.

    Quantities of one cadence and one shape share a buffer, so that a step needs few writes.

    Args:
        quantities: that the run records, in the layout's order.
        layout: of the run file.
        device: of the run.
    """

    def __init__(self, quantities: tuple[Quantity, ...], layout: Layout, device: str) -> None:
        import torch

        self.quantities, self.strides, self.layout = quantities, layout.strides, layout
        sizes = dimension_sizes(layout)
        self.size = max(1, min(BLOCK_STEPS, BLOCK_BYTES // (8 * layout.row_numbers), layout.steps))
        groups: dict[tuple[str, tuple[str, ...]], list[Quantity]] = {}
        for quantity, described in zip(quantities, layout.quantities, strict=True):
            if quantity.measure:
                groups.setdefault((quantity.cadence, described.axes), []).append(quantity)
        self.groups = [
            _Group(
                cadence,
                layout.strides[cadence],
                group,
                torch.empty(
                    [self._rows(cadence), len(group), *(sizes[a] for a in axes)], dtype=torch.float64, device=device
                ),
            )
            for (cadence, axes), group in groups.items()
        ]
        self._rows_before: dict[str, int] = {}
        self.clear(0)

    def _rows(self, cadence: str) -> int:
        """Largest number of evaluations of a cadence in a block."""
        return -(-self.size // self.strides[cadence]) + (self.strides[cadence] > 1)

    def count(self) -> int:
        """Steps recorded since the last ``clear``."""
        return self.last - self.first

    def record(self, step: int, moment: Moment) -> None:
        """Measures every quantity that is due at this step, into the step's row.

        Raises:
            TraceError: a quantity's measure does not have the shape of its axes.
        """
        import torch

        for group in self.groups:
            if step % group.stride == 0:
                measured = [measure(moment) for measure in group.measures]
                for quantity, values in zip(group.quantities, measured, strict=True):
                    if values.shape != group.shape:
                        raise TraceError(
                            f"quantity {quantity.name}: its measure has shape {tuple(values.shape)}, expected "
                            f"{tuple(group.shape)}, for its axes"
                        )
                row = group.each_row[step // group.stride - self._rows_before[group.cadence]]
                torch.stack([values.to(torch.float64) for values in measured], out=row)
        self.last = step + 1

    def filled(self, state: State) -> Filled:
        """The steps since the last ``clear``, with the optimizer's state after them; valid until the next step."""
        rows = []
        for group in self.groups:
            count = self.layout.rows(group.cadence, self.last) - self.layout.rows(group.cadence, self.first)
            rows.append(group.rows[:count])
        return Filled(self.first, self.last, tuple(rows), dict(state))

    def block(self, filled: Filled) -> Block:
        """The rows of every quantity in a block, measured or derived, as arrays (rows, M, ...)."""
        out: Block = {}
        for group, on_device in zip(self.groups, filled.rows, strict=True):
            rows = on_device.cpu().numpy()
            out.update({quantity.name: rows[:, number] for number, quantity in enumerate(group.quantities)})
        with np.errstate(all="ignore"):  # a member may have diverged; its numbers are recorded as they are
            for quantity in self.quantities:
                if quantity.derive:
                    out[quantity.name] = quantity.derive(self._rows_at(quantity.cadence, out, filled.first))
        return out

    def _rows_at(self, cadence: str, block: Block, first: int) -> Block:
        """The rows that a derived quantity may use, of a block from ``first`` on, at the steps at which its cadence is due."""
        stride, cadences = self.strides[cadence], {q.name: q.cadence for q in self.quantities}
        return {
            name: rows[-first % stride :: stride] if cadences[name] == "step" else rows
            for name, rows in block.items()
            if cadences[name] in ("step", cadence)
        }

    def clear(self, done: int) -> None:
        """Begins the next block at step ``done``."""
        self.first = self.last = done
        self._rows_before = {cadence: self.layout.rows(cadence, done) for cadence in self.strides}


@dataclass(frozen=True)
class _Group:
    """Quantities of one cadence and one shape, and their rows on the device, (rows, quantities, M, ...)."""

    cadence: str
    stride: int
    quantities: list[Quantity]
    rows: torch.Tensor

    @cached_property
    def each_row(self) -> tuple[torch.Tensor, ...]:
        """Made once: taking a row out of ``rows`` costs as long as a small sum."""
        return self.rows.unbind()

    @cached_property
    def shape(self) -> torch.Size:
        """Of one quantity at one step."""
        return self.rows.shape[2:]

    @cached_property
    def measures(self) -> list[Callable[[Moment], torch.Tensor]]:
        """Of the quantities."""
        return [quantity.measure for quantity in self.quantities if quantity.measure]
