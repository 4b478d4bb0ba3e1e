"""``rhotrace benchmark``: what it prints, and how it refuses."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from small import SMALL

from rhotrace.cli import exit_codes
from rhotrace.statistics.numbers import written
from rhotrace.sweeps import benchmark

QUICK = ("--device", "cpu", "--seconds", "600")  # the recipe has few steps, which take less


@pytest.fixture
def small_file(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def test_each_setting_is_measured_and_the_best_is_named(command, small_file, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "cores", lambda: 1)
    threads = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    code, out, err = command("benchmark", small_file, "--members", "1,2", *QUICK, "--json")
    assert code == 0, err
    found = json.loads(out)
    each = [tuple(one["setting"].values()) for one in found["readings"]]
    assert each == [("cpu", 1, members) for members in (1, 2, 3)]
    for one in found["readings"]:
        assert one["member_steps_per_second"] == pytest.approx(one["steps_per_second"] * one["setting"]["members"])
        assert one["ratio"] > 0
        assert f"{written(one['steps_per_second'])} steps/s" in err
    assert found["fastest"]["setting"]["members"] == found["members"] == 3
    assert found["seconds"] == pytest.approx(60 / found["fastest"]["steps_per_second"])
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]
    assert threads == (torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS"))


def test_the_page_says_which_setting_is_best_how_long_the_recipe_takes_and_the_command(
    command, small_file, monkeypatch
):
    monkeypatch.setattr(benchmark, "cores", lambda: 1)
    code, out, err = command("benchmark", small_file, "--members", "1", *QUICK, "--set", "optimizer=" + SGD)
    assert code == 0, err
    assert "Best for this recipe: cpu with 1 thread. Its 60 steps take about" in out
    assert "OMP_NUM_THREADS=1 rhotrace train" in out
    assert "Best for many networks: " in out
    assert err.startswith("small: 2 settings, up to about 600 s\ncpu, 1 thread, 1 member: ")


SGD = "{kind: sgd, lr: 0.05, batch_size: 4}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("none.yaml",), "error: none.yaml: no such recipe"),
        (("small.yaml", "--members", "1,x"), "error: --members: got '1,x', expected whole numbers from 1 to 100000"),
        (("small.yaml", "--members", "0"), "error: --members: got '0', expected whole numbers"),
        (("small.yaml", "--set", "steps=0"), "error: small.yaml, --set: steps: got 0"),
    ],
)
@pytest.mark.usefixtures("small_file")
def test_mistakes_are_refused_before_anything_is_measured(command, words, said):
    code, out, err = command("benchmark", *words)
    assert (code, out) == (exit_codes.USER_ERROR, "")
    assert err.startswith(said)


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a CUDA device")
@pytest.mark.usefixtures("small_file")
def test_a_gpu_that_is_not_there_is_refused(command):
    code, out, err = command("benchmark", "small.yaml", "--device", "cuda")
    assert (code, out) == (exit_codes.USER_ERROR, "")
    assert err.startswith("error: --device cuda: torch finds no CUDA device")


def test_ctrl_c_ends_it_without_a_result(command, small_file, monkeypatch):
    plain = benchmark.train

    def stopped(*words, begin, **named):
        return plain(*words, **named, begin=lambda first: (begin(first), os.kill(os.getpid(), signal.SIGINT)))

    monkeypatch.setattr(benchmark, "train", stopped)
    code, out, err = command("benchmark", small_file, *QUICK)
    assert (code, out) == (exit_codes.INTERRUPTED, "")
    assert err.endswith("interrupted; nothing is kept\n")
