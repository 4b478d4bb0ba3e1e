"""The command line as a user meets it: what it prints where, what it leaves behind, and how it says no."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest
import torch
from command_line import run_inside

from rhotrace.cli import exit_codes
from rhotrace.config import recipe
from rhotrace.models.datasets import data_roots
from rhotrace.recording.quantities import QUANTITIES
from rhotrace.runfile.reader import open_trace
from rhotrace.runfile.writer import TraceWriter
from rhotrace.training.train import train as train_recipe

COMMANDS = [["train"], ["analyze"], ["compare"], ["info"], ["quantities"], ["recipe", "check"], ["recipe", "schema"]]


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Runs the command line inside this process from ``tmp_path``; returns (exit code, stdout, stderr)."""

    def run(*words: object, columns: int = 100) -> tuple[int, str, str]:
        return run_inside(monkeypatch, capsys, tmp_path, words, columns)

    return run


@pytest.fixture
def refused(command):
    """Runs a command that must be refused: exit 2, one or two lines on stderr, nothing on stdout; returns them."""

    def run(*words: object) -> str:
        code, out, err = command(*words)
        assert code == 2, err
        assert out == ""
        assert 1 <= len(err.splitlines()) <= 2, err
        assert "Traceback" not in err
        assert "error: " in err
        return err

    return run


