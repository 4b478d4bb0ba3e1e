"""The bookkeeping of the training loop: rows of quantities on the device, handed over in blocks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from rhotrace.recording.quantities import QUANTILES, Cost, Moment, Quantity
from rhotrace.runfile.layout import Layout

BLOCK_STEPS = 1024
BLOCK_BYTES = 1 << 26

Block = dict[str, NDArray[np.float64]]


class Recorder:
    """Rows of the measured quantities, kept on the device until a block of steps is full.

    Quantities of one cost and one shape share a buffer, so that a step writes few times.

    Args:
        quantities: rows of the quantities table that this run has.
        strides: steps between evaluations, by cost class.
        layout: of the run file.
        device: of the run.
    """

    def __init__(
        self, quantities: tuple[Quantity, ...], strides: Mapping[Cost, int], layout: Layout, device: str
    ) -> None:
        import torch

        self.quantities, self.strides, self.layout = quantities, strides, layout
        sizes = {"member": layout.members, "layer": len(layout.shapes), "quantile": len(QUANTILES)}
        row_bytes = 8 * sum(int(np.prod([sizes[a] for a in q.axes])) for q in quantities)
        self.size = max(1, min(BLOCK_STEPS, BLOCK_BYTES // row_bytes, layout.steps))
        groups: dict[tuple[Cost, tuple[str, ...]], list[Quantity]] = {}
        for quantity in quantities:
            if quantity.measure:
                groups.setdefault((quantity.cost, quantity.axes), []).append(quantity)
        self.groups = [
            (
                cost,
                group,
                torch.empty(
                    [self._rows(cost), len(group), *(sizes[a] for a in axes)], dtype=torch.float64, device=device
                ),
            )
            for (cost, axes), group in groups.items()
        ]
        self.first = self.last = 0

    def _rows(self, cost: Cost) -> int:
        """Most evaluations of a cost class that a block can hold."""
        return -(-self.size // self.strides[cost]) + (self.strides[cost] > 1)

    def count(self) -> int:
        """Steps recorded since the last ``clear``."""
        return self.last - self.first

    def record(self, step: int, moment: Moment) -> None:
        """Measures every quantity that this step has, into the step's row."""
        import torch

        held = {"free": True, "forward": moment.full is not None, "test": moment.test is not None}
        for cost, group, rows in self.groups:
            if held[cost]:
                row = rows[self._row(cost, step)]
                torch.stack([quantity.measure(moment) for quantity in group if quantity.measure], out=row)
        self.last = step + 1

    def _row(self, cost: Cost, step: int) -> int:
        return step // self.strides[cost] - self.layout.rows(cost, self.first)

    def block(self) -> Block:
        """The recorded rows as numpy arrays, with the derived quantities."""
        out: Block = {}
        for cost, group, rows in self.groups:
            count = self.layout.rows(cost, self.last) - self.layout.rows(cost, self.first)
            filled = rows[:count].cpu().numpy()
            out.update({quantity.name: filled[:, number] for number, quantity in enumerate(group)})
        with np.errstate(all="ignore"):  # a member may have diverged; its numbers say so themselves
            for quantity in self.quantities:
                if quantity.derive:
                    out[quantity.name] = quantity.derive(self._rows_at(quantity.cost, out))
        return out

    def _rows_at(self, cost: Cost, block: Block) -> Block:
        """A block in which the quantities of every step keep only the steps at which ``cost`` is evaluated."""
        stride = self.strides[cost]
        every_step = {q.name for q in self.quantities if q.cost == "free"}
        return {
            name: rows[-self.first % stride :: stride] if name in every_step else rows for name, rows in block.items()
        }

    def clear(self, done: int) -> None:
        """Begins the next block at step ``done``."""
        self.first = self.last = done
