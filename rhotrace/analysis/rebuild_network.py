"""The data and the network of a recorded run, made again from its recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from rhotrace.config.recipe import Recipe
from rhotrace.config.trusted_code import run_stored
from rhotrace.errors import DataError
from rhotrace.models import datasets
from rhotrace.models.network import Network
from rhotrace.models.own_code import NotLoadedError
from rhotrace.runfile.reader import Trace

if TYPE_CHECKING:
    from rhotrace.models.network import Tensors


def data_and_network(
    trace: Trace, recipe: Recipe, dtype: Literal["float32", "float64"] = "float64"
) -> tuple[datasets.Dataset, Network] | str:
    """The data and the network of a run, made again, or why they are not available."""
    try:
        loaded = recipe.load_data(dtype)
    except DataError as absent:
        return f"needs the data: {absent.brief}"
    if loaded.digest != trace.attributes["data_digest"]:
        return f"the data here is other data: its digest is {loaded.digest[:12]}"
    try:
        network = recipe.network.build(loaded.shape, loaded.y.shape[1])
    except NotLoadedError as missing:
        return f"needs the run's own code, {missing.place}: --trust-code runs the copy in the file"
    return loaded, network.recorded_as(trace.layout.blocks)


def run_stored_code(*traces: Trace, allowed: bool) -> None:
    """Runs the copies of the recipes' own Python files, for what needs the network; only where the user allows it.

    Raises:
        RecipeError: a copy is missing or is not the one that trained, or it fails.
    """
    for trace in traces if allowed else ():
        if "code" in trace.attributes:
            run_stored(trace.recipe, trace.attributes, str(trace.path))


def parameters_and_buffers(
    network: Network, snapshot: list[NDArray[Any]], dtype: type[np.floating[Any]] | None = None
) -> tuple[Tensors, Tensors]:
    """The blocks of a snapshot as tensors, those that are trained and the others; of their own type by default."""
    import torch

    return network.split([torch.as_tensor(values if dtype is None else values.astype(dtype)) for values in snapshot])
