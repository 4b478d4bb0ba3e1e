"""The two sides of a pair: RhoTrace's training, and the loops that a user would write instead."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache, lru_cache
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import nn

from rhotrace.config.recipe import Recipe, parse
from rhotrace.training.plan import initial_parameters
from rhotrace.training.train import train

from .measure import Loop

Log = Callable[[int, nn.Module, torch.Tensor, torch.Tensor, torch.Tensor], None]


def traced(content: Recipe) -> Loop:
    """RhoTrace's training with everything recorded and written, from the first step to the last block."""

    def go(steps: int) -> float:
        marks = [0.0, 0.0]
        with tempfile.TemporaryDirectory() as folder:
            outcome = train(
                content.model_copy(update={"steps": steps}),
                Path(folder) / "run.h5",
                device="cpu",
                begin=lambda _: marks.__setitem__(0, time.process_time()),
                watch=lambda _: marks.__setitem__(1, time.process_time()),
            )
        if outcome.ended == "interrupted":  # Ctrl-C ends a training in order, and the benchmark with it
            raise KeyboardInterrupt
        return marks[1] - marks[0]

    return go


def tensors(content: Recipe) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets."""
    data = content.load_data()
    return torch.tensor(data.x, dtype=torch.float32), torch.tensor(data.y, dtype=torch.float32)


def module(content: Recipe, inputs: int) -> nn.Module:
    """The network as PyTorch's tutorials write it, with PyTorch's own weight norm and batch norm."""
    network = content.network
    if network.kind == "conv":
        layers: list[nn.Module] = [nn.Unflatten(1, (3, 32, 32))]
        for into, out in pairwise([3, *network.channels]):
            layers.append(nn.Conv2d(into, out, network.kernel, network.stride, network.padding, bias=False))
            layers += [nn.BatchNorm2d(out, affine=False)] if network.batch_norm else []
            layers.append(nn.ReLU())
        net = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(1, bias=False))
        net(torch.zeros(2, inputs))
        return net
    layers = []
    for into, out in pairwise([inputs, *[network.width] * (network.depth - 1), 1]):
        linear = nn.Linear(into, out, bias=False)
        if content.optimizer.kind == "weight-norm":
            linear = nn.utils.parametrizations.weight_norm(linear, dim=None)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def bare(content: Recipe, log: Log | None = None) -> Loop:
    """The usual loop: ``nn.Sequential``, automatic gradients, ``torch.optim.SGD``; with a function that logs, or none."""
    x, y = tensors(content)
    batch = getattr(content.optimizer, "batch_size", None)

    def go(steps: int) -> float:
        net = module(content, x.shape[1])
        optimizer = torch.optim.SGD(net.parameters(), lr=content.optimizer.lr)
        began = time.process_time()
        for step in range(steps):
            index = torch.randint(len(x), (batch,)) if batch else slice(None)
            xs, ys = (x[index], y[index]) if batch else (x, y)
            optimizer.zero_grad()
            outputs = net(xs)
            loss = ((outputs - ys) ** 2).mean()
            loss.backward()
            if log:
                log(step, net, outputs.detach(), ys, loss.detach())
            optimizer.step()
        return time.process_time() - began

    return go


def bare_apart(content: Recipe) -> Loop:
    """The bare loop in a process of its own, so that what a training sets for its process, as for freed memory, stays out of it."""
    recipe = content.to_yaml()
    return lambda steps: _other_process().submit(_bare_there, recipe, steps).result()


@cache
def _other_process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


def _bare_there(recipe: str, steps: int) -> float:
    return _loop_there(recipe)(steps)


@lru_cache(maxsize=1)  # a second workload would keep the data of the first
def _loop_there(recipe: str) -> Loop:
    torch.set_num_threads(1)
    return bare(parse(recipe))


def one_by_one(content: Recipe) -> Loop:
    """The bare loop for one network after another."""
    alone = bare(content)
    return lambda steps: sum(alone(steps) for _ in content.seeds)


def batched(content: Recipe) -> Loop:
    """A loop over batched products for all members at once, with automatic gradients."""
    x, y = tensors(content)
    network = content.network.build((x.shape[1],), 1)
    start = [torch.tensor(W, dtype=torch.float32) for W in initial_parameters(content, network)]

    def go(steps: int) -> float:
        weights = [W.clone().requires_grad_() for W in start]
        members = len(start[0])
        began = time.process_time()
        for _ in range(steps):
            h = x.expand(members, -1, -1)
            for W in weights[:-1]:
                h = torch.relu(h @ W.mT)
            loss = ((h @ weights[-1].mT - y) ** 2).mean(dim=(1, 2)).sum()
            for W, G in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                with torch.no_grad():
                    W.sub_(G, alpha=content.optimizer.lr)
        return time.process_time() - began

    return go
