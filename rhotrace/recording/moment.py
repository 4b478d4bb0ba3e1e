"""What quantities measure: the outputs on a set of samples, and one step of training before its update."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

if TYPE_CHECKING:
    import torch

    from rhotrace.models.losses import Loss
    from rhotrace.models.network import Network, Tensors


T = TypeVar("T")


class Evaluation:
    """Outputs of all members on one set of samples, and the values that several quantities share.

    Args:
        outputs: g(x_n), (M, C, N).
        targets: y_n, float64, (C, N) shared by all members or (M, C, N).
        loss: of the run.
        features: returns the network's features on the same samples, by name.
    """

    def __init__(
        self,
        outputs: torch.Tensor,
        targets: torch.Tensor,
        loss: Loss,
        features: Callable[[], Mapping[str, torch.Tensor]] = dict,
    ) -> None:
        self.outputs = outputs.double()
        self.targets = targets
        self.samples = outputs.shape[-1]
        self._loss, self._features = loss, features

    @cached_property
    def features(self) -> Mapping[str, torch.Tensor]:
        """Intermediate values of the network by name, each (M, N, ...); costs another forward pass on first use."""
        return self._features()

    @cached_property
    def correlation(self) -> torch.Tensor:
        """a = mean(y g), (M,)."""
        return (self.outputs * self.targets).sum(dim=(1, 2)) / self.samples

    @cached_property
    def power(self) -> torch.Tensor:
        """q = mean(g^2), (M,)."""
        return self.outputs.square().sum(dim=(1, 2)) / self.samples

    @cached_property
    def pull(self) -> torch.Tensor:
        """c = mean <dL/dg, g>, (M,); the square loss has c = 2 (q - a)."""
        return (self._loss.slope(self.outputs, self.targets) * self.outputs).sum(dim=(1, 2))

    @cached_property
    def loss(self) -> torch.Tensor:
        """The loss, (M,)."""
        return self._loss.value(self.outputs, self.targets)

    @cached_property
    def sorted_margins(self) -> torch.Tensor:
        """Margins in ascending order, (M, N): y g for one output, g_true - max g_other for several."""
        if self.outputs.shape[1] == 1:
            margins = (self.outputs * self.targets).squeeze(1)
        else:
            hit = self.targets > 0.5
            true = self.outputs.masked_fill(~hit, -np.inf).amax(dim=1)
            margins = true - self.outputs.masked_fill(hit, -np.inf).amax(dim=1)
        if margins.device.type == "cpu":
            # numpy's vectorised sort returns the same values ten times as fast as torch's.
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
    """One step of training, before its update; what the loop does not have at hand is computed on first use.

    Attributes:
        network: the run's.
        state: of the optimizer; ``state["weights"]`` are the parameters.
        all_gradients: dL/dW of the batch for each parameter, each (M, out, fan_in).
        batch: outputs on the batch.
        evaluate_full: returns the outputs on the full training set at the same parameters.
        evaluate_test: likewise on the test set.
        evaluate_after: likewise on the full training set, at the parameters that this step leads to.
        hessian_product: multiplies the Hessian of the loss on the full training set by one tensor for each parameter.
        lr: learning rate of the step that follows, (M, 1, 1).
        x: inputs of the full training set, (N, d).
        y: its targets, (N, C).
        loss: of the run.
        start: the parameters before the first step; empty unless a quantity needs them.
    """

    network: Network
    state: Mapping[str, Tensors]
    all_gradients: Tensors
    batch: Evaluation
    evaluate_full: Callable[[], Evaluation]
    evaluate_test: Callable[[], Evaluation]
    evaluate_after: Callable[[], Evaluation]
    hessian_product: Callable[[Tensors], Tensors]
    lr: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    loss: Loss
    start: Tensors = ()

    @cached_property
    def weights(self) -> Tensors:
        """W_k of each layer, (M, out, fan_in)."""
        return self.network.of_layers(self.state["weights"])

    @cached_property
    def gradients(self) -> Tensors:
        """dL/dW_k of the batch for each layer, (M, out, fan_in)."""
        return self.network.of_layers(self.all_gradients)

    @cached_property
    def full(self) -> Evaluation:
        """Outputs on the full training set."""
        return self.evaluate_full()

    @cached_property
    def test(self) -> Evaluation:
        """Outputs on the test set."""
        return self.evaluate_test()

    @cached_property
    def after(self) -> Evaluation:
        """Outputs on the full training set after this step's update."""
        return self.evaluate_after()

    @property
    def buffers(self) -> Tensors:
        """The blocks that are not trained."""
        return self.state.get("buffers", ())

    def once(self, compute: Callable[[Moment], T]) -> T:
        """``compute(self)``, computed once for all the quantities that ask for it."""
        if compute not in self._computed:
            self._computed[compute] = compute(self)
        return cast("T", self._computed[compute])

    @cached_property
    def _computed(self) -> dict[Callable[[Moment], Any], Any]:
        return {}
