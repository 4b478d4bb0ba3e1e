"""The studies that come with RhoTrace, studies of one's own, and where their recipes are found."""

from __future__ import annotations

import pytest
from own_study import STUDY, write_study

from rhotrace.config import recipe as recipes
from rhotrace.errors import RhoTraceError
from rhotrace.studies.catalogue import file_of, find, recipe_file, shipped
from rhotrace.studies.study import Training


@pytest.mark.parametrize("study", shipped().values(), ids=list(shipped()))
def test_a_shipped_study_is_in_a_file_of_its_name_and_its_recipes_are_valid_at_every_scale(study):
    assert file_of(study.name).is_file()
    assert study.question.endswith("?")
    assert study.source
    assert set(study.trainings) == {"small", "gpu"}
    for trainings in study.trainings.values():
        assert len({training.name for training in trainings}) == len(trainings)
        for training in trainings:
            source = recipe_file(training, file_of(study.name))
            recipes.load(source, list(training.overrides))
    names = [{training.name for training in trainings} for trainings in study.trainings.values()]
    assert names[0] == names[1]  # by which the analysis finds them


def test_a_run_that_several_studies_share_is_the_same_in_all_of_them():
    known: dict[tuple[str, str], tuple[str, str]] = {}
    for study in shipped().values():
        for scale, trainings in study.trainings.items():
            for training in trainings:
                content = recipes.load(recipe_file(training, file_of(study.name)), list(training.overrides))
                digest, first = known.setdefault((scale, training.name), (content.digest, study.name))
                assert digest == content.digest, f"{training.name} of {study.name} and of {first}"


def test_a_name_that_is_close_to_a_study_is_suggested_and_another_is_not():
    with pytest.raises(RhoTraceError, match=r"^early-stoping: no such study; did you mean early-stopping\?$"):
        find("early-stoping")
    with pytest.raises(RhoTraceError, match=r"^xyzzy: no such study; `rhotrace study list` shows them$"):
        find("xyzzy")


def test_a_study_of_ones_own_is_found_by_its_path(tmp_path):
    path = write_study(tmp_path)
    study, file = find(str(path))
    assert (study.name, file) == ("own", path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 / 0\n", "cannot be imported: ZeroDivisionError: division by zero"),
        ("import no_such_package\n", "cannot be imported: ModuleNotFoundError"),
        ("def f(:\n", "cannot be imported: SyntaxError"),
        ("STUDY = 3\n", r"got int, expected STUDY = Study\(\.\.\.\)"),
        ("", "got NoneType, expected STUDY"),
    ],
)
def test_a_file_that_is_no_study_is_a_user_error(tmp_path, text, said):
    with pytest.raises(RhoTraceError, match=said):
        find(str(write_study(tmp_path, text)))


def test_a_file_that_does_not_exist_says_how_to_get_one(tmp_path):
    with pytest.raises(RhoTraceError, match="no such file; `rhotrace study copy NAME` writes a study to start from"):
        find(str(tmp_path / "none.py"))


def test_a_recipe_beside_the_study_comes_before_the_shipped_one_of_its_name(tmp_path):
    path = write_study(tmp_path, STUDY)
    shipped_one = recipe_file(Training("run", "studies/starts"), path)
    assert shipped_one.parent.name == "studies"
    (tmp_path / "starts.yaml").write_text("steps: 3\n")
    assert recipe_file(Training("run", "studies/starts"), path) == tmp_path / "starts.yaml"
    with pytest.raises(
        RhoTraceError, match=r"run: no recipe missing\.yaml beside it, and none of that name is shipped"
    ):
        recipe_file(Training("run", "missing"), path)
