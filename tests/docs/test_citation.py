"""CITATION.cff names this software and the memo that it tests."""

from __future__ import annotations

import tomllib
from pathlib import Path

import yaml

from rhotrace.theory import paper

ROOT = Path(__file__).resolve().parents[2]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_the_software_is_that_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["version"] == project["version"]
    assert CITATION["license"] == project["license"]
    assert CITATION["authors"] == [{"name": author["name"]} for author in project["authors"]]
    assert CITATION["keywords"] == project["keywords"]


def test_the_memo_is_the_one_that_the_code_cites():
    (memo,) = CITATION["references"]
    names = " and ".join(f"{a['given-names'][0]}. {a['family-names']}" for a in memo["authors"])
    date = f"{memo['date-released'].day} {memo['date-released']:%B %Y}"
    assert f"{names}, {memo['title']}, {memo['number']}, {date}" == paper.CITATION
    assert memo["title"] in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_source_distribution_has_the_pages():
    include = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]
    for name in ("docs", "benchmarks", "CONTRIBUTING.md", "CITATION.cff", "README.md", "CHANGELOG.md", "recipes"):
        assert name in include["sdist"]["include"]
        assert (ROOT / name).exists()
