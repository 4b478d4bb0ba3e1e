"""Sweep files: what points they mean, how these become members of runs, and how a wrong one is refused."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from typing import Annotated, Literal

import numpy as np
import pytest
from annotated_types import Ge, Gt
from hypothesis import given, settings
from hypothesis import strategies as st

from rhotrace.config import recipe as recipes
from rhotrace.errors import RecipeError
from rhotrace.models.component import PerMember
from rhotrace.models.initial_weights import INITIALISERS, Initialiser
from rhotrace.sweeps import sweep_file
from rhotrace.sweeps.sweep_file import MOST_POINTS, read, runs

HEAD = "recipe: small.yaml\n"
GRID = "axes:\n  - grid: {init.rho_k: [0.7, 1.5]}\n"


@pytest.fixture
def folder(tmp_path, small):
    (tmp_path / "small.yaml").write_text(small)
    return tmp_path


@pytest.fixture
def sweep(folder):
    """Reads a sweep from its text, beside the small recipe."""

    def make(text: str, *overrides: str, head: str = HEAD):
        (folder / "sweep.yaml").write_text(head + text)
        return read(folder / "sweep.yaml", overrides)

    return make


@pytest.fixture
def refused(sweep):
    """Reads and groups a sweep that must be refused in a line; returns it, from the sweep's name on where it has that."""

    def no(text: str, *overrides: str, head: str = HEAD) -> str:
        with pytest.raises(RecipeError) as caught:
            many(sweep(text, *overrides, head=head))
        message = str(caught.value)
        assert len(message.splitlines()) == 1
        before, name, after = message.partition("sweep.yaml")
        return after if name else before

    return no


def many(given, most: int = 10_000):
    return runs(given, lambda _: most)


# --- points ------------------------------------------------------------------------------------------------


def test_a_grid_is_the_product_with_the_last_axis_fastest(sweep):
    found = sweep("axes: [{grid: {network.depth: [3, 2], init.rho_k: [0.5, 1, 2]}}]\n")
    assert found.axes == ("network.depth", "init.rho_k")
    assert [tuple(p.values()) for p in found.points] == list(itertools.product([3, 2], [0.5, 1, 2]))
    assert all(tuple(p) == found.axes for p in found.points)


def test_a_zip_goes_through_its_lists_side_by_side(sweep):
    found = sweep("axes: [{zip: {network.depth: [2, 3, 4], optimizer.lr: [0.3, 0.2, 0.1]}}]\n")
    assert [tuple(p.values()) for p in found.points] == [(2, 0.3), (3, 0.2), (4, 0.1)]


def test_grids_and_zips_multiply(sweep):
    found = sweep(
        "axes:\n  - grid: {steps: [5, 6]}\n  - zip: {network.depth: [2, 3], optimizer.lr: [0.2, 0.1]}\n"
        "  - grid: {init.rho_k: [1, 2]}\n"
    )
    expected = [(s, d, lr, r) for s in (5, 6) for d, lr in ((2, 0.2), (3, 0.1)) for r in (1, 2)]
    assert [tuple(p.values()) for p in found.points] == expected


@pytest.mark.parametrize(
    ("first", "last", "count"), [(0.5, 4, 7), (0.1, 0.3, 3), (3, 0.01, 5), (1e-9, 1e9, 19), (7, 9, 2)]
)
def test_a_log_range_has_exact_ends_and_equal_ratios(sweep, first, last, count):
    found = sweep(f"axes: [{{grid: {{init.rho_k: {{from: {first}, to: {last}, points: {count}}}}}}}]\n")
    values = [p["init.rho_k"] for p in found.points]
    assert len(values) == count
    assert (values[0], values[-1]) == (first, last)
    np.testing.assert_allclose(np.diff(np.log(values)), np.log(last / first) / (count - 1), rtol=1e-4)
    log = sweep(f"axes: [{{grid: {{init.rho_k: {{from: {first}, to: {last}, points: {count}, spacing: log}}}}}}]\n")
    assert log.points == found.points


