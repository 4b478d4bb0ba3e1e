"""How far the layers have moved from their start: the weights W_k, and their directions V_k = W_k/||W_k||."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rhotrace.recording import alignment
from rhotrace.recording.quantity import Cadence, Quantity, Rows, register

if TYPE_CHECKING:
    import torch

    from rhotrace.models.network import Tensors
    from rhotrace.recording.moment import Moment

_BEFORE = alignment  # whose rows come first in every table


def _pairs(moment: Moment) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The weights of each layer now and before the first step, in float64."""
    start: Tensors = moment.network.of_layers(moment.start)
    return [(W.double(), before.double()) for W, before in zip(moment.weights, start, strict=True)]


def weight_distances(moment: Moment) -> torch.Tensor:
    """``||W_k - W_k(0)||``, (M, L)."""
    import torch

    apart = [torch.linalg.vector_norm(W - before, dim=(1, 2)) for W, before in _pairs(moment)]
    return torch.stack(apart, dim=1)


def direction_distances(moment: Moment) -> torch.Tensor:
    """``||V_k - V_k(0)||``, (M, L), from 0 to 2; NaN where a layer is 0."""
    import torch

    def direction(W: torch.Tensor) -> torch.Tensor:
        length: torch.Tensor = torch.linalg.vector_norm(W, dim=(1, 2), keepdim=True)
        return W / length

    apart = [torch.linalg.vector_norm(direction(W) - direction(before), dim=(1, 2)) for W, before in _pairs(moment)]
    return torch.stack(apart, dim=1)


def _cosine(rows: Rows) -> NDArray[np.float64]:
    return np.asarray(1 - rows["direction_distance"] ** 2 / 2)  # of unit vectors


register(
    Quantity(
        "weight_distance", "||W_k - W_k(0)||", ("member", "layer"), "1", None, "distance",
        "distance of each layer's weights from their start",
        measure=weight_distances, needs=("start",),
    ),
    Cadence("distance", None, "distance of the layers from their start; less than a tenth of a full-batch step, and the weights in memory once more"),
)  # fmt: skip
register(
    Quantity(
        "direction_distance", "||V_k - V_k(0)||", ("member", "layer"), "1", None, "distance",
        "distance of each layer's direction W_k/||W_k|| from its start",
        measure=direction_distances, needs=("start",),
    )
)  # fmt: skip
register(
    Quantity(
        "direction_cosine", "<V_k, V_k(0)>", ("member", "layer"), "1", None, "distance",
        "cosine of the angle between each layer's weights and their start",
        derive=_cosine, needs=("start",),
    )
)  # fmt: skip
