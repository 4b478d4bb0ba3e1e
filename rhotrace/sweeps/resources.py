"""How much memory a training takes; by this, members are grouped into runs that fit."""

from __future__ import annotations

import math

from rhotrace.config.recipe import Recipe
from rhotrace.recording.first_layer import FIRST_LAYER
from rhotrace.recording.quantity import CADENCES
from rhotrace.runfile.layout import Layout
from rhotrace.training.plan import plan_layout
from rhotrace.training.recorder import BLOCK_STEPS

PROCESS = 1e9  # the interpreter with torch, and the data while it is read
SHARE = 0.6  # of the free memory; the estimate counts the largest tensors, not every byte
CACHE = 32e6  # of a processor; members whose weights and activations do not fit in it train slower together than alone


def shared_bytes(recipe: Recipe, samples: int, tests: int, shape: tuple[int, ...]) -> float:
    """Memory that a run takes for any number of members: the process, the samples, and their inner products if needed."""
    products = samples**2 * _item(recipe) if _followed(recipe) else 0
    return float(PROCESS + 3 * (samples + tests) * math.prod(shape) * _item(recipe) + products)


def member_bytes(recipe: Recipe, samples: int, shape: tuple[int, ...], outputs: int) -> float:
    """Memory that each member adds: weights, activations on the samples, and the block of rows that is recorded."""
    rows = (
        2
        * min(BLOCK_STEPS, recipe.steps)
        * _layout(recipe, samples, shape, outputs).row_numbers
        / len(recipe.seeds)
        * 8
    )
    return step_bytes(recipe, samples, shape, outputs) + float(rows)


def step_bytes(recipe: Recipe, samples: int, shape: tuple[int, ...], outputs: int) -> float:
    """Memory that a member's step reads and writes: weights, gradients and activations on the samples."""
    network = recipe.network.build(shape, outputs)
    item = _item(recipe)
    weights = recipe.trained_by.tensors * sum(math.prod(block.shape) for block in network.blocks) * item
    batch = recipe.optimizer.minibatches
    largest = max(batch.size if batch else samples, network.together(samples))  # pass
    activations = 2.5 * largest * network.units(math.prod(shape)) * item + samples * 8 * outputs * 8
    gathered = 2 * batch.size * math.prod(shape) * item if batch else 0
    # z_1 of all samples, the same computed anew, and the inner products of the batch with all samples
    first = network.blocks[0].matrix[0]
    followed = (2 * first + batch.size) * samples * item if batch and _followed(recipe) else 0
    return float(weights + activations + gathered + followed)


def copies_bytes(recipe: Recipe, samples: int, shape: tuple[int, ...], outputs: int) -> float:
    """Disk space of a member's snapshots, and of the two copies of the optimizer's state."""
    layout = _layout(recipe, samples, shape, outputs)
    weights = sum(math.prod(shape) for shape in layout.shapes)
    state = sum(math.prod(shape) for tensors in layout.state.values() for shape in tensors)
    return float((weights * len(layout.snapshots) + 2 * state) * _item(recipe))


def row_bytes(recipe: Recipe, samples: int, shape: tuple[int, ...], outputs: int) -> float:
    """Disk space of a member's rows during training, before they are compressed."""
    return float(recipe.steps * _layout(recipe, samples, shape, outputs).row_numbers / len(recipe.seeds) * 8)


def _layout(recipe: Recipe, samples: int, shape: tuple[int, ...], outputs: int) -> Layout:
    """The layout of the recipe's run file, without allocating anything of it."""
    import torch

    def empty(*size: int) -> torch.Tensor:
        return torch.empty(1, *size, device="meta")

    network = recipe.network.build(shape, outputs)
    state = recipe.trained_by.init(tuple(empty(*block.matrix) for block in network.parameters))
    if network.buffers:
        state["buffers"] = tuple(empty(*block.matrix) for block in network.buffers)
    if _followed(recipe):
        state[FIRST_LAYER] = (empty(network.blocks[0].matrix[0], samples), empty(1, 1))
    return plan_layout(recipe, network, outputs, state, {})


def _followed(recipe: Recipe) -> bool:
    return recipe.stride(CADENCES[FIRST_LAYER]) is not None


def free_bytes(device: str) -> float:
    """Memory that is free now: the GPU's for ``cuda``, else the machine's.

    Raises:
        DeviceError: CUDA was asked for and torch finds none.
    """
    if device == "cuda":
        import torch

        from rhotrace.models.device import choose_device

        choose_device(device)
        return float(torch.cuda.mem_get_info()[0])
    import psutil

    return float(psutil.virtual_memory().available)


def _item(recipe: Recipe) -> int:
    return 4 if recipe.network.dtype == "float32" else 8
