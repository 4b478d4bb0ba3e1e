"""The tensors of a ``torch.nn.Module`` as blocks of a network, and the degree of homogeneity in each, measured.

A parameter whose name contains ``bias`` is a shift, any other of two dimensions or more is a weight, and the rest are
scales. Parameters that are not trained, and buffers that a forward pass changes, are buffers. No degree is assumed: each
block is multiplied by a factor in float64, at random parameters and inputs, and the outputs say what follows.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rhotrace.models.network import Block

if TYPE_CHECKING:
    import torch
    from torch import nn

FACTORS = (0.5, 3.0)
POINTS = 2  # random parameters and inputs at which the degrees are measured
TINY = 1e-100
EXACT = 1e-9  # relative difference in float64 up to which outputs agree

Outputs = Callable[["dict[str, torch.Tensor]", "torch.Tensor"], "torch.Tensor"]


@dataclass(frozen=True)
class Part:
    """A tensor of a module and its block.

    Attributes:
        path: its name in the module, such as ``features.0.weight``.
        block: of the network.
    """

    path: str
    block: Block


@dataclass(frozen=True)
class Degrees:
    """What was measured.

    Attributes:
        of: the degree in each tensor, by its name in the module; None where the outputs are not homogeneous in it.
        why: what takes the degrees of the others away; empty where every weight has one.
    """

    of: Mapping[str, float | None]
    why: str


def role_of(path: str, tensor: torch.Tensor, *, trained: bool) -> str:
    """The role of a parameter; see the module's docstring."""
    if not trained:
        return "buffer"
    if "bias" in path.rpartition(".")[2]:
        return "shift"
    return "weight" if tensor.dim() >= 2 else "scale"


def block_names(paths: Sequence[str]) -> list[str]:
    """A distinct Python identifier for each tensor: ``features.0.weight`` becomes ``features_0_weight``."""
    found: list[str] = []
    for path in paths:
        name = re.sub(r"\W", "_", path, flags=re.ASCII)[:80]
        name = name if name[:1].isalpha() else f"layer_{name}"
        again = sum(n == name or re.fullmatch(rf"{name}_again\d+", n) is not None for n in found)
        found.append(f"{name}_again{again}" if again else name)
    return found


def tied(module: nn.Module) -> list[tuple[str, str]]:
    """Pairs of names of one and the same parameter; the first of each is the name of its block."""
    first: dict[int, str] = {}
    return [
        (first[id(tensor)], path)
        for path, tensor in module.named_parameters(remove_duplicate=False)
        if first.setdefault(id(tensor), path) != path
    ]


def random_parts(module: nn.Module) -> list[str]:
    """The modules inside that draw random numbers in training."""
    return [
        f"{path} ({type(part).__name__}, p={getattr(part, 'p', '?')})"
        for path, part in module.named_modules()
        if "Dropout" in type(part).__name__ and getattr(part, "p", True)
    ]


def measure_degrees(
    module: nn.Module, outputs: Outputs, shifts: Sequence[str], weights: Sequence[str], shape: tuple[int, ...]
) -> Degrees:
    """The degree of homogeneity of a module's outputs in each of its parameters.

    Args:
        module: in float64 and in mode ``train``; unchanged afterwards.
        outputs: its outputs at given parameters (by name) on given inputs.
        shifts: names of the shifts.
        weights: names of the weights.
        shape: of one input.
    """
    points = list(_points(module, shape))
    found = _degrees(outputs, points)
    if all(found.get(path) is not None for path in weights):
        return Degrees(found, "")
    return Degrees(found, _reason(module, outputs, points, shifts, weights))


