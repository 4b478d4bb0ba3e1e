"""The bookkeeping of the training loop: rows of quantities on the device, handed over in blocks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from rhotrace.quantities import QUANTILES, Cost, Moment, Quantity
from rhotrace.trace_layout import Layout

BLOCK_STEPS = 1024
BLOCK_BYTES = 1 << 26

Block = dict[str, NDArray[np.float64]]


class Recorder:
    """Rows of the measured quantities, kept on the device until a block of steps is full."""

    def __init__(
        self, quantities: tuple[Quantity, ...], strides: Mapping[Cost, int], layout: Layout, device: str
    ) -> None:
        import torch

        self.quantities, self.strides = quantities, strides
        sizes = {"member": layout.members, "layer": len(layout.shapes), "quantile": len(QUANTILES)}
        widths = {q.name: [sizes[a] for a in q.axes] for q in quantities}
        row_bytes = 8 * sum(int(np.prod(w)) for w in widths.values())
        self.size = max(1, min(BLOCK_STEPS, BLOCK_BYTES // row_bytes, layout.steps))
        self.measured = [(q.name, q.cost, q.measure) for q in quantities if q.measure]
        self.rows = {
            name: torch.empty(
                [self.size if cost == "free" else -(-self.size // strides[cost]) + 1, *widths[name]],
                dtype=torch.float64,
                device=device,
            )
            for name, cost, _ in self.measured
        }
        self.first = self.last = 0

    def count(self) -> int:
        """Steps recorded since the last ``clear``."""
        return self.last - self.first

    def record(self, step: int, moment: Moment) -> None:
        """Measures every quantity that this step has, into the step's row."""
        full, test = moment.full is not None, moment.test is not None
        for name, cost, measure in self.measured:
            if cost == "free" or (cost == "forward" and full) or (cost == "test" and test):
                self.rows[name][self._row(cost, step)] = measure(moment)
        self.last = step + 1

    def _row(self, cost: Cost, step: int) -> int:
        stride = self.strides[cost]
        return step // stride - -(-self.first // stride)

    def block(self) -> Block:
        """The recorded rows as numpy arrays, with the derived quantities."""
        rows = {cost: -(-self.last // s) - -(-self.first // s) for cost, s in self.strides.items()}
        out: Block = {name: self.rows[name][: rows[cost]].cpu().numpy() for name, cost, _ in self.measured}
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
