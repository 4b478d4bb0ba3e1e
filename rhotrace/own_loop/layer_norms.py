"""The Frobenius norms of the layers at every step, accumulated in float64, with few calls.

A step of a small network takes some hundred microseconds, and each call of PyTorch one or two: the calls, and not the
arithmetic, decide what a recording costs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    Tensors = Sequence[torch.Tensor]
    Numbers = torch.Tensor | NDArray[np.float64]
    Norms = Callable[[Tensors], Numbers]

ROW = 1024  # numbers that are multiplied and added at once; BLAS takes one thread for so few
ROWS = 256  # in the buffer, which is then 2 MiB
_SMALL = 1 << 14  # numbers in a tensor that is stacked with others, as in ``recording.quantities.layer_norms``


def norms_of(layers: Sequence[tuple[torch.Tensor, ...]]) -> Norms:
    """A function that measures the norms of some layers, or of their gradients and updates.

    Its argument is a list of tensors, of the shapes of those in ``layers``, one after another. It returns the norms, (L,)
    in float64: as a numpy array if the layers are on the processor and narrower than float64, else as a tensor on their
    device.

    Args:
        layers: the tensors of each layer.
    """
    tensors = [tensor for layer in layers for tensor in layer]
    return BufferedNorms(layers) if all(map(_is_narrow, tensors)) else DeviceNorms(layers)


def _is_narrow(tensor: torch.Tensor) -> bool:
    there = tensor.device.type == "cpu" and tensor.numel() > 0
    return there and tensor.dtype.is_floating_point and tensor.dtype.itemsize < 8


class BufferedNorms:
    """Norms of tensors narrower than float64 on the processor.

    Their numbers are copied into a buffer of float64, so that every square is exact, and each row of it is multiplied by
    itself. Each tensor begins at a row of its own; what it leaves of its last row is 0. Tensors that are larger than the
    buffer, together or alone, fill it several times.

    Args:
        layers: the tensors of each layer.
    """

    def __init__(self, layers: Sequence[tuple[torch.Tensor, ...]]) -> None:
        counts = [sum(-(-tensor.numel() // ROW) for tensor in layer) for layer in layers]
        self._first = np.array([0, *accumulate(counts)][:-1])  # row of each layer
        sums = np.empty((sum(counts), 1, 1))
        self._sums = sums.reshape(-1)
        buffer = np.zeros((min(ROWS, len(sums)), ROW))
        self._fills, done = [], 0
        parts = _parts([tensor for layer in layers for tensor in layer], len(buffer))
        for part in parts:
            fill = _Fill(part, buffer, sums[done:], alone=len(parts) == 1)
            self._fills.append(fill)
            done += fill.rows

    def __call__(self, tensors: Tensors) -> NDArray[np.float64]:
        """The norms of the layers, (L,)."""
        for fill in self._fills:
            fill(tensors)
        return np.sqrt(np.add.reduceat(self._sums, self._first))


Piece = tuple[int, slice | None, tuple[int, ...]]  # of which tensor, which of its numbers (None: all), and their shape


def _parts(tensors: Tensors, rows: int) -> list[list[Piece]]:
    """The numbers of the tensors, in parts that fill the buffer."""
    parts: list[list[Piece]] = [[]]
    free = rows
    for number, tensor in enumerate(tensors):
        done, size = 0, tensor.numel()
        while done < size:
            if not free:
                parts.append([])
                free = rows
            end = min(size, done + free * ROW)
            whole = (done, end) == (0, size)
            parts[-1].append(
                (number, None if whole else slice(done, end), (*tensor.shape,) if whole else (end - done,))
            )
            free -= -(-(end - done) // ROW)
            done = end
    return parts


class _Fill:
    """One use of the buffer.

    Args:
        part: what it is filled with.
        buffer: of rows of numbers.
        sums: the sums of squares of the rows go into its first places.
        alone: nothing else uses the buffer, so that its zeros remain.
    """

    def __init__(
        self, part: list[Piece], buffer: NDArray[np.float64], sums: NDArray[np.float64], *, alone: bool
    ) -> None:
        import torch

        self._pieces = [(number, cut) for number, cut, _ in part]
        self._places, self._rests, self.rows = [], [], 0
        for _, _, shape in part:
            size = int(np.prod(shape))
            first, self.rows = self.rows, self.rows + -(-size // ROW)
            place = buffer[first : self.rows].reshape(-1)
            self._places.append(torch.from_numpy(place[:size]).view(shape))
            if not alone:
                self._rests.append(place[size:])
        used = buffer[: self.rows]
        self._factors = used[:, None, :], used[:, :, None]
        self._sums = sums[: self.rows]

    def __call__(self, tensors: Tensors) -> None:
        """Fills the buffer and adds up."""
        import torch

        pieces = [tensors[number] if cut is None else tensors[number].reshape(-1)[cut] for number, cut in self._pieces]
        torch._foreach_copy_(self._places, pieces)
        for rest in self._rests:
            rest.fill(0)
        np.matmul(*self._factors, out=self._sums)


class DeviceNorms:
    """Norms of float64 tensors, with the bits of a recipe's run, and of tensors on another device.

    Args:
        layers: the tensors of each layer.
    """

    def __init__(self, layers: Sequence[tuple[torch.Tensor, ...]]) -> None:
        import torch

        tensors = [tensor for layer in layers for tensor in layer]
        self._on_processor = tensors[0].device.type == "cpu"
        self._places: list[list[int]] = []
        for number, tensor in enumerate(tensors):
            last = tensors[self._places[-1][0]] if self._places else None
            if last is not None and last.shape == tensor.shape and tensor.numel() <= _SMALL:
                self._places[-1].append(number)
            else:
                self._places.append([number])
        homes = [k for k, layer in enumerate(layers) for _ in layer]
        self._homes = None
        if len(homes) > len(layers):
            self._homes = torch.tensor(homes, device=tensors[0].device)
        self._layers = len(layers)

    def __call__(self, tensors: Tensors) -> torch.Tensor:
        """The norms of the layers, (L,), without a wait for the device."""
        import torch

        if not self._on_processor:
            norms = torch.stack(torch._foreach_norm(list(tensors), 2, torch.float64))
        else:
            norms = torch.cat([self._of(place, tensors) for place in self._places])
        if self._homes is None:
            return norms
        total = torch.zeros(self._layers, dtype=torch.float64, device=norms.device)
        return total.index_add_(0, self._homes, norms.square()).sqrt_()

    def _of(self, place: list[int], tensors: Tensors) -> torch.Tensor:
        import torch

        if len(place) == 1:
            norms: torch.Tensor = torch.linalg.vector_norm(tensors[place[0]], dtype=torch.float64).reshape(1)
        else:
            stacked = torch.stack([tensors[k] for k in place])
            norms = torch.linalg.vector_norm(stacked, dim=tuple(range(1, stacked.dim())), dtype=torch.float64)
        return norms
