"""The effective dimension: how many directions of the parameters the training set determines.

``sum_i lambda_i/(lambda_i + z)`` (MacKay, Neural Computation 4, 1992; Maddox et al., arXiv:2003.02139), with lambda_i the
eigenvalues of the tangent kernel ``sum_k <dg/dW_k, dg/dW_k>`` between all outputs and samples, divided by N. All are taken,
and none is negative, which those of the Hessian may be. For the square loss, 2 lambda_i are the eigenvalues of the
Gauss-Newton part of the Hessian. z is absolute, as the precision of MacKay's prior is: it is not relative to lambda_1.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

from rhotrace.models.network import Network
from rhotrace.recording import noise
from rhotrace.recording.quantity import Axis, Cadence, Quantity, Traced, register

if TYPE_CHECKING:
    import torch

    from rhotrace.models.network import Tensors
    from rhotrace.recording.moment import Moment

_BEFORE = noise  # whose rows come first in every table
DAMPING = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
LARGEST = 4096  # rows of the kernel, N C
_NUMBERS = 1 << 24


def effective_dimensions(moment: Moment) -> torch.Tensor:
    """One number for each z, (M, z); NaN where the kernel is not finite. All in float64."""
    import torch

    x, z = moment.x.double(), torch.tensor(DAMPING, dtype=torch.float64, device=moment.x.device)
    found = []
    for m in range(len(moment.state["weights"][0])):
        weights, buffers = (
            tuple(W[m : m + 1].double() for W in tensors) for tensors in (moment.state["weights"], moment.buffers)
        )
        K = kernel(moment.network, weights, x, buffers, moment.y.shape[1]) / len(x)
        finite = torch.isfinite(K).all()
        values = torch.linalg.eigvalsh(torch.where(finite, K, 0.0)).clamp(min=0)
        found.append(torch.where(finite, (values[:, None] / (values[:, None] + z)).sum(dim=0), torch.nan))
    return torch.stack(found)


def kernel(
    network: Network,
    weights: Tensors,
    x: torch.Tensor,
    buffers: Tensors,
    outputs: int,
    numbers: int = _NUMBERS,
) -> torch.Tensor:
    """The tangent kernel of one member, (C N, C N); by pairs of blocks of samples where derivatives need much memory.

    Args:
        network: of the member.
        weights: its parameters, each (1, out, fan_in).
        x: (N, d).
        buffers: its buffers.
        outputs: C.
        numbers: in the derivatives of the outputs that are in memory at once.
    """
    import torch

    def between(samples: torch.Tensor) -> torch.Tensor:
        factors = torch.ones(1, len(weights), dtype=x.dtype, device=x.device)
        found = network.tangent_kernel(weights, samples, factors, buffers)[0]
        return found.reshape(outputs, len(samples), outputs, len(samples))

    needed = outputs * sum(W.numel() for W in weights)  # numbers for each sample
    own_form = type(network).tangent_kernel is not Network.tangent_kernel  # which needs no derivatives of all outputs
    if own_form or needed * len(x) <= numbers:
        return between(x).reshape(outputs * len(x), -1)
    whole = x.new_zeros(outputs, len(x), outputs, len(x))
    size = max(1, numbers // (2 * needed))
    blocks = [slice(first, min(first + size, len(x))) for first in range(0, len(x), size)]
    for rows, columns in combinations(blocks, 2):
        found, n = between(torch.cat([x[rows], x[columns]])), rows.stop - rows.start
        whole[:, rows, :, rows], whole[:, rows, :, columns] = found[:, :n, :, :n], found[:, :n, :, n:]
        whole[:, columns, :, rows], whole[:, columns, :, columns] = found[:, n:, :, :n], found[:, n:, :, n:]
    return whole.reshape(outputs * len(x), -1)


def _refuses(run: Traced) -> str:
    rows = run.outputs * run.samples
    if rows <= LARGEST:
        return ""
    return (
        f"the tangent kernel of {run.samples} samples and {run.outputs} output{'s' * (run.outputs > 1)} has {rows} rows, "
        f"expected at most {LARGEST}, since all its eigenvalues are needed"
    )


register(
    Quantity(
        "effective_dimension", "N_eff", ("member", Axis("z", DAMPING)), "1", None, "effective_dimension",
        "sum of lambda_i/(lambda_i + z) over the eigenvalues lambda_i of the tangent kernel divided by N",
        measure=effective_dimensions, needs=("tangent kernel",), refuses=_refuses,
    ),
    Cadence(
        "effective_dimension", None,
        "tangent kernel of the training set and its eigenvalues; 20 times the cost of a full-batch step for each network at 1000 "
        "rows, growing as rows^3",
    ),
)  # fmt: skip
