"""A plain residual network with batch normalisation on real CIFAR-10: recorded, killed, resumed and analysed."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import rhotrace

STEPS, SAVED, KILLED, BATCH = 24, 8, 13, 32


@pytest.fixture(scope="module")
def images():
    """300 images and their class numbers."""
    root = os.environ.get("RHOTRACE_TEST_CIFAR")
    if not root:
        pytest.skip("needs CIFAR-10; set RHOTRACE_TEST_CIFAR to a folder that has cifar-10-batches-py/")
    with (Path(root) / "cifar-10-batches-py" / "data_batch_1").open("rb") as file:
        found = pickle.load(file, encoding="latin1")
    return torch.tensor(found["data"][:300]).reshape(-1, 3, 32, 32) / 255 - 0.5, torch.tensor(found["labels"][:300])


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, x):
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


def resnet():
    torch.manual_seed(0)
    first = nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU()
    return nn.Sequential(
        *first, Residual(8), nn.AvgPool2d(3), Residual(8), nn.AvgPool2d(5), nn.Flatten(), nn.Linear(8, 10)
    )


def loop(path: Path, images, *, kill: bool = False) -> None:
    """Trains from the start, or from the checkpoint beside the file."""
    (x, y), net = images, resnet()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    checkpoint, resume = path.with_suffix(".pt"), None
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        net.load_state_dict(saved["net"])
        optimizer.load_state_dict(saved["optimizer"])
        resume = saved["rhotrace"]
    sets = {"data": (x[:256], y[:256]), "test": (x[256:], y[256:]), "full_every": 6, "test_every": 6}
    with rhotrace.record(
        path, net, optimizer, **sets, loss="cross-entropy", snapshots=[0, 6, 12, STEPS], resume=resume
    ) as trace:
        for step in range(trace.steps, STEPS):
            if kill and step == KILLED:
                trace.flush()  # rows after the checkpoint, which the resumed loop replaces
                os.kill(os.getpid(), signal.SIGKILL)
            chosen = torch.randperm(256, generator=torch.Generator().manual_seed(step))[:BATCH]
            optimizer.zero_grad()
            g = net(x[chosen])
            nn.functional.cross_entropy(g, y[chosen]).backward()
            optimizer.step()
            trace.step(g, y[chosen])
            if kill and trace.steps == SAVED:
                state = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "rhotrace": trace.state_dict()}
                torch.save(state, checkpoint)


def test_a_resnet_that_is_killed_resumes_to_the_same_bits_and_is_analysed(images, tmp_path, command):
    path = tmp_path / "cut.h5"
    child = multiprocessing.get_context("fork").Process(target=loop, args=(path, images), kwargs={"kill": True})
    child.start()
    child.join(100)
    assert child.exitcode == -signal.SIGKILL
    with rhotrace.open(path) as cut:
        assert (cut.steps, cut.complete) == (KILLED, False)
    loop(path, images)
    loop(tmp_path / "whole.h5", images)
    with rhotrace.open(path) as cut, rhotrace.open(tmp_path / "whole.h5") as whole:
        assert cut.steps == whole.steps == STEPS
        assert cut.layout.blocks == whole.layout.blocks
        for name in whole.dataset_names():
            assert np.array_equal(cut.rows(name, slice(None)), whole.rows(name, slice(None)), equal_nan=True), name
        assert {block.name for block in cut.layout.layers} == {
            "layer_0", "layer_3_conv1", "layer_3_conv2", "layer_5_conv1", "layer_5_conv2", "layer_8"
        }  # fmt: skip
        net = resnet()
        np.testing.assert_allclose(cut["rho_k"][0, 0, 0], net[0].weight.detach().double().norm().item(), rtol=1e-12)
    for words, says in {
        "analyze": "T: does not apply: the loss cross-entropy has no a, q and rho_eq",
        "audit": "normalisation by BatchNorm2d",
        "verify": "cut.h5: sound: a finished run file of 24 steps",
    }.items():
        code, out, err = command(words, path)
        assert code == 0, err
        assert says in " ".join(out.split())
