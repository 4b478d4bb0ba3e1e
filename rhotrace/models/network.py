"""What a network is: named parameter blocks, and a forward pass from which everything else follows.

A new network names its ``blocks`` and defines ``apply`` for one member, on tensors of the blocks' own shapes. The base
class runs M members side by side and derives gradients, tangent kernels and Hessian products. A network may override
these with faster ones, as the multilayer perceptron does; the tests compare them with those derived here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from rhotrace.models.component import Component, Registry

if TYPE_CHECKING:
    import torch

    from rhotrace.models.losses import Loss

    Tensors = tuple[torch.Tensor, ...]

TOGETHER = 2048  # samples in one forward pass of an evaluation; a change may change the last bits of larger sets

T = TypeVar("T")
Role = Literal["weight", "scale", "shift", "buffer"]
Mode = Literal["train", "eval"]


@dataclass(frozen=True)
class Block:
    """One tensor of a network.

    Attributes:
        name: unique in its network, such as ``W1``; a Python identifier.
        shape: without the member axis; of a weight, outputs come first: (out, in), (out, in, height, width).
        role: ``weight`` (its norm is traced and an initialiser fills it), ``scale`` or ``shift`` (trained too),
            or ``buffer`` (not trained, such as a running mean).
        degree: of homogeneity of the outputs in this block, ``g(c W) = c^degree g(W)`` for c > 0: 1 for the layers
            of a bias-free ReLU network, 0 in front of a normalisation, the number of its uses for a layer that is used
            several times, None where there is none. It is a statement about mode ``train``.
        start: value of each entry before the first step, except for weights, which the initialiser fills.
    """

    name: str
    shape: tuple[int, ...]
    role: Role = "weight"
    degree: float | None = 1
    start: float = 0.0

    @property
    def matrix(self) -> tuple[int, int]:
        """(out, fan_in): the shape in which norms, optimizers and run files see the block."""
        return self.shape[0], math.prod(self.shape[1:])


@dataclass(frozen=True)
class Applied:
    """What a forward pass returns.

    Attributes:
        outputs: g(x_n), (N, C) from ``apply``; with members, (M, C, N).
        features: intermediate values by name, each (N, ...), with members (M, N, ...), for quantities that need them.
        buffers: new values of the buffers that ``mode="train"`` changes, by name.
    """

    outputs: torch.Tensor
    features: Mapping[str, torch.Tensor] = field(default_factory=dict)
    buffers: Mapping[str, torch.Tensor] = field(default_factory=dict)


class Backward(NamedTuple):
    """Outputs (M, C, N), gradients of the loss, (M, out, fan_in) for each parameter, and the buffers after the pass."""

    outputs: torch.Tensor
    gradients: Tensors
    buffers: Tensors


class Network(ABC):
    """M networks with one set of blocks.

    Parameters and buffers are tuples of tensors (M, out, fan_in), in the order of the blocks. Inputs x are (N, d),
    shared by all members, or (M, N, d); targets y are (N, C) or (M, N, C); outputs are (M, C, N).

    Attributes:
        blocks: in the order of a run file.
        one_by_one: on a processor, members go through the network one after another, and not in one ``vmap``. For
            convolutions that is quicker (benchmarks/README.md), and a member has the bits of the network alone.
    """

    blocks: tuple[Block, ...]
    one_by_one: ClassVar[bool] = False

    @abstractmethod
    def apply(
        self,
        parameters: Mapping[str, torch.Tensor],
        buffers: Mapping[str, torch.Tensor],
        x: torch.Tensor,
        mode: Mode,
    ) -> Applied:
        """The forward pass of one member.

        Args:
            parameters: trained blocks by name, each of the block's own shape.
            buffers: the other blocks, likewise.
            x: (N, d).
            mode: ``train`` for the batch of a step, ``eval`` otherwise.

        Returns:
            Outputs (N, C), with features and new buffers if there are any; nothing may be changed in place.
        """

    @cached_property
    def parameters(self) -> tuple[Block, ...]:
        """The blocks that are trained."""
        return tuple(block for block in self.blocks if block.role != "buffer")

    @cached_property
    def buffers(self) -> tuple[Block, ...]:
        """The blocks that are not trained."""
        return tuple(block for block in self.blocks if block.role == "buffer")

    @cached_property
    def layers(self) -> tuple[Block, ...]:
        """The weight blocks, in the order of the axis ``layer``; rho is the product of their norms."""
        return tuple(block for block in self.blocks if block.role == "weight")

    @cached_property
    def layer_numbers(self) -> tuple[int, ...]:
        """Position of each layer among the parameters."""
        return tuple(number for number, block in enumerate(self.parameters) if block.role == "weight")

    def of_layers(self, tensors: Tensors) -> Tensors:
        """The tensors of the layers, out of one tensor for each parameter."""
        return tensors if len(self.layers) == len(tensors) else tuple(tensors[k] for k in self.layer_numbers)

    def split(self, tensors: Sequence[T]) -> tuple[tuple[T, ...], tuple[T, ...]]:
        """Parameters and buffers, from tensors in the order of the blocks, as a snapshot has them."""
        pairs = list(zip(self.blocks, tensors, strict=True))
        return (
            tuple(tensor for block, tensor in pairs if block.role != "buffer"),
            tuple(tensor for block, tensor in pairs if block.role == "buffer"),
        )

    @property
    def says(self) -> tuple[str, ...]:
        """What was found out about the network, for the user and the run file; nothing where its kind says all."""
        return ()

    @property
    def departs(self) -> str:
        """What takes the degree away from the layers that have none, where that was found out."""
        return ""

    def recorded_as(self, blocks: Sequence[Block]) -> Network:
        """The network with the names and roles that a run file has for its blocks: an older version's may differ."""
        del blocks
        return self

    def start(self, seed: int) -> Mapping[str, NDArray[np.float64]]:
        """The blocks (out, fan_in) before the first step, by name, of a network that initialises itself; else none.

        An initialiser fills the weights in their place unless the recipe has ``init.kind: module``.
        """
        del seed
        return {}

    def products(self, dtype: str, device: str) -> str:
        """The library that multiplies large matrices of a type on a device; a run's last bits depend on it."""
        del dtype, device
        return "torch"

    def in_turn(self, x: torch.Tensor) -> bool:
        """Whether members go through the network one after another on the device of x."""
        return self.one_by_one and x.device.type == "cpu"

    def units(self, size: int) -> int:
        """How many numbers a forward pass produces for one sample of ``size`` inputs, for estimates of memory."""
        return self._produced(2, size) - self._produced(1, size)  # without what depends on the parameters alone

    def _produced(self, samples: int, size: int) -> int:
        """How many numbers a forward pass produces for some samples; views do not count."""
        import torch

        def empty(blocks: Sequence[Block]) -> Tensors:
            return tuple(torch.empty(block.matrix, device="meta") for block in blocks)

        return numbers_made(
            lambda: self._one(
                empty(self.parameters), empty(self.buffers), torch.empty(samples, size, device="meta"), "train"
            )
        )

    # --- members side by side ---------------------------------------------------------------------------------

    def evaluate(self, parameters: Tensors, x: torch.Tensor, buffers: Tensors = ()) -> Applied:
        """Outputs (M, C, N) and features (M, N, ...) of all members, in mode ``eval``."""
        return self._members(parameters, buffers, x, "eval")

    def forward(self, parameters: Tensors, x: torch.Tensor, buffers: Tensors = ()) -> torch.Tensor:
        """Outputs of all members, (M, C, N), in mode ``eval``.

        Of a large set, ``TOGETHER`` samples at a time: memory does not grow with the set, and the outputs stand in its
        order, so that whatever is summed over them is summed as for a small one.
        """
        import torch

        parts = torch.split(x, TOGETHER, dim=-2)
        each = [self._members(parameters, buffers, part, "eval", keep=False).outputs for part in parts]
        return torch.cat(each, dim=2) if len(each) > 1 else each[0]

    def together(self, samples: int) -> int:
        """How many samples of a set ``forward`` evaluates at once, for estimates of memory."""
        return min(samples, TOGETHER)

    def gradients(
        self, parameters: Tensors, x: torch.Tensor, y: torch.Tensor, loss: Loss, buffers: Tensors = ()
    ) -> Backward:
        """Outputs and gradients of the loss of each member, in mode ``train``."""
        if self._apart(parameters, x):
            each = self._each(parameters, buffers, x, y)
            return Backward(*_joined([self.gradients(W, xs, ys, loss, own) for W, own, xs, ys in each]))
        import torch

        # Not torch.func.vjp, which keeps the way back open for second derivatives and costs up to a fifth more.
        own = tuple(W.detach().requires_grad_() for W in parameters)
        with torch.enable_grad():
            applied = self._members(own, buffers, x, "train", keep=False)
        outputs, after = applied.outputs.detach(), tuple(b.detach() for b in self._after(buffers, applied))
        if not applied.outputs.requires_grad:  # they depend on no parameter
            return Backward(outputs, tuple(map(torch.zeros_like, own)), after)
        # Members do not interact, so pulling back every member's slope gives each its own gradient.
        slope = loss.slope(outputs, y.mT)
        return Backward(outputs, torch.autograd.grad(applied.outputs, own, slope, materialize_grads=True), after)

    def repeated_gradients(
        self, parameters: Tensors, loss: Loss
    ) -> Callable[[torch.Tensor, torch.Tensor, Tensors], Backward]:
        """``gradients`` for a training loop: a function of x, y and the buffers.

        The parameters may change in place between two calls. What a call returns may be overwritten by the next.
        """
        return lambda x, y, buffers: self.gradients(parameters, x, y, loss, buffers)

    def hessian_product(
        self,
        parameters: Tensors,
        x: torch.Tensor,
        y: torch.Tensor,
        loss: Loss,
        vectors: Tensors,
        buffers: Tensors = (),
    ) -> Tensors:
        """The Hessian of each member's loss times a vector, in mode ``eval``.

        The vector and the product have one tensor (M, out, fan_in) for each parameter.
        """
        from torch.func import vjp

        def gradient_of(own: Tensors) -> Tensors:
            pulled: Any = vjp(lambda W: self._members(W, buffers, x, "eval", keep=False).outputs, own)
            outputs, pull = pulled
            found: Tensors = pull(loss.slope(outputs, y.mT))[0]
            return found

        pulled: Any = vjp(gradient_of, parameters)  # the Hessian is symmetric: pulling back multiplies by it
        products: Tensors = pulled[1](vectors)[0]
        return products

    def tangent_kernel(
        self, parameters: Tensors, x: torch.Tensor, factors: torch.Tensor, buffers: Tensors = ()
    ) -> torch.Tensor:
        """``sum_k factors_k <dg/dW_k, dg/dW_k>`` between all outputs and samples.

        Args:
            parameters: of the members.
            x: (N, d).
            factors: on each parameter's term, (M, parameters).
            buffers: of the members.

        Returns:
            (M, C N, C N) with index c N + n.
        """
        import torch
        from torch.func import jacrev, vmap

        def of_member(own: Tensors, constants: Tensors, factor: torch.Tensor) -> torch.Tensor:
            def output(W: Tensors, sample: torch.Tensor) -> torch.Tensor:
                return self._one(W, constants, sample[None], "eval").outputs[0]  # (C,)

            total = torch.zeros((), dtype=x.dtype, device=x.device)
            for k, J in enumerate(vmap(jacrev(output), in_dims=(None, 0))(own, x)):  # (N, C, out, fan_in)
                flat = J.transpose(0, 1).reshape(J.shape[0] * J.shape[1], -1)
                total = total + factor[k] * (flat @ flat.T)
            return total

        constants = zip(*buffers, strict=True) if buffers else [()] * len(factors)
        each = zip(zip(*parameters, strict=True), constants, factors, strict=True)
        return torch.stack([of_member(*one) for one in each])

    def _one(self, parameters: Tensors, buffers: Tensors, x: torch.Tensor, mode: Mode) -> Applied:
        """``apply`` on one member's tensors (out, fan_in)."""
        return self.apply(_shaped(self.parameters, parameters), _shaped(self.buffers, buffers), x, mode)

    def _apart(self, parameters: Tensors, x: torch.Tensor) -> bool:
        return self.in_turn(x) and len(parameters[0]) > 1

    def _each(
        self, parameters: Tensors, buffers: Tensors, x: torch.Tensor, y: torch.Tensor
    ) -> Iterator[tuple[Tensors, Tensors, torch.Tensor, torch.Tensor]]:
        """Parameters, buffers, inputs and targets of each member, as of one network."""
        for m in range(len(parameters[0])):
            own, constants = (tuple(tensor[m : m + 1] for tensor in tensors) for tensors in (parameters, buffers))
            yield own, constants, x if x.dim() == 2 else x[m : m + 1], y if y.dim() == 2 else y[m : m + 1]

    def _members(
        self, parameters: Tensors, buffers: Tensors, x: torch.Tensor, mode: Mode, *, keep: bool = True
    ) -> Applied:
        """``apply`` on all members; without ``keep`` the features, most of the memory, are not returned."""
        if self.in_turn(x):
            return self._stacked(parameters, buffers, x, mode, keep=keep)
        from torch.func import vmap

        def one(own: Tensors, constants: Tensors, samples: torch.Tensor) -> tuple[Any, Any, Any]:
            applied = self._one(own, constants, samples, mode)
            return applied.outputs, dict(applied.features) if keep else {}, dict(applied.buffers)

        mapped = vmap(one, in_dims=(0, 0 if buffers else None, None if x.dim() == 2 else 0))
        outputs, features, after = mapped(parameters, buffers, x)
        return Applied(outputs.mT, features, after)

    def _stacked(self, parameters: Tensors, buffers: Tensors, x: torch.Tensor, mode: Mode, *, keep: bool) -> Applied:
        """As ``_members``, one after another; ``unbind``, since indexing would pull back a whole stack each time."""
        import torch

        own, constants = (zip(*(t.unbind() for t in tensors), strict=True) for tensors in (parameters, buffers))
        members = len(parameters[0])
        samples = [x] * members if x.dim() == 2 else x.unbind()
        each = []
        for W, b, xs in zip(own, constants if buffers else [()] * members, samples, strict=True):
            one = self._one(W, b, xs, mode)
            each.append(one if keep else Applied(one.outputs, buffers=one.buffers))
            del one  # a member's features go before the next member's come
        features, after = (
            {name: torch.stack([tensors[name] for tensors in found]) for name in found[0]}
            for found in ([one.features for one in each], [one.buffers for one in each])
        )
        return Applied(torch.stack([one.outputs for one in each]).mT, features, after)

    def _after(self, buffers: Tensors, applied: Applied) -> Tensors:
        """The buffers after a step in mode ``train``."""
        return tuple(
            applied.buffers[block.name].reshape(old.shape) if block.name in applied.buffers else old
            for block, old in zip(self.buffers, buffers, strict=True)
        )


