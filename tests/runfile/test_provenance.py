"""What a run file says of its origin: code, recipe, data, machine and command, whatever state git is in."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small import SMALL

from rhotrace.cli import app as cli
from rhotrace.config import recipe
from rhotrace.errors import DataError
from rhotrace.models import datasets
from rhotrace.models.datasets import DATASETS
from rhotrace.runfile import provenance
from rhotrace.runfile.layout import attributes_digest
from rhotrace.runfile.reader import open_trace
from rhotrace.training.train import train as train_recipe

ROOT = Path(provenance.__file__).resolve().parents[2]
HAS_GIT = shutil.which("git") is not None
needs_git = pytest.mark.skipif(not HAS_GIT, reason="there is no git")


@pytest.fixture(autouse=True)
def _plain_surroundings(monkeypatch, tmp_path):
    """No repository above the test's folder, no settings of the user's git."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    (tmp_path / "gitconfig").write_text("[user]\nname = Somebody\nemail = somebody@example.org\n")


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path) -> Path:
    """A repository with a committed recipe in ``recipes/small.yaml``, and a file beside that folder."""
    folder = tmp_path / "repository"
    (folder / "recipes").mkdir(parents=True)
    (folder / "recipes" / "small.yaml").write_text(SMALL)
    (folder / "elsewhere.txt").write_text("a\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    """Trains a few steps of a recipe by the command line; returns the attributes of the finished file."""

    def run(source: Path, *words: str) -> dict[str, object]:
        path = tmp_path / "run.h5"
        sets = ["--set", "steps=2", "--set", "record.snapshots=0"]
        command = ["train", str(source), "-o", str(path), "--device", "cpu", "--force", *sets, *words]
        monkeypatch.setattr(sys, "argv", ["/somewhere/bin/rhotrace", *command])
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert not left.value.code, capsys.readouterr().err
        with open_trace(path) as trace:
            assert trace.attributes["attributes_digest"] == attributes_digest(trace.attributes)
            return trace.attributes

    return run


# --- git -----------------------------------------------------------------------------------------------------


@needs_git
def test_a_recipe_as_committed_has_a_revision_and_no_difference(repository, train):
    found = train(repository / "recipes" / "small.yaml")
    assert found["recipe_git_revision"] == git(repository, "rev-parse", "HEAD")
    assert found["recipe_git_diff"] == ""


@needs_git
@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_what_was_changed_since_the_commit_can_be_done_again_from_the_file(repository, train, tmp_path, newline):
    source = repository / "recipes" / "small.yaml"
    source.write_bytes(SMALL.replace("\n", newline).encode())
    git(repository, "-c", "core.autocrlf=false", "commit", "-q", "-a", "--allow-empty", "-m", "second")
    source.write_bytes(SMALL.replace("lr: 0.05", "lr: 0.07").replace("\n", newline).encode())
    (repository / "elsewhere.txt").write_text("b\n")
    git(repository, "add", "recipes")  # staged or not, it counts
    found = train(source)
    assert found["recipe_git_revision"] == git(repository, "rev-parse", "HEAD")
    assert "+optimizer: {kind: gd, lr: 0.07}" in found["recipe_git_diff"]
    assert "elsewhere" not in found["recipe_git_diff"]
    git(tmp_path, "clone", "-q", str(repository), "clone")
    (tmp_path / "patch").write_bytes(found["recipe_git_diff"].encode() + b"\n")
    git(tmp_path / "clone", "apply", "--whitespace=nowarn", str(tmp_path / "patch"))
    assert (tmp_path / "clone" / "recipes" / "small.yaml").read_bytes() == source.read_bytes()


@needs_git
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_the_code_has_the_revision_of_its_checkout(train, tmp_path):
    (tmp_path / "small.yaml").write_text(SMALL)
    assert train(tmp_path / "small.yaml")["git_revision"] == git(ROOT, "rev-parse", "HEAD")


@needs_git
def test_code_in_a_repository_shows_what_was_changed_in_it(repository, monkeypatch):
    code = repository / "recipes" / "runfile" / "provenance.py"
    code.parent.mkdir()
    code.write_text("before = 1\n")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "code")
    code.write_text("after = 1\n")
    (repository / "elsewhere.txt").write_text("b\n")
    monkeypatch.setattr(provenance, "__file__", str(code))
    found = provenance.collect()
    assert found["git_revision"] == git(repository, "rev-parse", "HEAD")
    assert found["git_diff"].splitlines()[-2:] == ["-before = 1", "+after = 1"]
    assert "recipe_file" not in found


@needs_git
def test_code_installed_within_somebody_s_repository_is_not_of_its_revision(repository, monkeypatch):
    installed = repository / ".venv" / "rhotrace" / "runfile"
    installed.mkdir(parents=True)
    (repository / ".gitignore").write_text(".venv\n")
    (installed / "provenance.py").write_text("")
    monkeypatch.setattr(provenance, "__file__", str(installed / "provenance.py"))
    found = provenance.collect(repository / "recipes" / "small.yaml")
    assert (found["git_revision"], found["git_diff"]) == ("", "")
    assert found["recipe_git_revision"] == git(repository, "rev-parse", "HEAD")


@needs_git
def test_a_recipe_that_git_does_not_know_is_recorded_itself(repository, train):
    (repository / "recipes" / "new.yaml").write_text(SMALL.replace("lr: 0.05", "lr: 0.03"))
    found = train(repository / "recipes" / "new.yaml")
    assert found["recipe_git_revision"] == git(repository, "rev-parse", "HEAD")
    assert found["recipe_git_diff"] == ""
    kept = recipe.parse(found["recipe"])
    assert kept == recipe.parse(SMALL, ["optimizer.lr=0.03", "steps=2", "record.snapshots=0"])
    assert json.loads(found["recipe_json"]) == kept.model_dump()
    assert found["recipe_digest"] == kept.digest


@needs_git
def test_a_repository_named_by_a_hook_is_not_taken_for_the_folder_s_own(repository, train, tmp_path, monkeypatch):
    """Git sets these while it runs a hook, say one that trains before a push."""
    (tmp_path / "small.yaml").write_text(SMALL)
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(repository))
    monkeypatch.setenv("GIT_INDEX_FILE", str(repository / ".git" / "index"))
    found = train(tmp_path / "small.yaml")
    assert found["recipe_git_revision"] == ""
    assert found["recipe_git_diff"] == ""


@needs_git
def test_the_difference_is_plain_text_whatever_the_user_s_git_shows(repository, train):
    (repository / ".gitattributes").write_text("*.yaml diff=shout\n")
    settings = {"color.ui": "always", "diff.external": "echo external", "diff.shout.textconv": "tr a-z A-Z <"}
    for name, value in settings.items():
        git(repository, "config", name, value)
    source = repository / "recipes" / "small.yaml"
    source.write_text(SMALL.replace("lr: 0.05", "lr: 0.07"))
    lines = train(source)["recipe_git_diff"].splitlines()
    assert "-optimizer: {kind: gd, lr: 0.05}" in lines
    assert "+optimizer: {kind: gd, lr: 0.07}" in lines


@needs_git
def test_a_huge_difference_is_cut_and_says_so(repository, train):
    (repository / "recipes" / "table.txt").write_text("")
    git(repository, "add", ".")
    (repository / "recipes" / "table.txt").write_text("".join(f"row {n}\n" for n in range(60_000)))
    found = train(repository / "recipes" / "small.yaml")
    whole = git(repository, "diff", "HEAD")
    assert len(whole) > 2 * provenance.MAX_DIFF
    diff, _, says = found["recipe_git_diff"].rpartition("\n")
    assert diff == whole[: provenance.MAX_DIFF]
    assert says == f"(cut here: {provenance.MAX_DIFF} of {len(whole)} characters)"


@needs_git
def test_a_difference_of_bytes_that_are_no_text_does_not_hinder_training(repository, train):
    """Git calls a file binary for a NUL in its first 8000 bytes, and shows it as text where it is told to."""
    (repository / ".gitattributes").write_text("*.bin diff\n")
    (repository / "recipes" / "some.bin").write_bytes(b"")
    git(repository, "add", ".")
    (repository / "recipes" / "some.bin").write_bytes(b"caf\xe9\0\xff\xfe bytes\n" + "caf\u00e9\n".encode())
    lines = train(repository / "recipes" / "small.yaml")["recipe_git_diff"].splitlines()
    assert lines[-2:] == ["+caf\ufffd\\0\ufffd\ufffd bytes", "+caf\u00e9"]


@pytest.mark.skipif(sys.platform != "linux", reason="names are UTF-8 there")
def test_names_that_are_not_utf_8_do_not_hinder_training(tmp_path, train):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "small.yaml").write_text(SMALL)
    found = train(folder / "small.yaml")
    assert found["recipe_file"].endswith("caf\\udce9/small.yaml")
    assert "caf\\udce9/small.yaml" in found["command"]


def test_without_git_training_says_nothing_of_revisions(tmp_path, train, monkeypatch):
    (tmp_path / "small.yaml").write_text(SMALL)
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    found = train(tmp_path / "small.yaml")
    for name in ("git_revision", "git_diff", "recipe_git_revision", "recipe_git_diff"):
        assert found[name] == ""


def test_a_folder_that_is_no_repository_has_no_revision(tmp_path, train):
    (tmp_path / "small.yaml").write_text(SMALL)
    found = train(tmp_path / "small.yaml")
    assert (found["recipe_git_revision"], found["recipe_git_diff"]) == ("", "")
    assert found["recipe_file"] == str(tmp_path / "small.yaml")


@needs_git
def test_a_repository_without_a_commit_has_no_revision(tmp_path, train):
    (tmp_path / "small.yaml").write_text(SMALL)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "small.yaml")
    found = train(tmp_path / "small.yaml")
    assert (found["recipe_git_revision"], found["recipe_git_diff"]) == ("", "")


@needs_git
def test_a_recipe_in_a_folder_that_cannot_be_listed_trains(repository, train):
    folder = repository / "recipes"
    folder.chmod(0o311)
    try:
        assert train(folder / "small.yaml")["recipe_file"] == str(folder / "small.yaml")
    finally:
        folder.chmod(0o755)


def test_a_git_that_may_not_be_run_is_as_none(tmp_path, monkeypatch):
    """As where the folder cannot be entered; root, who may enter all, can only pretend."""

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(subprocess, "run", denied)
    found = provenance.collect(tmp_path / "small.yaml")
    assert (found["git_revision"], found["recipe_git_revision"], found["recipe_git_diff"]) == ("", "", "")


def test_a_git_that_takes_too_long_is_told_from_no_difference(tmp_path, monkeypatch):
    slow = tmp_path / "git"
    slow.write_text('#!/bin/sh\ncase "$*" in *diff*) exec sleep 60;; *) echo cafe;; esac\n')
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(provenance, "GIT_SECONDS", 1.0)
    found = provenance._git_state("recipe_git", tmp_path)
    assert found["recipe_git_revision"] == "cafe"
    assert found["recipe_git_diff"] == "(git diff took too long)"


# --- what else there is ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def origin(tmp_path_factory) -> tuple[Path, datetime.datetime, datetime.datetime]:
    """A finished run, trained by the command line with particular seeds, and the times before and after."""
    folder = tmp_path_factory.mktemp("origin")
    source = folder / "a recipe.yaml"
    source.write_text(SMALL)
    members = "members={seeds: [5, 9007199254740993], batch_seeds: [1, 2], lr: [0.01, 0.02], rho_k: [1, 1.5]}"
    words = ["train", str(source), "-o", str(folder / "run.h5"), "--device", "cpu", "--steps", "3", "--set", members]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["/somewhere/bin/rhotrace", *words])
        before = datetime.datetime.now(datetime.UTC)
        with pytest.raises(SystemExit) as left:
            cli.main()
        after = datetime.datetime.now(datetime.UTC)
    assert not left.value.code
    return folder / "run.h5", before, after


def info(path: Path, monkeypatch, capsys, *words: str) -> str:
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr(sys, "argv", ["rhotrace", "info", str(path), *words])
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        cli.main()
    out, err = capsys.readouterr()
    assert (left.value.code or 0, err) == (0, "")
    return out


MNIST_FILES = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


def expected_of(path: Path) -> dict[str, str | int]:
    """What an independent look at the machine and the files says."""
    folder = path.parent
    members = "members={seeds: [5, 9007199254740993], batch_seeds: [1, 2], lr: [0.01, 0.02], rho_k: [1, 1.5]}"
    root = next(base for base in datasets.roots() if (base / "MNIST" / "raw").is_dir())
    md5 = {name: hashlib.md5((root / "MNIST" / "raw" / name).read_bytes()).hexdigest() for name in MNIST_FILES}
    words = ["train", str(folder / "a recipe.yaml"), "-o", str(path), "--device", "cpu", "--steps", "3"]
    packages = ("rhotrace", "torch", "torchvision", "numpy", "h5py", "scipy")
    return {
        "command": shlex.join(["rhotrace", *words, "--set", members]),
        "folder": str(folder),
        "host": platform.node(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "versions": ", ".join(f"{name} {provenance.metadata.version(name)}" for name in packages),
        "device": "cpu",
        "dtype": "float64",
        "threads": torch.get_num_threads(),
        "recipe_file": str(folder / "a recipe.yaml"),
        "data_md5": ", ".join(f"{name} {digest}" for name, digest in md5.items()),
    }


def test_the_file_says_with_what_on_what_and_by_which_command_it_was_made(origin):
    path, *_ = origin
    with open_trace(path) as trace:
        for name, value in expected_of(path).items():
            assert trace.attributes[name] == value, name
        assert trace["seed"].tolist() == [5, 9007199254740993]
        assert trace["batch_seed"].tolist() == [1, 2]
        assert trace["lr"].tolist() == [0.01, 0.02]
        assert trace["init_rho_k"].tolist() == [1, 1.5]
    assert "numpy " + np.__version__ in expected_of(path)["versions"]


def test_start_and_end_are_those_of_the_training(origin):
    path, before, after = origin
    with open_trace(path) as trace:
        started, finished = (datetime.datetime.fromisoformat(trace.attributes[n]) for n in ("started", "finished"))
        assert before.replace(microsecond=0) <= started <= finished <= after
        assert 0 < trace.wall_seconds <= (after - before).total_seconds()


def test_info_shows_the_origin(origin, monkeypatch, capsys):
    path, *_ = origin
    rows = [" ".join(line.split()) for line in info(path, monkeypatch, capsys).splitlines()]
    for name, value in expected_of(path).items():
        assert f"{name.replace('_', ' ')} {value}" in rows
    for row in ("seed 5, 9007199254740993", "batch seed 1, 2", "lr 0.01, 0.02", "init rho k 1, 1.5"):
        assert row in rows
    with open_trace(path) as trace:
        for name in ("started", "finished", "data_digest", "recipe_digest"):
            assert f"{name.replace('_', ' ')} {trace.attributes[name]}" in rows


def test_info_in_json_has_every_attribute(origin, monkeypatch, capsys):
    path, *_ = origin
    shown = json.loads(info(path, monkeypatch, capsys, "--json"))
    assert shown["attributes"].items() >= expected_of(path).items()
    assert shown["sessions"] == []
    with open_trace(path) as trace:
        assert shown["attributes"] == json.loads(json.dumps(trace.attributes))


@needs_git
def test_info_tells_how_long_a_difference_is_and_json_shows_it(repository, train, tmp_path, monkeypatch, capsys):
    source = repository / "recipes" / "small.yaml"
    source.write_text(SMALL.replace("lr: 0.05", "lr: 0.07"))
    diff = train(source)["recipe_git_diff"]
    shown = info(tmp_path / "run.h5", monkeypatch, capsys)
    assert f"{len(diff.splitlines())} lines, kept in the attribute recipe_git_diff" in shown
    assert git(repository, "rev-parse", "HEAD") in shown
    assert json.loads(info(tmp_path / "run.h5", monkeypatch, capsys, "--json"))["attributes"]["recipe_git_diff"] == diff


def test_a_library_call_says_as_much_but_of_a_recipe_file(tmp_path):
    path = tmp_path / "run.h5"
    train_recipe(recipe.parse(SMALL, ["steps=1", "record.snapshots=0"]), path, device="cpu")
    with open_trace(path) as trace:
        assert "recipe_file" not in trace.attributes
        assert {"versions", "command", "git_revision", "git_diff", "data_md5"} <= set(trace.attributes)


def test_the_md5_is_that_of_the_files_that_were_read_and_not_of_those_that_should_be_there(tmp_path):
    """A changed archive is refused; so the digest that a file keeps cannot be a list of constants."""
    raw = tmp_path / "MNIST" / "raw"
    shutil.copytree(next(base for base in datasets.roots() if (base / "MNIST" / "raw").is_dir()) / "MNIST" / "raw", raw)
    changed = raw / "train-labels-idx1-ubyte.gz"
    changed.write_bytes(changed.read_bytes() + b"\0")
    with pytest.raises(DataError, match=f"got md5 {hashlib.md5(changed.read_bytes()).hexdigest()}, expected"):
        DATASETS["mnist"](root=str(tmp_path)).load("float64")
