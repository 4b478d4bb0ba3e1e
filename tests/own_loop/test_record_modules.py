"""Recordings of modules that are not plain networks of numbers: words, groups, loaders, and damage to their files."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import torch
from own_loops import data, mlp, trained
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import rhotrace


class Words(nn.Module):
    """The mean of some words' vectors, classified; the head has a bias."""

    def __init__(self, sparse=False):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head = nn.Embedding(12, 4, sparse=sparse), nn.Linear(4, 3)

    def forward(self, tokens):
        return self.head(self.words(tokens).mean(dim=1))


@pytest.mark.parametrize("sparse", [False, True])
def test_an_embedding_is_a_layer_whose_norms_are_those_of_its_table(tmp_path, command, sparse):
    draw = torch.Generator().manual_seed(1)
    x, y = torch.randint(12, (20, 5), generator=draw), torch.randint(3, (20,), generator=draw)
    net, path = Words(sparse), tmp_path / "run.h5"
    optimizer, norms = torch.optim.SGD(net.parameters(), lr=0.5), []
    with rhotrace.record(path, net, optimizer, data=(x, y), loss="cross-entropy", full_every=4) as trace:
        for step in range(12):
            optimizer.zero_grad()
            g = net(x[step : step + 8])
            nn.functional.cross_entropy(g, y[step : step + 8]).backward()
            table = net.words.weight
            norms.append([table.detach().numpy().copy(), table.grad.to_dense().numpy()])
            optimizer.step()
            trace.step(g, y[step : step + 8])
    with rhotrace.open(path) as run:
        assert [block.name for block in run.layout.layers] == ["words", "head"]
        for name, tables in zip(("rho_k", "grad_norm"), zip(*norms, strict=True), strict=True):
            expected = [np.linalg.norm(table.astype(np.float64)) for table in tables]
            np.testing.assert_allclose(run[name][:, 0, 0], expected, rtol=1e-6, err_msg=name)
        assert run.own_loop["blocks"]["words"]["kind"] == "Embedding"
    for words, says in {
        "analyze": "cross-entropy has no a, q",
        "audit": "biases or shifts, head_bias",
        "verify": "sound",
    }.items():
        code, out, err = command(words, path)
        assert code == 0, err
        assert says in out


def test_a_group_of_parameters_is_one_layer_with_the_norm_of_all_of_them(tmp_path):
    net = nn.Sequential(*(nn.Linear(5, 5, bias=False, dtype=torch.float64) for _ in range(3)), nn.Linear(5, 1).double())
    ends = [net[0].weight.detach().clone(), net[2].weight.detach().clone()]
    with rhotrace.open(trained(tmp_path / "run.h5", net, blocks={"ends": "[02].*"}, snapshots=[0], steps=6)) as run:
        assert [block.name for block in run.layout.layers] == ["ends", "layer_1", "layer_3"]
        by_hand = torch.cat([W.reshape(-1) for W in ends])
        np.testing.assert_allclose(run["rho_k"][0, 0, 0], by_hand.norm().item(), rtol=1e-12)
        assert np.array_equal(run.snapshot(0)[0].reshape(-1), by_hand)
        assert run.own_loop["blocks"]["ends"]["parameters"] == ["0.weight", "2.weight"]


def test_a_loader_as_data_has_the_sums_of_its_tensors(tmp_path):
    loader = DataLoader(TensorDataset(*data()), batch_size=7)
    how = {"batch": 8, "full_every": 5, "steps": 20, "test_every": 5}
    tensors = trained(tmp_path / "tensors.h5", data=data(), test=data(1), **how)
    loaded = trained(tmp_path / "loader.h5", data=loader, test=DataLoader(TensorDataset(*data(1)), batch_size=7), **how)
    with rhotrace.open(tensors) as a, rhotrace.open(loaded) as b:
        assert [q.name for q in a.quantities] == [q.name for q in b.quantities]
        for quantity in a.quantities:
            np.testing.assert_allclose(a[quantity.name], b[quantity.name], rtol=1e-12, err_msg=quantity.name)
        assert (b.attributes["samples"], b.attributes["samples_test"]) == (24, 24)


@pytest.mark.parametrize("random", [nn.Dropout(0.5), nn.LSTM(6, 6, 2, dropout=0.5, batch_first=True)])
def test_full_sets_are_evaluated_without_chance_where_a_step_has_some(tmp_path, random):
    class Chance(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.random, self.last = nn.Linear(5, 6), random, nn.Linear(6, 1)

        def forward(self, x):
            h = self.random(self.first(x))
            return self.last(h[0] if isinstance(h, tuple) else h)

    net = Chance().double()
    with torch.no_grad():
        q = net.eval()(data()[0]).square().mean().item()
    with rhotrace.open(trained(tmp_path / "run.h5", net.train(), steps=3)) as run:
        np.testing.assert_allclose(run["q"][0, 0], q, rtol=1e-12)
        assert run["batch_q"][0, 0] != run["q"][0, 0]


def test_the_sound_steps_of_a_damaged_recording_are_saved_and_resumed(tmp_path, command):
    path, net = tmp_path / "run.h5", mlp()
    x, y = data()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    trace = rhotrace.record(path, net, optimizer, data=(x, y), full_batch=True, snapshots=[0, 20, 40]).start()
    for step in range(30):
        if step == 10:
            kept = {"net": {k: v.clone() for k, v in net.state_dict().items()}, "rhotrace": trace.state_dict()}
        optimizer.zero_grad()
        g = net(x)
        (g - y).square().mean().backward()
        optimizer.step()
        trace.step(g, y)
        if step % 10 == 9:
            trace.flush()
    trace.close(finished=False)
    with h5py.File(path, "r+") as file:
        file["rho_k"][23] *= 2  # in the third block
    code, out, err = command("verify", path)
    assert code == 2
    assert "run.h5` saves what is sound" in out + err
    code, out, err = command("repair", path, "--json")
    assert code == 0, err
    saved = json.loads(out)
    assert (saved["steps"], saved["steps_before"], saved["snapshots"]) == (20, 30, [0, 20])
    repaired = tmp_path / "run.repaired.h5"
    assert command("verify", repaired)[0] == 0
    net.load_state_dict(kept["net"])
    again = torch.optim.SGD(net.parameters(), lr=0.1)
    trained(repaired, net, again, first=10, steps=30, resume=kept["rhotrace"], snapshots=[0, 20, 40])
    whole = trained(tmp_path / "whole.h5", steps=30)
    with rhotrace.open(repaired) as a, rhotrace.open(whole) as b:
        for quantity in b.quantities:
            assert np.array_equal(a[quantity.name], b[quantity.name], equal_nan=True), quantity.name
