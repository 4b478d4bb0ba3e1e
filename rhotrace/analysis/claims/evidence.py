"""What a run is judged by: its series and transient, and its network taken up again from the last weights and the data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from rhotrace.analysis.run_analysis import audit_run, fit_transient, series_of
from rhotrace.analysis.transient.closed_form_fit import Series
from rhotrace.analysis.transient.transient_time import TransientFit
from rhotrace.config.recipe import Recipe
from rhotrace.errors import DataError
from rhotrace.models import datasets
from rhotrace.models.losses import Square
from rhotrace.models.network import Network
from rhotrace.runfile.reader import Trace
from rhotrace.theory.step_identity import Audit

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class End:
    """The network after its last step, on the training set; all arrays have the member axis first.

    Attributes:
        step: of the weights.
        largest_f: log10 of the largest |f_n|, (M,).
        margins_f: log10 of the largest y_n f_n, (M,); -inf where none is positive.
        inputs: smallest and largest ||x_n||.
        homogeneity: |<W_k, G_k> - 2 (q - a)| over ||W_k|| ||G_k||, (M, L).
        turning: difference of one short step of V_k from equation (4), relative, (M, L).
    """

    step: int
    largest_f: Floats
    margins_f: Floats
    inputs: tuple[float, float]
    homogeneity: Floats
    turning: Floats


class Evidence:
    """What several claims about a run share, computed when first asked for."""

    def __init__(self, trace: Trace, series: list[Series] | None = None) -> None:
        self.trace, self._series = trace, series
        self.recipe = Recipe.model_validate(trace.recipe)
        self.log_rho, self.ratio = trace["log_rho"], trace["rho_eq_over_rho"]
        self.stride = trace.strides["full"]
        self.minibatches = bool(trace.recipe["optimizer"].get("batch_size"))

    @cached_property
    def audit(self) -> Audit | None:
        """The discrete step identity."""
        return audit_run(self.trace)

    @cached_property
    def series(self) -> list[Series]:
        """Each member's series."""
        return series_of(self.trace) if self._series is None else self._series

    @cached_property
    def transient(self) -> TransientFit:
        """T of each member."""
        return fit_transient(self.trace, fit=False, series=self.series)

    @cached_property
    def left(self) -> list[int]:
        """The members that have a T."""
        return [each.member for each in self.transient.each if each.T > 0]

    @cached_property
    def across(self) -> Floats | None:
        """Norm of the part of dL/dW_k across W_k at each step, (n, M, L); None without the full gradient at every step."""
        if self.stride != 1 or self.minibatches:
            return None
        trace = self.trace
        along = 2 * (trace["q"] - trace["a"])[..., None] / trace["rho_k"]
        return np.sqrt(np.maximum(trace["grad_norm"] ** 2 - along**2, 0.0))

    @cached_property
    def end(self) -> End | str:
        """The network at its last copy of the weights, or why it cannot be had."""
        return end_of(self.trace, self.recipe)


def end_of(trace: Trace, recipe: Recipe) -> End | str:
    """The network at its last copy of the weights, or why it cannot be had."""
    steps = trace.snapshot_steps()
    if not steps:
        return "the file has no copies of the weights"
    again = data_and_network(trace, recipe)
    if isinstance(again, str):
        return again
    weights = trace.snapshot(steps[-1])
    if not all(np.isfinite(w).all() for w in weights):
        return f"the weights at step {steps[-1]} are not finite"
    return _end(steps[-1], weights, *again)


def data_and_network(
    trace: Trace, recipe: Recipe, dtype: Literal["float32", "float64"] = "float64"
) -> tuple[datasets.Dataset, Network] | str:
    """The data and the network of a run, made again, or why they cannot be had."""
    try:
        loaded = recipe.load_data(dtype)
    except DataError as absent:
        return f"needs the data: {absent.brief}"
    if loaded.digest != trace.attributes["data_digest"]:
        return f"the data here is other data: its digest is {loaded.digest[:12]}"
    return loaded, recipe.network.build(loaded.shape, loaded.y.shape[1])


def _end(step: int, weights: list[NDArray[Any]], loaded: datasets.Dataset, network: Network) -> End:
    import torch

    W = tuple(torch.as_tensor(w, dtype=torch.float64) for w in weights)
    x, y = torch.as_tensor(loaded.x), torch.as_tensor(loaded.y)
    with torch.no_grad():
        g, G, _ = network.gradients(W, x, y, Square())
        norms = torch.stack([w.square().sum((1, 2)).sqrt() for w in W], dim=1)  # (M, L)
        log_rho = norms.log10().sum(dim=1)
        targets = y.T if y.shape[1] == 1 else 2 * y.T - 1
        off = 2 * ((g * g - g * y.T).sum((1, 2)) / len(x))[:, None]
        inner = torch.stack([(w * d).sum((1, 2)) for w, d in zip(W, G, strict=True)], dim=1)
        sizes = norms * torch.stack([d.square().sum((1, 2)).sqrt() for d in G], dim=1)
        lengths = x.square().sum(1).sqrt()
        top = (targets * g).amax((1, 2)).clamp(min=0)
        return End(
            step=step,
            largest_f=(g.abs().amax((1, 2)).log10() - log_rho).numpy(),
            margins_f=(top.log10() - log_rho).numpy(),
            inputs=(float(lengths.min()), float(lengths.max())),
            homogeneity=((inner - off).abs() / sizes.clamp(min=1e-300)).numpy(),
            turning=np.stack([_turning(w, d, off) for w, d in zip(W, G, strict=True)], axis=1),
        )


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
