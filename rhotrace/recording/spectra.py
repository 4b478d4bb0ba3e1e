"""The rank of the layers, which small batches, large learning rates and weight decay lower (arXiv:2206.05794)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rhotrace.recording import curvature
from rhotrace.recording.quantity import Cadence, Quantity, register

if TYPE_CHECKING:
    import torch

    from rhotrace.recording.moment import Moment

_BEFORE = curvature  # whose rows come first in every table
TOLERANCE = 1e-3  # of the paper


def ranks(moment: Moment) -> torch.Tensor:
    """Singular values of each V_k = W_k/||W_k|| that are above ``TOLERANCE``, (M, L); NaN where W_k is not finite."""
    import torch

    found = []
    for W in moment.weights:
        W = W.double()  # noqa: PLW2901 - the same weights
        norms = torch.linalg.vector_norm(W, dim=(1, 2))
        finite = torch.isfinite(norms)
        safe = torch.where(finite[:, None, None], W, torch.zeros_like(W))
        above = torch.linalg.svdvals(safe) > TOLERANCE * torch.where(finite, norms, 0.0)[:, None]
        found.append(torch.where(finite, above.sum(dim=1).double(), torch.nan))
    return torch.stack(found, dim=1)


register(
    Quantity(
        "rank", "rank V_k", ("member", "layer"), "1", None, "rank",
        f"number of singular values of each layer's W_k/||W_k|| above {TOLERANCE:g}",
        measure=ranks,
    ),
    Cadence("rank", None, "rank of the layers; about the cost of a full-batch step on 1000 samples"),
)  # fmt: skip
