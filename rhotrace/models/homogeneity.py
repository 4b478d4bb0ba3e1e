"""The degree of homogeneity of a module's outputs in each of its blocks: measured, not assumed.

One block W at a time is multiplied by several factors c > 0: if g(c W) = c^d g(W) for each of them, then d is the degree.
This is done near the weights and not at them: a bias or a branch that starts at 0 would hide what it does later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

    Outputs = Callable[[Mapping[str, torch.Tensor]], torch.Tensor]

FACTORS = (2.0, 0.5, 1.25)
EXACT = 1e-9  # relative difference that rounding explains in float64
SAMPLES = 8  # on which the outputs are compared
_MOVED = 0.1  # of a tensor's root mean square
_TINY = 1e-100


@dataclass(frozen=True)
class Degree:
    """The measured degree of homogeneity of the outputs in one block.

    Attributes:
        degree: a multiple of 1/2; None where the outputs are not homogeneous in the block.
        residual: largest relative difference of g(c W) from c^nearest g(W).
        nearest: the multiple of 1/2 that is nearest to what was measured.
    """

    degree: float | None
    residual: float
    nearest: float


def degree(base: torch.Tensor, scaled: Callable[[float], torch.Tensor], tolerated: float = EXACT) -> Degree:
    """The degree that some outputs have.

    Args:
        base: g(W).
        scaled: g(c W) for a factor c.
        tolerated: relative difference that rounding explains.
    """
    size = float(base.norm())
    each = {c: scaled(c) for c in FACTORS}
    sizes = {c: float(g.norm()) for c, g in each.items()}
    if not all(math.isfinite(s) and s > 0 for s in (size, *sizes.values())):
        return Degree(None, 1.0, 0.0)
    slope = math.log(sizes[2.0] / sizes[0.5]) / math.log(4.0)
    nearest = round(2 * slope) / 2 + 0.0  # without a negative zero
    residual = max(float((g - c**nearest * base).norm()) / sizes[c] for c, g in each.items())
    return Degree(nearest if residual <= tolerated else None, residual, nearest)


def degrees(
    outputs: Outputs, tensors: Mapping[str, torch.Tensor], blocks: Mapping[str, Sequence[str]], tolerated: float = EXACT
) -> dict[str, Degree]:
    """The degree in each block.

    Args:
        outputs: of a module with these tensors in place of its own.
        tensors: by name; see ``moved``.
        blocks: names of the tensors of each block.
        tolerated: see ``degree``.
    """
    base = outputs(tensors)
    return {
        block: degree(base, lambda c, own=names: outputs({**tensors, **{n: c * tensors[n] for n in own}}), tolerated)  # type: ignore[misc]
        for block, names in blocks.items()
    }


def moved(name: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A tensor near the present one of that name, with no entry at 0."""
    import torch

    values = tensor.detach().to(dtype)
    generator = torch.Generator(device="cpu").manual_seed(sum(map(ord, name)))
    noise = torch.randn(values.shape, generator=generator, dtype=torch.float64).to(values.device, dtype)
    size = float(values.square().mean().sqrt()) or 1.0
    return values + _MOVED * size * noise


def cause(
    module: nn.Module,
    outputs: Callable[[Mapping[str, torch.Tensor], float], torch.Tensor],
    tensors: Mapping[str, torch.Tensor],
    weights: Sequence[str],
    shifts: Sequence[str],
) -> str:
    """What the outputs lack to be homogeneous in every weight: found by taking one thing after another away.

    Args:
        module: whose outputs these are.
        outputs: at given tensors, on inputs that are multiplied by a factor.
        tensors: see ``moved``.
        weights: names of the weights, in some of which the outputs have no degree.
        shifts: names of the shifts.
    """
    causes: list[str] = []

    def holds() -> bool:
        found = degrees(lambda own: outputs(own, 1.0), tensors, {name: [name] for name in weights})
        return all(each.degree is not None for each in found.values())

    if shifts:
        tensors = {name: tensor * (name not in shifts) for name, tensor in tensors.items()}
        causes.append("biases or shifts")
        if holds():
            return causes[0]
    with _without_epsilon(module) as normalisations:
        if normalisations:
            causes.append(f"the epsilon of {normalisations[0]}")
            if holds():
                return " and ".join(causes)
        in_x = degree(outputs(tensors, 1.0), lambda c: outputs(tensors, c))
    # A ReLU network without shifts is homogeneous in its inputs, however its paths run.
    skips = "skips or other paths around layers"
    causes.append(f"operations such as tanh, GELU or softmax, or {skips}" if in_x.degree is None else skips)
    return " and ".join(causes)


@contextmanager
def _without_epsilon(module: nn.Module) -> Iterator[list[str]]:
    """Takes the epsilon from every normalisation of a module for a while; yields their kinds.

    Batch normalisation refuses an epsilon of 0; ``_TINY`` changes no variance that is not 0.
    """
    parts = [(part, part.eps) for part in module.modules() if isinstance(getattr(part, "eps", None), float)]
    for part, _ in parts:
        part.eps = _TINY  # type: ignore[assignment]
    try:
        yield sorted({type(part).__name__ for part, eps in parts if eps})
    finally:
        for part, eps in parts:
            part.eps = eps