@pytest.fixture
def small_file(tmp_path, small) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(small, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder of finished runs, trained once: a long one that leaves its transient, its SGD twin, and others."""
    from small import SMALL

    folder = tmp_path_factory.mktemp("trained")
    long = ["steps=1500", "optimizer.lr=0.1", "record.test_every=100"]
    for name, overrides in {
        "long": long,
        "long-sgd": [*long, "optimizer={kind: sgd, lr: 0.1, batch_size: 8}"],
        "short": [],
        "other": ["data.classes=[2, 3]", "steps=20"],
        "one": ["steps=1"],
    }.items():
        train_recipe(recipe.parse(SMALL, overrides), folder / f"{name}.h5", device="cpu")
    return folder


@pytest.fixture
def empty_run(tmp_path, small, monkeypatch) -> Path:
    """A run that was killed before its first commit."""

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TraceWriter, "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            train_recipe(recipe.parse(small), tmp_path / "empty.h5", device="cpu")
    return tmp_path / "empty.h5"


# --- train -------------------------------------------------------------------------------------------------


def test_train_makes_the_run_file_and_talks_on_stderr_only(command, small_file, tmp_path):
    code, out, err = command("train", small_file, "--device", "cpu", "-o", "deep/er/run.h5")
    assert (code, out) == (0, "")
    assert "training 3 networks of depth 3 for 60 steps" in err
    assert "step 60/60" in err
    assert "done: 60 steps" in err
    assert "rhotrace analyze deep/er/run.h5" in err
    with open_trace(tmp_path / "deep" / "er" / "run.h5") as trace:
        assert trace.complete
        assert trace.steps == 60
        assert "train" in trace.attributes["command"]


def test_train_writes_to_runs_by_default(command, small_file, tmp_path):
    code, out, err = command("train", small_file, "--set", "steps=4", "--set", "members.seeds=1", "--device", "cpu")
    assert (code, out) == (0, "")
    assert "training 1 network of" in err
    with open_trace(tmp_path / "runs" / "small.h5") as trace:
        assert (trace.steps, trace.members) == (4, 1)
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["small.h5"]


def test_train_refuses_to_overwrite_and_leaves_the_file_alone(refused, command, small_file, trained, tmp_path):
    run = Path(shutil.copy(trained / "short.h5", tmp_path / "run.h5"))
    before = run.read_bytes()
    message = refused("train", small_file, "-o", run)
    assert "a finished run of 60 steps exists already" in message
    assert "--force" in message
    assert run.read_bytes() == before
    assert command("train", small_file, "-o", run, "--force", "--set", "steps=5", "--device", "cpu")[0] == 0
    with open_trace(run) as trace:
        assert trace.steps == 5


def test_train_refuses_to_replace_a_file_that_is_no_run(refused, small_file):
    before = small_file.read_bytes()
    refused("train", small_file, "-o", small_file)
    assert small_file.read_bytes() == before


def test_train_goes_on_with_an_interrupted_run(command, small_file, empty_run):
    code, out, err = command("train", small_file, "-o", empty_run, "--device", "cpu")
    assert (code, out) == (0, "")
    assert "done: 60 steps" in err


def test_train_that_diverges_says_so(command, small_file):
    wild = ["--set", "network.depth=1", "--set", "optimizer.lr=1e9"]
    code, out, err = command("train", small_file, *wild, "-o", "run.h5", "--device", "cpu", "--json")
    assert code == exit_codes.DIVERGED == 3
    assert json.loads(out)["ended"] == "diverged"
    assert "diverged: rho is not finite in any member" in err
    assert "learning rate" in err
    code, out, err = command("analyze", "run.h5", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["summary"]["state"] == "diverged"


def test_train_of_networks_that_die_warns_of_nothing(command, small_file):
    """One huge step makes every ReLU zero: q = 0, and rho_eq/rho is NaN in every member."""
    code, _, err = command("train", small_file, "--set", "optimizer.lr=1e6", "-o", "run.h5", "--device", "cpu")
    assert code == 0
    assert "Warning" not in err
    code, out, err = command("analyze", "run.h5", "--fit-transient")
    assert (code, err) == (0, "")
    assert "no T" in out


# --- analyze, compare, info, quantities, recipe --------------------------------------------------------------


def test_analyze_prints_a_report_on_stdout_alone(command, trained):
    code, out, err = command("analyze", trained / "long.h5", "--fit-transient")
    assert (code, err) == (0, "")
    for words in ("transient time", "T = ", "driven by", "Audit", "holds to rounding", "1500 of 1500 steps", "eq"):
        assert words in out


@pytest.mark.parametrize("options", [[], ["--fit-transient"], ["--theta", "0.9"]])
def test_analyze_json_is_json_and_alone_on_stdout(command, trained, options):
    code, out, err = command("analyze", trained / "long.h5", "--json", *options)
    assert (code, err) == (0, "")
    content = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert content["summary"]["steps"] == 1500
    assert content["audit"]["holds"] is True
    assert len(content["transient"]["each"]) == 3
    assert content["transient"]["theta"] == (0.9 if "--theta" in options else 0.5)
    fits = [each["fit"] for each in content["transient"]["each"]]
    assert any(fits) == ("--fit-transient" in options)


def test_json_of_a_fresh_process_is_json_from_stdout_alone(rhotrace, trained):
    done = rhotrace("analyze", trained / "long.h5", "--fit-transient", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["final"][2]["member"] == 2


def test_analyze_of_a_short_run_says_that_there_is_no_transient_time(command, trained):
    code, out, err = command("analyze", trained / "short.h5", "--fit-transient")
    assert (code, err) == (0, "")
    assert "no T" in out


def test_compare_prints_a_verdict_on_stdout_alone(command, trained):
    code, out, err = command("compare", trained / "long.h5", trained / "long-sgd.h5")
    assert (code, err) == (0, "")
    assert "optimizer.kind: gd (long); sgd (long-sgd)" in out
    assert "long-sgd over long: fluctuation" in out
    assert (
        out.index("log(rho/rho_eq)") < out.index("They differ in") < out.index("delta = log(rho/rho_eq) in")
    )  # the answer first


def test_compare_json_is_json_and_alone_on_stdout(command, trained):
    code, out, err = command("compare", trained / "long.h5", trained / "long-sgd.h5", "--json")
    assert (code, err) == (0, "")
    content = json.loads(out)
    assert content["differs"]["optimizer.kind"] == ["gd", "sgd"]
    assert content["verdicts"]
    assert content["contrasts"][0]["paired"] == 3


def test_info_shows_what_a_run_holds_and_where_it_came_from(command, trained):
    code, out, err = command("info", trained / "short.h5")
    assert (code, err) == (0, "")
    for words in ("60 of 60 steps", "torch", "test_every: 10", "snapshots", "rho_k"):
        assert words in out
    code, out, err = command("info", trained / "short.h5", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["attributes"]["status"] == "complete"


def test_info_and_analyze_read_a_run_that_was_killed(command, empty_run):
    code, out, err = command("info", empty_run)
    assert (code, err) == (0, "")
    assert "interrupted: 0 of 60 steps" in out
    assert "0 of 60 steps" in out


def test_quantities_lists_every_row_of_the_table(command):
    code, out, err = command("quantities", columns=200)
    assert (code, err) == (0, "")
    for quantity in QUANTITIES:
        assert re.search(rf"\b{quantity}\b", out)
    rows = json.loads(command("quantities", "--json")[1])
    assert [r["quantity"] for r in rows] == list(QUANTITIES)


def test_recipe_check_prints_a_recipe_that_checks_again(command, small_file, tmp_path, small):
    code, out, err = command("recipe", "check", small_file, "--set", "steps=7")
    assert code == 0
    assert err == f"{small_file}: valid\n"
    assert recipe.parse(out) == recipe.parse(small, ["steps=7"])
    (tmp_path / "again.yaml").write_text(out, encoding="utf-8")
    assert command("recipe", "check", "again.yaml")[1] == out


def test_recipe_schema_is_a_json_schema(command):
    code, out, err = command("recipe", "schema")
    assert (code, err) == (0, "")
    assert json.loads(out)["properties"].keys() == recipe.Recipe.model_fields.keys()


def test_version_is_the_installed_one(rhotrace):
    done = rhotrace("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"rhotrace {metadata.version('rhotrace')}\n", "")


@pytest.mark.parametrize("words", [[], ["recipe"], *COMMANDS], ids=" ".join)
@pytest.mark.parametrize("columns", [100, 40])
def test_every_help_shows_an_example(command, words, columns):
    code, out, err = command(*words, "--help", columns=columns)
    assert (code, err) == (0, "")
    assert "Example: rhotrace" in " ".join(out.split())


def test_every_option_in_the_examples_exists(command):
    for words in COMMANDS:
        helped = command(*words, "--help", columns=200)[1]
        example = helped.partition("Example:")[2]
        for option in re.findall(r"(?<!\S)--?[a-z-]+", example):
            assert option in helped.partition("Example:")[0]


def test_every_recipe_in_the_examples_exists(command):
    root = Path(__file__).resolve().parents[2]
    named = {
        r for words in COMMANDS for r in re.findall(r"recipes/\S+\.yaml", command(*words, "--help", columns=200)[1])
    }
    assert named
    assert all((root / name).is_file() for name in named), named


# --- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["train"], ["recipe", "check"]], ids=" ".join)
def test_a_missing_recipe_is_refused(refused, small_file, words):
    assert "smal.yaml: no such recipe; did you mean small.yaml?" in refused(*words, "smal.yaml")
    assert small_file.exists()


@pytest.mark.parametrize("words", [["train"], ["recipe", "check"]], ids=" ".join)
def test_a_recipe_with_a_fault_is_refused_with_its_line(refused, small_file, words):
    small_file.write_text(small_file.read_text().replace("lr: 0.05", "lr: -1"))
    assert f"error: {small_file}:4: optimizer.lr: got -1" in refused(*words, small_file)


@pytest.mark.parametrize(
    "words", [["analyze", "none.h5"], ["info", "none.h5"], ["compare", "none.h5", "none.h5"]], ids=" ".join
)
def test_a_missing_run_is_refused(refused, words):
    assert "none.h5: no such run file" in refused(*words)


@pytest.mark.parametrize("words", [["analyze"], ["info"]], ids=" ".join)
def test_a_file_that_is_not_hdf5_is_refused(refused, small_file, words):
    assert "not HDF5" in refused(*words, small_file)


def test_a_run_cut_short_is_refused(refused, trained, tmp_path):
    (tmp_path / "cut.h5").write_bytes((trained / "short.h5").read_bytes()[:20_000])
    assert "cut short" in refused("analyze", "cut.h5")


def test_a_run_without_steps_is_refused_by_what_needs_them(refused, empty_run, trained):
    assert "got 0 committed steps" in refused("analyze", empty_run)
    assert "got 0 committed steps" in refused("compare", trained / "short.h5", empty_run)
    assert "got 1 committed steps" in refused("analyze", trained / "one.h5")


def test_compare_of_runs_on_different_data_is_refused(refused, trained):
    message = refused("compare", trained / "short.h5", trained / "other.h5")
    assert "different data" in message
    assert "0, 1" in message
    assert "2, 3" in message


def test_a_device_that_does_not_exist_is_refused(command, small_file, tmp_path):
    code, out, err = command("train", small_file, "--device", "banana")
    assert (code, out) == (2, "")
    assert "'banana' is not one of 'auto', 'cpu', 'cuda'" in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none_is_refused(refused, small_file, tmp_path):
    message = refused("train", small_file, "--device", "cuda")
    assert "--device cuda: torch finds no CUDA device" in message
    assert "--device cpu" in message
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("theta", ["0", "1", "1.5", "-0.5", "nan", "inf"])
def test_a_theta_outside_0_to_1_is_refused(refused, trained, theta):
    assert "--theta: got" in refused("analyze", trained / "short.h5", f"--theta={theta}")


@pytest.mark.parametrize(
    "words",
    [["analyze", "x.h5", "--theta", "abc"], ["analyze"], ["analyse", "x.h5"], ["train", "x", "--forse"]],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2_and_no_traceback(command, words):
    code, out, err = command(*words)
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert "--help" in err


def test_a_bad_set_is_refused(refused, small_file):
    assert "--set: got 'lr', expected key.path=value" in refused("train", small_file, "--set", "lr")


def test_too_many_samples_are_refused(refused, small_file):
    assert "11846" in refused("train", small_file, "--set", "data.train=20000")


def test_an_output_that_cannot_be_made_is_refused(refused, small_file, tmp_path):
    assert "small.yaml" in refused("train", small_file, "-o", "small.yaml/run.h5")
    (tmp_path / "folder").mkdir()
    assert "folder" in refused("train", small_file, "-o", "folder")
    assert "folder" in refused("train", small_file, "-o", "folder", "--force")
    assert not list((tmp_path / "folder").iterdir())


def test_networks_too_large_for_memory_are_refused(refused, small_file):
    assert "network.width" in refused("train", small_file, "--set", "network.width=10000000000")


def test_absent_data_is_refused(refused, small_file, monkeypatch, tmp_path):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", offline)
    monkeypatch.setattr(data_roots, "roots", lambda *_: [tmp_path / "nowhere"])
    monkeypatch.setattr(data_roots, "cache_root", lambda: tmp_path / "nowhere")
    assert "mnist not found" in refused("train", small_file)


def test_a_refusal_of_a_fresh_process_is_short_too(rhotrace):
    done = rhotrace("analyze", "none.h5")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: none.h5: no such run file; `rhotrace train RECIPE -o none.h5` creates one\n"


# --- brackets, narrow terminals, imports -------------------------------------------------------------------


def test_brackets_in_names_and_overrides_are_printed_as_they_are(command, small_file, tmp_path):
    words = ["--set", "steps=12", "--set", "claim='[/b] [red]x'", "-o", "run[bold]1.h5", "--device", "cpu"]
    code, _, err = command("train", small_file, *words)
    assert code == 0
    assert err.count("run[bold]1.h5") == 3
    shutil.copy(tmp_path / "run[bold]1.h5", tmp_path / "copy.h5")
    for shown in (["analyze"], ["info"], ["compare", "copy.h5"]):
        code, out, err = command(*shown, "run[bold]1.h5", columns=300)
        assert (code, err) == (0, "")
        assert "run[bold]1.h5" in out
    assert "[/b] [red]x" in command("info", "run[bold]1.h5", columns=300)[1]
    assert (tmp_path / "run[bold]1.h5").exists()


@pytest.mark.parametrize("columns", [40, 10])
def test_a_narrow_terminal_does_not_crash(command, small_file, trained, columns):
    runs = [trained / "long.h5", trained / "long-sgd.h5"]
    for words in (
        ["analyze", runs[0], "--fit-transient"],
        ["compare", *runs],
        ["info", runs[0]],
        ["quantities"],
        ["train", small_file, "--set", "steps=3", "--force", "--device", "cpu"],
    ):
        code, out, err = command(*words, columns=columns)
        assert code == 0, err
        assert out or err


def test_json_does_not_depend_on_the_terminal_s_width(command, trained):
    wide, narrow = (command("analyze", trained / "short.h5", "--json", columns=c)[1] for c in (200, 20))
    assert wide == narrow


IMPORTS = """
import sys
sys.argv = ["rhotrace", *{words!r}]
from rhotrace.cli.app import main
try:
    main()
except SystemExit as left:
    assert not left.code, left.code
heavy = {{"torch", "torchvision", "matplotlib", "pandas"}} & set(sys.modules)
if "--help" in sys.argv:
    heavy |= {{"numpy", "h5py", "jinja2", "rhotrace.models.network"}} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["train", "--help"],
        ["analyze", "RUN", "--fit-transient"],
        ["compare", "RUN", "COPY"],
        ["watch", "RUN"],
        ["export", "RUN", "--to", "csv", "--force"],
    ],
    ids=" ".join,
)
def test_what_does_not_train_imports_no_torch(trained, words):
    shutil.copy(trained / "long.h5", trained / "copy.h5")
    words = [{"RUN": str(trained / "long.h5"), "COPY": str(trained / "copy.h5")}.get(w, w) for w in words]
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS.format(words=words)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


