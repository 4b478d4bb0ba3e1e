"""The file of a recording: it grows, it survives a SIGKILL at any moment, and another process reads it meanwhile."""

from __future__ import annotations

import itertools
import multiprocessing
import random
import runpy
import time

import numpy as np
import pytest
import torch
from own_loops import data, mlp, trained

import rhotrace
from rhotrace.analysis.verification import verify
from rhotrace.errors import TraceError

LOOP = """
import sys
from pathlib import Path
import torch
import rhotrace
from own_loops import data, mlp

path, steps = Path(sys.argv[1]), int(sys.argv[2])
checkpoint = path.with_suffix(".pt")
net, (x, y) = mlp(), data()
optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
first, resume = 0, None
if checkpoint.exists():
    saved = torch.load(checkpoint)
    net.load_state_dict(saved["net"]), optimizer.load_state_dict(saved["optimizer"])
    resume = saved["rhotrace"]
    first = resume["steps"]
elif path.exists():
    path.unlink()
with rhotrace.record(path, net, optimizer, data=(x, y), full_batch=True, steps=16, resume=resume) as trace:
    for step in range(first, steps):
        optimizer.zero_grad()
        g = net(x)
        (g - y).square().mean().backward()
        optimizer.step()
        trace.step(g, y)
        if step % 50 == 0:
            saved = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "rhotrace": trace.state_dict()}
            torch.save(saved, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)
"""


def test_a_file_that_grew_is_that_of_a_file_with_room(tmp_path):
    snapshots = [0, 3, 10, 33, 40]
    small, large = (trained(tmp_path / f"{room}.h5", room=room, snapshots=snapshots) for room in (8, 100))
    with rhotrace.open(small) as a, rhotrace.open(large) as b:
        assert a.steps == b.steps == 40
        assert a.layout == b.layout
        assert a.snapshot_steps() == snapshots
        for name in a.dataset_names():
            assert np.array_equal(a.rows(name, slice(None)), b.rows(name, slice(None)), equal_nan=True), name
        assert verify(a).sound


def test_a_recording_that_is_killed_resumes_as_if_it_had_not_been(tmp_path, monkeypatch):
    script = tmp_path / "loop.py"
    script.write_text(LOOP)
    chance = random.Random(4)
    path, steps, kills = tmp_path / "run.h5", 301, 0
    monkeypatch.setattr("sys.argv", [str(script), str(path), str(steps)])
    for _ in itertools.count():
        child = multiprocessing.get_context("fork").Process(target=runpy.run_path, args=(str(script),))
        child.start()
        if kills < 2:
            before = path.stat().st_mtime_ns if path.exists() else 0
            ends = time.monotonic() + 60
            while child.is_alive() and time.monotonic() < ends:
                if path.exists() and path.stat().st_mtime_ns != before:
                    break
                time.sleep(0.005)
            time.sleep(chance.uniform(0, 0.15))
        else:
            child.join(120)
        if not child.is_alive():
            break
        child.kill()
        child.join()
        kills += 1
        with rhotrace.open(path) as run:
            assert verify(run).whole
            assert np.isfinite(run["rho_k"]).all()
    assert child.exitcode == 0
    assert kills
    monkeypatch.setattr("sys.argv", [str(script), str(tmp_path / "whole.h5"), str(steps)])
    runpy.run_path(str(script))
    with rhotrace.open(path) as run, rhotrace.open(tmp_path / "whole.h5") as whole:
        assert run.steps == whole.steps == steps
        assert len(run.sessions) >= 1
        for quantity in whole.quantities:
            assert np.array_equal(run[quantity.name], whole[quantity.name], equal_nan=True), quantity.name
        assert verify(run).sound


def test_one_process_writes_and_others_read(tmp_path):
    net, (x, y) = mlp(), data()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    path = tmp_path / "run.h5"
    with rhotrace.record(path, net, optimizer, data=(x, y), full_batch=True, steps=4) as trace:
        for step in range(11):
            g = net(x)
            (g - y).square().mean().backward()
            optimizer.step()
            trace.step(g, y)
            if step % 3 == 0:
                assert trace.state_dict() == {"steps": step + 1}
                with rhotrace.open(path) as run:
                    assert (run.steps, run.complete, len(run["loss"])) == (step + 1, False, step + 1)
        with (
            pytest.raises(
                TraceError, match=r"this process .* is training .*; wait for it, or give rhotrace.record another path$"
            ),
            rhotrace.record(path, net),
        ):
            pass
    with rhotrace.open(path) as run:
        assert (run.steps, run.complete, run.layout.steps) == (11, True, 11)


def test_a_loop_that_fails_leaves_what_it_recorded_to_be_resumed(tmp_path):
    def interrupted(g, y):
        if float((g.detach() - y).square().mean()) < 0.9:
            raise KeyboardInterrupt
        return (g - y).square().mean()

    path = tmp_path / "run.h5"
    with pytest.raises(KeyboardInterrupt):
        trained(path, lossy=interrupted, steps=10_000)
    with rhotrace.open(path) as run:
        assert not run.complete
        steps = run.steps
        assert steps
    trained(path, resume=steps, first=steps, steps=steps + 3)
    with rhotrace.open(path) as run:
        assert (run.complete, run.steps) == (True, steps + 3)


def test_a_resumed_file_keeps_the_learning_rate_it_began_with(tmp_path):
    path, net = trained(tmp_path / "run.h5", steps=5), mlp()
    trained(path, net, torch.optim.SGD(net.parameters(), lr=0.03), resume=5, first=5, steps=9)
    with rhotrace.open(path) as run:
        assert (run["lr"].tolist(), run["lr_step"][[0, -1], 0].tolist()) == ([0.1], [0.1, 0.03])
        assert {check.name: check.outcome for check in verify(run).checks}["recipe"] == "sound"