@pytest.mark.parametrize(("first", "last", "count"), [(0.1, 0.7, 7), (1, 2, 11), (5, 0.5, 4)])
def test_a_linear_range_has_exact_ends_and_equal_steps(sweep, first, last, count):
    found = sweep(
        f"axes: [{{grid: {{init.rho_k: {{from: {first}, to: {last}, points: {count}, spacing: linear}}}}}}]\n"
    )
    values = [p["init.rho_k"] for p in found.points]
    assert (len(values), values[0], values[-1]) == (count, first, last)
    np.testing.assert_allclose(np.diff(values), (last - first) / (count - 1), rtol=1e-4)


@pytest.mark.parametrize("ends", [(1.2345678, 2.3456789), (1.00000012, 2)])
def test_ends_of_a_range_are_those_that_were_written_whatever_their_digits(sweep, ends):
    found = sweep(f"axes: [{{grid: {{init.rho_k: {{from: {ends[0]}, to: {ends[1]}, points: 3}}}}}}]\n")
    assert (found.points[0]["init.rho_k"], found.points[-1]["init.rho_k"]) == ends


def test_a_range_over_whole_numbers_serves_a_key_that_wants_them(sweep):
    found = sweep("axes: [{grid: {network.depth: {from: 2, to: 5, points: 4, spacing: linear}}}]\n")
    assert [run.recipe.network.depth for run in many(found)] == [2, 3, 4, 5]


@pytest.mark.parametrize(("given", "seeds"), [("", (0,)), ("seeds: 3\n", (0, 1, 2)), ("seeds: [7, 3]\n", (7, 3))])
def test_seeds_are_a_number_or_a_list(sweep, given, seeds):
    assert sweep(GRID + given).seeds == seeds


# --- runs --------------------------------------------------------------------------------------------------


def test_points_of_one_shape_are_members_of_one_run_in_order_of_point_and_seed(sweep):
    found = sweep(
        "axes: [{grid: {init.rho_k: [0.7, 1.5], network.depth: [2, 3], optimizer.lr: [0.1, 0.2]}}]\nseeds: [4, 9]\n"
    )
    two, three = many(found)
    for run, depth in ((two, 2), (three, 3)):
        numbers = [n for n, p in enumerate(found.points) if p["network.depth"] == depth]
        assert run.points == tuple(n for n in numbers for _ in range(2))
        assert run.recipe.network.depth == depth
        assert run.recipe.seeds == [4, 9] * 4
        assert run.recipe.members.rho_k == [0.7] * 4 + [1.5] * 4
        assert run.recipe.lr == [0.1, 0.1, 0.2, 0.2] * 2
        assert run.recipe.members.scale is None
    assert two.name != three.name


def test_he_scales_are_per_member_too(sweep):
    found = sweep("set: {init: {kind: he}}\naxes: [{grid: {init.scale: [0.5, 1, 2]}}]\nseeds: 2\n")
    (run,) = many(found)
    assert run.recipe.members.scale == [0.5, 0.5, 1, 1, 2, 2]
    assert run.recipe.members.rho_k is run.recipe.members.lr is None


def test_without_member_axes_the_recipe_gives_the_values(sweep):
    (run,) = many(sweep("axes: [{grid: {steps: [7]}}]\nseeds: 2\n"))
    assert run.recipe.members.model_dump(exclude_none=True) == {"seeds": [0, 1]}
    assert (run.recipe.lr, run.recipe.init.rho_k, run.recipe.steps) == ([0.05, 0.05], 1.0, 7)


def test_a_key_of_members_may_complete_a_section_that_an_axis_replaces(sweep):
    found = sweep("axes: [{grid: {optimizer: [{kind: gd}, {kind: sgd, batch_size: 8}], optimizer.lr: [0.1, 0.2]}}]\n")
    assert [(run.recipe.optimizer.kind, run.recipe.lr) for run in many(found)] == [
        ("gd", [0.1, 0.2]),
        ("sgd", [0.1, 0.2]),
    ]


