"""The callback against Lightning itself: the same numbers as a plain loop, and a run that is killed and resumed."""

from __future__ import annotations

import multiprocessing
import signal
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import rhotrace

pytestmark = pytest.mark.skipif(
    find_spec("lightning") is None, reason="Lightning is not installed (the extra rhotrace[lightning])"
)
SCRIPT = """
import os, signal, warnings
import lightning, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

warnings.simplefilter("ignore")  # Lightning's advice about workers and loggers

draw = torch.Generator().manual_seed(0)
X = torch.randn(32, 6, generator=draw, dtype=torch.float64)
Y = torch.sign(X[:, :1])


class Net(lightning.LightningModule):
    def __init__(self, kill_at=None):
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 1, bias=False)).double()
        self.kill_at = kill_at

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, number):
        if self.global_step == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        x, y = batch
        g = self(x)
        return {"loss": (g - y).square().mean(), "outputs": g.detach(), "targets": y}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


def fit(callback, folder, kill_at=None, ckpt=None, **how):
    from lightning.pytorch.callbacks import ModelCheckpoint

    kept = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=10, save_top_k=-1)
    trainer = lightning.Trainer(
        max_steps=40, accelerator="cpu", logger=False, callbacks=[callback, kept], enable_progress_bar=False,
        enable_model_summary=False, **how,
    )
    trainer.fit(Net(kill_at), DataLoader(TensorDataset(X, Y), batch_size=8), ckpt_path=ckpt)
"""


def record(path, **how):
    from rhotrace.own_loop.lightning import Record  # imports Lightning, for which only the process of these tests waits

    return Record(path, **how)


@pytest.fixture(scope="module")
def script():
    scope = {}
    exec(SCRIPT, scope)
    return scope


def quantities(path: Path) -> dict[str, np.ndarray]:
    with rhotrace.open(path) as trace:
        return {q.name: trace[q.name] for q in trace.quantities}


def plain_loop(script, clip: float | None = None) -> dict[str, np.ndarray]:
    """The same training in plain PyTorch, measured by hand."""
    net = script["Net"]().net
    descent, found = torch.optim.SGD(net.parameters(), lr=0.05), {"rho_k": [], "grad_norm": [], "batch_loss": []}
    for step in range(40):
        part = slice(8 * (step % 4), 8 * (step % 4) + 8)
        loss = (net(script["X"][part]) - script["Y"][part]).square().mean()
        descent.zero_grad()
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        found["rho_k"].append([float(W.detach().norm()) for W in net.parameters()])
        found["grad_norm"].append([float(W.grad.norm()) for W in net.parameters()])
        found["batch_loss"].append(loss.item())
        descent.step()
    return {name: np.array(values) for name, values in found.items()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("clip", [None, 0.3])
def test_a_row_is_a_step_with_the_gradient_that_made_it(script, tmp_path, clip):
    script["fit"](record(tmp_path / "run.h5", data=(script["X"], script["Y"])), tmp_path, gradient_clip_val=clip)
    found, expected = quantities(tmp_path / "run.h5"), plain_loop(script, clip)
    np.testing.assert_allclose(found["rho_k"][:, 0], expected["rho_k"], rtol=1e-12)
    np.testing.assert_allclose(found["grad_norm"][:, 0], expected["grad_norm"], rtol=1e-12)
    if clip:
        assert (np.sqrt((found["grad_norm"] ** 2).sum(axis=2)) < clip * (1 + 1e-9)).all()


@pytest.mark.filterwarnings("ignore")
def test_a_run_that_was_killed_resumes_at_the_checkpoint_and_is_analysed(script, tmp_path, command):
    data = (script["X"], script["Y"])
    child = multiprocessing.get_context("fork").Process(
        target=lambda: script["fit"](record(tmp_path / "cut.h5", data=data, steps=40), tmp_path, kill_at=27)
    )
    child.start()
    child.join(100)
    assert child.exitcode == -signal.SIGKILL
    script["fit"](record(tmp_path / "cut.h5", data=data, steps=40), tmp_path, ckpt=tmp_path / "step=20.ckpt")
    script["fit"](record(tmp_path / "whole.h5", data=data, steps=40), tmp_path / "whole")
    cut, whole = quantities(tmp_path / "cut.h5"), quantities(tmp_path / "whole.h5")
    assert len(cut["rho_k"]) == 40
    for name, values in whole.items():
        np.testing.assert_array_equal(cut[name], values, err_msg=name)
    for reading in ("analyze", "audit", "verify", "info"):
        assert command(reading, "cut.h5")[0] == 0, reading


@pytest.mark.filterwarnings("ignore")
def test_accumulated_gradients_make_one_row(script, tmp_path):
    script["fit"](record(tmp_path / "run.h5"), tmp_path, accumulate_grad_batches=2)
    assert len(quantities(tmp_path / "run.h5")["rho_k"]) == 40
