"""The one table of what a run records: names, symbols, axes, units, equations, cost and how each is measured.

Storage, the listing, the README's table and the plots all read ``QUANTITIES``. A quantity either
*measures* a ``Moment`` (torch tensors on the run's device, float64 accumulations, no host
synchronisation) or is *derived* in numpy from blocks of measured ones, when a block leaves the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from rhotrace.models.networks import Weights

Cost = Literal["free", "forward", "test"]
Block = Mapping[str, NDArray[np.float64]]

_SMALL = 1 << 14  # numbers in a tensor

# Margin order statistics kept at every step, as fractions of the training set.
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95)


class Evaluation:
    """Outputs of all members on one set of samples, and what several quantities share of them.

    Args:
        outputs: g(x_n), (M, C, N).
        targets: y_n, float64, (C, N) shared by all members or (M, C, N).
    """

    def __init__(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        self.outputs = outputs.double()
        self.targets = targets
        self.samples = outputs.shape[-1]

    @cached_property
    def correlation(self) -> torch.Tensor:
        """a = mean(y g), (M,)."""
        return (self.outputs * self.targets).sum(dim=(1, 2)) / self.samples

    @cached_property
    def power(self) -> torch.Tensor:
        """q = mean(g^2), (M,)."""
        return self.outputs.square().sum(dim=(1, 2)) / self.samples

    @cached_property
    def loss(self) -> torch.Tensor:
        """mean((g - y)^2), (M,); summed directly, since q - 2a + 1 cancels near interpolation."""
        return (self.outputs - self.targets).square().sum(dim=(1, 2)) / self.samples

    @cached_property
    def sorted_margins(self) -> torch.Tensor:
        """Margins from small to large, (M, N): y g for one output, g_true - max g_other for several."""
        if self.outputs.shape[1] == 1:
            margins = (self.outputs * self.targets).squeeze(1)
        else:
            hit = self.targets > 0.5
            true = self.outputs.masked_fill(~hit, -np.inf).amax(dim=1)
            margins = true - self.outputs.masked_fill(hit, -np.inf).amax(dim=1)
        if margins.device.type == "cpu":
            # numpy's vectorised sort returns the same values an order of magnitude sooner than torch's.
            from torch import from_numpy

            return from_numpy(np.sort(margins.numpy(), axis=1))
        return margins.sort(dim=1).values

    @cached_property
    def error(self) -> torch.Tensor:
        """Fraction of samples whose margin is not positive, (M,); NaN where outputs are not finite."""
        worst = self.sorted_margins[:, -1]  # NaN sorts last
        return (self.sorted_margins <= 0).sum(dim=1).double() / self.samples + 0 * worst


@dataclass(frozen=True)
class Moment:
    """What the training loop holds at one step, before the update.

    Attributes:
        state: the optimizer's state; ``state["weights"]`` are the weights.
        gradients: dL/dW_k of the batch, each (M, out, in).
        batch: outputs on the batch.
        full: outputs on the full training set at the same weights, at the steps that have them.
        test: outputs on the test set, at the steps that have them.
    """

    state: Mapping[str, Weights]
    gradients: Weights
    batch: Evaluation
    full: Evaluation | None = None
    test: Evaluation | None = None


@dataclass(frozen=True)
class Quantity:
    """One traced quantity; exactly one of ``measure`` and ``derive`` is set.

    Attributes:
        name: of the dataset in a run file.
        symbol: as in the memo, in plain text.
        axes: after the time axis.
        units: of the stored numbers; "1" for pure numbers, "output" for those of g.
        equation: key in ``memo.STATEMENTS``, or None for what the memo does not define.
        cost: ``free`` (in hand at every step), ``forward`` (needs the full training set's outputs)
            or ``test`` (needs the test set's); each class has a stride in the recipe.
        says: a line for the listing.
    """

    name: str
    symbol: str
    axes: tuple[str, ...]
    units: str
    equation: str | None
    cost: Cost
    says: str
    measure: Callable[[Any], torch.Tensor] | None = None
    derive: Callable[[Block], NDArray[np.float64]] | None = None
    only: str | None = None  # part of the optimizer's state that must exist


def layer_norms(tensors: Weights) -> torch.Tensor:
    """Frobenius norm of each layer, accumulated in float64, (M, L).

    Neighbours of one small shape are stacked first: there the calls cost more than the arithmetic.
    """
    import torch

    norms = []
    for _, run in groupby(tensors, key=lambda W: W.shape):
        group = list(run)
        if group[0].numel() <= _SMALL:
            stacked = torch.stack(group, dim=1)  # (M, layers, out, in)
            norms.append(torch.linalg.vector_norm(stacked, dim=(2, 3), dtype=torch.float64))
        else:
            norms += [torch.linalg.vector_norm(W, dim=(1, 2), dtype=torch.float64)[:, None] for W in group]
    return torch.cat(norms, dim=1)


def _quantiles(full: Evaluation) -> torch.Tensor:
    # The order statistic at or below each fraction: a sample's own margin, never a mixture of two.
    return full.sorted_margins[:, _quantile_rows(full.samples, full.sorted_margins.device)]


@lru_cache(maxsize=8)
def _quantile_rows(samples: int, device: torch.device) -> torch.Tensor:
    import torch

    return torch.tensor([int(f * (samples - 1)) for f in QUANTILES], device=device)


def _log_rho(block: Block) -> NDArray[np.float64]:
    return np.asarray(np.log(block["rho_k"]).sum(axis=-1))


def _log_rho_eq(block: Block) -> NDArray[np.float64]:
    return block["log_rho"] + np.log(np.where(block["a"] > 0, block["a"], np.nan) / block["q"])


def _rho_eq_over_rho(block: Block) -> NDArray[np.float64]:
    return block["a"] / block["q"]


MEMBER = ("member",)
LAYER = ("member", "layer")

# fmt: off
QUANTITIES: tuple[Quantity, ...] = (
    Quantity("rho_k", "rho_k", LAYER, "1", "eq3", "free", "Frobenius norm of each layer's weights",
             measure=lambda m: layer_norms(m.state["weights"])),
    Quantity("grad_norm", "||G_k||", LAYER, "1", "eq1", "free", "Frobenius norm of each layer's batch gradient",
             measure=lambda m: layer_norms(m.gradients)),
    Quantity("v_norm", "||v_k||", LAYER, "1", "weightnorm", "free", "norm of v_k (weight normalisation only)",
             measure=lambda m: layer_norms(m.state["v"]), only="v"),
    Quantity("batch_a", "a_b", MEMBER, "output", "eq3", "free", "mean(y g) over the step's batch",
             measure=lambda m: m.batch.correlation),
    Quantity("batch_q", "q_b", MEMBER, "output^2", "eq3", "free", "mean(g^2) over the step's batch",
             measure=lambda m: m.batch.power),
    Quantity("log_rho", "log rho", MEMBER, "1", "eq5", "free", "logarithm of the product of the layer norms",
             derive=_log_rho),
    Quantity("a", "a", MEMBER, "output", "eq3", "forward", "mean(y g) = rho A over the training set",
             measure=lambda m: m.full.correlation),
    Quantity("q", "q", MEMBER, "output^2", "eq3", "forward", "mean(g^2) = rho^2 B over the training set",
             measure=lambda m: m.full.power),
    Quantity("log_rho_eq", "log rho_eq", MEMBER, "1", "eq6", "forward", "log rho + log(a/q); NaN where a <= 0",
             derive=_log_rho_eq),
    Quantity("rho_eq_over_rho", "rho_eq/rho", MEMBER, "1", "eq6", "forward",
             "a/q: 1 at equilibrium, large in the transient, negative where a < 0", derive=_rho_eq_over_rho),
    Quantity("loss", "L", MEMBER, "output^2", "eq1", "forward", "mean((g - y)^2) over the training set",
             measure=lambda m: m.full.loss),
    Quantity("error", "err", MEMBER, "1", None, "forward", "fraction of the training set misclassified",
             measure=lambda m: m.full.error),
    Quantity("margin_min", "min y g", MEMBER, "output", None, "forward",
             "smallest margin: y g, or g_true - max g_other", measure=lambda m: m.full.sorted_margins[:, 0]),
    Quantity("margin_quantile", "y g", ("member", "quantile"), "output", None, "forward",
             "order statistics of the margins", measure=lambda m: _quantiles(m.full)),
    Quantity("test_loss", "L_test", MEMBER, "output^2", None, "test", "mean((g - y)^2) over the test set",
             measure=lambda m: m.test.loss),
    Quantity("test_error", "err_test", MEMBER, "1", None, "test", "fraction of the test set misclassified",
             measure=lambda m: m.test.error),
)
# fmt: on


def named(name: str) -> Quantity:
    """The row of the table with this name."""
    return next(quantity for quantity in QUANTITIES if quantity.name == name)


def traced(state: Mapping[str, Any]) -> tuple[Quantity, ...]:
    """The rows of the table that apply to an optimizer with this state."""
    return tuple(quantity for quantity in QUANTITIES if quantity.only is None or quantity.only in state)
