"""What ``train`` says before the first step."""

from __future__ import annotations

import pytest

from rhotrace.config import shipped_recipes
from rhotrace.config.recipe import parse
from rhotrace.display.pages.training import training_start


@pytest.mark.parametrize(
    ("name", "overrides", "said"),
    [
        ("deep8-sgd", [], True),
        ("deep8-sgd", ["record.snapshots=80"], False),
        ("deep8-sgd", ["steps=900"], False),  # a trial
        ("deep8", [], False),  # a full batch: there is no fluctuation to predict
        ("noisy49-sgd", [], False),
    ],
)
def test_a_run_under_sgd_without_a_late_snapshot_is_announced(tmp_path, name, overrides, said):
    path = tmp_path / "run.h5"
    path.touch()
    text = (shipped_recipes.folder() / f"{name}.yaml").read_text(encoding="utf-8")
    blocks = training_start(parse(text, overrides), path, 0)
    assert any("no snapshot is planned in the last quarter" in block.text for block in blocks) == said
