"""Batch normalisation without trained scale and shift (Ioffe and Szegedy, arXiv:1502.03167), for networks that offer it.

In mode ``train`` each unit is centred and divided by its standard deviation over the batch; in mode ``eval`` by the
running statistics, which every step moves a tenth of the way to the batch's, as PyTorch does.

The scale of the weights in front of it cancels: in mode ``train`` the outputs are homogeneous of degree 0 in them.
So ``<W_k, dL/dW_k> = 0`` there, and a step of descent can only lengthen W_k, by ``eta^2 ||G_k||^2`` in its square.
The product of all layer norms no longer scales the outputs, and f = g/rho and rho_eq do not exist. What scales them
is the norm of the last layer, which nothing follows: it has degree 1.

This is exact where ``epsilon`` is 0. An epsilon that is not small beside the variance of the units leaves part of
the scale, and then no degree is claimed. With ||x|| = 1 and small initial weights, PyTorch's 1e-5 is not small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeVar

from annotated_types import Ge
from pydantic import model_validator

from rhotrace.models.component import fault
from rhotrace.models.network import Block, Mode, Network, NetworkOptions

if TYPE_CHECKING:
    import torch

MOMENTUM = 0.1  # share of a batch in the running statistics
_VARIANCE = "variance"

T = TypeVar("T")


@dataclass(frozen=True)
class BatchNorm:
    """One rule for all normalisations of a network.

    Attributes:
        epsilon: added to each variance.
    """

    epsilon: float = 0.0

    @property
    def degree(self) -> float | None:
        """Of homogeneity of the outputs in the weights of a layer that a normalisation follows."""
        return None if self.epsilon else 0

    def buffers(self, layer: int, units: int) -> tuple[Block, Block]:
        """The running statistics behind a layer."""
        return (
            Block(f"mean{layer}", (units,), role="buffer", degree=None),
            Block(f"{_VARIANCE}{layer}", (units,), role="buffer", degree=None, start=1.0),
        )

    def __call__(
        self, z: torch.Tensor, layer: int, buffers: Mapping[str, torch.Tensor], mode: Mode
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The units of a layer normalised, and the running statistics after the step.

        Args:
            z: (N, units, ...), what the layer's weights give.
            layer: its number.
            buffers: of the network, by name.
            mode: see ``Network.apply``.

        Returns:
            Normalised units; one that is constant over the batch becomes 0. New buffers, in mode ``train`` alone.
        """
        names = f"mean{layer}", f"{_VARIANCE}{layer}"
        column = (1, -1, *[1] * (z.dim() - 2))
        if mode == "eval":
            mean, variance = (buffers[name].view(column) for name in names)
            return (z - mean) * self._factor(variance), {}
        over = (0, *range(2, z.dim()))
        count = z.numel() // z.shape[1]
        # As z.mean, to the same bits; but its gradient is divided by the count before it is spread over the samples.
        mean = z.sum(over, keepdim=True) / count
        centred = z - mean
        variance = centred.square().sum(over, keepdim=True) / count
        batch = mean.detach().flatten(), variance.detach().flatten() * (count / max(count - 1, 1))  # unbiased
        after = {
            name: (1 - MOMENTUM) * buffers[name] + MOMENTUM * of_batch
            for name, of_batch in zip(names, batch, strict=True)
        }
        return centred * self._factor(variance), after

    def _factor(self, variance: torch.Tensor) -> torch.Tensor:
        """1/sqrt(variance + epsilon), and 0 with slope 0 where that is 0."""
        safe = variance + self.epsilon
        varies = safe > 0
        return safe.where(varies, 1.0).rsqrt().where(varies, 0.0)


def of_variances(network: Network, tensors: Sequence[T]) -> list[T]:
    """The running variances among one tensor for each buffer of a network; none without batch normalisation."""
    pairs = zip(network.buffers, tensors, strict=True)
    return [tensor for block, tensor in pairs if block.name.startswith(_VARIANCE)]


class BatchNormOptions(NetworkOptions):
    """A network that may have batch normalisation behind each layer but the last.

    Attributes:
        batch_norm: normalise each unit over the batch, in front of its ReLU.
        batch_norm_epsilon: added to each variance; 0 leaves the layers exactly of degree 0.
    """

    batch_norm: bool = False
    batch_norm_epsilon: Annotated[float, Ge(0)] = 0.0

    @model_validator(mode="after")
    def _epsilon_belongs_to_a_normalisation(self) -> BatchNormOptions:
        if self.batch_norm_epsilon and not self.batch_norm:
            raise fault(
                "batch_norm_epsilon", f"got {self.batch_norm_epsilon:g}, expected it with batch_norm: true alone"
            )
        return self

    @property
    def smallest_batch(self) -> int:
        """A normalised sample alone is its own mean, and becomes 0 whatever the weights are."""
        return 2 if self.batch_norm else 1

    @property
    def normalisation(self) -> BatchNorm | None:
        """What stands behind each layer but the last; None for nothing."""
        return BatchNorm(self.batch_norm_epsilon) if self.batch_norm else None
