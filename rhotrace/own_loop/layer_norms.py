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

from rhotrace.recording.inner_products import fits, inner_products, squares_in_place

if TYPE_CHECKING:
    import torch

    Tensors = Sequence[torch.Tensor]
    Numbers = torch.Tensor | NDArray[np.float64]
    Norms = Callable[[Tensors], Numbers]

_SMALL = 1 << 14  # numbers in a tensor that is stacked with others, as in ``recording.quantities.layer_norms``


def norms_of(layers: Sequence[tuple[torch.Tensor, ...]], *, in_place: bool = False) -> Norms:
    """A function that measures the norms of some layers, or of their gradients and updates.

    Its argument is a list of tensors, of the shapes of those in ``layers``, one after another. It returns the norms, (L,)
    in float64: as a numpy array if the layers are on the processor and narrower than float64, else as a tensor on their
    device.

    Args:
        layers: the tensors of each layer.
        in_place: whether what is measured mostly stays where it is in memory, which is then kept.
    """
    if not all(_is_narrow(tensor) for layer in layers for tensor in layer):
        return DeviceNorms(layers)
    return NormsInPlace(layers) if in_place else NarrowNorms(layers)


def _is_narrow(tensor: torch.Tensor) -> bool:
    return tensor.is_cpu and tensor.dtype.is_floating_point and tensor.dtype.itemsize < 8


class NarrowNorms:
    """Norms of tensors narrower than float64 on the processor, whose squares are exact in float64.

    Args:
        layers: the tensors of each layer.
    """

    def __init__(self, layers: Sequence[tuple[torch.Tensor, ...]]) -> None:
        import torch

        counts = [len(layer) for layer in layers]
        self._first = np.array([0, *accumulate(counts)][:-1])  # tensor of each layer
        self._alone = max(counts, default=1) == 1
        self._into = torch.empty(1, sum(counts), dtype=torch.float64)
        self._squares = self._into.numpy()[0]

    def __call__(self, tensors: Tensors) -> NDArray[np.float64]:
        """The norms of the layers, (L,)."""
        if not fits(tensors):
            tensors = [W.detach().float() for W in tensors]
        inner_products(tensors, into=self._into)
        return self._roots()

    def _roots(self) -> NDArray[np.float64]:
        return np.sqrt(self._squares if self._alone else np.add.reduceat(self._squares, self._first))


class NormsInPlace(NarrowNorms):
    """As ``NarrowNorms``, of tensors that mostly stay where they are, as weights do: what one call found out holds in the next.

    Args:
        layers: the tensors of each layer.
    """

    def __init__(self, layers: Sequence[tuple[torch.Tensor, ...]]) -> None:
        import torch

        super().__init__(layers)
        self._address, self._count = torch.Tensor.data_ptr, torch.Tensor.numel
        self._addresses: list[int] = []
        self._counts: list[int] = []

    def __call__(self, tensors: Tensors) -> NDArray[np.float64]:
        """The norms of the layers, (L,)."""
        # The memory at these addresses is kept: what lies there are the same numbers, or some of them.
        if [*map(self._address, tensors)] != self._addresses or [*map(self._count, tensors)] != self._counts:
            if not fits(tensors) or not all(x.is_contiguous() for x in tensors):
                return super().__call__(tensors)
            self._addresses, self._counts = [x.data_ptr() for x in tensors], [x.numel() for x in tensors]
            self._measure = squares_in_place(tensors, self._into)
        self._measure()
        return self._roots()


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

        with torch.no_grad():
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
