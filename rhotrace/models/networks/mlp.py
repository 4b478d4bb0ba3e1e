"""The bias-free ReLU multilayer perceptron, with its forward and backward pass written out for all members at once."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le, MinLen
from pydantic import model_validator

from rhotrace.models.batch_normalisation import BatchNorm, BatchNormOptions
from rhotrace.models.component import fault
from rhotrace.models.network import NETWORKS, Applied, Backward, Block, Mode, Network

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
        import math

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
        return self.gradients_and_first_slope(parameters, x, y, loss, buffers)[0]

    def gradients_and_first_slope(
        self, parameters: Tensors, x: torch.Tensor, y: torch.Tensor, loss: Loss, buffers: Tensors = ()
    ) -> tuple[Backward, torch.Tensor]:
        """As ``gradients``, with dL/dz_1 of the first layer's pre-activations, (M, width, N)."""
        import torch

        active = []  # relu(h_k), (M, width, N)
        h = _first_layer(parameters[0], x)
        for W in parameters[1:]:
            h = h.relu_()
            active.append(h)
            h = torch.bmm(W, h)
        outputs = h
        error = loss.slope(outputs, y.mT)  # dL/dg, (M, C, N)
        gradients: list[Any] = [None] * len(parameters)
        for k in range(len(parameters) - 1, 0, -1):
            gradients[k] = torch.bmm(error, active[k - 1].mT)
            # relu'(h) is the sign of relu(h): 1 where it is positive, and 0 at h = 0, as torch takes it.
            error = torch.bmm(parameters[k].mT, error).mul_(active[k - 1].sign_())
        if x.dim() == 2:
            members, out, _ = error.shape
            gradients[0] = torch.mm(error.reshape(members * out, -1), x).view(members, out, -1)
        else:
            gradients[0] = torch.bmm(error, x)
        return Backward(outputs, tuple(gradients), buffers), error

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


# torch.bmm instead of @ above: at these sizes, @ spends as long on dispatch as on the product itself.


def _first_layer(W: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """W x for every member and sample, (M, out, N); one large product where the members share x."""
    import torch

    members, out, _ = W.shape
    if x.dim() == 2:
        return torch.mm(W.reshape(members * out, -1), x.T).view(members, out, -1)
    return torch.bmm(W, x.mT)


def _later_layers(parameters: Tensors, h: torch.Tensor) -> torch.Tensor:
    """Outputs of all members, (M, C, N), from those of the first layer after its ReLU."""
    import torch

    h = torch.bmm(parameters[1], h)
    for W in parameters[2:]:
        h = torch.bmm(W, h.relu_())
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
