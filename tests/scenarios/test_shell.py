"""How the commands behave as citizens of a shell: help, JSON, completion, narrow terminals, colours, pipes, misspellings."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys

import click
import pytest
import typer

from rhotrace.analysis.analyze import analyze
from rhotrace.analysis.claims.findings import audit_claims
from rhotrace.analysis.fluctuation.comparison import compare
from rhotrace.cli import app as cli
from rhotrace.display.numbers import number
from rhotrace.display.pages.analysis import analysis_page
from rhotrace.display.pages.claims import statements
from rhotrace.display.pages.comparison import comparison_page
from rhotrace.display.pages.quantities import quantities_page
from rhotrace.display.terminal.renderer import Terminal, show
from rhotrace.runfile.reader import open_trace

LONG = ("steps=800", "optimizer.lr=0.1", "record.snapshots=2")


def every_command() -> dict[str, click.Command]:
    """Each command by its words, those of groups among them."""
    found = {}
    for name, command in typer.main.get_command(cli.app).commands.items():
        inner = getattr(command, "commands", {})
        found |= {f"{name} {each}": one for each, one in inner.items()} if inner else {name: command}
    return found


@pytest.mark.parametrize("words", every_command())
def test_every_command_has_help_with_an_example_of_itself_and_options_that_exist(command, words):
    code, out, err = command(*words.split(), "--help")
    assert (code, err) == (0, "")
    shown, _, example = out.partition("Example:")
    assert f"rhotrace {words}" in " ".join(example.split())
    for option in re.findall(r"(?<!\S)--?[a-z-]+", example):
        assert option in shown


@pytest.mark.parametrize("words", ["", "train", "plot", "recipe copy"])
def test_help_fits_a_narrow_terminal(rhotrace, words):
    done = rhotrace(*words.split(), "--help", COLUMNS="40")
    assert done.returncode == 0
    assert max(len(line.rstrip()) for line in done.stdout.splitlines()) <= 40


@pytest.mark.parametrize("words", every_command())
def test_every_command_speaks_json(words):
    options = {text for option in every_command()[words].params for text in option.opts}
    assert "--json" in options or words == "recipe schema"  # which prints nothing else


def test_train_and_recipes_give_json_and_nothing_else_on_stdout(command, small, tmp_path):
    (tmp_path / "small.yaml").write_text(small, encoding="utf-8")
    code, out, _ = command("train", "small.yaml", "--device", "cpu", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["path"], found["ended"], found["steps"], len(found["T"])) == ("runs/small.h5", "finished", 60, 3)
    code, out, err = command("recipe", "check", "small.yaml", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["optimizer"]["lr"] == 0.05
    code, out, err = command("recipe", "copy", "quick", "--json", "-o", "new")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"quick": ["new/quick.yaml"]}
    assert json.loads(command("recipe", "copy", "quick", "--json", "-o", "new")[1]) == {"quick": []}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "Did you mean 'train'"),
        (["analyse", "x"], "Did you mean 'analyze'"),
        (["train", "--stesp", "3"], "--steps"),
        (["analyze", "runs/smal.h5"], "did you mean runs/small.h5?"),
        (["compare", "runs/*.hdf", "x"], "nothing matches the pattern"),
        (["export", "runs/small.h5", "--to", "parket"], "did you mean parquet?"),
        (["plot", "runs/small.h5", "--what", "layer", "-o", "x.png"], "did you mean layers?"),
        (["plot", "runs/small.h5"], "Missing option '-o'"),
        (["recipe", "copy", "quik"], "did you mean quick?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_misspelt_is_refused_with_what_was_meant(rhotrace, tmp_path, train, words, said):
    (tmp_path / "runs").mkdir()
    train("steps=2").rename(tmp_path / "runs" / "small.h5")
    done = rhotrace(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("width", [40, 60, 100])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_lost(train, monkeypatch, width):
    monkeypatch.setenv("NO_COLOR", "1")
    gd, sgd = train(*LONG), train(*LONG, "optimizer={kind: sgd, lr: 0.1, batch_size: 8}")
    out = io.StringIO()
    console = Terminal(file=out, width=width, force_terminal=True)
    with open_trace(gd) as first, open_trace(sgd) as second:
        result = analyze(first, fit=True)
        show(console, analysis_page(result, fits=True))
        show(console, statements(audit_claims(first)))
        show(console, comparison_page(compare([first, second]), members=True))
    show(console, quantities_page())
    text = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    longest = max(text.splitlines(), key=len)
    assert len(longest) <= width, longest
    for each in result.transient.each:
        assert re.search(rf"(?<![\d.]){re.escape(number(each.T, 4))}(?![\d.])", text)
    assert "rho_eq_over_rho" in text


@pytest.mark.parametrize(
    "words",
    [
        ["export", "A", "--to", "csv"],
        ["export", "A", "--to", "netcdf"],
        ["export", "A", "--to", "tensorboard"],
        ["report", "A"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("target", ["A", "B"])
def test_no_run_is_ever_replaced_by_an_export_or_a_report(command, train, words, target):
    runs = {"A": train("steps=20"), "B": train("steps=21")}
    before = {name: path.read_bytes() for name, path in runs.items()}
    code, out, err = command(
        *(str(runs["A"]) if word == "A" else word for word in words), "-o", runs[target], "--force"
    )
    assert (code, out) == (2, "")
    assert "never replaced" in err
    assert {name: path.read_bytes() for name, path in runs.items()} == before


def test_a_closed_pipe_is_no_error(tmp_path):
    line = f"{sys.executable} -m rhotrace quantities | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("141\n", "")


@pytest.mark.parametrize("no_colour", [False, True])
def test_colours_appear_only_where_they_are_wanted(train, no_colour):
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"TERM": "xterm-256color", "COLUMNS": "80"}
    environment |= {"NO_COLOR": "1"} if no_colour else {}
    ours, theirs = pty.openpty()
    run = train(*LONG)
    done = subprocess.Popen(
        [sys.executable, "-m", "rhotrace", "watch", str(run), "--once"], stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    text = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        text += piece
    os.close(ours)
    assert done.wait(60) == 0
    assert bool(re.search(rb"\x1b\[(?:\d+;)*(?:3|9)\d", text)) == (not no_colour)
    assert "⠤" in text.decode() or "⠒" in text.decode() or "⠉" in text.decode()


@pytest.mark.parametrize("words", [["analyze", "--fit-transient"], ["audit"], ["info"]], ids=" ".join)
def test_where_only_ascii_can_be_written_signs_are_replaced(rhotrace, train, words):
    done = rhotrace(*words, train(name="r\xf6.h5"), PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()


def test_shell_completion_is_available(rhotrace):
    done = rhotrace("--show-completion", "bash")
    if done.returncode:  # older Typer asks the shell that it runs in
        pytest.skip("this Typer knows the shell only from its parent process")
    assert "complete_bash" in done.stdout


def test_importing_the_package_imports_nothing_heavy_and_its_functions_are_there_when_asked_for(tmp_path):
    code = (
        "import sys, rhotrace\n"
        "assert not {'numpy', 'h5py', 'torch', 'pydantic'} & set(sys.modules)\n"
        "assert {'open', 'compare', 'fit_transient', 'Trace'} <= set(dir(rhotrace))\n"
        "import rhotrace.cli.app, rhotrace.analysis.analyze, rhotrace.display.pages.analysis, rhotrace.display.terminal.renderer\n"
        "assert not {'torch', 'matplotlib', 'scipy.stats', 'scipy.signal', 'scipy.ndimage'} & set(sys.modules)\n"
        "import rhotrace.analysis.fluctuation.comparison\n"
        "assert rhotrace.compare is rhotrace.analysis.fluctuation.comparison.compare\n"
        "assert rhotrace.open is rhotrace.runfile.reader.open_trace\n"
        "assert 'torch' not in sys.modules\n"
        "try:\n    rhotrace.nothing\nexcept AttributeError as no:\n    assert 'nothing' in str(no)\nelse:\n    raise SystemExit(1)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
