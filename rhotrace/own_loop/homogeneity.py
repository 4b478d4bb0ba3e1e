"""In which blocks the outputs of a module are homogeneous, and of which degree: measured, not assumed.

One block W at a time is scaled, and the outputs of a few samples are compared: if g(c W) = c^d g(W) for several c > 0,
then d is the degree. The test runs in float64 and in mode ``train``, at weights near the present ones. They are moved a
little, because a bias that starts at 0, or a branch that starts at 0, would hide what the block does later.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from rhotrace.own_loop.module_blocks import ModuleBlock

if TYPE_CHECKING:
    import torch

SCALES = (2.0, 0.5, 1.25)
EXACT = {"float64": 1e-9, "float32": 1e-4}  # largest relative difference that rounding explains
SAMPLES = 8  # of the training set
_MOVED = 0.1  # of a tensor's root mean square


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
    model: torch.nn.Module, blocks: Sequence[ModuleBlock], inputs: tuple[Any, ...] | None
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
    failure = ""
    for dtype in (torch.float64, torch.float32):
        try:
            with torch.no_grad(), undisturbed(model, training=True), without_autocast(model):
                return _tested(model, blocks, inputs, dtype)
        except Exception as problem:  # a module of the user's may raise anything
            failure = failure or f"the forward pass failed in the test ({type(problem).__name__}: {problem})"[:200]
    return Homogeneity({}, why_not=failure)


def _tested(
    model: torch.nn.Module, blocks: Sequence[ModuleBlock], inputs: tuple[Any, ...], dtype: torch.dtype
) -> Homogeneity:
    import torch
    from torch.func import functional_call

    tensors = {name: _moved(name, p, dtype) for name, p in model.named_parameters()}
    buffers = {name: b.to(dtype) if b.is_floating_point() else b for name, b in model.named_buffers()}
    arguments = tuple(x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in inputs)

    def outputs(scaled: Sequence[str] = (), factor: float = 1.0) -> torch.Tensor:
        torch.manual_seed(0)  # the same dropout in every pass
        changed = {name: factor * p if name in scaled else p for name, p in tensors.items()}
        fresh = {name: b.clone() for name, b in buffers.items()}
        return outputs_of(functional_call(model, {**changed, **fresh}, arguments)).double()

    base, name = outputs(), str(dtype).removeprefix("torch.")
    found = {}
    for each in blocks:
        if each.block.role != "buffer":
            found[each.block.name] = _degree(base, partial(outputs, each.names), EXACT[name])
    return Homogeneity(found, name)


def _degree(base: torch.Tensor, scaled: Callable[[float], torch.Tensor], tolerated: float) -> Degree:
    size = float(base.norm())
    each = {c: scaled(c) for c in SCALES}
    sizes = {c: float(g.norm()) for c, g in each.items()}
    if not size or not all(math.isfinite(s) and s > 0 for s in (size, *sizes.values())):
        return Degree(None, 1.0, 0.0)
    slope = math.log(sizes[2.0] / sizes[0.5]) / math.log(4.0)
    degree = round(2 * slope) / 2 + 0.0  # without a negative zero
    residual = max(float((g - c**degree * base).norm()) / sizes[c] for c, g in each.items())
    return Degree(degree if residual <= tolerated else None, residual, degree)


def _moved(name: str, parameter: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A parameter near the present one, with no entry at 0."""
    import torch

    values = parameter.detach().to(dtype)
    generator = torch.Generator(device="cpu").manual_seed(sum(map(ord, name)))
    noise = torch.randn(values.shape, generator=generator, dtype=torch.float64).to(values.device, dtype)
    size = float(values.square().mean().sqrt()) or 1.0
    return values + _MOVED * size * noise


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
