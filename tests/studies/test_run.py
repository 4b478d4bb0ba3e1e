"""From a study to its page: what is trained, what is used again, and what is written."""

from __future__ import annotations

import shlex
from contextlib import ExitStack

import pytest
from own_study import write_study
from small import SMALL

from rhotrace.display.blocks import Data, Paragraph
from rhotrace.errors import DataError, RhoTraceError
from rhotrace.studies import run as studies
from rhotrace.studies.catalogue import find
from rhotrace.training.train import train


def answered(path, folder, *, scale="small", stop_before="", without_data=""):
    """The answer, and the names of the runs that were trained for it."""
    trained = []

    def trainer(recipe, file, source):
        if file.stem == stop_before:
            return False
        if file.stem == without_data:
            raise DataError("data: cifar-10 not found in a, b.\nWith a network: ...", brief="data: cifar-10 not found")
        assert source == path.parent / "own.yaml"
        trained.append(file.stem)
        train(recipe, file, device="cpu")
        return True

    with ExitStack() as open_runs:
        study, file = find(str(path))
        found = studies.answered(study, file, scale=scale, folder=folder, train=trainer, open_runs=open_runs)
        if found is not None:
            studies.write_page([found], folder / "page.html")
    return found, trained


def test_runs_are_trained_once_and_then_used_again(tmp_path):
    path, runs = write_study(tmp_path / "own"), tmp_path / "runs"
    first, trained = answered(path, runs)
    assert trained == ["small", "large"]
    assert first.answer.verdict == "yes"
    again, trained = answered(path, runs)
    assert trained == []
    assert again.answer.values == first.answer.values
    assert shlex.split(first.commands[1])[:2] == ["rhotrace", "train"]
    assert first.commands[1].endswith(f"own.yaml --set init.rho_k=2 -o {runs / 'large.h5'}")


def test_the_commands_of_a_study_can_be_pasted_into_a_shell(tmp_path):
    path, runs = write_study(tmp_path / "own"), tmp_path / "runs"
    path.write_text(path.read_text().replace('"init.rho_k=2"', '"init={kind: equal-norms, rho_k: 2}"'))
    found, _ = answered(path, runs)
    words = shlex.split(found.commands[1])
    assert words[words.index("--set") + 1] == "init={kind: equal-norms, rho_k: 2}"


def test_a_study_whose_training_is_interrupted_has_no_answer_yet(tmp_path):
    path, runs = write_study(tmp_path / "own"), tmp_path / "runs"
    found, trained = answered(path, runs, stop_before="large")
    assert found is None
    assert trained == ["small"]
    found, trained = answered(path, runs)
    assert trained == ["large"]
    assert found.answer.verdict == "yes"


def test_an_optional_run_without_its_data_is_left_out_and_another_is_an_error(tmp_path):
    path, runs = write_study(tmp_path / "own"), tmp_path / "runs"
    with pytest.raises(DataError, match="With a network"):
        answered(path, runs, without_data="large")
    text = path.read_text()
    text = text.replace('("init.rho_k=2",))', '("init.rho_k=2",), optional=True)')
    text = text.replace('runs["large"]', 'runs.get("large", runs["small"])')
    path.write_text(text)
    found, trained = answered(path, runs, without_data="large")
    assert trained == []
    assert found.left_out == ("large: data: cifar-10 not found",)
    assert "Left out: large: data: cifar-10 not found." in (runs / "page.html").read_text(encoding="utf-8")
    assert len(found.commands) == 1
    found, trained = answered(path, runs)
    assert trained == ["large"]
    assert found.left_out == ()


def test_a_run_of_another_recipe_is_not_replaced(tmp_path):
    path, runs = write_study(tmp_path / "own"), tmp_path / "runs"
    answered(path, runs)
    before = (runs / "small.h5").read_bytes()
    recipe = path.parent / "own.yaml"
    recipe.write_text(recipe.read_text().replace("lr: 0.05", "lr: 0.06"))
    with pytest.raises(RhoTraceError, match=r"small\.h5: a run of another recipe exists already \(differs in .*lr"):
        answered(path, runs)
    assert (runs / "small.h5").read_bytes() == before


