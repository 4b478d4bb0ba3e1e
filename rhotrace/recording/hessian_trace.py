"""The trace of the Hessian of the loss, estimated from products with random vectors, and the error of the estimate.

Hutchinson's estimate, the mean of <v, H v> over random signs v, varies most where few eigenvalues are large, as they are
in training. So the subspace in which the first probes see them is taken exactly, and only the rest is estimated
(Hutch++, arXiv:2010.09649). The probes are the same for every member and at every step.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rhotrace.recording import distance
from rhotrace.recording.quantity import Cadence, Quantity, register

if TYPE_CHECKING:
    import torch

    from rhotrace.recording.moment import Moment

_BEFORE = distance  # whose rows come first in every table
PROBES = 13  # vectors of each of three kinds, so that the cost is nearly that of the sharpness
_SEED = 19  # of the probes, so that a run repeats bit for bit


def _estimate(moment: Moment) -> tuple[torch.Tensor, torch.Tensor]:
    """The trace, and the standard error of its estimate, each (M,); the products have the run's precision."""
    import torch

    parameters = moment.state["weights"]
    sizes = [W[0].numel() for W in parameters]
    members, dtype, device = len(parameters[0]), parameters[0].dtype, parameters[0].device

    def product(flat: torch.Tensor) -> torch.Tensor:
        parts = zip(torch.split(flat.to(dtype), sizes, dim=1), parameters, strict=True)
        products = moment.hessian_product(tuple(part.reshape(W.shape) for part, W in parts))
        return torch.cat([P.double().reshape(members, -1) for P in products], dim=1)

    def products(vectors: torch.Tensor) -> torch.Tensor:
        """Of vectors (M, size, n)."""
        return torch.stack([product(vectors[:, :, k]) for k in range(vectors.shape[2])], dim=2)

    probes = min(PROBES, sum(sizes))
    drawn = torch.randint(2, (2, sum(sizes), probes), generator=torch.Generator().manual_seed(_SEED))
    first, second = (2.0 * drawn.double() - 1).to(device)
    basis = torch.linalg.qr(products(first.expand(members, -1, -1))).Q
    seen = (basis * products(basis)).sum(dim=(1, 2))
    rest = second - basis @ (basis.mT @ second)
    each = (rest * products(rest)).sum(dim=1)  # (M, probes)
    if probes == sum(sizes):  # the basis spans the whole space
        return seen, torch.zeros_like(seen)
    return seen + each.mean(dim=1), each.std(dim=1) / math.sqrt(probes)


def traces(moment: Moment) -> torch.Tensor:
    """The trace of the Hessian, (M,)."""
    return moment.once(_estimate)[0]


def errors(moment: Moment) -> torch.Tensor:
    """Its standard error, (M,); 0 where the probes span the whole space."""
    return moment.once(_estimate)[1]


register(
    Quantity(
        "hessian_trace", "tr H", ("member",), "1", None, "hessian_trace",
        "trace of the Hessian of the loss on the training set, estimated from random probes",
        measure=traces, needs=("hessian products",),
    ),
    Cadence("hessian_trace", None, "trace of the Hessian and its error; 120 to 140 times the cost of a full-batch step"),
)  # fmt: skip
register(
    Quantity(
        "hessian_trace_error", "se(tr H)", ("member",), "1", None, "hessian_trace",
        "standard error of hessian_trace over the probes",
        measure=errors, needs=("hessian products",),
    )
)  # fmt: skip
