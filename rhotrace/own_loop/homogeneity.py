"""In which blocks the outputs of a module that is recorded are homogeneous; see ``models.homogeneity``.

The test runs in float64 and in mode ``train``, or in float32 where the module does not run in float64.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rhotrace.models.homogeneity import EXACT, Degree, degrees, moved
from rhotrace.models.module_parts import ModulePart

if TYPE_CHECKING:
    import torch

_TOLERATED = {"float64": EXACT, "float32": 1e-4}  # relative difference that rounding explains


@dataclass(frozen=True)
class Homogeneity:
    """What the test found.

    Attributes:
        degrees: by name of the block; empty where the test was not made.
        dtype: floating-point type of the test.
        why_not: why it was not made; empty where it was.
    """

    degrees: Mapping[str, Degree]
    dtype: str = ""
    why_not: str = ""


def measured_degrees(
    model: torch.nn.Module, blocks: Sequence[ModulePart], inputs: tuple[Any, ...] | None
) -> Homogeneity:
    """The degree of each trained block.

    The module's own tensors, its mode and the random numbers of the training are left unchanged.

    Args:
        model: a plain module.
        blocks: of it.
        inputs: positional arguments of a forward pass on a few samples; None where there are none.
    """
    import torch

    if inputs is None:
        return Homogeneity({}, why_not="no samples were given (data=...)")
    if processes() > 1 and any(isinstance(part, torch.nn.SyncBatchNorm) for part in model.modules()):
        return Homogeneity({}, why_not="SyncBatchNorm would wait for the other processes")
    failure = ""
    for dtype in (torch.float64, torch.float32):
        try:
            with torch.no_grad(), undisturbed(model, training=True), without_autocast(model):
                return _tested(model, blocks, inputs, dtype)
        except Exception as problem:  # a module of the user's may raise anything
            failure = failure or f"the forward pass failed in the test ({type(problem).__name__}: {problem})"[:200]
    return Homogeneity({}, why_not=failure)


def processes() -> int:
    """How many processes train together, under ``torch.distributed``."""
    import torch

    group = torch.distributed
    return group.get_world_size() if group.is_available() and group.is_initialized() else 1


def _tested(
    model: torch.nn.Module, blocks: Sequence[ModulePart], inputs: tuple[Any, ...], dtype: torch.dtype
) -> Homogeneity:
    import torch
    from torch.func import functional_call

    tensors = {name: moved(name, p, dtype) for name, p in model.named_parameters()}
    buffers = {name: b.to(dtype) if b.is_floating_point() else b for name, b in model.named_buffers()}
    arguments = tuple(x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in inputs)

    def outputs(parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
        torch.manual_seed(0)  # the same dropout in every pass
        fresh = {name: b.clone() for name, b in buffers.items()}
        return outputs_of(functional_call(model, {**parameters, **fresh}, arguments)).double()

    kind = str(dtype).removeprefix("torch.")
    names = {each.block.name: each.names for each in blocks if each.block.role != "buffer"}
    return Homogeneity(degrees(outputs, tensors, names, _TOLERATED[kind]), kind)


def outputs_of(result: Any) -> torch.Tensor:  # noqa: ANN401 - a module may return anything
    """The outputs of a forward pass as (N, C): a tensor, the first of several, or ``.logits``."""
    if hasattr(result, "logits"):
        result = result.logits
    elif isinstance(result, Mapping) and "logits" in result:
        result = result["logits"]
    elif isinstance(result, tuple | list):
        result = result[0]
    g: torch.Tensor = result
    return g.reshape(-1, g.shape[-1]) if g.dim() > 1 else g.reshape(-1, 1)


@contextlib.contextmanager
def undisturbed(model: torch.nn.Module, *, training: bool) -> Iterator[None]:
    """Runs the module in one mode; afterwards its modes and torch's random numbers are those of before."""
    import torch

    modes = [(module, module.training) for module in model.modules()]
    first = next(model.parameters(), None)
    devices = [first.device] if first is not None and first.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        model.train(training)
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode


@contextlib.contextmanager
def without_autocast(model: torch.nn.Module) -> Iterator[None]:
    """Runs the module in its own floating-point type."""
    import torch

    first = next(model.parameters(), None)
    with torch.autocast(first.device.type if first is not None else "cpu", enabled=False):
        yield
