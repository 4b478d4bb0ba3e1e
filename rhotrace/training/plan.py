"""What follows from a recipe before the first step: the parameters at the start, and the layout of the run file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rhotrace.config.recipe import Recipe
from rhotrace.errors import RecipeError
from rhotrace.models.datasets.samples import Chosen, Dataset
from rhotrace.models.initial_weights import AsBuilt
from rhotrace.models.network import Block, Network
from rhotrace.models.schedules import Constant
from rhotrace.recording.quantity import CADENCES, QUANTITIES, Quantity, Traced, traced_quantities
from rhotrace.runfile.layout import Facts, IndexList, Layout, snapshot_steps

if TYPE_CHECKING:
    import torch


_SAYS = {
    "train_sample": "index of each training sample in the training part of the dataset, in the order of the run",
    "test_sample": "index of each test sample in the test part of the dataset, in the order of the run",
    "noisy_sample": "places in train_sample, from 0, of the samples whose target was replaced by a wrong one",
}


def sample_lists(chosen: Chosen | None) -> dict[str, NDArray[np.int64]]:
    """Which samples the run has, by name of the list; nothing where the dataset does not say, and no empty list."""
    if chosen is None:
        return {}
    lists = {"train_sample": chosen.train, "test_sample": chosen.test, "noisy_sample": chosen.wrong}
    return {name: values.astype("<i8") for name, values in lists.items() if len(values)}


def initial_parameters(recipe: Recipe, network: Network) -> list[NDArray[np.float64]]:
    """The parameters before the first step, one (M, out, fan_in) array per trained block, in float64."""
    each = [
        initialiser.of([network.start(seed)[block.name] for block in network.layers])
        if isinstance(initialiser, AsBuilt)
        else initialiser.weights(network.layers, seed)
        for seed, initialiser in zip(recipe.seeds, recipe.initialisers, strict=True)
    ]
    weights = iter([np.stack(layer) for layer in zip(*each, strict=True)])
    others = iter(_constants(recipe, network, [block for block in network.parameters if block.role != "weight"]))
    return [next(weights if block.role == "weight" else others) for block in network.parameters]


def initial_buffers(recipe: Recipe, network: Network) -> list[NDArray[np.float64]]:
    """The buffers before the first step, one (M, out, fan_in) array for each."""
    return _constants(recipe, network, network.buffers)


def _constants(recipe: Recipe, network: Network, blocks: Sequence[Block]) -> list[NDArray[np.float64]]:
    """Blocks that no initialiser fills: as the network starts them, or constant."""
    if not blocks:
        return []
    starts = [network.start(seed) for seed in recipe.seeds]
    return [np.stack([own.get(block.name, np.full(block.matrix, block.start)) for own in starts]) for block in blocks]


def plan_layout(
    recipe: Recipe,
    network: Network,
    outputs: int,
    state: Mapping[str, tuple[torch.Tensor, ...]],
    lists: Mapping[str, NDArray[np.int64]],
) -> Layout:
    """What the run file of a recipe holds.

    Args:
        recipe: of the run.
        network: built for its data.
        outputs: C.
        state: of the optimizer before the first step.
        lists: see ``sample_lists``.
    """
    traced = _traced(recipe, network, outputs, state)
    quantities = tuple(q for q in traced_quantities(traced) if recipe.stride(CADENCES[q.cadence]))
    due = {"step", "full", "test", *(quantity.cadence for quantity in quantities)}
    return Layout(
        steps=recipe.steps,
        members=len(recipe.seeds),
        blocks=network.blocks,
        dtype=recipe.network.dtype,
        strides={
            name: stride for name, cadence in CADENCES.items() if name in due and (stride := recipe.stride(cadence))
        },
        snapshots=snapshot_steps(recipe.steps, recipe.record.snapshots),
        quantities=tuple(quantity.describe(recipe.loss) for quantity in quantities),
        axes={axis.name: axis.coordinates(traced) for quantity in quantities for axis in quantity.own_axes},
        state={key: [tuple(t.shape[1:]) for t in tensors] for key, tensors in state.items()},
        per_member=recipe.per_member_symbols,
        facts=Facts(
            loss=recipe.loss.kind,
            equilibrium=recipe.loss.equilibrium,
            optimizer=recipe.optimizer.kind,
            law=recipe.trained_by.step_law,
            minibatches=recipe.optimizer.minibatches is not None,
        ),
        lists={name: IndexList(len(values), _SAYS[name]) for name, values in lists.items()},
    )


def _traced(recipe: Recipe, network: Network, outputs: int, state: Mapping[str, tuple[torch.Tensor, ...]]) -> Traced:
    scheduled = not isinstance(recipe.optimizer.schedule, Constant)
    return Traced(network, recipe.loss, frozenset(state), outputs, scheduled)


def refuse_asked(
    recipe: Recipe, network: Network, dataset: Dataset, state: Mapping[str, tuple[torch.Tensor, ...]]
) -> None:
    """Raises RecipeError where a recipe asks for a quantity that its run cannot have.

    Args:
        recipe: of the run.
        network: built for its data.
        dataset: its data.
        state: of the optimizer before the first step.
    """
    import torch

    asked = [(q, recipe.stride(CADENCES[q.cadence])) for q in QUANTITIES.values() if _on_request(q)]
    if not any(stride for _, stride in asked):
        return
    weights, buffers = (tuple(t[:1] for t in state.get(key, ())) for key in ("weights", "buffers"))
    x = torch.as_tensor(dataset.x[:1], device=weights[0].device, dtype=weights[0].dtype)
    features = network.evaluate(weights, x, buffers).features
    samples, outputs = dataset.y.shape
    traced = replace(
        _traced(recipe, network, outputs, state),
        samples=samples,
        classes=len(dataset.classes) > 1,
        features={name: tuple(h.shape[2:]) for name, h in features.items()},
    )
    for quantity, stride in asked:
        if stride and (why := quantity.refuses(traced)):
            raise RecipeError(f"record.every.{quantity.cadence}: got {stride}, but {why}; remove it")


def _on_request(quantity: Quantity) -> bool:
    return CADENCES[quantity.cadence].default is None