def _points(module: nn.Module, shape: tuple[int, ...]) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
    """Random parameters in general position, so that a bias that starts at 0 is not overlooked, and random inputs."""
    import torch

    for seed in range(POINTS):
        draw = torch.Generator().manual_seed(seed)

        def noise(tensor: torch.Tensor, draw: torch.Generator = draw) -> torch.Tensor:
            size = tensor.square().mean().sqrt() if tensor.numel() else 0.0
            return torch.randn(tensor.shape, generator=draw, dtype=torch.float64) * (0.3 * size + 0.05)

        parameters = {path: tensor.detach() + noise(tensor) for path, tensor in module.named_parameters()}
        yield parameters, torch.randn((8, *shape), generator=draw, dtype=torch.float64)


def _degrees(
    outputs: Outputs, points: Sequence[tuple[dict[str, torch.Tensor], torch.Tensor]]
) -> dict[str, float | None]:
    plain = [outputs(parameters, x) for parameters, x in points]
    found: dict[str, float | None] = {}
    for path in points[0][0]:

        def scaled(number: int, factor: float, path: str = path) -> torch.Tensor:
            parameters, x = points[number]
            return outputs({**parameters, path: factor * parameters[path]}, x)

        found[path] = _degree(plain, scaled)
    return found


def _degree(plain: Sequence[torch.Tensor], scaled: Callable[[int, float], torch.Tensor]) -> float | None:
    """The whole number d with ``g(c W) = c^d g(W)`` for every factor at every point; None where there is none."""
    degrees = set()
    for number, g in enumerate(plain):
        if not bool(g.isfinite().all()) or not bool(g.abs().max() > 0):
            return None
        for factor in FACTORS:
            after = scaled(number, factor)
            ratio = float(after.norm() / g.norm())
            if not 0 < ratio < math.inf:
                return None
            degree = round(math.log(ratio) / math.log(factor))
            if not bool((after - factor**degree * g).abs().max() <= EXACT * after.abs().max()):
                return None
            degrees.add(degree)
    return float(degrees.pop()) if len(degrees) == 1 else None


def _reason(
    module: nn.Module,
    outputs: Outputs,
    points: Sequence[tuple[dict[str, torch.Tensor], torch.Tensor]],
    shifts: Sequence[str],
    weights: Sequence[str],
) -> str:
    """What the outputs lack to be homogeneous in every weight: found by taking one thing after another away."""
    causes: list[str] = []

    def holds(points: Sequence[tuple[dict[str, torch.Tensor], torch.Tensor]]) -> bool:
        degrees = _degrees(outputs, points)
        return all(degrees[path] is not None for path in weights)

    if shifts:
        points = [({k: v * 0 if k in shifts else v for k, v in p.items()}, x) for p, x in points]
        causes.append("biases or shifts")
        if holds(points):
            return causes[0]
    with _without_epsilon(module) as normalisations:
        if normalisations:
            causes.append(f"the epsilon of {normalisations[0]}")
            if holds(points):
                return " and ".join(causes)
        plain = [outputs(p, x) for p, x in points]
        in_x = _degree(plain, lambda n, c: outputs(points[n][0], c * points[n][1]))
    # A ReLU network without shifts is homogeneous in its inputs, however its paths run.
    skips = "skips or other paths around layers"
    causes.append(skips if in_x is not None else f"operations such as tanh, GELU or softmax, or {skips}")
    return " and ".join(causes)


class _without_epsilon:  # noqa: N801 - used as a statement
    """Takes the epsilon from every normalisation of a module for a while; enters with their kinds.

    Batch normalisation refuses an epsilon of 0; ``TINY`` changes no variance that is not 0.
    """

    def __init__(self, module: nn.Module) -> None:
        self._epsilons = [
            (part, part.eps) for part in module.modules() if isinstance(getattr(part, "eps", None), float)
        ]

    def __enter__(self) -> list[str]:
        for part, _ in self._epsilons:
            part.eps = TINY  # type: ignore[assignment]
        return sorted({type(part).__name__ for part, eps in self._epsilons if eps})

    def __exit__(self, *problem: object) -> None:
        for part, eps in self._epsilons:
            part.eps = eps


def in_float64(module: nn.Module) -> nn.Module:
    """A copy in float64 and in mode ``train``."""
    return copy.deepcopy(module).double().train()
