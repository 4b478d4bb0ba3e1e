"""Every command, every line of Python and every recipe of the README and its pages: on the shipped recipes made small."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from rhotrace.cli import app as cli
from rhotrace.config import recipe, strict_yaml
from rhotrace.errors import RecipeError
from rhotrace.training.train import train

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))
PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "CONTRIBUTING.md", "recipes/README.md", *DOCS)
}
LINKED = [*PAGES, "CHANGELOG.md", "benchmarks/README.md", "data/README.md", "recipes/cluster/README.md"]
SMALL = ["data.train=160", "data.test=20", "network.width=8", "steps=400", "record.test_every=100"]
SHALLOW = ["network.depth=3", "init.rho_k=1.0", "optimizer.lr=0.1", "members.seeds=2"]  # leaves its transient soon

ELSEWHERE = {  # commands that are run, but not here
    "rhotrace compare gd1.h5 gd2.h5 gd3.h5 sgd1.h5 sgd2.h5 sgd3.h5": "by test_comparison_recordings.py, with its own recordings",
    "python -m pip install -e .": "by .ci/run",
    "python -m pip install -e '.[test]'": "by .ci/run",
    "python -m pip install -e '.[test,lint]'": "by .ci/run",
    "python -m venv .venv": "by .ci/run, under another name",
    "source .venv/bin/activate": "by .ci/run, under another name",
    "ruff check .": "by .ci/run",
    "ruff format --check .": "by .ci/run",
    "mypy": "by .ci/run",
    "python -m pytest": "by .ci/run, and here we are",
    "python -m pytest -n 0": "the same in one process",
    "python -m pytest -m soak": "by hand: it takes long",
    "python -m pip install xarray h5netcdf matplotlib": "by .ci/run, as parts of '.[test]'",
    "python -m pip install 'rhotrace[tensorboard]'": "by .ci/run, as a part of '.[test]'",
    "python -m pip install 'rhotrace[lightning]'": "by .ci/run, as a part of '.[test]'",
    "python -m pip install 'rhotrace[transformers]'": "by .ci/run, as a part of '.[test]'",
    "rhotrace train my_recipe.yaml --trust-code": "by tests/config/test_trusted_code.py, with code of its own",
    "torchrun --nproc-per-node 4 -m rhotrace train recipes/deep8.yaml": "by test_distributed.py, with other recipes",
    "python benchmarks/run.py": "by hand: it takes minutes",
    "python benchmarks/results.py": "by hand: it takes minutes and the runs of every recipe",
    "python benchmarks/studies.py": "by hand: it takes the runs of every study",
    "python benchmarks/results.py --render": "in part, by test_results.py",
    "rhotrace --install-completion": "changes the user's shell; test_app.py has --show-completion",
}
CIFAR = {path.stem for path in (ROOT / "recipes" / "cifar").glob("*.yaml")}  # by hand: they need CIFAR-10 and hours
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
BLOCKS = [(page, kind, code) for page, text in PAGES.items() for kind, code in BLOCK.findall(text)]
PROSE = "\n".join(BLOCK.sub("", text) for text in PAGES.values())
INLINE = re.compile(r"`([^`]+)`")


def is_complete(command: str) -> bool:
    """Whether a command can be run unchanged, without placeholders: FILE, A, [-o FILE], COMMAND."""
    if re.fullmatch(r"rhotrace [a-z]+", command):  # the name of a command, but for the one that needs nothing more
        return command == "rhotrace quantities"
    first = re.match(r"(rhotrace|python|torchrun|for) ", command)
    return bool(first) and not re.search(r"\[-|\.\.\.|(?<![\w./-])[A-Z]{1,9}(?![\w./*-])", command)


def commands() -> list[str]:
    """Every command once, in the order of the pages, each part of a line by itself."""
    found = []
    for _, kind, block in BLOCKS:
        if kind == "console":
            found += [part for line in block.strip().splitlines() for part in line.split(" && ")]
    found += [text for text in INLINE.findall(PROSE) if is_complete(text)]
    return [each for each in dict.fromkeys(found) if not (on_cifar(each) or answers_a_study(each) or is_late(each))]


def on_cifar(command: str) -> bool:
    """Whether a command is about recipes on CIFAR-10 or their runs; test_torchvision_images.py trains one, made small."""
    named = re.findall(r"recipes/cifar/([\w*?-]+)\.yaml|runs/([\w*?-]+)\.h5", command)
    return any(inside or any(fnmatch(name, run) for name in CIFAR) for inside, run in named)


def answers_a_study(command: str) -> bool:
    """Whether a command trains the runs of a study, or uses them; tests/studies has studies made small."""
    return bool(re.match(r"rhotrace study (?!list|copy)|.*\bruns/studies?/|.*recipes/studies/", command))


def is_late(command: str) -> bool:
    """Whether a command is about steps that the small runs here do not reach; test_compare.py has windows that exist."""
    return any(int(first) >= 400 for first in re.findall(r"--window (\d+):", command))


def blocks(wanted: str) -> list:
    """The blocks of one language, named after their page."""
    return [pytest.param(page, code, id=f"{page}-{n}") for n, (page, kind, code) in enumerate(BLOCKS) if kind == wanted]


HERE = [command for command in commands() if command not in ELSEWHERE]


@pytest.fixture(scope="module")
def small_recipes(tmp_path_factory) -> Path:
    """A folder as the checkout's, with the shipped recipes made small, and a run of each in runs/."""
    folder = tmp_path_factory.mktemp("readme")
    for path in sorted((ROOT / "recipes").glob("*.yaml")):
        text = path.read_text(encoding="utf-8").replace("seeds: 8", "seeds: 2")
        small = recipe.parse(text, SMALL + (SHALLOW if path.stem.startswith("deep8") else []), where=str(path))
        (folder / "recipes").mkdir(exist_ok=True)
        (folder / "recipes" / path.name).write_text(small.to_yaml(), encoding="utf-8")
        train(small, folder / "runs" / path.with_suffix(".h5").name, device="cpu")
    sweep = (ROOT / "recipes" / "sweeps" / "phase-diagram.yaml").read_text(encoding="utf-8")
    for large, small_text in {"[2, 3, 4, 5, 6, 8]": "[2, 3]", "points: 7": "points: 2", "seeds: 8": "seeds: 2"}.items():
        assert large in sweep
        sweep = sweep.replace(large, small_text)
    (folder / "recipes" / "sweeps").mkdir()
    (folder / "recipes" / "sweeps" / "phase-diagram.yaml").write_text(sweep, encoding="utf-8")
    return folder


