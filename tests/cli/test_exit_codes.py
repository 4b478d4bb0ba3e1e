"""The exit codes that a script relies on: memory that runs out, training that diverges, alone and in a sweep."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from rhotrace.cli import exit_codes
from rhotrace.errors import out_of_memory

ACTIVATIONS = """\
data: {dataset: mnist, classes: [0, 1], train: 10000, test: 20}
network: {kind: mlp, depth: 2, width: 50, dtype: float64}
init: {kind: equal-norms, rho_k: 1.0}
optimizer: {kind: gd, lr: 0.05}
members: {seeds: 400}
steps: 2
record: {snapshots: 0}
"""
# 400 networks x 10,000 samples x 50 units are 1.6 GB of activations; everything before them takes less than the limit.
LIMITED = """
import resource, sys
import torch, torchvision, rhotrace.training.train
from rhotrace.cli.app import main
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 1_200_000_000,) * 2)
sys.argv = ["rhotrace", "train", "large.yaml", "--device", "cpu"]
main()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc and a limit on memory")
def test_memory_that_torch_cannot_have_is_a_user_error_with_a_remedy(tmp_path):
    (tmp_path / "large.yaml").write_text(ACTIVATIONS)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert (done.returncode, done.stdout) == (exit_codes.USER_ERROR, ""), done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "out of memory on the machine (tried to allocate 1.6 GB)" in line
    assert "members.seeds" in line
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError("Unable to allocate 57.1 TiB for an array"), " on the machine (tried to allocate 57.1 TiB)"),
        (MemoryError(), " on the machine"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has 3 GiB"),
            " on the GPU (tried to allocate 20.00 GiB)",
        ),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."
            ),
            " on the machine (tried to allocate 0.0 GB)",
        ),
        (RuntimeError("expected scalar type Float but found Double"), ""),
        (ValueError("cannot allocate"), ""),
    ],
)
def test_errors_of_memory_are_told_from_others(error, said):
    assert out_of_memory(error) == said


def test_a_bug_stays_a_traceback(rhotrace, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import rhotrace.display.pages.quantities as page\n"
        "def broken():\n    raise RuntimeError('a bug')\n"
        "page.quantities_page = broken\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = rhotrace("quantities", PYTHONPATH=path)
    assert done.returncode == exit_codes.BUG
    assert "RuntimeError: a bug" in done.stderr


def test_a_run_that_diverged_is_counted_in_a_sweep_and_no_error(command, small, tmp_path):
    (tmp_path / "small.yaml").write_text(small)
    (tmp_path / "sweep.yaml").write_text(
        "recipe: small.yaml\nset: {steps: 20, record.snapshots: 0, network.depth: 1}\n"
        "axes: [{grid: {optimizer.lr: [0.05, 1.0e+9]}}]\nseeds: 1\n"
    )
    code, out, err = command("sweep", "sweep.yaml", "--members-per-run", 1, "--json")
    assert code == 0, err
    assert sorted(run["state"] for run in json.loads(out)["runs"].values()) == ["diverged", "finished"]
    assert "1 diverged" in err


def test_the_help_of_train_names_the_exit_code(command):
    code, out, _ = command("train", "--help")
    assert code == 0
    assert f"Exit code {exit_codes.DIVERGED}: every network diverged" in " ".join(out.split())
