"""The live view of a training, for every loss."""

from __future__ import annotations

import json

import pytest


@pytest.mark.parametrize("loss", ["logistic", "exponential"])
def test_a_loss_without_rho_eq_trains_and_has_no_T(command, small, tmp_path, loss):
    (tmp_path / "small.yaml").write_text(small)
    words = ["--set", f"loss.kind={loss}", "--set", "steps=40", "--device", "cpu", "--json"]
    code, out, err = command("train", "small.yaml", *words, "-o", "run.h5")
    assert code == 0, err
    told = json.loads(out)
    assert (told["ended"], told["steps"], told["T"]) == ("finished", 40, None)
    progress, end = (
        next(line for line in err.splitlines() if line.startswith(word)) for word in ("step 40/40", "done")
    )
    assert "rho_eq" not in progress
    assert "T: " in end
    assert "next: rhotrace info run.h5" in err


def test_a_resumed_training_knows_the_T_of_its_first_steps(command, small, tmp_path):
    (tmp_path / "small.yaml").write_text(small)
    common = ["small.yaml", "--set", "optimizer.lr=0.1", "--device", "cpu", "--json", "-o", "run.h5"]
    first = json.loads(command("train", *common, "--steps", 300)[1])
    again = json.loads(command("train", *common, "--steps", 310)[1])
    assert first["T"] == again["T"]
    assert all(T > 0 for T in again["T"])
