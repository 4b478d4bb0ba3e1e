"""Recipes that name Python code: it runs after it was allowed and never before, and its hash is part of the run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from small import SMALL

from rhotrace.config import recipe, trusted_code
from rhotrace.errors import RecipeError
from rhotrace.models.losses import LOSSES
from rhotrace.runfile.reader import open_trace
from rhotrace.sweeps.job import train_job
from rhotrace.sweeps.runner import carry_out, plan
from rhotrace.sweeps.sweep_file import read

NETS = """
from pathlib import Path
from torch import nn

(Path(__file__).parent / "ran").touch()

def build(inputs, outputs, width=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, width, bias=False), nn.ReLU(), nn.Linear(width, outputs, bias=False))
"""
PARTS = """
from typing import ClassVar, Literal

import numpy as np
import torch

from rhotrace.models.datasets import DATASETS, Dataset, Samples
from rhotrace.models.losses import LOSSES, Loss
from rhotrace.recording.quantity import Cadence, Quantity, register

@LOSSES.register
class Quartic(Loss):
    kind: Literal["quartic"] = "quartic"
    formula: ClassVar[str] = "mean((g - y)^4)"

    def value(self, outputs, targets):
        return (outputs - targets).pow(4).sum(dim=(1, 2)) / outputs.shape[-1]

register(
    Quantity(name="largest", symbol="max |W_k|", axes=("member", "layer"), units="1", equation=None, cadence="rare",
             says="largest weight", measure=lambda m: torch.stack([W.double().abs().amax((1, 2)) for W in m.weights], 1)),
    Cadence("rare", default=20, says="the largest weights"),
)

@DATASETS.register
class Line(Samples):
    dataset: Literal["line"] = "line"

    def load(self, dtype):
        x = np.linspace(-1, 1, 16, dtype=dtype)[:, None] * np.ones((1, 3), dtype)
        y = np.sign(x[:, :1])
        return Dataset(x=x, y=y, x_test=x, y_test=y, classes=("-", "+"), digest="line", files={}, shape=(3,))
