"""What a recording measures on the module's device: layer norms, and the sums over outputs.

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

_SMALL = 1 << 14  # numbers in a tensor that is stacked with others, as in ``recording.quantities.layer_norms``

BATCH = ("batch_a", "batch_q", "batch_c")
FULL = ("a", "q", "loss", "error", "margin_min", "margin_quantile")
TEST = ("test_loss", "test_error")
DERIVED = ("log_rho", "log_rho_eq", "rho_eq_over_rho", "log_margin")


class LayerNorms:
    """Frobenius norms of the layers, each of which is one tensor or several; the bits are those of a recipe's run.

    Args:
        layers: the tensors of each layer.
    """

    def __init__(self, layers: Sequence[tuple[torch.Tensor, ...]]) -> None:
        import torch

        self.tensors = [tensor for layer in layers for tensor in layer]
        self._on_processor = self.tensors[0].device.type == "cpu"
        self._places: list[list[int]] = []
        for number, tensor in enumerate(self.tensors):
            last = self.tensors[self._places[-1][0]] if self._places else None
            if last is not None and last.shape == tensor.shape and tensor.numel() <= _SMALL:
                self._places[-1].append(number)
            else:
                self._places.append([number])
        homes = [k for k, layer in enumerate(layers) for _ in layer]
        self._homes = None
        if len(homes) > len(layers):
            self._homes = torch.tensor(homes, device=self.tensors[0].device)
        self._layers = len(layers)

    def __call__(self, tensors: list[torch.Tensor]) -> torch.Tensor:
        """The norms of the layers, (L,) in float64.

        Args:
            tensors: one for each of ``self.tensors``, of its shape.
        """
        import torch

        if not self._on_processor:
            norms = torch.stack(torch._foreach_norm(tensors, 2, torch.float64))
        else:
            norms = torch.cat([self._of(place, tensors) for place in self._places])
        if self._homes is None:
            return norms
        total = torch.zeros(self._layers, dtype=torch.float64, device=norms.device)
        return total.index_add_(0, self._homes, norms.square()).sqrt_()

    def _of(self, place: list[int], tensors: list[torch.Tensor]) -> torch.Tensor:
        import torch

        if len(place) == 1:
            norms: torch.Tensor = torch.linalg.vector_norm(tensors[place[0]], dtype=torch.float64).reshape(1)
        else:
            stacked = torch.stack([tensors[k] for k in place])
            norms = torch.linalg.vector_norm(stacked, dim=tuple(range(1, stacked.dim())), dtype=torch.float64)
        return norms


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