def test_runs_of_another_scale_have_files_of_their_own_and_the_same_names(tmp_path):
    path = write_study(tmp_path / "own")
    text = path.read_text()
    path.write_text(
        text.replace(
            'trainings={"small": (',
            'trainings={"gpu": (Training("small", "own", ("steps=70",)), '
            'Training("large", "own", ("init.rho_k=2", "steps=70"))), "small": (',
        )
    )
    answered(path, tmp_path / "runs")
    found, trained = answered(path, tmp_path / "runs", scale="gpu")
    assert trained == ["small-gpu", "large-gpu"]
    assert found.answer.verdict == "yes"
    with pytest.raises(RhoTraceError, match="own: got scale tiny, expected gpu or small"):
        answered(path, tmp_path / "runs", scale="tiny")


def test_the_page_has_question_answer_limits_figure_and_commands_and_loads_nothing(tmp_path):
    answered(write_study(tmp_path / "own"), tmp_path / "runs")
    html = (tmp_path / "runs" / "page.html").read_text(encoding="utf-8")
    for words in ("Does a larger start end at a larger norm?", "log rho is larger by", "three seeds.", "data:image"):
        assert words in html
    assert "rhotrace train" in html
    assert not any(word in html for word in ("<script src", 'src="http', "url(http"))


def test_the_data_of_a_page_are_those_of_the_answer(tmp_path):
    found, _ = answered(write_study(tmp_path / "own"), tmp_path / "runs")
    first, *blocks = studies.page([found])
    assert isinstance(first, Data)
    (data,) = first.value
    assert data["verdict"] == "yes"
    assert data["values"]["more"] == found.answer.values["more"]
    assert Paragraph("Limits: three seeds.") in blocks


def test_a_copy_has_the_study_and_its_recipes_and_replaces_nothing(tmp_path):
    written = studies.copy("early-stopping", tmp_path / "mine")
    assert [path.name for path in written] == ["early-stopping.yaml", "early_stopping.py"]
    assert studies.copy("early-stopping", tmp_path / "mine") == []
    (tmp_path / "mine" / "early-stopping.yaml").write_text("mine\n")
    (tmp_path / "mine" / "early_stopping.py").unlink()
    with pytest.raises(RhoTraceError, match=r"early-stopping\.yaml exists already with other content"):
        studies.copy("early-stopping", tmp_path / "mine")
    assert not (tmp_path / "mine" / "early_stopping.py").exists()


def test_a_copy_has_the_code_that_its_recipes_name(tmp_path):
    path = write_study(tmp_path / "own")
    code, recipe = tmp_path / "own/parts/nets.py", tmp_path / "own/own.yaml"
    network = "network: {kind: module, build: parts/nets.py:make}"
    recipe.write_text("\n".join(network if line.startswith("network") else line for line in SMALL.splitlines()))
    path.write_text(path.read_text().replace('"init.rho_k=2"', '"code=[extra.py]"'))
    with pytest.raises(RhoTraceError, match=r"own\.yaml: names parts/nets\.py, but .*parts/nets\.py does not exist"):
        studies.copy(str(path), tmp_path / "mine")
    code.parent.mkdir()
    code.write_text("raise SystemExit('a copy runs nothing')\n")
    (tmp_path / "own/extra.py").write_text("\n")
    written = studies.copy(str(path), tmp_path / "mine")
    names = ["extra.py", "own.py", "own.yaml", "parts/nets.py"]
    assert [str(file.relative_to(tmp_path / "mine")) for file in written] == names
    assert (tmp_path / "mine/parts/nets.py").read_text() == code.read_text()
    recipe.write_text(recipe.read_text().replace("parts/", "../"))
    with pytest.raises(RhoTraceError, match=r"\.\./nets\.py, which is outside its folder"):
        studies.copy(str(path), tmp_path / "other")
    assert not (tmp_path / "other").exists()