# --- stopping ----------------------------------------------------------------------------------------------


def committed(path: Path) -> int:
    if not path.exists():
        return 0
    with open_trace(path) as trace:
        return trace.steps


def test_ctrl_c_stops_training_and_keeps_every_step(small_file, tmp_path, command):
    words = [
        "train",
        small_file.name,
        "-o",
        "run.h5",
        "--set",
        "steps=150000",
        "--set",
        "members.seeds=1",
        "--device",
        "cpu",
    ]
    training = subprocess.Popen(
        [sys.executable, "-m", "rhotrace", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    try:
        ends = time.monotonic() + 60
        while not committed(tmp_path / "run.h5"):
            assert training.poll() is None, training.communicate()
            assert time.monotonic() < ends
            time.sleep(0.05)
        training.send_signal(signal.SIGINT)
        out, err = training.communicate(timeout=30)
    finally:
        training.kill()
        training.wait()
    assert training.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    said = re.search(r"interrupted: (\d+) steps in [\d.]+ s are recorded", err)
    assert said, err
    with open_trace(tmp_path / "run.h5") as trace:
        assert not trace.complete
        assert 0 < trace.steps == int(said[1]) < 150_000
        for quantity in trace.quantities:
            assert len(trace[quantity.name]) == len(trace.step_of(quantity.name)) > 0
        assert trace.snapshots()
    code, out, err = command("analyze", "run.h5", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["audit"]["holds"] is True
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.h5", "small.yaml"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_is_the_beginning_of_the_finished_one(command, small_file, tmp_path, train, monkeypatch, number):
    """A signal in the first block, in this process."""
    monkeypatch.setattr("rhotrace.training.recorder.BLOCK_STEPS", 16)
    append = TraceWriter.append

    def interrupt(self, first, last, block):
        append(self, first, last, block)
        os.kill(os.getpid(), number)
        time.sleep(0.01)

    with monkeypatch.context() as patch:
        patch.setattr(TraceWriter, "append", interrupt)
        code, out, err = command("train", small_file, "-o", "part.h5", "--device", "cpu")
    assert (code, out) == (130, "")
    assert "interrupted: 16 steps" in err
    with open_trace(tmp_path / "part.h5") as part, open_trace(train(text=small_file.read_text())) as whole:
        assert part.steps == 16
        for quantity in part.quantities:
            rows = part[quantity.name]
            assert rows.tobytes() == whole[quantity.name][: len(rows)].tobytes()