@pytest.mark.parametrize(
    ("most", "sizes"), [(100, [14]), (14, [14]), (13, [7, 7]), (6, [5, 5, 4]), (1, [1] * 14), (0, [1] * 14)]
)
def test_runs_are_cut_evenly_and_never_beyond_what_one_may_have(sweep, most, sizes):
    found = sweep("axes: [{grid: {init.rho_k: [1, 2, 3, 4, 5, 6, 7]}}]\nseeds: 2\n")
    cut = many(found, most)
    assert [len(run.points) for run in cut] == sizes
    assert len({run.name for run in cut}) == len(cut)


def test_no_run_has_more_members_than_a_run_may_have(sweep, monkeypatch):
    monkeypatch.setattr(sweep_file, "MOST_MEMBERS", 3)
    assert max(len(run.points) for run in many(sweep(GRID + "seeds: 4\n"))) == 3


rho = st.lists(st.sampled_from([0.25, 0.5, 1.0, 2.0, 3.5]), min_size=1, max_size=4, unique=True)
lr = st.lists(st.sampled_from([0.01, 0.1, 0.25, 0.5]), min_size=1, max_size=3, unique=True)
depth = st.lists(st.integers(1, 6), min_size=1, max_size=3, unique=True)
width = st.lists(st.integers(1, 40), min_size=1, max_size=2, unique=True)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    axes=st.fixed_dictionaries(
        {}, optional={"init.rho_k": rho, "optimizer.lr": lr, "network.depth": depth, "network.width": width}
    ).filter(bool),
    order=st.randoms(use_true_random=False),
    seeds=st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True),
    most=st.integers(1, 30),
)
def test_the_runs_cover_every_point_and_seed_once_with_its_own_values(tmp_path_factory, axes, order, seeds, most):
    from small import SMALL

    folder = tmp_path_factory.getbasetemp()
    (folder / "small.yaml").write_text(SMALL)
    keys = order.sample(sorted(axes), len(axes))
    entries = [{"grid": {key: axes[key]}} for key in keys]
    path = folder / "property.yaml"
    path.write_text(json.dumps({"recipe": "small.yaml", "axes": entries, "seeds": seeds}))
    found = read(path)
    cut = many(found, most)
    covered = Counter(pair for run in cut for pair in zip(run.points, run.recipe.seeds, strict=True))
    assert covered == Counter(itertools.product(range(len(found.points)), seeds))
    assert len({run.name for run in cut}) == len(cut)
    for run in cut:
        assert 1 <= len(run.points) <= most
        starts = [initialiser.rho_k for initialiser in run.recipe.initialisers]
        for number, start, rate in zip(run.points, starts, run.recipe.lr, strict=True):
            point = found.points[number]
            assert start == point.get("init.rho_k", 1.0)
            assert rate == point.get("optimizer.lr", 0.05)
            assert run.recipe.network.depth == point.get("network.depth", 3)
            assert run.recipe.network.width == point.get("network.width", 8)


def test_a_run_file_can_be_made_of_every_name_and_no_two_share_one(sweep):
    widths = [[8] * 60, [8] * 59 + [9]]
    found = sweep(
        f"set: {{network.depth: 61}}\naxes: [{{grid: {{network.width: {json.dumps(widths)}, steps: [1, 2]}}}}]\n"
    )
    cut = many(found)
    assert len({run.name for run in cut}) == 4
    assert all(run.name.endswith(".h5") and len(run.name) < 150 and "/" not in run.name for run in cut)


def test_names_tell_the_values_that_differ(sweep):
    found = sweep("axes: [{grid: {network.depth: [2], data.classes: [[0, 1], [[2, 3], [4, 5]]]}}]\n")
    assert [run.name.rpartition("_")[0] for run in many(found)] == ["depth-2_classes-0-1", "depth-2_classes-2-3-4-5"]


def test_a_runs_recipe_written_out_is_the_same_recipe(sweep):
    for run in many(sweep("axes: [{grid: {init.rho_k: {from: 0.1, to: 3, points: 9}, network.depth: [2, 3]}}]\n")):
        assert recipes.parse(run.recipe.to_yaml()) == run.recipe


