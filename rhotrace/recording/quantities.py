"""The quantities that come with RhoTrace: norms, outputs and margins at each step, and the test set at a stride.

A run records those that apply to it. Its file describes them, so that later changes here do not affect it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rhotrace.models.side_by_side import SMALL, runs_of
from rhotrace.recording.inner_products import fits, inner_products
from rhotrace.recording.quantity import QUANTITIES, Axis, Quantity, Rows, Traced, register

if TYPE_CHECKING:
    import torch

    from rhotrace.models.network import Tensors
    from rhotrace.recording.moment import Evaluation, Moment

__all__ = ["QUANTILES", "QUANTITIES", "layer_norms"]

# Recorded order statistics of the margins, as fractions of the training set.
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95)


def layer_norms(tensors: Tensors) -> torch.Tensor:
    """Frobenius norm of each layer, accumulated in float64, (M, L)."""
    import torch

    if fits(tensors):
        return inner_products(tensors, members=len(tensors[0])).sqrt_()
    # Adjacent small layers of the same shape are taken together: for them, the calls cost more than the arithmetic.
    runs = runs_of(tensors)
    if runs is None:
        runs = tuple(torch.stack(run) if len(run) > 1 else run[0][None] for run in _neighbours(tensors))
    norms = [torch.linalg.vector_norm(run, dim=(2, 3), dtype=torch.float64) for run in runs]
    return torch.cat(norms).mT


def _neighbours(tensors: Tensors) -> Iterator[list[torch.Tensor]]:
    for _, same in groupby(tensors, key=lambda W: W.shape):
        run = list(same)
        yield from [run] if run[0].numel() <= SMALL else [[W] for W in run]


def _quantiles(full: Evaluation) -> torch.Tensor:
    # The order statistic at or below each fraction: the margin of one sample, never interpolated between two.
    return full.sorted_margins[:, _quantile_rows(full.samples, full.sorted_margins.device)]


@lru_cache(maxsize=8)
def _quantile_rows(samples: int, device: torch.device) -> torch.Tensor:
    import torch

    return torch.tensor([int(f * (samples - 1)) for f in QUANTILES], device=device)


def _log_rho(rows: Rows) -> NDArray[np.float64]:
    return np.asarray(np.log(rows["rho_k"]).sum(axis=-1))


def _log_rho_eq(rows: Rows) -> NDArray[np.float64]:
    return rows["log_rho"] + np.log(np.where(rows["a"] > 0, rows["a"], np.nan) / rows["q"])


def _rho_eq_over_rho(rows: Rows) -> NDArray[np.float64]:
    return rows["a"] / rows["q"]


def _log_margin(rows: Rows) -> NDArray[np.float64]:
    margin = rows["margin_min"]
    return np.asarray(np.log(np.where(margin > 0, margin, np.nan)) - rows["log_rho"])


def _along_velocity(moment: Moment) -> torch.Tensor:
    import torch

    if fits(moment.weights):
        return inner_products(moment.weights, _velocity(moment), members=len(moment.weights[0]))
    pairs = zip(moment.weights, _velocity(moment), strict=True)
    return torch.stack([(W.double() * u.double()).sum(dim=(1, 2)) for W, u in pairs], dim=1)


def _velocity(moment: Moment) -> Tensors:
    return moment.network.of_layers(moment.state["velocity"])


def _has_velocity(run: Traced) -> bool:
    return "velocity" in run.state


def _has_equilibrium(run: Traced) -> bool:
    """Whether a, q and rho_eq exist: the square loss alone has them."""
    return run.loss.equilibrium


def _has_none(run: Traced) -> bool:
    return not run.loss.equilibrium


MEMBER = ("member",)
LAYER = ("member", "layer")
QUANTILE = Axis("quantile", QUANTILES)

# fmt: off
for _quantity in (
    Quantity("rho_k", "rho_k", LAYER, "1", "eq3", "step", "Frobenius norm of each layer's weights",
             measure=lambda m: layer_norms(m.weights)),
    Quantity("grad_norm", "||G_k||", LAYER, "1", "eq1", "step", "Frobenius norm of each layer's batch gradient",
             measure=lambda m: layer_norms(m.gradients)),
    Quantity("v_norm", "||v_k||", LAYER, "1", "weightnorm", "step", "norm of v_k (weight normalisation only)",
             measure=lambda m: layer_norms(m.state["v"]), applies=lambda run: "v" in run.state),
    Quantity("batch_a", "a_b", MEMBER, "output", "eq3", "step", "mean(y g) over the step's batch",
             measure=lambda m: m.batch.correlation, applies=_has_equilibrium),
    Quantity("batch_q", "q_b", MEMBER, "output^2", "eq3", "step", "mean(g^2) over the step's batch",
             measure=lambda m: m.batch.power, applies=_has_equilibrium),
    Quantity("batch_c", "c_b", MEMBER, "<loss>", "eq2", "step", "mean(<dL/dg, g>) over the step's batch (not square loss)",
             measure=lambda m: m.batch.pull, applies=_has_none),
    Quantity("velocity_norm", "||u_k||", LAYER, "1", "eq1", "step", "norm of the velocity before the step (momentum only)",
             measure=lambda m: layer_norms(_velocity(m)), applies=_has_velocity),
    Quantity("velocity_along", "<W_k, u_k>", LAYER, "1", "eq1", "step",
             "inner product of weights and velocity before the step (momentum only)",
             measure=_along_velocity, applies=_has_velocity),
    Quantity("lr_step", "eta", MEMBER, "1", "eq1", "step", "learning rate of the step (under a schedule only)",
             measure=lambda m: m.lr[:, 0, 0], applies=lambda run: run.scheduled),
    Quantity("log_rho", "log rho", MEMBER, "1", "eq5", "step", "logarithm of the product of the layer norms",
             derive=_log_rho),
    Quantity("a", "a", MEMBER, "output", "eq3", "full", "mean(y g) = rho A over the training set",
             measure=lambda m: m.full.correlation, needs=("outputs",), applies=_has_equilibrium),
    Quantity("q", "q", MEMBER, "output^2", "eq3", "full", "mean(g^2) = rho^2 B over the training set",
             measure=lambda m: m.full.power, needs=("outputs",), applies=_has_equilibrium),
    Quantity("log_rho_eq", "log rho_eq", MEMBER, "1", "eq6", "full", "log rho + log(a/q); NaN where a <= 0",
             derive=_log_rho_eq, needs=("outputs",), applies=_has_equilibrium),
    Quantity("rho_eq_over_rho", "rho_eq/rho", MEMBER, "1", "eq6", "full",
             "a/q: 1 at equilibrium, large in the transient, negative where a < 0",
             derive=_rho_eq_over_rho, needs=("outputs",), applies=_has_equilibrium),
    Quantity("loss", "L", MEMBER, "<loss>", "eq1", "full", "<loss> over the training set",
             measure=lambda m: m.full.loss, needs=("outputs",)),
    Quantity("error", "err", MEMBER, "1", None, "full", "fraction of the training set misclassified",
             measure=lambda m: m.full.error, needs=("outputs",)),
    Quantity("margin_min", "min y g", MEMBER, "output", None, "full",
             "smallest margin: y g, or g_true - max g_other",
             measure=lambda m: m.full.sorted_margins[:, 0], needs=("outputs",)),
    Quantity("log_margin", "log min y f", MEMBER, "1", None, "full",
             "logarithm of margin_min / rho, NaN where it is not positive (not square loss)",
             derive=_log_margin, needs=("outputs",), applies=_has_none),
    Quantity("margin_quantile", "y g", (*MEMBER, QUANTILE), "output", None, "full",
             "order statistics of the margins", measure=lambda m: _quantiles(m.full), needs=("outputs",)),
    Quantity("test_loss", "L_test", MEMBER, "<loss>", None, "test", "<loss> over the test set",
             measure=lambda m: m.test.loss, needs=("test outputs",)),
    Quantity("test_error", "err_test", MEMBER, "1", None, "test", "fraction of the test set misclassified",
             measure=lambda m: m.test.error, needs=("test outputs",)),
):
    register(_quantity)
# fmt: on
