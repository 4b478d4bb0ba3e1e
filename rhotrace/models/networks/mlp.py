"""The bias-free ReLU multilayer perceptron, with its forward and backward pass written out for all members at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le, MinLen
from pydantic import model_validator

from rhotrace.models.batch_normalisation import BatchNorm, BatchNormOptions
from rhotrace.models.component import fault
from rhotrace.models.network import NETWORKS, Applied, Backward, Block, Mode, Network
from rhotrace.models.products import library, multiplied, product
from rhotrace.models.side_by_side import allocate

if TYPE_CHECKING:
    import torch

    from rhotrace.models.losses import Loss
    from rhotrace.models.network import Tensors

Width = Annotated[int, Ge(1), Le(1_000_000)]


@NETWORKS.register
class MLPOptions(BatchNormOptions):
    """A bias-free ReLU multilayer perceptron, ``g(x) = W_L relu(W_(L-1) ... relu(W_1 x))``.

    Attributes:
        depth: number of weight layers L.
        width: units of each hidden layer, or a list of L - 1 widths.
    """

    kind: Literal["mlp"] = "mlp"
    depth: Annotated[int, Ge(1), Le(1000)]
    width: Width | Annotated[list[Width], MinLen(1)] = 32

    @model_validator(mode="after")
    def _widths_fit_the_depth(self) -> MLPOptions:
        if isinstance(self.width, list) and len(self.width) != self.depth - 1:
            raise fault("width", f"got {len(self.width)} widths, expected depth - 1 = {self.depth - 1}")
        return self

    def build(self, inputs: tuple[int, ...], outputs: int) -> MLP | NormalisedMLP:
        """The network for samples of any shape, flattened."""
        hidden = [self.width] * (self.depth - 1) if isinstance(self.width, int) else self.width
        sizes = [math.prod(inputs), *hidden, outputs]
        return NormalisedMLP(sizes, self.normalisation) if self.normalisation else MLP(sizes)


class MLP(Network):
    """A bias-free ReLU multilayer perceptron.

    Args:
        sizes: d, units of the hidden layers, C.
    """

    def __init__(self, sizes: list[int]) -> None:
        pairs = enumerate(pairwise(sizes), 1)
        self.blocks = tuple(Block(f"W{k}", (out, into)) for k, (into, out) in pairs)

    def units(self, size: int) -> int:
        """The layers' outputs; see ``Network.units``."""
        del size
        return sum(block.shape[0] for block in self.blocks)

    def together(self, samples: int) -> int:
        """All of them; see ``Network.together``."""
        return samples

    def products(self, dtype: str, device: str) -> str:
        """See ``rhotrace.models.products``."""
        return library(dtype, device)

    def apply(
        self, parameters: Mapping[str, torch.Tensor], buffers: Mapping[str, torch.Tensor], x: torch.Tensor, mode: Mode
    ) -> Applied:
        """The definition, for one member; training uses the forms below, which do the same for all members at once."""
        del buffers, mode
        h, features = x.mT, {}
        for number, W in enumerate(parameters.values(), 1):
            h = W @ h
            if number < len(parameters):
                h = h.relu()
                features[f"h{number}"] = h.mT
        return Applied(h.mT, features)

    def forward(self, parameters: Tensors, x: torch.Tensor, buffers: Tensors = ()) -> torch.Tensor:
        """Outputs of all members, (M, C, N)."""
        del buffers
        h = self.first(parameters, x)
        return _later_layers(parameters, h.relu_()) if len(parameters) > 1 else h

    def first(self, parameters: Tensors, x: torch.Tensor) -> torch.Tensor:
        """The first layer's pre-activations of all members, (M, width, N)."""
        return _first_layer(parameters[0], x)

    def forward_from(self, parameters: Tensors, z: torch.Tensor) -> torch.Tensor:
        """As ``forward``, from the first layer's pre-activations; these are left as they are."""
        return _later_layers(parameters, z.relu()) if len(parameters) > 1 else z

    def gradients(
        self, parameters: Tensors, x: torch.Tensor, y: torch.Tensor, loss: Loss, buffers: Tensors = ()
    ) -> Backward:
        """Back-propagation by hand: at these sizes automatic differentiation costs more than the products."""
        return Backpropagation(parameters, loss)(x, y, buffers)

    def repeated_gradients(self, parameters: Tensors, loss: Loss) -> Backpropagation:
        """As ``gradients``, with memory that is allocated once; see ``Network.repeated_gradients``."""
        return Backpropagation(parameters, loss)

    def tangent_kernel(
        self, parameters: Tensors, x: torch.Tensor, factors: torch.Tensor, buffers: Tensors = ()
    ) -> torch.Tensor:
        """Layer by layer: dg_c/dW_k is an outer product, so inner products of two of them factorise.

        The general form takes N C times the memory of a layer's weights.
        """
        import torch

        del buffers
        inputs = [x.T.expand(len(parameters[0]), -1, -1)]  # of each layer, (M, in, N)
        for W in parameters[:-1]:
            inputs.append(torch.bmm(W, inputs[-1]).relu_())
        members, outputs, _ = parameters[-1].shape
        samples = len(x)
        # dg_c/dz_k for every output and sample, (M, units, C N); dg/dz_L is the identity.
        signal = torch.eye(outputs, dtype=x.dtype, device=x.device).repeat_interleave(samples, dim=1)
        signal = signal.expand(members, -1, -1)
        kernel = torch.zeros(members, outputs * samples, outputs * samples, dtype=x.dtype, device=x.device)
        for k in range(len(parameters) - 1, -1, -1):
            of_inputs = torch.bmm(inputs[k].mT, inputs[k]).repeat(1, outputs, outputs)
            kernel += factors[:, k, None, None] * torch.bmm(signal.mT, signal) * of_inputs
            if k:
                signal = torch.bmm(parameters[k].mT, signal) * inputs[k].sign().repeat(1, 1, outputs)
        return kernel