# --- overrides and digests ---------------------------------------------------------------------------------


def test_overrides_win_over_the_file_and_the_file_over_the_recipe(sweep):
    text = "set: {steps: 9, network.width: 16}\n" + GRID
    (run,) = many(sweep(text))
    assert (run.recipe.steps, run.recipe.network.width) == (9, 16)
    (run,) = many(sweep(text, "steps=4"))
    assert (run.recipe.steps, run.recipe.network.width) == (4, 16)


@pytest.mark.parametrize("override", ["init.rho_k=3", "members.seeds=9", "members.rho_k=[1.0, 2.0]", "init={kind: he}"])
def test_an_override_that_an_axis_or_the_seeds_would_undo_is_refused(sweep, override):
    with pytest.raises(RecipeError, match=r"init|members"):
        many(sweep(GRID, override))


def test_the_wording_of_the_claim_decides_nothing(sweep):
    one, other = sweep("claim: this\n" + GRID), sweep("claim: that\n" + GRID)
    assert one.digest == other.digest
    assert [run.name for run in many(one)] == [run.name for run in many(other)]


@pytest.mark.parametrize(
    "change",
    [
        ("[0.7, 1.5]", "[0.7, 1.6]"),
        ("[0.7, 1.5]", "[1.5, 0.7]"),
        ("seeds: 2", "seeds: 3"),
        ("seeds: 2", "seeds: [1, 0]"),
        ("steps: 5", "steps: 6"),
        ("init.rho_k", "optimizer.lr"),
        ("small.yaml", "other.yaml"),
    ],
)
def test_the_digest_is_of_the_values(sweep, change, small, tmp_path):
    (tmp_path / "other.yaml").write_text(small, encoding="utf-8")
    text = "set: {steps: 5}\n" + GRID + "seeds: 2\n"
    assert sweep(text).digest != sweep(text.replace(*change), head=HEAD.replace(*change)).digest
    assert sweep(text).digest == sweep(text).digest


# --- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GRID + "sedes: 3\n", ":4: sedes: unknown key; did you mean 'seeds'?"),
        (GRID + "zzz: 3\n", ":4: zzz: unknown key; expected claim, recipe, set, axes, seeds"),
        (GRID + "seeds: 2\nseeds: 3\n", ":5: seeds: this key is already in line 4"),
        (GRID + "set: [1]\n", ":4: set: got [1], expected keys of the recipe"),
        (GRID + "set: 0\n", ":4: set: got 0, expected keys of the recipe"),
        (GRID + "set: {optimizer.lrr: 3}\n", "optimizer.lrr: unknown key; did you mean 'lr'?"),
        (GRID + "set: {members.lr: [0.1]}\n", "members"),
        (GRID + "set: {init.rho_k: 3}\n", "init.rho_k"),
        ("", ": axes: got None, expected a list"),
        ("axes: {grid: {steps: [1]}}\n", ":2: axes: got {'grid': {'steps': [1]}}, expected a list"),
        ("axes: []\n", ":2: axes: got [], expected a list"),
        ("axes:\n  - gird: {steps: [1]}\n", ":2: axes.0: got {'gird': {'steps': [1]}}, expected one of grid: and zip:"),
        ("axes:\n  - grid:\n", ":3: axes.0.grid: got None, expected keys of the recipe"),
        ("axes:\n  - grid: {steps: [1, 2]}\n  - zip: {init.rho_k: [1, 2], optimizer.lr: [1]}\n", ":4: axes.1.zip: got lists of lengths"),
        ("axes:\n  - grid: {steps: [1]}\n  - zip: {steps: [2]}\n", "steps is there twice, expected each key once"),
        ("axes:\n  - grid: {steps: [1, 2, 1]}\n", "a point is there twice; remove repeated values"),
        ("axes:\n  - grid: {init.rho_k: [1, 1.0]}\n", "a point is there twice; remove repeated values"),
        ("axes:\n  - grid: {members.seeds: [1, 2]}\n", "got members.seeds; members come from the axes and `seeds`"),
        ("axes:\n  - grid: {steps: []}\n", ":3: axes.0.grid.steps: got [], expected a list"),
        ("axes:\n  - grid: {steps: 3}\n", ":3: axes.0.grid.steps: got 3, expected a list"),
        ("axes:\n  - grid: {'': [3]}\n", "expected"),
        ("axes:\n  - grid: {' steps': [3]}\n", "steps"),
        ("axes:\n  - grid: {init: [{kind: equal-norms, rho_k: 2}], init.rho_k: [1, 3], init.kind: [he]}\n", "init"),
    ],
)  # fmt: skip
def test_a_wrong_sweep_is_refused_with_file_line_key_and_what_was_expected(refused, text, said):
    assert said in refused(text)


