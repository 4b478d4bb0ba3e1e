"""Sets of samples: targets as numbers, what is refused, and the same outputs from tensors as from a loader."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from rhotrace.errors import RhoTraceError
from rhotrace.models.losses import LOSSES
from rhotrace.own_loop.samples import CHUNK, Samples, as_targets

CPU = torch.device("cpu")
SQUARE, LOGISTIC = (LOSSES[kind].model_validate({}) for kind in ("square", "logistic"))


@pytest.mark.parametrize(
    ("y", "outputs", "loss", "expected"),
    [
        (torch.tensor([0, 2, 1]), 3, SQUARE, [[1, 0, 0], [0, 0, 1], [0, 1, 0]]),
        (torch.tensor([[0], [2]]), 3, None, [[1, 0, 0], [0, 0, 1]]),
        (torch.tensor([[0, 2], [1, 1]]), 3, None, [[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 0]]),  # tokens
        (torch.tensor([[0, 1], [1, 0]]), 2, SQUARE, [[0, 1], [1, 0]]),  # one-hot already
        (torch.tensor([0.5, -2.0]), 1, SQUARE, [[0.5], [-2]]),
        (torch.tensor([0, 1]), 1, LOGISTIC, [[-1], [1]]),
        (torch.tensor([0, 1]), 1, SQUARE, [[0], [1]]),
        (torch.tensor([-1.0, 1.0]), 1, LOGISTIC, [[-1], [1]]),
    ],
)
def test_targets_are_numbers_for_each_output(y, outputs, loss, expected):
    found = as_targets(y, outputs, loss)
    assert found.dtype == torch.float64
    assert found.tolist() == expected


def given(count=10):
    draw = torch.Generator().manual_seed(0)
    return torch.randn(count, 4, generator=draw), torch.randint(3, (count,), generator=draw)


def test_a_loader_has_the_outputs_of_its_tensors():
    x, y = given()
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    of_tensors, of_loader = (
        Samples.of("data", (x, y)),
        Samples.of("data", DataLoader(TensorDataset(x, y), batch_size=4)),
    )
    with torch.no_grad():
        expected = net.eval()(x)
    net.train()
    for samples in (of_tensors, of_loader):
        outputs, targets = samples.evaluate(net, SQUARE, CPU)
        torch.testing.assert_close(outputs, expected)
        assert targets.tolist() == torch.nn.functional.one_hot(y, 3).tolist()
        assert samples.size == 10
        assert torch.equal(samples.few(CPU)[0][:4], x[:4])
        assert len(samples.few(CPU)[0]) <= 8
    assert net.training


def test_large_sets_go_through_the_module_in_parts():
    x = torch.arange(CHUNK + 5.0)[:, None]
    seen = []
    samples = Samples.of("data", (x, x))
    outputs, targets = samples.evaluate(nn.Linear(1, 1), SQUARE, CPU)
    assert len(outputs) == len(targets) == CHUNK + 5
    seen = [len(inputs) for inputs, _ in samples.batches(CPU)]
    assert seen == [CHUNK, 5]


def test_the_digest_of_tensors_is_that_of_their_bytes_and_of_a_loader_what_is_known():
    x, y = given()
    expected = hashlib.sha256()
    for header, tensor in (("<f4 (10, 4) ", x), ("<i8 (10,) ", y)):
        expected.update(header.encode() + tensor.numpy().tobytes())
    assert Samples.of("data", (x, y)).digest == expected.hexdigest()
    loader = DataLoader(TensorDataset(x, y))
    assert Samples.of("data", loader).digest == hashlib.sha256(b"TensorDataset 10").hexdigest()
    assert Samples.of("data", None) is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (torch.zeros(3, 2), "got Tensor, expected two tensors"),
        ("numbers", "got str, expected two tensors"),
        ((torch.zeros(3, 2), [0, 1, 2]), "got tuple, expected two tensors"),
        (iter([(torch.zeros(3, 2), torch.zeros(3))]), "or a loader of such batches that can be read again"),
        ((torch.zeros(3, 2), torch.zeros(4)), "got 3 inputs and 4 targets, expected one target for each input"),
    ],
)
def test_what_is_no_set_of_samples_is_refused(content, says):
    with pytest.raises(RhoTraceError, match=f"rhotrace.record: test: .*{says}"):
        Samples.of("test", content)


def test_a_loader_of_other_batches_is_refused_when_it_is_read():
    loader = DataLoader(TensorDataset(torch.zeros(4, 2), torch.zeros(4), torch.zeros(4)))
    with pytest.raises(RhoTraceError, match=r"data: got a batch of type list.*expected \(inputs, targets\)"):
        Samples.of("data", loader).few(CPU)
