"""Components as tests want them: networks, initial weights and minibatches in one line."""

from __future__ import annotations

import numpy as np

from rhotrace.models.initial_weights import EqualNorms
from rhotrace.models.minibatches import Minibatches
from rhotrace.models.network import Network
from rhotrace.models.networks.mlp import MLPOptions


def mlp(inputs: int, outputs: int, *, depth: int, width: int | list[int] = 32) -> Network:
    width = 32 if width == [] else width
    return MLPOptions(depth=depth, width=width).build((inputs,), outputs)


def equal_norms(network: Network, seed: int, *, rho_k: float) -> list[np.ndarray]:
    return EqualNorms(rho_k=rho_k).weights(network.layers, seed)


def batch_indices(seeds, first, last, *, samples, batch_size, sampling):
    return Minibatches(batch_size, sampling).indices(seeds, first, last, samples=samples)