@pytest.mark.parametrize(
    "given",
    [
        "{from: 0, to: 4, points: 3}",
        "{from: -1, to: 4, points: 3, spacing: log}",
        "{from: 1, to: 4, points: 1}",
        "{from: 1, to: 4, points: 3.0}",
        "{from: 1, to: 4, points: true}",
        "{from: 1, to: 4, points: 1000000}",
        "{from: 1, to: 4, point: 3}",
        "{from: 1, to: 4, points: 3, spacing: cubic}",
        "{from: 1, to: 4, points: 3, spacing: [log]}",
        "{from: 1, to: 4, points: 3, spacing: {}}",
        "{from: one, to: 4, points: 3}",
        "{from: 1, to: .inf, points: 3}",
        "{from: 1, to: .inf, points: 3, spacing: linear}",
        "{from: .nan, to: 1, points: 3}",
        "{from: 1, to: 100000000000000000000000000, points: 3}",
        "{}",
        "text",
    ],
)
def test_a_range_that_is_none_is_refused_with_an_example_of_one(refused, given):
    said = refused(f"axes:\n  - grid:\n      init.rho_k: {given}\n")
    assert said.startswith(":4: axes.0.grid.init.rho_k: got ")
    assert "{from: 0.5, to: 4, points: 6, spacing: log}" in said or "expected less than or equal to" in said


@pytest.fixture
def shifted():
    """An initialiser that is defined here alone, of which two options may differ between members."""

    @INITIALISERS.register
    class Shifted(Initialiser):
        kind: Literal["shifted"] = "shifted"
        shift: Annotated[float, Gt(-1), PerMember("shift")] = 0.0
        copies: Annotated[int, Ge(1), PerMember("copies")] = 1

    yield
    INITIALISERS.unregister("shifted")


@pytest.mark.usefixtures("shifted")
def test_the_per_member_options_of_a_new_component_are_axes_within_a_run(sweep, refused):
    own = "set: {init: {kind: shifted}}\n"
    (run,) = many(sweep(own + "axes: [{grid: {init.shift: [-0.5, 0, 1], init.copies: [1, 2]}}]\n"))
    assert run.recipe.members.shift == [-0.5, -0.5, 0.0, 0.0, 1.0, 1.0]
    assert run.recipe.members.copies == [1, 2, 1, 2, 1, 2]
    assert "init.shift: got -1 in [-1], expected greater than -1" in refused(
        own + "axes: [{grid: {init.shift: [-1]}}]\n"
    )
    assert "init.copies: got 1.5 in [1.5], " in refused(own + "axes: [{grid: {init.copies: [1.5]}}]\n")


@pytest.mark.parametrize(
    "given", ["0", "-1", "true", "2.0", "three", "[]", "[1, -1]", "[true]", "[[1]]", "{a: 1}", "null"]
)
def test_seeds_that_are_none_are_refused(refused, given):
    assert refused(GRID + f"seeds: {given}\n").startswith(":4: seeds: got ")


def test_a_seed_twice_is_refused(refused):
    assert refused(GRID + "seeds: [1, 2, 1]\n") == (
        ":4: seeds: got a seed twice; the same network would be trained twice"
    )


