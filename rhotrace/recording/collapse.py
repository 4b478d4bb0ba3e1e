"""Neural collapse: what becomes of the classes in the features that the last layer reads.

After Papyan, Han and Donoho (arXiv:2008.08186). h are the network's last features on the training set, or their ReLU where
that is what the last layer multiplies, as in a residual network; of an image, all pixels. mu_c is the mean of h over class
c, and m_c is mu_c minus the mean of all mu_c, so that classes of different sizes count alike. NC1 uses the C - 1 largest
singular values of the m_c. Standard deviations are over the classes themselves: they divide by C.

One output with targets -1 and +1 is read as the outputs (-g, g) of two classes. NC1, NC3 and NC4 are defined for it. NC2 is
not, since two centred means are always opposite and of one length.

Without biases, NC3 is not expected to reach 0 under the square loss: the last layer's rows then have a common part, which
makes the mean of the targets (Tirer and Bruna, arXiv:2202.08087). ``nc3_centred`` is NC3 without that part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from rhotrace.models.network import TOGETHER
from rhotrace.recording import effective_dimension
from rhotrace.recording.quantity import Cadence, Quantity, Traced, register

if TYPE_CHECKING:
    import torch

    from rhotrace.recording.moment import Moment

_BEFORE = effective_dimension  # whose rows come first in every table


def last_features(moment: Moment) -> tuple[torch.Tensor, torch.Tensor]:
    """What the last layer reads, (M, N, p), and the outputs, (M, N, C); ``TOGETHER`` samples at a time.

    The features or their ReLU, whichever the last layer's weights turn into the outputs with the smaller error.
    """
    import torch

    W, found, outputs = moment.weights[-1], [], []
    for x in torch.split(moment.x, TOGETHER):
        applied = moment.network.evaluate(moment.state["weights"], x, moment.buffers)
        found.append(list(applied.features.values())[-1].flatten(2))
        outputs.append(applied.outputs.mT)
    h, g = torch.cat(found, dim=1), torch.cat(outputs, dim=1)
    plain, after_relu = ((features @ W.mT - g).abs().sum(dim=(1, 2)) for features in (h, h.relu()))
    return torch.where((after_relu < plain)[:, None, None], h.relu(), h), g


def _collapse(moment: Moment) -> Mapping[str, torch.Tensor]:
    """Every number of the collapse, each (M,)."""
    import torch

    features, outputs = last_features(moment)
    W, y = moment.weights[-1].double(), moment.y.double()
    if y.shape[1] == 1:
        y, W, outputs = torch.cat([-y, y], dim=1), torch.cat([-W, W], dim=1), torch.cat([-outputs, outputs], dim=2)
    labels = y.argmax(dim=1)
    each = [_of_member(h.double(), w, labels, g, h.dtype) for h, w, g in zip(features, W, outputs, strict=True)]
    return {name: torch.stack([one[name] for one in each]) for name in each[0]}


def _of_member(
    h: torch.Tensor, W: torch.Tensor, labels: torch.Tensor, outputs: torch.Tensor, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """The numbers of one member.

    Args:
        h: features, (N, p).
        W: the last layer, (C, p).
        labels: class of each sample, (N,).
        outputs: (N, C).
        dtype: in which the features were computed.
    """
    import torch

    classes = len(W)
    members = torch.nn.functional.one_hot(labels, classes).double()
    means = (members.mT @ h) / members.sum(dim=0)[:, None]  # NaN for a class without samples
    centred = means - means.mean(dim=0)
    finite = torch.isfinite(outputs).all() & torch.isfinite(centred).all()
    _, values, right = torch.linalg.svd(torch.where(finite, centred, 0.0), full_matrices=False)
    values, right = values[: classes - 1], right[: classes - 1]
    real = values > values[0] * max(centred.shape) * torch.finfo(dtype).eps
    along = (h - means[labels]) @ right.mT  # of each sample's deviation from its class mean
    variability = torch.where(real, along.square().mean(dim=0) / values.square(), 0.0).sum()
    lengths = centred.norm(dim=1)
    unit = centred / lengths[:, None]
    cosines = (unit @ unit.mT)[~torch.eye(classes, dtype=torch.bool, device=h.device)]
    nearest = torch.cdist(h, means).argmin(dim=1)
    found = {
        "nc1": torch.where(values[0] > 0, variability, torch.nan),
        "nc2_norms": lengths.std(correction=0) / lengths.mean(),
        "nc2_cosines": cosines.std(correction=0),
        "nc2_simplex": (cosines + 1 / (classes - 1)).abs().mean(),
        "nc3": (W / W.norm() - centred / centred.norm()).norm(),
        "nc3_centred": ((W - W.mean(dim=0)) / (W - W.mean(dim=0)).norm() - centred / centred.norm()).norm(),
        "nc4": (outputs.argmax(dim=1) != nearest).double().mean(),
    }
    return {name: torch.where(finite, value, math.nan) for name, value in found.items()}


def _measured(name: str, moment: Moment) -> torch.Tensor:
    return moment.once(_collapse)[name]


def _refuses(run: Traced) -> str:
    if not run.classes:
        return "the targets are real numbers and not classes"
    if not run.features:
        return "this network does not say what its hidden features are, as one layer and a module of your own do not"
    name, shape = list(run.features.items())[-1]
    size, expected = math.prod(shape), run.network.layers[-1].matrix[1]
    return (
        "" if size == expected else f"its last features {name} are {size} numbers, and the last layer reads {expected}"
    )


def _several(run: Traced) -> bool:
    return run.outputs > 1


CADENCE = Cadence("collapse", None, "neural collapse of the last features; about the cost of a full-batch step")

# fmt: off
for _name, _symbol, _says, _applies in (
    ("nc1", "tr(S_W S_B^+)/C",
     "variability within classes: covariance within them times the pseudoinverse of that between their means", None),
    ("nc2_norms", "std ||m_c||/mean",
     "spread of the lengths of the centred class means, relative to their mean (several outputs only)", _several),
    ("nc2_cosines", "std cos(m_c, m_d)",
     "spread of the cosines between centred class means (several outputs only)", _several),
    ("nc2_simplex", "|cos + 1/(C - 1)|",
     "mean distance of those cosines from -1/(C - 1), that of a simplex (several outputs only)", _several),
    ("nc3", "||W/||W|| - m/||m||||",
     "distance of the last layer from the centred class means, each divided by its norm", None),
    ("nc3_centred", "that of W - mean W",
     "as nc3, without the mean of the last layer's rows (several outputs only)", _several),
    ("nc4", "g != nearest mu_c",
     "share of the training set whose class by the network is not that of the nearest class mean", None),
):
    register(
        Quantity(_name, _symbol, ("member",), "1", None, "collapse", _says, measure=partial(_measured, _name),
                 needs=("features",), applies=_applies or (lambda _: True), refuses=_refuses),
        CADENCE,
    )
# fmt: on
