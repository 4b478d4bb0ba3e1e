"""docs/run-file.md says of a run file what is in one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import h5py

from rhotrace.recording.quantity import CADENCES
from rhotrace.runfile.layout import FORMAT_VERSION

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "run-file.md").read_text(encoding="utf-8")


def rows(header: str) -> set[str]:
    """What stands in the first column of the table with this header."""
    table = PAGE.split(header)[1].split("\n\n")[0]
    return set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))


def test_the_page_is_of_the_format_that_is_written(train):
    assert f"format version {FORMAT_VERSION}." in PAGE
    with h5py.File(train()) as file:
        assert rows("| key | what it says |") == set(json.loads(file.attrs["layout"]))
        named = set(re.findall(r"`(recipe\w*|status|ended|layout)`", PAGE))
        assert {"recipe", "recipe_json", "status", "ended", "layout"} <= named & set(file.attrs)
        assert "W1_out" in file["weights"]


def test_every_cadence_of_the_code_is_explained():
    assert rows("| cadence | evaluated |") == set(CADENCES)
