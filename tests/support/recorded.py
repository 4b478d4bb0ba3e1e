"""Small runs whose quantities can be computed again from their snapshots, and moments without a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from rhotrace.config import recipe
from rhotrace.models.datasets import Dataset
from rhotrace.models.network import Block
from rhotrace.recording.moment import Moment

TEXT = """\
data: {dataset: npz, file: own.npz, root: ROOT, train: 24, test: 10}
network: {kind: mlp, depth: 3, width: [6, 4], dtype: float64}
init: {kind: equal-norms, rho_k: 1.5}
optimizer: {kind: gd, lr: 0.2}
members: {seeds: 2}
steps: 9
record: {snapshots: 40}
"""
NETWORKS = {
    "mlp": "network={kind: mlp, depth: 3, width: [6, 4], dtype: float64}",
    "conv": "network={kind: conv, channels: [3, 4], dtype: float64}",
    "residual": "network={kind: residual, depth: 4, width: 5, dtype: float64}",
}


@dataclass(frozen=True)
class Recorded:
    """A small run.

    Attributes:
        given: its recipe.
        data: its samples.
        rows: of its quantities, by name.
        steps: at which the quantity of a name was measured, by name.
        weights: the snapshot at each step, each (M, out, fan_in).
    """

    given: recipe.Recipe
    data: Dataset
    rows: dict[str, np.ndarray]
    steps: dict[str, list[int]]
    weights: dict[int, list[np.ndarray]]

    def of(self, name: str):
        """For each row of a quantity and each member: what was recorded, and the member's weights, each (out, fan_in)."""
        for row, step in enumerate(self.steps[name]):
            for m, found in enumerate(self.rows[name][row]):
                yield found, [W[m].astype(np.float64) for W in self.weights[step]]

    @property
    def network(self):
        return self.given.network.build(self.data.shape, self.data.y.shape[1])


def moment_of(*weights, shapes=None, evaluate=None, **more) -> Moment:
    """A moment of a network with these weights, each (M, out, fan_in), and nothing else but what is given.

    Args:
        weights: of the layers.
        shapes: of their blocks, where they are not matrices.
        evaluate: returns the network's features and outputs.
        more: other fields of the moment.
    """

    class Layers:
        layers = tuple(Block(f"W{k}", tuple(shape)) for k, shape in enumerate(shapes or [W.shape[1:] for W in weights]))

        def of_layers(self, tensors):
            return tensors

        def evaluate(self, *given):
            return evaluate(*given)

    state = {"weights": tuple(torch.as_tensor(W) for W in weights)}
    fields = ("batch", "evaluate_full", "evaluate_test", "evaluate_after", "hessian_product", "lr", "x", "y", "loss")
    rest = {**dict.fromkeys(fields), **more}
    return Moment(network=Layers(), state=state, all_gradients=state["weights"], **rest)
