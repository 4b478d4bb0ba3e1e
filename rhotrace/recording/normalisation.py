"""The scale of a network with batch normalisation, as the released code of CBMM Memo 117 calls rho.

It divides the product of the layer norms by the norms of the running standard deviations of the normalised units, so
that the scale of the weights in front of a normalisation cancels. The memo's rho is the product alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rhotrace.models.batch_normalisation import of_variances
from rhotrace.recording import spectra
from rhotrace.recording.quantities import layer_norms
from rhotrace.recording.quantity import Quantity, register

if TYPE_CHECKING:
    import torch

    from rhotrace.recording.moment import Moment

_BEFORE = spectra  # whose rows come first in every table


def log_scale(moment: Moment) -> torch.Tensor:
    """``sum_k log ||W_k|| - sum_k log ||sigma_k||`` over the normalised layers' running deviations sigma_k, (M,)."""
    import torch

    variances = of_variances(moment.network, moment.state["buffers"])
    deviations = [0.5 * torch.log(v.double().sum(dim=(1, 2))) for v in variances]  # log ||sigma||
    return layer_norms(moment.weights).log().sum(dim=1) - torch.stack(deviations).sum(dim=0)


register(
    Quantity(
        "log_rho_bn", "log rho/sigma", ("member",), "1", None, "step",
        "log rho minus log ||sigma_k|| of each batch normalisation, sigma_k its running standard deviations",
        measure=log_scale, applies=lambda run: bool(of_variances(run.network, run.network.buffers)),
    )
)  # fmt: skip