@pytest.mark.parametrize("count", [10**7, 10**15])
def test_too_many_seeds_are_refused_and_not_tried(refused, count):
    assert "seeds" in refused(GRID + f"seeds: {count}\n")


def test_too_many_points_are_refused_before_they_are_made(refused):
    entries = ", ".join(f"k{n}: {{from: 1, to: 2, points: 1000}}" for n in range(8))
    assert f"expected at most {MOST_POINTS}" in refused(f"axes:\n  - grid: {{{entries}}}\n")


@pytest.mark.parametrize("value", ["one", "'2.5'", "true", "null", "[2]", "{a: 1}", ".nan", ".inf", "-1.0", "0"])
@pytest.mark.parametrize("key", ["init.rho_k", "optimizer.lr"])
def test_a_value_that_no_member_can_have_is_refused_wherever_it_stands(refused, key, value):
    for values in (f"[{value}]", f"[1.5, {value}]"):
        assert key.rpartition(".")[2] in refused(f"axes:\n  - grid: {{{key}: {values}}}\n")


@pytest.mark.parametrize("value", ["1.0e-13", "1.0e+13"])
def test_a_member_has_the_limits_of_its_initialiser(refused, value):
    assert "rho_k" in refused(f"axes:\n  - grid: {{init.rho_k: [1.0, {value}]}}\n")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("network.depth: [2, 0]", "network.depth: got 0, expected greater than or equal to 1"),
        ("network.dept: [2, 3]", "network.dept: unknown key; did you mean 'depth'?"),
        ("init.scale: [2, 3]", "init.scale: unknown key"),
        ("optimizer: [{kind: sgd, lr: 0.1, batch_size: 41}]", "optimizer.batch_size: got 41, expected at most"),
        ("steps.x: [2, 3]", "steps.x: steps is a value, not a section"),
    ],
)
def test_a_point_whose_recipe_is_not_valid_is_refused(refused, entry, said):
    assert said in refused(f"axes:\n  - grid: {{{entry}}}\n")


@pytest.mark.parametrize("text", ["axes: [{grid: {steps: [2, 0]}}]\n", "set: {stepps: 3}\n" + GRID])
def test_what_is_wrong_with_a_point_is_said_of_the_sweep_file_where_it_stands(sweep, text):
    with pytest.raises(RecipeError, match=r"sweep\.yaml"):
        many(sweep(text))


def test_a_recipe_that_is_missing_is_said_of_the_sweep_file_that_names_it(sweep):
    with pytest.raises(RecipeError, match=r"sweep\.yaml:1: recipe: .*no such recipe"):
        many(sweep(GRID, head="recipe: smal.yaml\n"))


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ("", ": recipe: got None, expected the path of a recipe"),
        ("recipe: 3\n", ":1: recipe: got 3, expected the path of a recipe"),
        ("recipe: smal.yaml\n", "no such recipe; did you mean"),
        ("recipe: .\n", "cannot be read as a recipe"),
        ('recipe: "a\\0b"\n', "recipe"),
    ],
)
def test_a_recipe_that_is_not_there_is_refused_where_the_sweep_names_it(refused, head, said):
    assert said in refused(GRID, head=head)


@pytest.mark.parametrize(
    "content", [b"", b"- 1\n", b"hello", b"\xff\xfe\x00", b"a: [", b"a: \x00", b"[" * 100, b"&a x: *a"]
)
def test_what_is_no_sweep_at_all_is_refused_in_a_line(folder, content):
    path = folder / "sweep.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"^[^\n]*sweep\.yaml[^\n]*$"):
        read(path)


def test_a_file_that_is_not_there_is_refused(folder):
    for path in (folder / "none.yaml", folder):
        with pytest.raises(RecipeError, match="cannot be read as a sweep"):
            read(path)


def test_the_example_sweeps_are_valid():
    from pathlib import Path

    found = sorted((Path(__file__).resolve().parents[2] / "recipes" / "sweeps").glob("*.yaml"))
    assert found
    for path in found:
        given = read(path)
        assert sum(len(run.points) for run in many(given)) == len(given.points) * len(given.seeds)
