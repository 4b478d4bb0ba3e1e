"""How much memory a training takes, so that members are grouped into runs that fit."""

from __future__ import annotations

import math

from rhotrace.config.recipe import Recipe, options
from rhotrace.models.networks import NETWORKS
from rhotrace.training.recorder import BLOCK_STEPS

PROCESS = 1e9  # the interpreter with torch, and the data while it is read
SHARE = 0.6  # of what is free; the estimate is one of the largest tensors, not of every byte
CACHE = 32e6  # of a processor: members whose weights and activations leave it train slower together than alone
_COPIES = {"gd": 3, "sgd": 3, "weight-norm": 6}  # of the weights: themselves, gradients, and what the step makes
_ROW = 24  # numbers of a member in a row, beside those of its layers


def shared_bytes(recipe: Recipe, samples: int, inputs: int) -> float:
    """Memory that a run takes whatever its members: the process, and the data."""
    return float(PROCESS + 3 * (samples + recipe.data.test) * inputs * _item(recipe))


def member_bytes(recipe: Recipe, samples: int, inputs: int, outputs: int) -> float:
    """Memory that each member adds: weights, activations on the samples, and the block of rows that is recorded."""
    rows = 2 * min(BLOCK_STEPS, recipe.steps) * (3 * recipe.network.depth + _ROW) * 8
    return step_bytes(recipe, samples, inputs, outputs) + float(rows)


def step_bytes(recipe: Recipe, samples: int, inputs: int, outputs: int) -> float:
    """What a member's step goes through: weights, gradients and activations on the samples."""
    network = NETWORKS[recipe.network.kind](inputs, outputs, **options(recipe.network, without=("dtype",)))
    item = _item(recipe)
    weights = _COPIES.get(recipe.optimizer.kind, 6) * sum(math.prod(shape) for shape in network.shapes) * item
    units = sum(shape[0] for shape in network.shapes)
    activations = samples * (2.5 * units * item + 8 * outputs * 8)
    batch = getattr(recipe.optimizer, "batch_size", None)
    gathered = 2 * batch * inputs * item if batch else 0
    return float(weights + activations + gathered)


def copies_bytes(recipe: Recipe, inputs: int, outputs: int) -> float:
    """Disk that a member's copies of the weights take, and the two places of the optimizer's state."""
    network = NETWORKS[recipe.network.kind](inputs, outputs, **options(recipe.network, without=("dtype",)))
    weights = sum(math.prod(shape) for shape in network.shapes) * _item(recipe)
    state = 2 if recipe.optimizer.kind == "weight-norm" else 1
    return float(weights * (recipe.record.snapshots + 2 * state))


def row_bytes(recipe: Recipe) -> float:
    """Disk that a member's rows take while it trains, before they are packed."""
    return float(recipe.steps * (3 * recipe.network.depth + _ROW) * 8)


def free_bytes(device: str) -> float:
    """Memory that is free now, of the GPU for ``cuda`` and of the machine else.

    Raises:
        DeviceError: CUDA was asked for and torch finds none.
    """
    if device == "cuda":
        import torch

        from rhotrace.models.device import find_device

        find_device(device)
        return float(torch.cuda.mem_get_info()[0])
    import psutil

    return float(psutil.virtual_memory().available)


def _item(recipe: Recipe) -> int:
    return 4 if recipe.network.dtype == "float32" else 8
