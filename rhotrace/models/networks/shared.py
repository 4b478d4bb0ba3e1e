"""A bias-free ReLU network that uses one square matrix in all its hidden layers, as a recurrent network does.

The memo expects of it the dynamics of the unrolled network (after its open questions: "recurrent networks work almost
as well as unrolled networks"). The outputs are homogeneous of degree L - 2 in the shared matrix, which is used L - 2
times: scaling it by c scales g by c^(L - 2). So

    <W_shared, dL/dW_shared> = 2 (L - 2) (q - a)   and   d(rho_shared^2)/dt = 4 (L - 2) (a - q),

L - 2 times the rate of the other two layers. ``rho_shared^2/(L - 2) - rho_in^2`` is what gradient flow conserves here,
and one step of descent obeys the step identity with that degree.

What rho means then: ``rho_in rho_shared^(L - 2) rho_out`` is the scale of the outputs. The traced ``log_rho`` is the plain
product of the three norms in every run file, so that one name has one meaning, and is that scale only at L = 3. For
deeper networks rho_eq, T and the fluctuation around rho_eq are therefore not given. The scale itself follows from the
traced rho_k, and its equilibrium is the scale times a/q. All norms are stationary where a = q, as in the memo.
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
class SharedOptions(NetworkOptions):
    """A ReLU network without biases whose hidden layers share one matrix.

    Attributes:
        depth: number of layers L; the shared matrix is used L - 2 times.
        width: units of each hidden layer.
    """

    kind: Literal["shared"] = "shared"
    depth: Annotated[int, Ge(3), Le(1000)]
    width: Annotated[int, Ge(1), Le(1_000_000)] = 32

    def build(self, inputs: tuple[int, ...], outputs: int) -> Shared:
        """The network for samples of any shape, flattened."""
        return Shared(math.prod(inputs), self.width, self.depth, outputs)


class Shared(Network):
    """``g(x) = W_out relu(W_shared ... relu(W_shared relu(W_in x)))``.

    Args:
        inputs: d.
        width: units of each hidden layer.
        depth: L.
        outputs: C.
    """

    def __init__(self, inputs: int, width: int, depth: int, outputs: int) -> None:
        self.uses = depth - 2
        self.blocks = (
            Block("W_in", (width, inputs)),
            Block("W_shared", (width, width), degree=self.uses),
            Block("W_out", (outputs, width)),
        )

    def apply(
        self, parameters: Mapping[str, torch.Tensor], buffers: Mapping[str, torch.Tensor], x: torch.Tensor, mode: Mode
    ) -> Applied:
        """The forward pass of one member; its features are those behind each ReLU."""
        del buffers, mode
        h = (x @ parameters["W_in"].mT).relu()
        features = {"h1": h}
        for number in range(2, self.uses + 2):
            features[f"h{number}"] = h = (h @ parameters["W_shared"].mT).relu()
        return Applied(h @ parameters["W_out"].mT, features)
