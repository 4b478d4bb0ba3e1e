from __future__ import annotations

from pathlib import Path

from rhotrace.analysis.run_summary import comparable_recipes
from rhotrace.config.recipe import differences
from rhotrace.runfile.reader import open_trace

OLD = Path(__file__).parents[1] / "runfile" / "format2" / "sgd-sealed.h5"


def test_options_that_an_older_format_lacks_are_no_differences(train):
    with open_trace(OLD) as old:
        text = str(old.attributes["recipe"])
        assert "loss" not in old.recipe
        with open_trace(train(text=text)) as new:
            assert new.layout.version > old.layout.version
            assert differences(*comparable_recipes([old, new])) == {}
        with open_trace(train("data.seed=5", text=text)) as other:
            assert list(differences(*comparable_recipes([old, other]))) == ["data.seed"]
        assert comparable_recipes([old, old]) == [old.recipe, old.recipe]
