"""The stable rank of the layers: how many directions share a layer's norm.

It is at least 1, at most the rank, and does not jump as the rank does when a small singular value passes a tolerance.
Layers that start small approach 1 in training (Ji and Telgarsky, arXiv:1810.02032).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rhotrace.recording import first_layer
from rhotrace.recording.quantity import Cadence, Quantity, register

if TYPE_CHECKING:
    import torch

    from rhotrace.recording.moment import Moment

_BEFORE = first_layer  # whose rows come first in every table


def finite_or_zero(W: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """W in float64 with zeros for each member that has a value that is not finite, and which members have none, (M,).

    A singular value decomposition fails for all members where one is not finite.
    """
    import torch

    W = W.double()
    finite = torch.isfinite(W).all(dim=(1, 2))
    return torch.where(finite[:, None, None], W, torch.zeros_like(W)), finite


def stable_ranks(moment: Moment) -> torch.Tensor:
    """``||W_k||^2 / ||W_k||_2^2``, (M, L); NaN where W_k is not finite or 0."""
    import torch

    found = []
    for weights in moment.weights:
        W, finite = finite_or_zero(weights)
        values = torch.linalg.svdvals(W).square()
        found.append(torch.where(finite, values.sum(dim=1) / values[:, 0], torch.nan))
    return torch.stack(found, dim=1)


register(
    Quantity(
        "stable_rank", "||V_k||^2/||V_k||_2^2", ("member", "layer"), "1", None, "stable_rank",
        "squared Frobenius norm of each layer over its squared spectral norm; kernels as matrices (out, rest)",
        measure=stable_ranks,
    ),
    Cadence("stable_rank", None, "stable rank of the layers; about the cost of a full-batch step on 1000 samples"),
)  # fmt: skip
