"""``rhotrace study``: list, copy and run, as a user calls them."""

from __future__ import annotations

import json

import pytest
from own_study import STUDY, write_study
from small import SMALL

from rhotrace.cli import exit_codes
from rhotrace.models.losses import LOSSES
from rhotrace.runfile.reader import open_trace

NET = """
from torch import nn

def net(inputs, outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 4, bias=False), nn.ReLU(), nn.Linear(4, outputs, bias=False))
"""
CODE = """
from typing import Literal
from rhotrace.models.losses import LOSSES, Square

@LOSSES.register
class Own(Square):
    kind: Literal["own"] = "own"
"""


def test_the_list_has_every_study_with_its_question(command):
    code, out, _ = command("study", "list")
    assert code == 0
    assert "early-stopping" in out
    code, out, _ = command("study", "list", "--json")
    found = json.loads(out)
    assert code == 0
    assert {"name", "question", "source", "scales"} == set(found[0])
    assert [one["name"] for one in found] == sorted(one["name"] for one in found)


def test_a_copy_runs_after_its_recipe_is_made_smaller(command, tmp_path):
    code, out, _ = command("study", "copy", "early-stopping", "-o", "mine")
    assert code == 0
    assert out.splitlines() == ["mine/early-stopping.yaml", "mine/early_stopping.py"]
    more = "steps=200", "record={test_every: 5, snapshots: 0}", "data.label_noise=0.2"
    recipe = tmp_path / "mine" / "early-stopping.yaml"
    recipe.write_text(SMALL)
    study = tmp_path / "mine" / "early_stopping.py"
    text = study.read_text()
    assert '(f"loss.kind={loss}",)' in text
    study.write_text(text.replace('(f"loss.kind={loss}",)', f'(f"loss.kind={{loss}}", *{more!r})'))
    code, out, err = command("study", "mine/early_stopping.py", "--device", "cpu")
    assert code == 0, err
    assert "early-stopping" in out
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "early-stopping-exponential.h5",
        "early-stopping-square.h5",
    ]
    with open_trace(tmp_path / "runs" / "early-stopping-square.h5") as trace:
        assert trace.steps == 200
    assert "written to studies.html" in err
    assert "Test error" in (tmp_path / "studies.html").read_text(encoding="utf-8")


def test_a_study_of_ones_own_answers_as_json_and_as_a_page(command, tmp_path):
    path = write_study(tmp_path / "own")
    code, out, err = command("study", path, "--device", "cpu", "--json", "-o", "page.html")
    assert code == 0, err
    (found,) = json.loads(out)
    assert (found["study"], found["verdict"], found["scale"]) == ("own", "yes", "small")
    assert found["values"]["more"]["value"] > 0
    assert len(found["commands"]) == 2
    code, again, _ = command("study", "run", path, "--json", "-o", "page.html")
    assert code == 0
    assert json.loads(again) == [found]


@pytest.fixture
def forgotten():
    """The loss of ``CODE`` is unknown again when the test ends: others count the losses."""
    yield
    if "own" in LOSSES:
        LOSSES.unregister("own")


@pytest.mark.usefixtures("forgotten")
def test_code_that_a_recipe_names_runs_only_when_it_is_trusted(command, tmp_path):
    path = write_study(tmp_path / "own", STUDY.replace('"init.rho_k=2"', '"init={kind: equal-norms, rho_k: 2}"'))
    recipe = path.with_suffix(".yaml")
    lines = [line for line in SMALL.splitlines() if not line.startswith("network:")]
    recipe.write_text(
        "\n".join([*lines, "network: {kind: module, build: nets.py:net}", "code: [losses.py]", "loss: {kind: own}"])
    )
    (tmp_path / "own" / "nets.py").write_text(NET)
    (tmp_path / "own" / "losses.py").write_text(CODE)
    code, out, err = command("study", path, "--device", "cpu", "--json")
    assert (code, out) == (exit_codes.USER_ERROR, "")
    assert err.startswith("error: ")
    assert "losses.py, which would run with all your rights; read it, then allow it with --trust-code" in err
    assert not (tmp_path / "runs").exists()
    code, out, err = command("study", path, "--device", "cpu", "--json", "--trust-code")
    assert code == 0, err
    (found,) = json.loads(out)
    assert (found["verdict"], [each.count(" --trust-code") for each in found["commands"]]) == ("yes", [1, 1])
    assert "--set 'init={kind: equal-norms, rho_k: 2}' --trust-code -o " in found["commands"][1]  # as a shell reads it
    again = command("study", path, "--json", "--trust-code")
    assert (again[0], json.loads(again[1])) == (0, [found])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["early-stoping"], "error: early-stoping: no such study; did you mean early-stopping?"),
        (["own/none.py"], "error: own/none.py: no such file; `rhotrace study copy NAME`"),
        (["copy", "early-stoping"], "error: early-stoping: no such study; did you mean early-stopping?"),
        (["own/raises.py"], "error: own/raises.py: cannot be imported: ZeroDivisionError: division by zero"),
        (["own/own.py", "-o", "own"], "error: own: got a folder, expected a name for the report"),
        (["own/own.py", "--scale", "gpu"], "error: own: got scale gpu, expected small"),
    ],
)
def test_mistakes_are_one_line_each_and_train_nothing(command, tmp_path, words, said):
    write_study(tmp_path / "own")
    (tmp_path / "own" / "raises.py").write_text("1 / 0\n")
    code, out, err = command("study", *words)
    assert (code, out) == (exit_codes.USER_ERROR, "")
    assert err.startswith(said)
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()


def test_a_run_of_another_recipe_in_the_way_is_named_with_the_remedy(command, tmp_path, train):
    path = write_study(tmp_path / "own")
    train("optimizer.lr=0.06", name="small.h5")
    code, out, err = command("study", path, "--runs", ".", "--device", "cpu")
    assert (code, out) == (exit_codes.USER_ERROR, "")
    assert "small.h5: a run of another recipe exists already (differs in" in err
    assert "--runs FOLDER trains elsewhere" in err
    assert not (tmp_path / "studies.html").exists()


def test_the_same_command_resumes_an_interrupted_study(command, tmp_path, monkeypatch):
    import os
    import signal

    from rhotrace.runfile.writer import TraceWriter

    path, append = write_study(tmp_path / "own"), TraceWriter.append

    def interrupt(self, first, last, block):
        append(self, first, last, block)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr("rhotrace.training.recorder.BLOCK_STEPS", 16)
        patch.setattr(TraceWriter, "append", interrupt)
        code, out, _ = command("study", path, "--device", "cpu")
    assert (code, out) == (exit_codes.INTERRUPTED, "")
    assert not (tmp_path / "studies.html").exists()
    with open_trace(tmp_path / "runs" / "small.h5") as trace:
        assert not trace.complete
        assert trace.steps >= 16
    code, out, err = command("study", path, "--device", "cpu")
    assert code == 0, err
    assert "Yes: log rho is larger by" in out