def run(command: str, folder: Path, monkeypatch, capsys) -> str:
    """Runs a rhotrace command in this process, as a shell would start it; returns what it printed."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "120")
    words = []
    for word in shlex.split(command):
        words += sorted(str(p.relative_to(folder)) for p in folder.glob(word)) if "*" in word else [word]
    monkeypatch.setattr(sys, "argv", words)
    capsys.readouterr()
    code = 0
    try:
        cli.main()
    except SystemExit as left:
        code = int(left.code or 0)
    out, err = capsys.readouterr()
    assert code == 0, (command, err)
    return out


def test_every_command_is_found():
    assert len(HERE) > 25
    for part in (
        "train",
        "watch",
        "analyze",
        "audit",
        "compare",
        "report",
        "plot",
        "sweep",
        "scaling",
        "simulate",
        "export",
    ):
        assert any(command.startswith(f"rhotrace {part} ") or command == f"rhotrace {part}" for command in HERE), part
    assert not set(ELSEWHERE) - set(commands())
    assert all(command.startswith(("rhotrace ", "for r in ")) for command in HERE), HERE


def test_every_command_of_the_table_is_a_command_and_its_options_exist(monkeypatch, capsys, tmp_path):
    named = {}
    for text in INLINE.findall(PROSE):
        words = text.split()
        if words[:1] == ["rhotrace"] and len(words) > 1 and re.fullmatch(r"[a-z]+", words[1]):
            name = words[1:3] if words[1] == "recipe" and len(words) > 2 else words[1:2]
            if words[1] == "study":  # a group too, in which a study's name is short for ``run`` and the name
                name = ["study", words[2] if words[2:3] in (["list"], ["copy"]) else "run"]
            named.setdefault(tuple(name), set()).update(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text))
    assert len(named) > 15
    for name, options in named.items():
        helped = run(f"rhotrace {' '.join(name)} --help", tmp_path, monkeypatch, capsys)
        for option in options - {"--help"}:
            assert re.search(rf"(?<![\w-]){option}\b", helped), (name, option)


@pytest.mark.parametrize("command", HERE)
def test_the_command_runs_as_written(command, small_recipes, tmp_path, monkeypatch, capsys):
    if command.startswith("for r in "):  # a shell's loop over all recipes: two of them, by a real shell
        (tmp_path / "recipes").mkdir()
        for name in ("quick", "deep8"):
            text = (small_recipes / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
            (tmp_path / "recipes" / f"{name}.yaml").write_text(text, encoding="utf-8")
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        done = subprocess.run(
            ["bash", "-ec", command], cwd=tmp_path, env={"PATH": path}, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert {p.name for p in (tmp_path / "runs").glob("*.h5")} == {"quick.h5", "deep8.h5"}
        return
    trained = re.match(r"rhotrace train recipes/([\w-]+)\.yaml(?: -o (\S+))?", command)
    made = trained and small_recipes / (trained[2] or f"runs/{trained[1]}.h5")
    if made:  # the fixture has trained it: the command must do so itself
        made.unlink(missing_ok=True)
    for taken in small_recipes.glob("runs/deep8.csv"):
        taken.unlink()
    empty = command.startswith("rhotrace recipe copy")  # where no recipe of that name is yet
    out = run(command, tmp_path if empty else small_recipes, monkeypatch, capsys)
    drawn = re.search(r"(?:--plot|-o) (\S+)", command)
    if drawn:
        assert (small_recipes / drawn[1]).exists()
    if made:
        assert made.exists()
    else:
        assert out


# Those of extending.md run in test_extending.py; those of callbacks.md need a Lightning module or a Trainer, as the tests
# of own_loop have them.
@pytest.mark.parametrize(
    ("page", "block"),
    [p for p in blocks("python") if p.values[0] not in ("docs/extending.md", "docs/callbacks.md")],
)
def test_the_python_runs_as_written(page, block, small_recipes, monkeypatch, capsys):
    pytest.importorskip("xarray")
    import matplotlib as mpl
    from matplotlib import pyplot

    mpl.use("agg")
    monkeypatch.chdir(small_recipes)
    capsys.readouterr()
    exec(compile(block, page, "exec"), names := {})
    for value in names.values():
        if hasattr(value, "close") and hasattr(value, "sizes"):
            value.close()
    pyplot.close("all")
    if page == "README.md":
        assert re.search(r"T = \d+ \[\d+, \d+\] steps", capsys.readouterr().out)
        assert names["rho_k"].shape == (400, 2, 3)


@pytest.mark.parametrize(("page", "block"), blocks("yaml"))
def test_the_yaml_is_valid(page, block, tmp_path):
    from rhotrace.sweeps import sweep_file

    if "axes:" in block:
        (tmp_path / "sweeps").mkdir()
        (tmp_path / "scaling-L4.yaml").write_bytes((ROOT / "recipes" / "scaling-L4.yaml").read_bytes())
        (tmp_path / "sweeps" / "s.yaml").write_text(block, encoding="utf-8")
        assert sweep_file.read(tmp_path / "sweeps" / "s.yaml").axes
    elif "my_" in block:  # code of the reader's own, which does not run unasked
        with pytest.raises(RecipeError, match=r"my_.*--trust-code"):
            recipe.parse(block, where=page)
    elif block.startswith("record:"):
        first = recipe.parse(blocks("yaml")[0].values[1], ["optimizer={kind: sgd, lr: 0.03, batch_size: 32}"])
        whole = {**first.model_dump(), **strict_yaml.read(block, page)[0]}
        assert recipe.parse(strict_yaml.write(whole)).model_dump()["record"]["every"] == whole["record"]["every"] != {}
    else:
        assert recipe.parse(block, where=page).steps == 8000


@pytest.mark.parametrize("page", LINKED)
def test_every_link_within_the_project_leads_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]
    assert page not in {"README.md", "CONTRIBUTING.md", "recipes/README.md"} or len(links) > 9
    for link in links:
        assert ((ROOT / page).parent / link).exists(), link


def test_every_page_is_reached_from_the_readme_and_every_recipe_from_their_page():
    pages = re.findall(r"\]\(([^)#]+\.md)\)", PAGES["README.md"])
    assert set(DOCS) <= set(pages)
    shipped = {path.relative_to(ROOT / "recipes").as_posix() for path in (ROOT / "recipes").rglob("*.yaml")}
    assert shipped == set(re.findall(r"\]\(([^)#]+\.yaml)\)", PAGES["recipes/README.md"]))


def test_the_readme_is_read_in_five_minutes():
    assert PAGES["README.md"].count("\n") <= 120


def test_the_picture_is_drawn_by_the_command_beside_it():
    from PIL import Image

    with Image.open(ROOT / "recipes" / "deep8.png") as picture:
        assert "T = 4320 steps" in picture.text["Description"]
    assert "rhotrace plot runs/deep8.h5 -o deep8.png" in PAGES["README.md"]
    assert "T = 4320 steps" in PAGES["README.md"]
