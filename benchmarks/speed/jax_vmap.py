# ruff: noqa: ANN001, ANN202 - functions inside, which JAX traces
"""The same members in JAX: ``vmap`` over members, ``lax.scan`` over steps, everything compiled; a process of its own.

It reads numbers of steps, one in a line, and answers each with the processor seconds that they took. Float32 on one
thread of the processor. Compilation is not counted. At each step it keeps what the other loops log: the squared norms of weights
and gradients of each layer, a, q, loss, error and smallest margin of each member.
"""

from __future__ import annotations

import os
import sys

if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
os.environ["JAX_PLATFORMS"] = "cpu"

import time
from itertools import pairwise

import numpy as np

CHUNK = 10  # steps in one call


def main(depth: int, width: int, inputs: int, samples: int, members: int, lr: float) -> None:
    import jax
    import jax.numpy as jnp

    rng = np.random.default_rng(0)
    x = rng.standard_normal((samples, inputs)).astype(np.float32)
    x = jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))
    y = jnp.asarray(rng.choice([-1.0, 1.0], samples).astype(np.float32))
    sizes = [inputs, *[width] * (depth - 1), 1]
    start = [
        jnp.asarray(rng.standard_normal((members, out, into)).astype(np.float32) * np.sqrt(2 / into))
        for into, out in pairwise(sizes)
    ]

    def loss(weights, x):
        h = x
        for W in weights[:-1]:
            h = jax.nn.relu(h @ W.T)
        outputs = (h @ weights[-1].T)[:, 0]
        return jnp.mean((outputs - y) ** 2), outputs

    def one(weights, x):
        (value, outputs), gradients = jax.value_and_grad(loss, has_aux=True)(weights, x)
        margins = outputs * y
        kept = (
            jnp.stack([jnp.sum(W * W) for W in weights]),
            jnp.stack([jnp.sum(G * G) for G in gradients]),
            jnp.mean(margins),
            jnp.mean(outputs * outputs),
            value,
            jnp.mean(margins <= 0),
            jnp.min(margins),
        )
        return [W - lr * G for W, G in zip(weights, gradients, strict=True)], kept

    def step(weights, _):
        return jax.vmap(one, in_axes=(0, None))(weights, x)

    chunk = jax.jit(lambda weights: jax.lax.scan(step, weights, None, length=CHUNK))
    jax.block_until_ready(chunk(start))
    print(jax.__version__, flush=True)
    for line in sys.stdin:
        weights, log = start, []
        began = time.process_time()
        calls = -(-int(line) // CHUNK)
        for _ in range(calls):
            weights, kept = chunk(weights)
            log.append([np.asarray(values) for values in kept])
        jax.block_until_ready(weights)
        print((time.process_time() - began) / (calls * CHUNK) * int(line), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:6]), float(sys.argv[6]))
