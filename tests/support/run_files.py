"""The recipes of the run files under test, and a live file of known numbers, written without training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rhotrace.models.losses import Square
from rhotrace.models.network import Block
from rhotrace.recording.quantities import QUANTILES, QUANTITIES
from rhotrace.runfile.layout import Facts, Layout, dimension_sizes

RUNS = {  # overrides of the small recipe
    "gd": (),
    "sgd": ("optimizer={kind: sgd, lr: 0.05, batch_size: 7}", "record.full_every=3", "steps=50"),
    "weight-norm": ("optimizer={kind: weight-norm, lr: 0.05}", "network.dtype=float32", "steps=30"),
}
STRIDES = {"step": 1, "full": 4, "test": 10}
STEPS, MEMBERS, SHAPES = 40, 2, ((3, 4), (1, 3))
PER_MEMBER = {
    **{name: np.arange(MEMBERS) for name in ("seed", "batch_seed")},
    **{name: np.ones(MEMBERS) for name in ("lr", "init_rho_k")},
}


def live_layout() -> Layout:
    return Layout(
        steps=STEPS,
        members=MEMBERS,
        blocks=tuple(Block(f"W{k}", shape) for k, shape in enumerate(SHAPES, 1)),
        dtype="float64",
        strides=STRIDES,
        snapshots=[0, 5, STEPS],
        quantities=tuple(
            q.describe(Square()) for q in QUANTITIES.values() if q.name != "v_norm" and q.cadence in STRIDES
        ),
        axes={"quantile": QUANTILES},
        state={"weights": list(SHAPES)},
        per_member={"lr": "lr", "init_rho_k": "rho_k(0)"},
        facts=Facts("square", equilibrium=True, optimizer="gd", law="descent", minibatches=True),
    )


def values(layout: Layout, first: int, last: int) -> dict[str, np.ndarray]:
    """A block in which every number says its quantity, its row and its place."""
    sizes = dimension_sizes(layout)
    block = {}
    for number, quantity in enumerate(layout.quantities):
        start, stop = layout.rows(quantity.cadence, first), layout.rows(quantity.cadence, last)
        shape = [sizes[a] for a in quantity.axes]
        inside = np.arange(np.prod(shape)).reshape(shape) / 100
        block[quantity.name] = 1000 * number + np.arange(start, stop).reshape(-1, *[1] * len(shape)) + inside
    return block


def weights_of(step: int) -> list[np.ndarray]:
    return [np.full((MEMBERS, *shape), step + 1.0) for shape in SHAPES]


def flip(path: Path, place: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1 << bit]))
