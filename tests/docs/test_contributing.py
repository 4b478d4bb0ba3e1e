"""CONTRIBUTING.md states the import order that import-linter checks."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_import_order_is_that_of_the_contract():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    expected = [set(re.findall(r"rhotrace\.(\w+)", layer)) for layer in reversed(layers)]
    (stated,) = re.findall(r"^> (.*)$", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [set(re.findall(r"\w+", place)) for place in stated.split("→")] == expected
