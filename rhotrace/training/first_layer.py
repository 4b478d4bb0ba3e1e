"""The first layer on the training set, followed from step to step of SGD instead of computed anew.

With X the N inputs as rows, a step on the batch X_b changes W_1 by a matrix of rank b: ``W_1 <- (1 - lr lambda) W_1 - lr D X_b``
with D = dL/dz_1 on the batch. So the pre-activations Z = W_1 X^T of the whole training set follow:

    Z <- (1 - lr lambda) Z - lr D K_b,  K_b the batch's rows of K = X X^T

at b/d of the cost of the product. Nothing is left out: the sums over the training set are those of the weights up to
rounding. Each step adds at most about one unit of rounding relative to ``max_j ||W_1j|| max_n ||x_n||``, so after s steps
Z is off by s units, where the product itself, a sum of d terms, may be off by d. Every ``record.every.first_layer`` steps
Z is computed anew, and the difference is recorded as ``first_layer_drift``. The weights never depend on Z.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rhotrace.config.recipe import Recipe
from rhotrace.models.network import Network
from rhotrace.models.networks.mlp import MLP, Backpropagation
from rhotrace.models.optimizers import SGD
from rhotrace.recording.first_layer import FIRST_LAYER

if TYPE_CHECKING:
    import torch

    from rhotrace.models.optimizers import State


def refuses(recipe: Recipe, network: Network) -> str:
    """Why the first layer of a run cannot be followed; empty where it can."""
    if not isinstance(network, MLP):
        return "the network is not an mlp without batch_norm"
    if not isinstance(recipe.optimizer, SGD):
        return f"optimizer.kind {recipe.optimizer.kind} takes no steps of sgd"
    if "momentum" in recipe.switched_on(recipe.optimizer):
        return "the steps have momentum"
    if recipe.data.augmentation is not None:
        return "data.augment changes the inputs of a batch"
    return ""


class FirstLayer:
    """Follows Z and keeps it in the optimizer's state, so that a resumed run has the same bits.

    Args:
        network: of the run.
        gradients: of the run, which knows dL/dz_1 after each step.
        x: the training set, (N, d).
        every: steps from one computation to the next.
    """

    def __init__(self, network: MLP, gradients: Backpropagation, x: torch.Tensor, every: int) -> None:
        self.network, self.gradients, self.x, self.every = network, gradients, x, every
        self.products = x @ x.T  # K
        self.longest = x.norm(dim=1).max()

    def begin(self, state: State) -> None:
        """Adds Z, (M, width, N), and its drift, (M, 1, 1), to the state before the first step."""
        Z = self.network.first(state["weights"], self.x)
        state[FIRST_LAYER] = (Z, Z.new_zeros(len(Z), 1, 1))

    def refresh(self, step: int, state: State) -> None:
        """Computes Z anew where it is time, and keeps how far it was off."""
        if step % self.every:
            return
        Z, drift = state[FIRST_LAYER]
        exact, W = self.network.first(state["weights"], self.x), state["weights"][0]
        size = W.norm(dim=2, keepdim=True).amax(dim=1, keepdim=True) * self.longest
        drift.copy_((Z - exact).abs().amax(dim=(1, 2), keepdim=True) / size)
        Z.copy_(exact)

    def outputs(self, state: State) -> torch.Tensor:
        """Outputs on the training set, (M, C, N)."""
        return self.network.forward_from(state["weights"], state[FIRST_LAYER][0])

    def follow(
        self,
        state: State,
        index: torch.Tensor,
        *,
        lr: torch.Tensor,
        weight_decay: torch.Tensor | None = None,
    ) -> None:
        """Moves Z as a step has moved W_1.

        Args:
            state: of the optimizer, after the step.
            index: the batch's samples, (M, batch).
            lr: of each member, (M, 1, 1).
            weight_decay: likewise.
        """
        Z = state[FIRST_LAYER][0]
        rows = self.products.index_select(0, index.reshape(-1)).view(*index.shape, -1)
        if weight_decay is not None:
            Z.mul_(1 - lr * weight_decay)
        Z.baddbmm_(self.gradients.slope * lr, rows, alpha=-1)
