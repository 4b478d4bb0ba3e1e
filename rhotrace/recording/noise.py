"""The noise of minibatch gradients: the variance over the training set, and the "simple" noise scale.

``tr(Sigma)/||G||^2`` (McCandlish et al., arXiv:1812.06162) is the batch size at which the noise of a minibatch gradient is
as large as the gradient G itself. Sigma is the covariance of the gradients of single samples. Here the training set is
the whole population, so both are exact, under full batch too: Sigma is a mean over its N samples, and weight decay,
which every sample shares, is in neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rhotrace.recording import hessian_trace
from rhotrace.recording.quantity import Cadence, Quantity, Rows, Traced, register

if TYPE_CHECKING:
    import torch

    from rhotrace.recording.moment import Moment

_BEFORE = hessian_trace  # whose rows come first in every table
_NUMBERS = 1 << 18  # in the gradients of single samples that are in memory at once


def _spread(moment: Moment) -> tuple[torch.Tensor, torch.Tensor]:
    """``tr(Sigma)`` and ``||G||^2``, each (M,).

    Every sample goes through a copy of its member, with a batch of itself alone: so the gradients are those of training,
    by whichever way the network computes them.
    """
    import torch

    weights, samples = moment.state["weights"], len(moment.x)
    members = len(weights[0])
    together = max(1, _NUMBERS // sum(W.numel() for W in weights))
    squares = torch.zeros(members, dtype=torch.float64, device=moment.x.device)
    sums = [torch.zeros_like(W, dtype=torch.float64) for W in weights]
    for x, y in zip(torch.split(moment.x, together), torch.split(moment.y, together), strict=True):
        copies = tuple(W.repeat_interleave(len(x), dim=0) for W in weights)
        each = moment.network.gradients(
            copies, x.repeat(members, 1)[:, None], y.repeat(members, 1)[:, None], moment.loss
        ).gradients
        for total, G in zip(sums, each, strict=True):
            of_samples = G.double().view(members, len(x), -1)
            squares += of_samples.square().sum(dim=(1, 2))
            total += of_samples.sum(dim=1).view_as(total)  # noqa: PLW2901 - in place
    square = torch.stack([(total / samples).square().sum(dim=(1, 2)) for total in sums]).sum(dim=0)
    return squares / samples - square, square


def variances(moment: Moment) -> torch.Tensor:
    """``tr(Sigma)``, (M,)."""
    return moment.once(_spread)[0]


def squares(moment: Moment) -> torch.Tensor:
    """``||G||^2``, (M,)."""
    return moment.once(_spread)[1]


def _scale(rows: Rows) -> NDArray[np.float64]:
    return np.asarray(rows["gradient_variance"] / rows["gradient_square"])


def _refuses(run: Traced) -> str:
    if not run.network.buffers:
        return ""
    return (
        f"this network has {run.network.buffers[0].name}, which is not trained: where outputs depend on the whole batch, as "
        "under batch normalisation, a single sample has no gradient of its own"
    )


register(
    Quantity(
        "gradient_variance", "tr Sigma", ("member",), "1", None, "noise_scale",
        "trace of the covariance of the gradients of single training samples, a mean over the set",
        measure=variances, needs=("sample gradients",), refuses=_refuses,
    ),
    Cadence("noise_scale", None, "gradient of every training sample; 20 to 50 times the cost of a full-batch step"),
)  # fmt: skip
register(
    Quantity(
        "gradient_square", "||G||^2", ("member",), "1", None, "noise_scale",
        "squared norm of the gradient on the training set, in all parameters",
        measure=squares, needs=("sample gradients",), refuses=_refuses,
    )
)  # fmt: skip
register(
    Quantity(
        "noise_scale", "tr(Sigma)/||G||^2", ("member",), "1", None, "noise_scale",
        "simple noise scale: the batch size at which a minibatch gradient is as much noise as signal",
        derive=_scale, needs=("sample gradients",), refuses=_refuses,
    )
)  # fmt: skip
