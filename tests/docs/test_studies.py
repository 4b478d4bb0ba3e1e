"""The page of studies is what its script makes of docs/studies.json, and has every shipped study."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from rhotrace.studies.catalogue import shipped

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("studies_page", ROOT / "benchmarks" / "studies.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_rendered_from_its_answers(script):
    answers = json.loads((ROOT / "docs" / "studies.json").read_text(encoding="utf-8"))
    assert (ROOT / "docs" / "studies.md").read_text(encoding="utf-8") == script.rendered(answers)


def test_every_answer_belongs_to_a_shipped_study_and_repeats_its_question(script):
    answers = json.loads((ROOT / "docs" / "studies.json").read_text(encoding="utf-8"))
    known = shipped()
    assert set(answers) <= set(known)
    for name, one in answers.items():
        assert one["question"] == known[name].question
        assert one["verdict"] in {"yes", "no", "in part", "undecided"}
    page = script.rendered(answers)
    assert all(f"rhotrace study {name}`" in page for name in known)


def test_a_study_without_finished_runs_has_no_new_answer(script, tmp_path):
    assert script.asked(shipped()["early-stopping"], tmp_path) is None
