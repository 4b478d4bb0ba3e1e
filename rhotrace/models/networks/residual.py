"""A bias-free residual multilayer perceptron: ``h + W relu(h)`` between an input and an output layer.

For fixed activations the network is a sum over the sets of blocks that a path goes through: of networks of depths 2 to
L with shared weights, as the memo's third open question has it. So it is not homogeneous in the layer of a block:
``<W_k, dg/dW_k>`` is that part of g whose paths go through block k. No degree is claimed for these layers. Input and
output layers scale every path, and have degree 1.

What rho means then: the norms rho_k are traced as ever, and so is their product, but g/rho is no normalised network.
With all blocks at 0 the product is 0, and g is the network of two layers. The norm of a block says how much the deeper
paths weigh, and rho_eq, T and the fluctuation around rho_eq do not apply.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le

from rhotrace.models.network import NETWORKS, Applied, Block, Mode, Network, NetworkOptions

if TYPE_CHECKING:
    import torch


@NETWORKS.register
class ResidualOptions(NetworkOptions):
    """A residual ReLU network without biases, a mixture of depths 2 to ``depth``.

    Attributes:
        depth: number of weight layers L, of which L - 2 are within blocks.
        width: units of each hidden layer.
    """

    kind: Literal["residual"] = "residual"
    depth: Annotated[int, Ge(2), Le(1000)]
    width: Annotated[int, Ge(1), Le(1_000_000)] = 32

    def build(self, inputs: tuple[int, ...], outputs: int) -> Residual:
        """The network for samples of any shape, flattened."""
        return Residual(math.prod(inputs), self.width, self.depth, outputs)


class Residual(Network):
    """``g(x) = W_L relu(h)``, where ``h`` starts at W_1 x and each block adds W_k relu(h) to it.

    Args:
        inputs: d.
        width: units of h.
        depth: L.
        outputs: C.
    """

    def __init__(self, inputs: int, width: int, depth: int, outputs: int) -> None:
        inner = (Block(f"W{k}", (width, width), degree=None) for k in range(2, depth))
        self.blocks = (Block("W1", (width, inputs)), *inner, Block(f"W{depth}", (outputs, width)))

    def apply(
        self, parameters: Mapping[str, torch.Tensor], buffers: Mapping[str, torch.Tensor], x: torch.Tensor, mode: Mode
    ) -> Applied:
        """The forward pass of one member; its features are h after the input layer and after each block."""
        del buffers, mode
        first, *inner, last = parameters.values()
        h = x @ first.mT
        features = {"h1": h}
        for number, W in enumerate(inner, 2):
            features[f"h{number}"] = h = h + h.relu() @ W.mT
        return Applied(h.relu() @ last.mT, features)
