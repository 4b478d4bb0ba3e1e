"""The alignment of neighbouring layers: the overlap of the leading singular vectors where one layer meets the next.

Gradient descent brings it to 1 in deep linear networks on separable data (Ji and Telgarsky, arXiv:1810.02032), where
each layer passes its one direction on to the next.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from rhotrace.recording import stable_rank
from rhotrace.recording.quantity import Axis, Cadence, Quantity, Traced, register

if TYPE_CHECKING:
    import torch

    from rhotrace.models.network import Block
    from rhotrace.recording.moment import Moment

_BEFORE = stable_rank  # whose rows come first in every table


def alignments(moment: Moment) -> torch.Tensor:
    """``|<u_1 of W_k, v_1 of W_(k+1)>|``, (M, L - 1); NaN for layers that do not meet, or are 0 or not finite.

    u_1 is the leading left singular vector of W_k as a matrix (out, rest), and v_1 the leading right one of W_(k+1) as a
    matrix (rest, in): over its inputs, which of a kernel are its channels.
    """
    import torch

    layers = list(zip(moment.network.layers, moment.weights, strict=True))
    found = []
    for (below, W), (above, after) in pairwise(layers):
        if not _meet(below, above):
            found.append(torch.full((len(W),), torch.nan, dtype=torch.float64, device=W.device))
            continue
        by_input = after.reshape(len(after), *above.shape).movedim(2, -1).reshape(len(after), -1, above.shape[1])
        found.append((_leading(W.mT) * _leading(by_input)).sum(dim=1).abs())
    return torch.stack(found, dim=1)


def _meet(below: Block, above: Block) -> bool:
    """Whether the inputs of a layer are the outputs of the one before it, by their number."""
    return len(above.shape) > 1 and above.shape[1] == below.shape[0]


def _leading(W: torch.Tensor) -> torch.Tensor:
    """The leading right singular vector of each member, (M, columns); NaN where there is none."""
    import torch

    W, finite = stable_rank.finite_or_zero(W)
    _, values, right = torch.linalg.svd(W, full_matrices=False)
    return torch.where((finite & (values[:, 0] > 0))[:, None], right[:, 0], torch.nan)


def _refuses(run: Traced) -> str:
    if any(_meet(below, above) for below, above in pairwise(run.network.layers)):
        return ""
    return "no layer of this network has as many inputs as the layer before it has outputs"


PAIR = Axis("pair", lambda run: [float(k) for k in range(1, len(run.network.layers))])

register(
    Quantity(
        "alignment", "|<u_k, v_(k+1)>|", ("member", PAIR), "1", None, "alignment",
        "overlap of the leading left singular vector of W_k with the leading right one of W_(k+1), "
        "over channels for kernels",
        measure=alignments, refuses=_refuses,
    ),
    Cadence("alignment", None, "alignment of neighbouring layers; 1 to 2 times the cost of a full-batch step on 1000 samples"),
)  # fmt: skip
