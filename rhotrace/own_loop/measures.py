"""What a recording measures of the outputs, on the module's device.

Nothing here synchronises with the host. All numbers are accumulated in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from rhotrace.errors import RhoTraceError, choice
from rhotrace.models.losses import LOSSES, Loss
from rhotrace.recording.moment import Evaluation
from rhotrace.recording.quantities import QUANTITIES

if TYPE_CHECKING:
    import torch

    from rhotrace.recording.moment import Moment

BATCH = ("batch_a", "batch_q", "batch_c")
FULL = ("a", "q", "loss", "error", "margin_min", "margin_quantile")
TEST = ("test_loss", "test_error")
DERIVED = ("log_rho", "log_rho_eq", "rho_eq_over_rho", "log_margin")


class OwnLoss(Loss):
    """A loss that the user gives as a function of outputs and targets, (N, C) each.

    Attributes:
        kind: name of the function.
        function: returns the mean over the samples.
    """

    kind: str = "own"
    function: Any = None

    def value(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See ``Loss.value``."""
        found: torch.Tensor = self.function(outputs[0].mT, targets[0].mT)
        return found.detach().double().reshape(1)

    def slope(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See ``Loss.slope``; by automatic differentiation."""
        import torch

        with torch.enable_grad():
            g = outputs[0].mT.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.function(g, targets[0].mT), g)
        return slope.mT[None]


def loss_of(loss: str | Callable[..., Any] | None) -> Loss | None:
    """The loss of an argument of ``rhotrace.record``.

    Raises:
        RhoTraceError: it is neither the name of a loss nor a function.
    """
    if loss is None:
        return None
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise choice("rhotrace.record: loss", loss, LOSSES)
        return LOSSES[loss].model_validate({})
    if not callable(loss):
        raise RhoTraceError(
            f"rhotrace.record: loss: got {type(loss).__name__}, expected one of {', '.join(LOSSES)}, a function of outputs "
            "and targets, or None"
        )
    name = getattr(loss, "__name__", type(loss).__name__)
    return OwnLoss(kind=name if name.isidentifier() else "own", function=loss)


def evaluation(outputs: torch.Tensor, targets: torch.Tensor, loss: Loss) -> Evaluation:
    """Outputs and targets, (N, C) each, as quantities see them: one member, (1, C, N)."""
    return Evaluation(outputs.detach().mT[None], targets.mT[None], loss)


@dataclass(frozen=True)
class Seen:
    """What the quantities of outputs measure: a ``Moment`` without its weights."""

    batch: Evaluation | None = None
    full: Evaluation | None = None
    test: Evaluation | None = None


class Sums:
    """The quantities of the outputs on one set of samples.

    Args:
        names: of the candidates in the table of quantities.
        loss: of the run.
    """

    def __init__(self, names: Sequence[str], loss: Loss) -> None:
        wanted = (QUANTITIES[name] for name in names)
        applies = {
            "a": loss.equilibrium,
            "q": loss.equilibrium,
            "batch_a": loss.equilibrium,
            "batch_q": loss.equilibrium,
        }
        applies["batch_c"] = not loss.equilibrium
        self.quantities = [quantity for quantity in wanted if applies.get(quantity.name, True)]

    @property
    def widths(self) -> dict[str, int]:
        """Numbers of each quantity, by name."""
        return {
            q.name: math.prod(len(cast("Sequence[float]", axis.values)) for axis in q.own_axes) for q in self.quantities
        }

    def named(self, seen: Seen) -> dict[str, torch.Tensor]:
        """Each quantity by its name, (width,) in float64."""
        moment = cast("Moment", seen)
        return {q.name: q.measure(moment).reshape(-1) for q in self.quantities if q.measure}