"""
RECIPE = SMALL.replace("{kind: mlp, depth: 3, width: 8, dtype: float64}", "{kind: module, build: nets.py:build}")
OWN = """
code: [parts.py]
data: {dataset: line}
network: {kind: mlp, depth: 2, dtype: float64}
loss: {kind: quartic}
init: {kind: equal-norms, rho_k: 1.0}
optimizer: {kind: gd, lr: 0.05}
steps: 50
record: {every: {rare: 10}, snapshots: 3}
"""
FLAG = "names Python code, nets.py, which would run with all your rights; read it, then allow it with --trust-code"


@pytest.fixture(autouse=True)
def _no_permission():
    yield
    trusted_code.forget()


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "parts.py").write_text(PARTS)
    (tmp_path / "module.yaml").write_text(RECIPE)
    (tmp_path / "own.yaml").write_text(OWN)
    (tmp_path / "sweep.yaml").write_text("recipe: module.yaml\naxes: [{grid: {network.options.width: [3, 4]}}]\n")
    return tmp_path


@pytest.mark.parametrize("words", [["train"], ["recipe", "check"], ["sweep"]], ids=" ".join)
def test_code_does_not_run_before_it_is_allowed(folder, command, words):
    code, out, err = command(*words, "sweep.yaml" if words == ["sweep"] else "module.yaml")
    assert code == 2
    assert FLAG in err
    assert "module.yaml:2: network.build: " in err
    assert not out
    assert not (folder / "ran").exists()
    code, _, err = command(*words, "own.yaml", *(["--plan"] if words == ["sweep"] else []))
    assert (code, "parts.py" in err or words == ["sweep"]) == (2, True)


def test_a_run_stores_the_code_and_reading_needs_none_of_it(folder, command):
    assert command("train", "module.yaml", "-o", "run.h5", "--trust-code")[0] == 0
    digest = hashlib.sha256(NETS.encode()).hexdigest()
    with open_trace(folder / "run.h5") as trace:
        assert trace.recipe["network"]["sha256"] == digest
        assert json.loads(trace.attributes["code"]) == {"nets.py": NETS}
        assert "degree of homogeneity, measured in float64: 1 in every weight" in trace.attributes["network_says"]
    (folder / "nets.py").unlink()
    (folder / "ran").unlink()
    trusted_code.forget()
    for reading in ("info", "analyze", "audit", "verify"):
        assert command(reading, "run.h5")[0] == 0, reading
    assert not (folder / "ran").exists()
    assert "class Sequential" not in command("info", "run.h5")[1]
    assert "nn.Linear(784, width, bias=False)" in command("info", "run.h5")[1]


def test_what_needs_the_network_says_so_and_runs_the_stored_copy(folder, command):
    assert command("train", "module.yaml", "-o", "run.h5", "--trust-code")[0] == 0
    trusted_code.forget()
    (folder / "nets.py").write_text(NETS + "# another version\n")
    code, out, _ = command("verify", "run.h5")
    words = " ".join(out.split())
    assert code == 0
    assert "needs the run's own code, nets.py:build: --trust-code runs the copy in the file" in words
    assert "each copy has its SHA-256; nets.py has changed since" in words
    code, out, _ = command("verify", "run.h5", "--trust-code")
    assert code == 0
    assert "a and q recomputed from the weights" in " ".join(out.split())


def test_a_changed_file_is_another_run(folder, command):
    assert command("train", "module.yaml", "-o", "run.h5", "--trust-code")[0] == 0
    (folder / "nets.py").write_text(NETS + "# another version\n")
    code, _, err = command("train", "module.yaml", "-o", "run.h5", "--trust-code", "--steps", 70)
    assert code == 2
    assert "nets.py (SHA-256 " in err
    assert "changed since this run was started; restore it" in err
    (folder / "nets.py").write_text(NETS)
    assert command("train", "module.yaml", "-o", "run.h5", "--trust-code", "--steps", 70)[0] == 0


def test_a_resolved_recipe_states_the_hash_and_holds_to_it(folder, command):
    code, out, _ = command("recipe", "check", "module.yaml", "--trust-code")
    assert code == 0
    (folder / "resolved.yaml").write_text(out)
    assert command("recipe", "check", "resolved.yaml", "--trust-code")[0] == 0
    (folder / "nets.py").write_text(NETS + "# another version\n")
    code, _, err = command("train", "resolved.yaml", "--trust-code")
    assert code == 2
    assert "nets.py has changed: its SHA-256 is" in err


def test_a_sweep_trains_the_module(folder, monkeypatch):
    monkeypatch.chdir(folder)
    planned = plan(read(Path("sweep.yaml"), trust_code=True), folder / "runs")
    trusted_code.forget()  # as in a process of its own
    states = carry_out(planned, lambda jobs: (train_job(job) for job in jobs))
    assert [state.state for state in states.values()] == ["finished"] * 2, states


def test_a_loss_a_quantity_and_a_dataset_of_ones_own(folder, command):
    assert command("train", "own.yaml", "-o", "run.h5")[0] == 2
    assert command("train", "own.yaml", "-o", "run.h5", "--trust-code")[0] == 0
    x = np.linspace(-1, 1, 16)[:, None] * np.ones((1, 3))
    with open_trace(folder / "run.h5") as trace:
        assert trace["largest"].shape == (5, 1, 2)
        first, last = (W[0] for W in trace.snapshot(0))
        g = np.maximum(x @ first.T, 0) @ last.T
        np.testing.assert_allclose(trace["loss"][0, 0], ((g - np.sign(x[:, :1])) ** 4).mean())
        np.testing.assert_allclose(trace["largest"][0, 0], [abs(first).max(), abs(last).max()])
        after = trace.rows("rho_k", slice(1, 2))[0, 0, 1]
        active = np.maximum(x @ first.T, 0)
        gradient = (4 * (g - np.sign(x[:, :1])) ** 3 / 16).T @ active  # the slope is torch's, from the value
        np.testing.assert_allclose(after, np.linalg.norm(last - 0.05 * gradient))
    trusted_code.forget()
    assert "parts.py; --trust-code runs the copy" in " ".join(command("verify", "run.h5")[1].split())
    assert "the loss recomputed from the weights" in " ".join(command("verify", "run.h5", "--trust-code")[1].split())


def test_another_version_of_a_file_replaces_what_the_first_registered(folder):
    first = recipe.load(folder / "own.yaml", trust_code=True)
    (folder / "parts.py").write_text(PARTS.replace("pow(4)", "pow(6)"))
    second = recipe.load(folder / "own.yaml", trust_code=True)
    assert first.digest != second.digest
    assert type(first.loss) is not type(second.loss)
    (folder / "parts.py").write_text(PARTS + "raise ValueError('half way')\n")
    with pytest.raises(RecipeError, match=r"own.yaml:2: code: parts.py: raised ValueError \(line \d+\): half way"):
        recipe.load(folder / "own.yaml", trust_code=True)
    assert "quartic" not in LOSSES


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("net.py:build", "net.py: no such file; did you mean"),
        ("nets.py", "network.build: got 'nets.py'"),
        (".:build", "expected the path of a Python file"),
        ("broken.py:build", "broken.py: raised SyntaxError (line 1)"),
        ("binary.py:build", "cannot be read as a Python file"),
    ],
)
def test_a_wrong_place_is_explained(folder, command, place, says):
    (folder / "broken.py").write_text("def build(:\n")
    (folder / "binary.py").write_bytes(b"\xff\xfe\x00")
    code, _, err = command("train", "module.yaml", "--trust-code", "--set", f"network.build={place}")
    assert (code, "Traceback" in err) == (2, False)
    assert says in err


def test_a_stored_copy_that_is_not_the_one_that_trained_does_not_run(folder, command):
    assert command("train", "module.yaml", "-o", "run.h5", "--trust-code")[0] == 0
    (folder / "ran").unlink()
    trusted_code.forget()
    with h5py.File(folder / "run.h5", "r+") as file:
        file.attrs["code"] = json.dumps({"nets.py": NETS.replace("width=4", "width=5")})
    code, _, err = command("verify", "run.h5", "--trust-code")
    assert code == 2
    assert "its copy of nets.py is missing or damaged" in err
    assert "has another SHA-256 than the recipe states" in command("verify", "run.h5")[1]
    assert not (folder / "ran").exists()
