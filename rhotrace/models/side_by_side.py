"""Tensors of one shape in one piece of memory, so that one call treats all of them: for small layers, calls are what costs.

They are ordinary tuples of ordinary tensors; the first tensor also carries the same memory as fewer, larger tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from rhotrace.models.network import Tensors

SMALL = 1 << 14  # numbers in a tensor; larger ones gain nothing from company
_ALIGNED = 64  # bytes, as torch aligns what it allocates; products may depend on it in the last bit
_CARRIED = "_rhotrace_runs"


def allocate(shapes: Iterable[Sequence[int]], like: torch.Tensor) -> Tensors:
    """Tensors (M, out, fan_in) of some shapes, not filled, where neighbours of one small shape lie side by side.

    Args:
        shapes: of the tensors.
        like: a tensor of the same type and on the same device.
    """
    tensors: list[Any] = []
    runs: list[Any] = []
    for shape, same in groupby(map(tuple, shapes)):
        numbers, line = math.prod(shape), _ALIGNED // like.element_size()
        step, count = -(-numbers // line) * line, len(list(same))
        for layers in [count] if numbers <= SMALL else [1] * count:
            memory = like.new_empty(layers * step)
            tensors += [memory[k * step : k * step + numbers].view(shape) for k in range(layers)]
            runs.append(memory.as_strided((layers, *shape), (step, *tensors[-1].stride())))
    setattr(tensors[0], _CARRIED, (len(tensors), tensors[-1].data_ptr(), tuple(runs)))
    return tuple(tensors)


def copied(tensors: Sequence[torch.Tensor]) -> Tensors:
    """Copies of some tensors, side by side."""
    made = allocate([tensor.shape for tensor in tensors], tensors[0])
    for new, old in zip(made, tensors, strict=True):
        new.copy_(old)
    return made


def runs_of(tensors: Tensors) -> Tensors | None:
    """All of the tensors as fewer ones, (layers, M, out, fan_in), where ``allocate`` made them; else None."""
    count, last, runs = getattr(tensors[0], _CARRIED, (0, 0, None))
    return runs if count == len(tensors) and last == tensors[-1].data_ptr() else None


def together(*each: Tensors) -> tuple[Tensors, ...]:
    """Several lists of tensors of the same shapes: as fewer tensors where all of them lie side by side, else as they are."""
    runs = [found for tensors in each if (found := runs_of(tensors))]
    return tuple(runs) if len(runs) == len(each) else each
