"""The sharpness of the loss and the activations that flip: what tells the edge of stability from chatter across kinks.

Gradient descent is at the edge of stability where learning rate times sharpness is near 2. A loss that alternates from
step to step below that may do so because activations of ReLUs change sign at every step. Both cost more than a step of
training, so a run records them only where its recipe says how often, as in ``record: {every: {sharpness: 100}}``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rhotrace.recording import quantities
from rhotrace.recording.quantity import Cadence, Quantity, register

if TYPE_CHECKING:
    import torch

    from rhotrace.recording.moment import Moment

_BEFORE = quantities  # whose rows come first in every table
_PRODUCTS = 40  # of Lanczos: the largest eigenvalue, far from the others, then has 4 digits or more
_SEED = 18  # of the first vector, so that a run repeats bit for bit


def largest_curvature(moment: Moment) -> torch.Tensor:
    """Largest eigenvalue of the Hessian of the full-set loss in all parameters, (M,), by Lanczos's method.

    Every new vector is made orthogonal to all before it, twice, so that rounding brings no eigenvalue back. The products
    have the run's precision, everything else has float64's.
    """
    import torch

    parameters = moment.state["weights"]
    sizes = [W[0].numel() for W in parameters]
    members, dtype = len(parameters[0]), parameters[0].dtype

    def product(flat: torch.Tensor) -> torch.Tensor:
        parts = zip(torch.split(flat.to(dtype), sizes, dim=1), parameters, strict=True)
        products = moment.hessian_product(tuple(part.reshape(W.shape) for part, W in parts))
        return torch.cat([P.double().reshape(members, -1) for P in products], dim=1)

    start = torch.randn(sum(sizes), generator=torch.Generator().manual_seed(_SEED), dtype=torch.float64)
    vector = (start / start.norm()).to(parameters[0].device).expand(members, -1)
    basis, diagonal, beside = [vector], [], []
    for _ in range(min(_PRODUCTS, sum(sizes))):
        new = product(basis[-1])
        diagonal.append((new * basis[-1]).sum(dim=1))
        rows = torch.stack(basis, dim=1)
        for _ in range(2):
            new = new - torch.einsum("mk,mkp->mp", torch.einsum("mkp,mp->mk", rows, new), rows)
        length = new.norm(dim=1)
        # The space is exhausted where only rounding is left: then the matrix falls apart into blocks, as it should.
        left = length > 1e-9 * torch.stack(diagonal).abs().amax(dim=0)
        beside.append(torch.where(left, length, 0.0))
        basis.append(torch.where(left[:, None], new / length[:, None], 0.0))
    small = torch.diag_embed(torch.stack(diagonal, dim=1))
    off = torch.diag_embed(torch.stack(beside[:-1], dim=1), offset=1) if len(beside) > 1 else torch.zeros_like(small)
    exhausted = torch.stack(beside, dim=1)[:, :-1].cumprod(dim=1) == 0  # of those rows only zeros came
    fill = torch.cat([torch.zeros_like(exhausted[:, :1]), exhausted], dim=1)
    small = small + torch.diag_embed(torch.where(fill, diagonal[0][:, None], 0.0))  # no larger than the largest
    whole = small + off + off.mT
    finite = torch.isfinite(whole).all(dim=(1, 2))
    found = torch.linalg.eigvalsh(torch.where(finite[:, None, None], whole, 0.0))[:, -1]
    return torch.where(finite, found, torch.nan)


def flips(moment: Moment) -> torch.Tensor:
    """Number of hidden activations on the training set that this step switches on or off, (M,); NaN without features."""
    import torch

    before, after = moment.full.features, moment.after.features
    if not before:
        return torch.full_like(moment.full.loss, torch.nan)
    changed = [((before[name] > 0) != (after[name] > 0)).flatten(1).sum(dim=1) for name in before]
    return torch.stack(changed).sum(dim=0).double()


register(
    Quantity(
        "sharpness", "lambda_1", ("member",), "1", None, "sharpness",
        "largest eigenvalue of the Hessian of the loss on the training set",
        measure=largest_curvature, needs=("hessian products",),
    ),
    Cadence("sharpness", None, "largest eigenvalue of the Hessian; 140 to 200 times the cost of a full-batch step"),
)  # fmt: skip
register(
    Quantity(
        "activation_flips", "flips", ("member",), "1", None, "activation_flips",
        "hidden activations on the training set that the step switches on or off",
        measure=flips, needs=("features",),
    ),
    Cadence("activation_flips", None, "hidden activations that a step switches on or off; about twice the cost of a full-batch step"),
)  # fmt: skip
