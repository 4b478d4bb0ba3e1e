"""Losses: the value for each member, and its slope with respect to each output, from which back-propagation starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from rhotrace.models.component import Component, Registry

if TYPE_CHECKING:
    import torch


class Loss(Component):
    """A loss's section of a recipe, and what it computes.

    Outputs are (M, C, N); targets are (C, N), shared by all members, or (M, C, N).

    Attributes:
        equilibrium: whether the memo's a, q and rho_eq are defined for this loss. The square loss alone has them; under
            another loss they are not recorded, and results derived from them do not apply.
        formula: in plain text, for listings.
        units: of its value.
        one_output: whether it needs a single output, with targets -1 and +1.
        one_hot: whether it needs one-hot targets of several outputs.
    """

    kind: str
    equilibrium: ClassVar[bool] = False
    formula: ClassVar[str] = ""
    units: ClassVar[str] = "1"
    one_output: ClassVar[bool] = False
    one_hot: ClassVar[bool] = False

    def refuses(self, y: NDArray[Any]) -> str:
        """Why it does not apply to targets (N, C); nothing where it does."""
        if self.one_output and y.shape[1] != 1:
            return f"{y.shape[1]} classes, expected two classes, with targets -1 and +1"
        if self.one_output and not (np.abs(y) == 1).all():
            return "real targets, expected two classes, with targets -1 and +1"
        if self.one_hot and y.shape[1] == 1:
            return "one output, expected three classes or more, with one-hot targets (for two: logistic)"
        if self.one_hot and not (((y == 0) | (y == 1)).all() and (y.sum(axis=1) == 1).all()):
            return "real targets, expected three classes or more, with one-hot targets"
        return ""

    def value(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean over the samples for each member, (M,)."""
        raise NotImplementedError

    def slope(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Derivative of ``value`` with respect to every output, (M, C, N); found by torch unless a loss writes it out."""
        from torch.func import grad

        found: torch.Tensor = grad(lambda g: self.value(g, targets).sum())(outputs)  # members do not interact
        return found


LOSSES: Registry[Loss] = Registry("loss")


@LOSSES.register
class Square(Loss):
    """``mean_n ||g(x_n) - y_n||^2``, the loss of CBMM Memo 112, equation (1)."""

    kind: Literal["square"] = "square"
    equilibrium: ClassVar[bool] = True
    formula: ClassVar[str] = "mean((g - y)^2)"
    units: ClassVar[str] = "output^2"

    def value(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Summed directly, since q - 2a + 1 cancels near interpolation."""
        return (outputs - targets).square().sum(dim=(1, 2)) / outputs.shape[-1]

    def slope(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """2 (g - y)/N."""
        return (outputs - targets) * (2 / outputs.shape[-1])


@LOSSES.register
class Exponential(Loss):
    """``mean_n exp(-y_n g(x_n))`` for targets -1 and +1 and one output.

    Once the training set is separated, the norms grow without bound (Lyu and Li, arXiv:1906.05890), and the normalised
    margins y_n f_n are the quantity to follow.
    """

    kind: Literal["exponential"] = "exponential"
    one_output: ClassVar[bool] = True
    formula: ClassVar[str] = "mean(exp(-y g))"

    def value(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See ``Loss.value``."""
        return (-outputs * targets).exp().sum(dim=(1, 2)) / outputs.shape[-1]

    def slope(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """-y exp(-y g)/N."""
        return -targets * (-outputs * targets).exp() / outputs.shape[-1]


@LOSSES.register
class Logistic(Loss):
    """``mean_n log(1 + exp(-y_n g(x_n)))`` for targets -1 and +1 and one output."""

    kind: Literal["logistic"] = "logistic"
    one_output: ClassVar[bool] = True
    formula: ClassVar[str] = "mean(log(1 + exp(-y g)))"

    def value(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See ``Loss.value``."""
        from torch.nn.functional import softplus

        return softplus(-outputs * targets).sum(dim=(1, 2)) / outputs.shape[-1]

    def slope(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """-y/(1 + exp(y g))/N."""
        return -targets * (-outputs * targets).sigmoid() / outputs.shape[-1]


@LOSSES.register
class CrossEntropy(Loss):
    """``mean_n (log sum_c exp(g_c(x_n)) - g_y(x_n))`` for one-hot targets and several outputs."""

    kind: Literal["cross-entropy"] = "cross-entropy"
    one_hot: ClassVar[bool] = True
    formula: ClassVar[str] = "mean(log sum(exp(g)) - g_y)"

    def value(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Relative to the true output, so that a small loss does not come from a difference of large numbers."""
        true = (outputs * targets).sum(dim=1, keepdim=True)
        others = (outputs - true).masked_fill(targets.expand_as(outputs) > 0.5, -float("inf")).logsumexp(dim=1)
        return others.clamp(min=0).add((-others.abs()).exp().log1p()).sum(dim=1) / outputs.shape[-1]

    def slope(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """(softmax(g) - y)/N."""
        return (outputs.softmax(dim=1) - targets) / outputs.shape[-1]
