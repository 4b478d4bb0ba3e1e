"""The network at the last snapshot of its weights, on the training set, by which several claims are judged."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rhotrace.analysis.rebuild_network import data_and_network, parameters_and_buffers
from rhotrace.errors import TraceError
from rhotrace.models import datasets
from rhotrace.models.losses import Square
from rhotrace.models.network import TOGETHER, Network
from rhotrace.runfile.own_loop_facts import NO_RECIPE
from rhotrace.runfile.reader import Trace

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """What the gradients of all samples say of a network; of the M members, which are the first axis.

    Attributes:
        largest_f: log10 of the largest |f_n|, (M,).
        margins_f: log10 of the largest y_n f_n, (M,); -inf where none is positive.
        homogeneity: |<W_k, G_k> - 2 (q - a)| over ||W_k|| ||G_k|| of the square loss, (M, L).
        turning: difference of one short step of V_k from equation (4), relative, (M, L).
    """

    largest_f: Floats
    margins_f: Floats
    homogeneity: Floats
    turning: Floats


@dataclass(frozen=True)
class FinalNetwork:
    """The network at its last snapshot, on the training set.

    Attributes:
        step: of the weights.
        weights: the blocks of the members with finite weights, (M, out, fan_in) each.
        data: the training set.
        network: made again from the recipe.
    """

    step: int
    weights: list[NDArray[Any]]
    data: datasets.Dataset
    network: Network

    @cached_property
    def inputs(self) -> tuple[float, float]:
        """Smallest and largest ||x_n||."""
        import torch

        pieces = torch.split(torch.as_tensor(self.data.x), TOGETHER)
        lengths = torch.cat([piece.square().sum(1).sqrt() for piece in pieces])
        return float(lengths.min()), float(lengths.max())

    @cached_property
    def measured(self) -> Measured:
        """What needs the gradients; on many samples they take longer than all else, and not every run's claims ask for them."""
        import torch

        parameters, buffers = parameters_and_buffers(self.network, self.weights, np.float64)
        x, y = torch.as_tensor(self.data.x), torch.as_tensor(self.data.y)
        with torch.no_grad():
            g, all_gradients, _ = self.network.gradients(parameters, x, y, Square(), buffers)
            W, G = self.network.of_layers(parameters), self.network.of_layers(all_gradients)
            norms = torch.stack([w.square().sum((1, 2)).sqrt() for w in W], dim=1)  # (M, L)
            log_rho = norms.log10().sum(dim=1)
            targets = y.T if y.shape[1] == 1 else 2 * y.T - 1
            off = 2 * ((g * g - g * y.T).sum((1, 2)) / len(x))[:, None]
            inner = torch.stack([(w * d).sum((1, 2)) for w, d in zip(W, G, strict=True)], dim=1)
            sizes = norms * torch.stack([d.square().sum((1, 2)).sqrt() for d in G], dim=1)
            top = (targets * g).amax((1, 2)).clamp(min=0)
            return Measured(
                largest_f=(g.abs().amax((1, 2)).log10() - log_rho).numpy(),
                margins_f=(top.log10() - log_rho).numpy(),
                homogeneity=((inner - off).abs() / sizes.clamp(min=1e-300)).numpy(),
                turning=np.stack([_turning(w, d, off) for w, d in zip(W, G, strict=True)], axis=1),
            )


def final_network(trace: Trace) -> FinalNetwork | str:
    """The network at its last snapshot, or why it is not available."""
    steps = trace.snapshot_steps()
    if not steps:
        return "the file has no snapshots"
    if trace.own_loop:
        return NO_RECIPE
    try:
        again = data_and_network(trace, trace.validated_recipe())
    except TraceError as unknown:
        return str(unknown)
    if isinstance(again, str):
        return again
    weights = trace.snapshot(steps[-1])
    finite = np.all([np.isfinite(w).all(axis=(1, 2)) for w in weights], axis=0)
    if not finite.any():
        return f"the weights at step {steps[-1]} are not finite"
    return FinalNetwork(steps[-1], [w[finite] for w in weights], *again)


def _turning(W: torch.Tensor, G: torch.Tensor, off: torch.Tensor) -> Floats:
    """How far V_k's motion over one short step of descent is from equation (4), relative, (M,).

    The right-hand side is the memo's, whose ``V_k mean(l f)`` is known from the outputs alone: ``off`` is
    2 mean((g - y) g), (M, 1). The step is 1e-6 of rho_k/||G_k||, so that what finite steps add is of that order.
    """
    norm = W.square().sum((1, 2), keepdim=True).sqrt()
    size = G.square().sum((1, 2), keepdim=True).sqrt().clamp(min=1e-300)
    lr = 1e-6 * norm / size
    V, after = W / norm, W - lr * G
    moved = (after / after.square().sum((1, 2), keepdim=True).sqrt() - V) / lr
    predicted = -(G - V * off[:, :, None] / norm) / norm
    miss = (moved - predicted).square().sum((1, 2)).sqrt()
    scale = predicted.square().sum((1, 2)).sqrt()
    return (miss / scale.clamp(min=1e-300)).numpy().astype(np.float64)
