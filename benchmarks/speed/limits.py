"""The limits of the machine, and what a step of a recipe cannot avoid."""

from __future__ import annotations

import numpy as np
import torch

from rhotrace.config.recipe import Recipe

from .measure import Effort, Row, calls

PRODUCTS = ("torch product, GFLOP/s", "numpy product, GFLOP/s", "oneDNN product, GFLOP/s")
MEMORY = "memory copied, GB/s"


def limits(effort: Effort) -> Row:
    """What one core can do: products of matrices in float32, and memory copied (read and written)."""
    n, long = (128, 0.01) if effort.quick else (1024, 0.6)
    A, B = torch.randn(n, n), torch.randn(n, n)
    a, b = A.numpy(), B.numpy()
    ways = {PRODUCTS[0]: lambda: A @ B, PRODUCTS[1]: lambda: a @ b}
    if torch.backends.mkldnn.is_available():
        one_dnn = torch.ops.mkldnn._linear_pointwise
        ways[PRODUCTS[2]] = lambda: one_dnn(A, B, None, "none", [], "")
    found = {name: 2e-9 * n**3 / min(calls(way, long)) for name, way in ways.items()}
    big = torch.zeros(1 << (20 if effort.quick else 26))
    to = torch.empty_like(big)
    found[MEMORY] = 2 * big.nbytes * 1e-9 / min(calls(lambda: to.copy_(big), long))
    return found


def work(content: Recipe) -> tuple[float, float]:
    """Floating-point operations and bytes that a step cannot avoid: its products, and each weight read and written once.

    A full-set pass is counted wherever the recipe asks for one: by the plain product, or where the first layer is
    followed, by what it takes to follow it.
    """
    data = content.load_data()
    blocks = content.network.build(data.shape, data.y.shape[1]).layers
    weights = [int(np.prod(block.shape)) for block in blocks]
    uses = [1] * len(blocks)
    if content.network.kind == "conv":  # each weight is used at every place of the image
        side = data.shape[1]
        for k in range(len(blocks) - 1):
            side = (side + 2 * content.network.padding - content.network.kernel) // content.network.stride + 1
            uses[k] = side * side
    products = [w * u for w, u in zip(weights, uses, strict=True)]
    members, size = len(content.seeds), getattr(content.optimizer, "batch_size", None)
    per_sample = 2 * (3 * sum(products) - products[0])  # forward, backward, and no gradient of the inputs
    flops = (size or len(data.x)) * per_sample
    if size:
        every, share = followed(content), 1 / content.record.full_every
        # Followed, the first layer moves at every step, whether or not the sums are due.
        first = products[0] / every + blocks[0].shape[0] * size if every else products[0] * share
        flops += len(data.x) * 2 * (first + sum(products[1:]) * share)
    return members * flops, members * 4 * 3 * sum(weights)


def followed(content: Recipe) -> int | None:
    """Steps from one computation of the first layer to the next, where it is followed."""
    every = getattr(getattr(content.record, "every", None), "first_layer", None)
    return every if isinstance(every, int) else None


def least(content: Recipe, found: Row) -> Row:
    """The least time of a step, in microseconds, by the limits of the machine: the fastest product, and memory."""
    flops, size = work(content)
    peak = max(found[name] for name in PRODUCTS if name in found)
    return {
        "flops": flops,
        "bytes": size,
        "limit_us": max(flops / peak, size / found[MEMORY]) * 1e-3,
    }