class Backpropagation:
    """Outputs and gradients of a multilayer perceptron at parameters that may change in place between two calls.

    All results are in memory that belongs to this object: a call overwrites those of the last one.

    Args:
        parameters: one tensor (M, out, fan_in) for each layer.
        loss: of the run.

    Attributes:
        slope: dL/dz_1 of the first layer's pre-activations, (M, width, N), after a call.
    """

    def __init__(self, parameters: Tensors, loss: Loss) -> None:
        self.loss, self.parameters = loss, parameters
        self.slope = parameters[0]  # until the first call
        self._shape: tuple[int, ...] = ()

    def _allocate(self, x: torch.Tensor) -> None:
        """Memory for batches of one shape, the views of it that each layer needs, and how to multiply them."""
        W, like, samples = self.parameters, self.parameters[0], x.shape[-2]
        self._shape = x.shape
        G = self.gradients = allocate([w.shape for w in W], like)
        shapes = [(len(w), w.shape[1], samples) for w in W]
        # z_k, then relu(z_k), then its sign, (M, width, N); the last are the outputs
        active = [like.new_empty(shape) for shape in shapes]
        # dL/dz_k, in two places by turns
        largest = max(map(math.prod, shapes[:-1]), default=0)
        places = [like.new_empty(largest) for _ in range(2)]
        errors = [places[k % 2][: math.prod(shape)].view(shape) for k, shape in enumerate(shapes[:-1])]
        self._outputs = active[-1]
        self._forward = [(product(W[k], active[k - 1]), W[k], active[k - 1], active[k]) for k in range(1, len(W))]
        self._back = [
            (product(active[k], h.mT), G[k], h.mT, product(W[k].mT, active[k]), W[k].mT, h, errors[k - 1])
            for k, h in reversed(list(enumerate(active[:-1], 1)))
        ]
        # Where the members share x, the first layer is one product of all of them.
        together = len(like) if x.dim() == 2 else 1
        first, z, G_first = (t.view(-1, t.shape[-1]) if x.dim() == 2 else t for t in (like, active[0], G[0]))
        self._first = product(first, x.mT, together), first, z
        self._first_gradient = product(z, x, together), z.shape, G_first

    def __call__(self, x: torch.Tensor, y: torch.Tensor, buffers: Tensors = ()) -> Backward:
        """Outputs and gradients on one batch."""
        if x.shape != self._shape:
            self._allocate(x)
        multiply, W, z = self._first
        multiply(W, x.mT, out=z)
        for multiply, W, h, z in self._forward:
            multiply(W, h.relu_(), out=z)
        error = self.loss.slope(self._outputs, y.mT)  # dL/dg, (M, C, N)
        for multiply, G, transposed, multiply_back, back, h, place in self._back:
            multiply(error, transposed, out=G)
            # relu'(z) is the sign of relu(z): 1 where it is positive, and 0 at z = 0, as torch takes it.
            error = multiply_back(back, error, out=place).mul_(h.sign_())
        multiply, shape, G = self._first_gradient
        multiply(error.reshape(shape), x, out=G)
        self.slope = error
        return Backward(self._outputs, self.gradients, buffers)


def _first_layer(W: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """W x for every member and sample, (M, out, N); one large product where the members share x."""
    members, out, _ = W.shape
    if x.dim() == 2:
        return multiplied(W.reshape(members * out, -1), x.T, members).view(members, out, -1)
    return multiplied(W, x.mT)


def _later_layers(parameters: Tensors, h: torch.Tensor) -> torch.Tensor:
    """Outputs of all members, (M, C, N), from those of the first layer after its ReLU."""
    h = multiplied(parameters[1], h)
    for W in parameters[2:]:
        h = multiplied(W, h.relu_())
    return h


class NormalisedMLP(Network):
    """As ``MLP``, with batch normalisation between each layer but the last and its ReLU; see ``BatchNorm``.

    Its gradients are the derived ones: the forms above know nothing of a normalisation.

    Args:
        sizes: d, units of the hidden layers, C.
        normalisation: of the hidden layers.
    """

    def __init__(self, sizes: list[int], normalisation: BatchNorm) -> None:
        self.normalisation = normalisation
        blocks: list[Block] = []
        for number, (into, out) in enumerate(pairwise(sizes[:-1]), 1):
            blocks += [Block(f"W{number}", (out, into), degree=normalisation.degree)]
            blocks += normalisation.buffers(number, out)
        self.blocks = (*blocks, Block(f"W{len(sizes) - 1}", (sizes[-1], sizes[-2])))

    def apply(
        self, parameters: Mapping[str, torch.Tensor], buffers: Mapping[str, torch.Tensor], x: torch.Tensor, mode: Mode
    ) -> Applied:
        """The forward pass of one member."""
        *hidden, last = parameters.values()
        h, features, after = x, {}, {}
        for number, W in enumerate(hidden, 1):
            z, new = self.normalisation(h @ W.mT, number, buffers, mode)
            after.update(new)
            features[f"h{number}"] = h = z.relu()
        return Applied(h @ last.mT, features, after)
