"""Small training loops of one's own, recorded, for the tests of ``rhotrace.own_loop`` and of the commands that read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

import rhotrace

INPUTS, SAMPLES = 5, 24


def data(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes that a plane separates: inputs of norm 1, targets -1 and +1."""
    x = torch.randn(SAMPLES, INPUTS, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return x / x.norm(dim=1, keepdim=True), x[:, :1].sign()


def mlp(*, bias: bool = False, outputs: int = 1, seed: int = 1, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Two layers and a ReLU."""
    torch.manual_seed(seed)
    layers = nn.Linear(INPUTS, 6, bias=bias), nn.ReLU(), nn.Linear(6, outputs, bias=bias)
    return nn.Sequential(*layers).to(dtype)


def trained(
    path: Path,
    net: nn.Module | None = None,
    optimizer: Any = None,
    *,
    steps: int = 40,
    first: int = 0,
    batch: int = SAMPLES,
    give: bool = True,
    lossy: Any = None,
    room: int | None = None,
    **how: Any,
) -> Path:
    """Trains on ``data()`` from step ``first`` on, and records every step; the loss is the mean of ``(g - y)^2``."""
    net = mlp() if net is None else net
    optimizer = optimizer or torch.optim.SGD(net.parameters(), lr=0.1)
    x, y = data(dtype=next(net.parameters()).dtype)
    lossy = lossy or (lambda g, target: (g - target).square().sum(dim=1).mean())
    how = {"data": (x, y), "full_batch": batch == SAMPLES, "steps": room, **how}
    with rhotrace.record(path, net, optimizer, **how) as trace:
        for step in range(first, steps):
            chosen = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(step))[:batch]
            xb, yb = (x, y) if batch == SAMPLES else (x[chosen], y[chosen])
            optimizer.zero_grad()
            g = net(xb)
            lossy(g, yb).backward()
            optimizer.step()
            trace.step(*((g, yb) if give else ()))
    return path
