from __future__ import annotations

from pathlib import Path

import pytest

from rhotrace.config import recipe, shipped_recipes
from rhotrace.errors import RecipeError
from rhotrace.sweeps import sweep_file

ROOT = Path(__file__).resolve().parents[2] / "recipes"
NAMES = [each.name for each in shipped_recipes.listing()]


def test_every_recipe_of_the_checkout_is_listed_with_its_claim():
    assert sorted(NAMES) == sorted(p.relative_to(ROOT).with_suffix("").as_posix() for p in ROOT.rglob("*.yaml"))
    sources = ("Memo 112", "Memo 117", "arXiv:")
    assert [each.name for each in shipped_recipes.listing() if not each.claim.startswith(sources)] == []


def test_every_recipe_on_cifar_10_has_a_size_for_a_gpu_that_claims_no_figure():
    names = {path.stem for path in (ROOT / "cifar").glob("*.yaml")}
    small = {name for name in names if not name.endswith("-gpu")}
    assert names - small == {f"{name}-gpu" for name in small}
    for name in names - small:
        text = (ROOT / "cifar" / f"{name}.yaml").read_text(encoding="utf-8")
        assert "It has not been run, and no figure is claimed." in text
        own, other = (recipe.load(ROOT / "cifar" / f"{n}.yaml") for n in (name, name.removesuffix("-gpu")))
        assert type(own.optimizer) is type(other.optimizer)
        assert own.network.kind == other.network.kind
        assert (own.data.train or 50_000, own.steps) >= (other.data.train or 10_000, other.steps), name


@pytest.mark.parametrize("name", NAMES)
def test_a_copied_recipe_is_valid_where_it_was_copied_to(name, tmp_path):
    first, *_ = shipped_recipes.copy([name], tmp_path)[name]
    assert first == tmp_path / f"{name}.yaml"
    if name.startswith("sweeps/"):
        sweep = sweep_file.read(first)
        assert sweep_file.runs(sweep, lambda _: 1000)
        assert sweep.recipe.resolve().is_relative_to(tmp_path)
    else:
        assert recipe.load(first).digest == recipe.load(ROOT / f"{name}.yaml").digest


def test_copying_twice_changes_nothing_and_other_content_is_never_replaced(tmp_path):
    ((path,),) = shipped_recipes.copy(["quick.yaml"], tmp_path).values()
    assert shipped_recipes.copy(["quick"], tmp_path) == {"quick": []}
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(RecipeError, match="other content"):
        shipped_recipes.copy(["deep8", "quick"], tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("name", ["deep9", "../quick", "/etc/passwd", "", "sweeps"])
def test_what_is_not_shipped_is_refused(name, tmp_path):
    with pytest.raises(RecipeError, match="no shipped recipe"):
        shipped_recipes.copy(["quick", name], tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_commands_list_and_copy(command, tmp_path):
    code, out, err = command("recipe", "list")
    assert (code, err) == (0, "")
    assert all(name in out for name in NAMES)
    code, out, _ = command("recipe", "copy", "sweeps/phase-diagram")
    assert code == 0
    assert {p.name for p in (tmp_path / "recipes").rglob("*.yaml")} == {"phase-diagram.yaml", "scaling-L4.yaml"}
    code, _, err = command("recipe", "copy", "deep9")
    assert code == 2
    assert "did you mean deep8" in err
