"""What ``train`` shows of the transient while it trains, and of a run that it resumes."""

from __future__ import annotations

import functools
import json
import re
import shutil
from pathlib import Path

import inside
import numpy as np
import pytest
from small import SMALL

from rhotrace.analysis.transient.transient_time import first_lasting, geometric_mean
from rhotrace.config import recipe
from rhotrace.runfile.reader import open_trace
from rhotrace.training import train as training

STEPS = 45


@pytest.fixture(scope="module", autouse=True)
def _small_blocks():
    with pytest.MonkeyPatch.context() as patch:
        inside.small_blocks(patch.setattr, 9)
        yield


@pytest.mark.parametrize(
    ("members", "shown"),
    [
        (
            "{seeds: [5, 0], rho_k: [8, 4], lr: [0.0001, 0.01]}",
            r"T about \d+ steps \(1 of 2 members, 1 of 2 had no tra",
        ),
        ("{seeds: [5], rho_k: [8], lr: [0.0001]}", "no transient: rho started at or above rho_eq/2"),
    ],
    ids=["one of two", "the only one"],
)
def test_members_that_start_beyond_their_transient_have_no_T(command, tmp_path, members, shown):
    (tmp_path / "small.yaml").write_text(SMALL.replace("steps: 60", f"steps: {STEPS}"), encoding="utf-8")
    code, _, err = command("train", "small.yaml", "--set", f"members={members}", "-o", "run.h5", "--device", "cpu")
    assert code == 0
    assert re.search(rf"done: {STEPS} steps in \S+ s; {shown}", err)
    each = json.loads(command("analyze", "run.h5", "--json")[1])["transient"]["each"]
    assert [member["T"] is None for member in each] == [True, False][: len(each)]


@pytest.fixture(scope="module")
def stopped_everywhere(tmp_path_factory):
    """Recipes that pass their T before step 60 of 90, and their run files as they are after every block, by step."""
    folder = tmp_path_factory.mktemp("everywhere")

    @functools.lru_cache
    def train(stride: int, optimizer: str) -> tuple[Path, dict[int, Path]]:
        text = SMALL.replace("{kind: gd, lr: 0.05}", optimizer).replace(
            "{test_every", f"{{full_every: {stride}, test_every"
        )
        source = folder / f"{stride}.yaml"
        source.write_text(text.replace("steps: 60", "steps: 90"), encoding="utf-8")
        path, copies = folder / f"{stride}.h5", {}

        def keep(block):
            copies[block.last] = Path(shutil.copy(path, folder / f"{stride}-{block.last}.h5"))

        training.train(recipe.load(source), path, device="cpu", watch=keep)
        return source, {**copies, 90: path}

    return train


def true_T(path: Path) -> np.ndarray:
    """Each member's T as the whole record has it, without interpolation."""
    with open_trace(path) as trace:
        ratio, steps = trace["rho_eq_over_rho"], trace.step_of("rho_eq_over_rho")
    rows = [first_lasting((r > 0) & (r <= 2), steps)[0] for r in ratio.T]
    assert -1 not in rows
    return steps[rows]


@pytest.mark.parametrize("step", [9, 45, 90])
@pytest.mark.parametrize(
    ("stride", "optimizer", "slab"),
    [(1, "{kind: gd, lr: 0.1}", 1 << 25), (7, "{kind: sgd, lr: 0.1, batch_size: 8}", 1)],
    ids=["gd", "sgd"],
)
def test_the_transient_shown_of_a_resumed_run_is_that_of_the_whole_run(
    command, tmp_path, stopped_everywhere, monkeypatch, stride, optimizer, slab, step
):
    monkeypatch.setattr("rhotrace.display.terminal.training.SLAB_BYTES", slab)  # read a row at a time, or all at once
    source, copies = stopped_everywhere(stride, optimizer)
    shutil.copy(copies[step], tmp_path / "run.h5")
    steps = [] if step < 90 else ["--steps", 93]
    code, out, err = command("train", source, "-o", "run.h5", "--device", "cpu", *steps)
    assert (code, out) == (0, "")
    assert re.search(rf"^resuming .* at step {step},", err, re.M)
    T = true_T(tmp_path / "run.h5")
    assert (T < 60).all()
    words, last = f"T about {geometric_mean(T).value:.0f} steps (3 of 3 members)", 90 if step < 90 else 93
    shown = [line for line in err.splitlines() if line.startswith((f"step {last}/{last} ", "done: "))]
    assert [words in line for line in shown] == [True, True]  # on a slow machine there are more lines before these
    with open_trace(tmp_path / "run.h5") as trace:
        assert trace.complete
        assert trace.steps == last


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
