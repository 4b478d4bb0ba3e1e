"""The data and the network of a recorded run, made again from its recipe."""

from __future__ import annotations

from typing import Literal

from rhotrace.config.recipe import Recipe, options
from rhotrace.errors import DataError
from rhotrace.models import datasets
from rhotrace.models.networks import NETWORKS, Network
from rhotrace.runfile.reader import Trace


def data_and_network(
    trace: Trace, recipe: Recipe, dtype: Literal["float32", "float64"] = "float64"
) -> tuple[datasets.Dataset, Network] | str:
    """The data and the network of a run, made again, or why they are not available."""
    try:
        loaded = datasets.load(**options(recipe.data), dtype=dtype)
    except DataError as absent:
        return f"needs the data: {absent.brief}"
    if loaded.digest != trace.attributes["data_digest"]:
        return f"the data here is other data: its digest is {loaded.digest[:12]}"
    shape = loaded.x.shape[1], loaded.y.shape[1]
    return loaded, NETWORKS[recipe.network.kind](*shape, **options(recipe.network, without=("dtype",)))
