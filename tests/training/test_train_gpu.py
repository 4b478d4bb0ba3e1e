"""On a GPU: the trajectories of the CPU, the same bits twice, and no step that waits.

Where there is no GPU, the tests that need one are skipped; how steps would wait is then seen on torch's device ``meta``.
"""

from __future__ import annotations

import contextlib

import inside
import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rhotrace.config import recipe
from rhotrace.runfile.reader import open_trace
from rhotrace.training.train import train

needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")

OPTIMIZERS = {
    "gd": "optimizer={kind: gd, lr: 0.05}",
    "sgd": "optimizer={kind: sgd, lr: 0.05, batch_size: 7}",
    "weight norm": "optimizer={kind: weight-norm, lr: 0.05, batch_size: 7, sampling: with-replacement}",
}


@needs_a_gpu
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_gpu_gives_the_trajectories_of_the_cpu(small, tmp_path, optimizer):
    content = recipe.parse(small, [optimizer, "steps=200"])
    runs = [tmp_path / f"{device}.h5" for device in ("cpu", "cuda")]
    for run in runs:
        train(content, run, device=run.stem)
    with open_trace(runs[0]) as cpu, open_trace(runs[1]) as gpu:
        for quantity in cpu.quantities:
            np.testing.assert_allclose(
                gpu[quantity.name], cpu[quantity.name], rtol=1e-9, atol=1e-12, err_msg=quantity.name
            )


@needs_a_gpu
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_gpu_gives_the_same_bits_twice_and_when_blocks_are_written_at_once(small, tmp_path, monkeypatch, dtype):
    content = recipe.parse(small, [OPTIMIZERS["sgd"], f"network.dtype={dtype}"])
    inside.small_blocks(monkeypatch.setattr, 7)
    runs = {tmp_path / "one.h5": None, tmp_path / "two.h5": True, tmp_path / "three.h5": False}
    for run, behind in runs.items():
        train(content, run, device="cuda", write_behind=behind)
    one, *others = runs
    for other in others:
        with open_trace(one) as a, open_trace(other) as b:
            for quantity in a.quantities:
                assert np.array_equal(a[quantity.name], b[quantity.name], equal_nan=True), quantity.name


class Crossings(TorchDispatchMode):
    """Notes every call that a tensor of the host takes part in: one that copies to or from a GPU waits for it."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, torch.Tensor) and not leaf.is_meta for leaf in tree_leaves((args, kwargs, out))):
            self.found.append(str(func))
        return out


class Literals(TorchFunctionMode):
    """Notes the making of tensors from Python's numbers, which ``meta`` does without a copy, unlike a GPU."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in {torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, torch.Tensor.new_tensor}:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def waiting():
    """A list of what would have waited for a GPU."""
    found: list[str] = []
    with Crossings(found), Literals(found):
        yield found


SGD, IMAGES = OPTIMIZERS["sgd"], "network={kind: conv, channels: [2, 3], batch_norm: true}"
CONTROLLED = "optimizer={{kind: norm-control, lr: 0.05, norms: {{kind: {}}}}}"
WAYS = {
    "gd": [],
    "weight norm": [OPTIMIZERS["weight norm"]],
    "momentum, decay, schedule": [
        "optimizer={kind: sgd, lr: 0.05, batch_size: 7, momentum: 0.9, weight_decay: 0.1, schedule: {kind: cosine, steps: 9}}"
    ],
    "batch norm, augmentation": [SGD, IMAGES, "data.augment={flip: true, crop: 2}"],
    "batch norm, mlp": ["network.batch_norm=true"],
    "first layer followed": [SGD, "record.every.first_layer=2"],
    "residual": ["network={kind: residual, depth: 4}"],
    "several classes": ["data={dataset: mnist, classes: all, train: 41, test: 20}", "loss={kind: cross-entropy}"],
    "logistic": ["loss={kind: logistic}"],
    "closed-form norms": [CONTROLLED.format("closed-form, A: 0.5, B: 0.5")],
    "tikhonov norms": [CONTROLLED.format("tikhonov, penalty: 0.5, steps: 20")],
    "ivanov norms": [CONTROLLED.format("ivanov, C: 0.5")],
    "norms in steps": [CONTROLLED.format("step, milestones: [3], factor: 0.5")],
}


@pytest.mark.parametrize("overrides", WAYS.values(), ids=WAYS)
def test_no_step_waits_for_the_device(small, monkeypatch, overrides):
    """A GPU could still wait inside a library: cuSOLVER does, which only quantities on request call (rank, alignment)."""
    inside.small_blocks(monkeypatch.setattr, 1)
    steps = inside.steps_without_numbers(
        recipe.parse(small, ["steps=6", "record={snapshots: 0, test_every: 2}", *overrides])
    )
    assert next(steps) == 1  # after two: the samples of 1024 steps are copied at once, and some constants are made once
    with waiting() as found:
        assert list(steps) == [2, 3, 4, 5, 6]
    assert found == []


def test_what_would_wait_is_noticed():
    on_device, here = torch.ones(3, device="meta"), np.ones(3)
    for wait in (
        lambda: torch.as_tensor(here, device="meta"),
        lambda: torch.tensor([1.0], device="meta"),
        lambda: on_device.new_tensor(here),
        lambda: torch.from_numpy(here).to("meta"),
    ):
        with waiting() as found:
            wait()
        assert found
    for read in (on_device.sum().item, on_device.nonzero, on_device.cpu, (on_device.sum() > 0).__bool__):
        with pytest.raises((RuntimeError, NotImplementedError)):
            read()