def _joined(each: Sequence[Backward]) -> tuple[torch.Tensor, Tensors, Tensors]:
    """Those of several members, of those of each."""
    import torch

    gradients, buffers = (
        tuple(map(torch.cat, zip(*tensors, strict=True)))
        for tensors in ([one.gradients for one in each], [one.buffers for one in each])
    )
    return torch.cat([one.outputs for one in each]), gradients, buffers


def numbers_made(compute: Callable[[], object]) -> int:
    """How many numbers torch produces in a computation; views do not count."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    made = 0

    class Count(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
            nonlocal made
            out = func(*args, **(kwargs or {}))
            made += out.numel() if isinstance(out, torch.Tensor) and not func.is_view else 0
            return out

    with Count():  # type: ignore[no-untyped-call]
        compute()
    return made


def _shaped(blocks: Sequence[Block], tensors: Tensors) -> dict[str, torch.Tensor]:
    return {block.name: tensor.reshape(block.shape) for block, tensor in zip(blocks, tensors, strict=True)}


class NetworkOptions(Component):
    """A network's section of a recipe; ``build`` makes the network once the data is known.

    Attributes:
        dtype: floating-point type of weights, inputs and targets.
        reads_images: whether each row of x must be in the order of ``inputs``: channel, height, width.
        starts_itself: whether its networks have an initialisation of their own; see ``Network.start``.
    """

    kind: str
    dtype: Literal["float32", "float64"] = "float32"
    reads_images: ClassVar[bool] = False
    starts_itself: ClassVar[bool] = False

    @property
    def smallest_batch(self) -> int:
        """Samples that a step needs at least."""
        return 1

    def build(self, inputs: tuple[int, ...], outputs: int) -> Network:
        """The network for data of one shape.

        Args:
            inputs: shape of one sample, such as (1, 28, 28); ``apply`` receives it flattened.
            outputs: C.
        """
        raise NotImplementedError


NETWORKS: Registry[NetworkOptions] = Registry("network")
