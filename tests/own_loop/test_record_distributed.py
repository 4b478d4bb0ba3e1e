"""A loop under ``DistributedDataParallel``: one process records, and the file says whose outputs its sums are of."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from own_loops import data, mlp
from torch import nn

import rhotrace
from rhotrace.analysis.applicability import no_step_law
from rhotrace.errors import TraceError
from rhotrace.own_loop.homogeneity import measured_degrees
from rhotrace.own_loop.module_blocks import module_blocks

STEPS = 12


def loop(rank: int, folder: Path) -> None:
    """Two processes, each with half of the samples; rank 0 records, and rank 1 learns that it may not."""
    group = torch.distributed
    group.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    x, y = data()
    mine = slice(rank, None, 2)
    net = nn.parallel.DistributedDataParallel(mlp())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    trace = rhotrace.record(folder / "run.h5", net, optimizer, data=(x, y), full_every=1).start() if rank == 0 else None
    group.barrier()
    if rank:
        with pytest.raises(TraceError, match="another process"):
            rhotrace.record(folder / "run.h5", net, optimizer).start()
    else:
        normed = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.Linear(5, 2), nn.BatchNorm1d(2))).double()
        found = measured_degrees(normed, module_blocks(normed), (x,))
        assert found.why_not == "SyncBatchNorm would wait for the other processes"
    for _ in range(STEPS):
        optimizer.zero_grad()
        g = net(x[mine])
        (g - y[mine]).square().mean().backward()
        optimizer.step()
        if trace:
            trace.step(g, y[mine])
    if trace:
        trace.close()
    group.barrier()
    group.destroy_process_group()


def test_rank_0_records_the_training_of_all_and_names_no_law_for_its_part_of_the_batch(tmp_path, command):
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=loop, args=(rank, tmp_path)) for rank in (0, 1)]
    for child in children:
        child.start()
    for child in children:
        child.join(100)
    assert [child.exitcode for child in children] == [0, 0]
    net, (x, y) = mlp(), data()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with rhotrace.open(tmp_path / "run.h5") as run:
        assert (run.steps, run.attributes["processes"], run.facts.law) == (STEPS, 2, None)
        assert [block.name for block in run.layout.layers] == ["layer_0", "layer_2"]  # without the wrapper's name
        for step in range(STEPS):  # one process with all samples
            optimizer.zero_grad()
            loss = (net(x) - y).square().mean()
            loss.backward()
            np.testing.assert_allclose(run["loss"][step, 0], loss.item(), rtol=1e-12)
            norms = [W.grad.norm().item() for W in net.parameters()]
            np.testing.assert_allclose(run["grad_norm"][step, 0], norms, rtol=1e-9)
            optimizer.step()
        assert no_step_law(run) == "does not apply: the outputs of each step are those of one of 2 processes"
    for words in ("analyze", "audit", "verify"):
        assert command(words, "run.h5")[0] == 0
