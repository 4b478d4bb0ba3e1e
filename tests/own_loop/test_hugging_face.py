"""The callback against Hugging Face's ``Trainer``: the norms of its steps, and a recording resumed at a checkpoint."""

from __future__ import annotations

from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import rhotrace

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    *(
        pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is not installed (rhotrace[transformers])")
        for name in ("transformers", "accelerate")
    ),
]
DRAW = torch.Generator().manual_seed(0)
X = torch.randn(32, 6, generator=DRAW)
Y = torch.sign(X[:, :1])


class Net(nn.Module):
    """As the trainer wants it: named inputs, and a loss in the output."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 1, bias=False))

    def forward(self, x, labels=None):
        g = self.net(x)
        return {"loss": (g - labels).square().mean(), "logits": g} if labels is not None else SimpleNamespace(logits=g)


def trained(folder, path, *, fails_at=None, resume=None, **options):
    """Trains 20 steps, or ends in the middle, as by an error."""
    import transformers

    from rhotrace.own_loop.hugging_face import Record

    class Stop(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **given):  # noqa: ARG002 - the trainer's signature
            if state.global_step == fails_at:
                raise RuntimeError("lost")

    args = transformers.TrainingArguments(
        str(folder),
        max_steps=20,
        per_device_train_batch_size=8,
        learning_rate=0.05,
        optim="sgd",
        lr_scheduler_type="constant",
        save_steps=10,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=3,
    )
    samples = [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)]
    callback, net = Record(path, **options), Net()
    trainer = transformers.Trainer(net, args, train_dataset=samples, callbacks=[callback, Stop()])
    try:
        trainer.train(resume_from_checkpoint=resume)
    finally:
        callback.close()
    return net


def quantities(path):
    with rhotrace.open(path) as trace:
        return {q.name: trace[q.name] for q in trace.quantities}, trace.snapshot(20)


def test_the_trainer_s_steps_are_recorded(tmp_path):
    net = trained(tmp_path / "out", tmp_path / "run.h5", data=(X, Y), snapshots=[0, 20])
    found, last = quantities(tmp_path / "run.h5")
    start = [W.detach().numpy() for W in Net().parameters()]
    np.testing.assert_allclose(found["rho_k"][0, 0], [np.linalg.norm(W) for W in start], rtol=1e-6)
    assert found["rho_k"].shape == (20, 1, 2)
    for W, kept in zip(net.parameters(), last, strict=True):
        np.testing.assert_array_equal(W.detach().numpy(), kept[0])
    np.testing.assert_allclose(found["lr_step"][:, 0], 0.05)


def test_a_run_that_failed_resumes_at_the_checkpoint(tmp_path, command):
    with pytest.raises(RuntimeError, match="lost"):
        trained(tmp_path / "out", tmp_path / "cut.h5", fails_at=15, snapshots=[0, 20])
    trained(tmp_path / "out", tmp_path / "cut.h5", resume=str(tmp_path / "out" / "checkpoint-10"), snapshots=[0, 20])
    trained(tmp_path / "whole", tmp_path / "whole.h5", snapshots=[0, 20])
    (cut, _), (whole, _) = quantities(tmp_path / "cut.h5"), quantities(tmp_path / "whole.h5")
    for name, values in whole.items():
        np.testing.assert_array_equal(cut[name], values, err_msg=name)
    assert command("analyze", "cut.h5")[0] == 0
    assert command("verify", "cut.h5")[0] == 0
