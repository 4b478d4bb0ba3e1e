"""The same trajectories on a GPU as on the CPU; skipped, with the reason, where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rhotrace.config import recipe
from rhotrace.runfile.reader import open_trace
from rhotrace.training.train import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")

OPTIMIZERS = {
    "gd": "optimizer={kind: gd, lr: 0.05}",
    "sgd": "optimizer={kind: sgd, lr: 0.05, batch_size: 7}",
    "weight norm": "optimizer={kind: weight-norm, lr: 0.05, batch_size: 7, sampling: with-replacement}",
}


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


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_gpu_gives_the_same_bits_twice(small, tmp_path, dtype):
    content = recipe.parse(small, [OPTIMIZERS["sgd"], f"network.dtype={dtype}"])
    runs = [tmp_path / name for name in ("one.h5", "two.h5")]
    for run in runs:
        train(content, run, device="cuda")
    with open_trace(runs[0]) as one, open_trace(runs[1]) as two:
        for quantity in one.quantities:
            assert np.array_equal(one[quantity.name], two[quantity.name], equal_nan=True), quantity.name
