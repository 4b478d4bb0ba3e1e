"""The parts of a step in microseconds, by which a missed goal is explained.

Each part that a training cannot do without is timed by itself, on tensors of the run's sizes; what is left of the step is
measuring the quantities, keeping and writing them, and Python between the parts.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import numpy as np
import torch

from rhotrace.config.recipe import Recipe
from rhotrace.models.networks.mlp import MLP
from rhotrace.models.products import multiplied
from rhotrace.training.plan import initial_buffers, initial_parameters

from .limits import followed
from .measure import Effort, Row, calls

DRAWN = 256


def step_parts(content: Recipe, effort: Effort) -> Row:
    """Microseconds of each part of a step: batch, gradients, update, and the pass over the full set."""
    x, y = (torch.as_tensor(values, dtype=torch.float32) for values in (content.load_data().x, content.load_data().y))
    network, optimizer = content.network.build(content.load_data().shape, y.shape[1]), content.trained_by
    weights, buffers = (
        tuple(torch.as_tensor(W, dtype=torch.float32) for W in values)
        for values in (initial_parameters(content, network), initial_buffers(content, network))
    )
    options = {
        name: torch.as_tensor(np.array(values), dtype=torch.float32).view(-1, 1, 1) * 0  # the weights stay finite
        for name, values in content.switched_on(content.optimizer).items()
    }
    state, batches = optimizer.begin(weights, options), content.optimizer.minibatches
    index = torch.arange(batches.size if batches else len(x)).expand(len(content.seeds), -1)
    xs, ys = (x[index], y[index]) if batches else (x, y)
    found: Row = {}

    def part(name: str, go: Callable[[], object], each: float = 1.0) -> None:
        with torch.no_grad():
            found[name] = 1e6 * statistics.median(calls(go, effort.seconds / 3)) * each

    if batches:
        part("batch", lambda: batches.indices(content.batch_seeds, 0, DRAWN, samples=len(x)), 1 / DRAWN)
        drawn = found["batch"]
        part("batch", lambda: (x[index], y[index]))
        found["batch"] += drawn
    with torch.no_grad():
        backward = network.repeated_gradients(state["weights"], content.loss)
        gradients = backward(xs, ys, buffers).gradients
    part("gradients", lambda: backward(xs, ys, buffers))
    part("update", lambda: optimizer.step(state, gradients, **options))
    if batches:
        _full_pass(content, network, state["weights"], buffers, x, index, part)
    return found


def _full_pass(content, network, weights, buffers, x, index, part) -> None:  # noqa: ANN001 - as above
    """The pass over the full set, and its products alone."""
    each, every = 1 / content.record.full_every, followed(content)
    if every and isinstance(network, MLP):
        Z, gram = network.first(weights, x), x @ x.T
        slope = torch.zeros(*Z.shape[:2], index.shape[1])

        def follow() -> None:
            Z.baddbmm_(slope, gram.index_select(0, index.reshape(-1)).view(*index.shape, -1), alpha=-1)

        part("first layer followed", follow)
        part("full-set pass", lambda: network.forward_from(weights, Z), each)
    else:
        part("full-set pass", lambda: network.forward(weights, x, buffers), each)
    if isinstance(network, MLP):
        hidden = torch.randn(len(weights[0]), weights[0].shape[1], len(x))
        later = weights[1:] if every else weights
        x_T = x.T.expand(len(weights[0]), -1, -1)

        def products() -> None:
            for W in later:
                multiplied(W, hidden if W.shape[2] == hidden.shape[1] else x_T)

        part("its products alone", products, each)


def in_words(row: Row) -> str:
    """Why a goal is missed, from the parts of the step."""
    parts = dict(row["parts"])
    goal, us, other = row["goal"] * row["us_other"], row["us"], row["us_other"]
    alone = parts.pop("its products alone", None)
    needed = sum(parts.values())
    listed = ", ".join(f"{name} {value:.0f}" for name, value in parts.items() if value >= 0.5)
    if alone is not None and alone >= 0.5:
        listed += f" (its products alone {alone:.0f})"
    rest = us - needed
    told = f"a step takes {us:.0f} µs, the bare loop's {other:.0f}; {listed}; the rest, {rest:.0f}, measures, keeps and writes."
    if row["commit_us"] > 0:
        told += f" A run of one step takes {row['commit_us'] / 1000:.1f} ms more: its start, and the writing of a block and of the state, "
        told += "which comes once in 1,024 steps or a second of the clock, and less often where it takes long."
    if needed > goal:
        return f"{told} The parts without the rest already exceed the goal of {goal:.0f} µs."
    return f"{told} The goal, {goal:.0f} µs, leaves {goal - needed:.0f} for the rest."
