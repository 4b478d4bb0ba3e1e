"""Recipes: what validates, and the answer to every mistake."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import yaml

from rhotrace.config import recipe, strict_yaml
from rhotrace.config.recipe import Recipe, parse
from rhotrace.errors import RecipeError
from rhotrace.models.initial_weights import INITIALISERS
from rhotrace.models.network import NETWORKS
from rhotrace.models.optimizers import OPTIMIZERS

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.yaml"))


def fault(text: str, *overrides: str) -> str:
    """The message for a bad recipe: one or two short lines without control characters."""
    with pytest.raises(RecipeError) as caught:
        parse(text, list(overrides), where="bad.yaml")
    message = str(caught.value)
    assert 1 <= len(message.splitlines()) <= 2, message
    assert message.replace("\n", "").isprintable(), message
    assert len(message) < 400, message
    return message


def swap(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, old
    return text.replace(old, new)


# --- recipes that validate ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_shipped_recipe_validates(path):
    loaded = recipe.load(path)
    assert loaded.claim.strip()
    assert parse(loaded.to_yaml()) == loaded


def test_defaults_are_spelled_out(small):
    resolved = yaml.safe_load(parse(small).to_yaml())
    assert resolved["data"]["label_noise"] == 0.0
    assert resolved["record"]["full_every"] == 1
    assert resolved["claim"] == ""


def test_a_grid_of_members_is_the_recipe_with_every_member_written_out(small):
    spelled = "members={seeds: [0, 1, 0, 1, 7], rho_k: [1, 1, 2, 2, 3], lr: [0.1, 0.1, 0.1, 0.1, 0.2]}"
    grid = "members={grid: [{rho_k: [1, 2], lr: [0.1], seeds: 2}, {lr: [0.2], rho_k: [3], seeds: [7]}]}"
    one, other = parse(small, [grid]), parse(small, [spelled])
    assert one.digest == other.digest
    assert one.to_yaml() == other.to_yaml()
    assert parse(one.to_yaml(), []).digest == one.digest
    slowest_first = parse(small, ["members={grid: {seeds: 2, rho_k: [1, 2]}}"])
    assert slowest_first.seeds == [0, 0, 1, 1]
    assert parse(small, ["members={grid: {rho_k: [1, 2]}}"]).seeds == [0, 0]


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ("{grid: {rho_k: [1, -2], seeds: 2}}", "members.grid.rho_k.1: got -2"),
        ("{grid: {rho: [1]}}", "members.grid.rho: unknown key; did you mean 'rho_k'?"),
        ("{grid: [{rho: [1]}]}", "members.grid.0.rho: unknown key; did you mean 'rho_k'?"),
        ("{grid: [{lr: [1]}, {lr: []}]}", "members.grid.1.lr: got [], expected at least one value"),
        ("{grid: [{lr: [1]}, {seeds: 2}]}", "members.grid.1: got the keys seeds, expected lr in each grid"),
        ("{seeds: 3, grid: {lr: [1]}}", "members.seeds: got a key beside members.grid; move it into the grid"),
        ("{grid: {seeds: 100000, lr: [1, 2]}}", "members.grid: got 200000 members, expected at most 100000"),
        ("{seeds: 3, lr: [1, 2]}", "for every combination, give the lists in members.grid"),
    ],
)
def test_a_grid_that_is_none_is_refused_with_its_place(small, members, says):
    with pytest.raises(RecipeError) as refused:
        parse(small, [f"members={members}"])
    assert says in str(refused.value)


def test_members_expand_to_one_value_each(small):
    read = parse(small, ["members.seeds=[5, 7]", "members.lr=[0.1, 1]", "members.rho_k=[2, 3.5]"])
    assert read.seeds == read.batch_seeds == [5, 7]
    assert read.lr == [0.1, 1.0]
    assert [one.rho_k for one in read.initialisers] == [2.0, 3.5]
    assert parse(small, ["members.batch_seeds=[9, 9, 9]"]).batch_seeds == [9, 9, 9]
    assert parse(small).seeds == [0, 1, 2]


@pytest.mark.parametrize("written", ["1e-3", "1E-3", "1.e-3", ".001", "0.001", "+1e-3", "1.0e-3"])
def test_numbers_in_exponent_form_are_floats(small, written):
    assert parse(swap(small, "lr: 0.05", f"lr: {written}")).optimizer.lr == 1e-3


@pytest.mark.parametrize("written", ["yes", "no", "on", "off", "y", "TRUE", '"true"', "1"])
def test_only_true_and_false_are_booleans(small, written):
    message = fault(swap(small, "test: 20", f"test: 20, balanced: {written}"))
    assert message.startswith("bad.yaml:1: data.balanced: got ")
    assert "boolean" in message


def test_true_and_false_are_booleans(small):
    assert parse(swap(small, "test: 20", "test: 20, balanced: true")).data.balanced is True
    assert parse(swap(small, "test: 20", "test: 20, balanced: False")).data.balanced is False


def test_a_leading_zero_is_decimal_not_octal(small):
    assert parse(swap(small, "steps: 60", "steps: 0010")).steps == 10


# --- recipes that do not -----------------------------------------------------------------------------------

# old text, new text, place and key path that the message begins with, what it must also say
FAULTS = {
    "unknown section": ("record:", "recrod:", "bad.yaml:7: recrod: ", ["unknown key", "did you mean 'record'"]),
    "unknown required key": ("steps: 60", "stepz: 60", "bad.yaml:6: stepz: ", ["did you mean 'steps'"]),
    "unknown key": ("width: 8", "widht: 8", "bad.yaml:2: network.widht: ", ["did you mean 'width'"]),
    "unknown option": ("lr: 0.05", "lr: 0.05, qqqqq: 0.9", "bad.yaml:4: optimizer.qqqqq: ", ["one of kind, lr"]),
    "unknown key unlike any": ("steps: 60", "steps: 60\nqqqqq: 1", "bad.yaml:7: qqqqq: ", ["unknown key", "steps"]),
    "key of another kind": ("equal-norms, rho_k", "he, rho_k", "bad.yaml:3: init.rho_k: ", ["kind, scale"]),
    "number as a key": ("width: 8", "width: 8, 5: 1", "bad.yaml:2: network.5: ", []),
    "top-level number as a key": ("steps: 60", "steps: 60\n3: 4", "bad.yaml:7: 3: ", []),
    "duplicate key": ("record:", "steps: 3\nrecord:", "bad.yaml:7: steps: ", ["line 6"]),
    "duplicate nested key": ("train: 40", "train: 40, train: 50", "bad.yaml:1: data.train: ", ["line 1"]),
    "negative lr": ("lr: 0.05", "lr: -1", "bad.yaml:4: optimizer.lr: got -1", ["greater than 0"]),
    "lr zero": ("lr: 0.05", "lr: 0", "bad.yaml:4: optimizer.lr: got 0", ["greater than 0"]),
    "lr nan": ("lr: 0.05", "lr: .nan", "bad.yaml:4: optimizer.lr: got nan", ["finite"]),
    "lr infinite": ("lr: 0.05", "lr: .inf", "bad.yaml:4: optimizer.lr: got inf", ["finite"]),
    "lr overflows": ("lr: 0.05", "lr: 1e999", "bad.yaml:4: optimizer.lr: got inf", ["finite"]),
    "lr text": ("lr: 0.05", "lr: fast", "bad.yaml:4: optimizer.lr: got 'fast'", ["number"]),
    "lr missing": (", lr: 0.05", "", "bad.yaml:4: optimizer.lr: missing", []),
    "depth zero": ("depth: 3", "depth: 0", "bad.yaml:2: network.depth: got 0", ["1"]),
    "depth true": ("depth: 3", "depth: true", "bad.yaml:2: network.depth: got True", ["integer"]),
    "depth a float": ("depth: 3", "depth: 3.0", "bad.yaml:2: network.depth: got 3.0", ["integer"]),
    "depth absurd": ("depth: 3", "depth: 1000000000", "bad.yaml:2: network.depth: got 1000000000", []),
    "width zero": ("width: 8", "width: 0", "bad.yaml:2: network.width: got 0", ["greater than or equal to 1"]),
    "width text": ("width: 8", "width: wide", "bad.yaml:2: network.width: got 'wide'", ["integer"]),
    "one width zero": (
        "width: 8",
        "width: [8, 0]",
        "bad.yaml:2: network.width",
        ["got 0", "greater than or equal to 1"],
    ),
    "widths of another depth": ("width: 8", "width: [8]", "bad.yaml:2: network.width: got 1 width", ["= 2"]),
    "unknown dtype": ("float64", "float16", "bad.yaml:2: network.dtype: got 'float16'", ["'float32' or 'float64'"]),
    "class 12": ("[0, 1]", "[0, 12]", "bad.yaml:1: data.classes: got 12", ["0 to 9"]),
    "class -1": ("[0, 1]", "[0, -1]", "bad.yaml:1: data.classes: got -1", ["0 to 9"]),
    "unknown class name": ("[0, 1]", "[0, zebra]", "bad.yaml:1: data.classes: got 'zebra'", ["class of mnist"]),
    "same class twice": ("[0, 1]", "[3, 3]", "bad.yaml:1: data.classes: got [3, 3]", ["twice"]),
    "class in both groups": ("[0, 1]", "[[3, 4], 3]", "bad.yaml:1: data.classes: got [[3, 4], 3]", ["twice"]),
    "three classes": ("[0, 1]", "[0, 1, 2]", "bad.yaml:1: data.classes: got 3 groups", ["exactly two"]),
    "an empty group": ("[0, 1]", "[0, []]", "bad.yaml:1: data.classes: got", ["non-empty"]),
    "classes misspelt": ("[0, 1]", "al", "bad.yaml:1: data.classes: got 'al'", ["'all'"]),
    "classes a mapping": ("[0, 1]", "{a: 1}", "bad.yaml:1: data.classes: got {'a': 1}", ["'all'"]),
    "class a fraction": ("[0, 1]", "[0, 1.5]", "bad.yaml:1: data.classes", ["got 1.5"]),
    "class a boolean": ("[0, 1]", "[false, true]", "bad.yaml:1: data.classes", ["got False"]),
    "unknown dataset": ("mnist", "cifar", "bad.yaml:1: data.dataset: got 'cifar'", ["'cifar-10'"]),
    "dataset missing": ("dataset: mnist, ", "", "bad.yaml:1: data.dataset: missing", []),
    "no samples": ("train: 40", "train: 0", "bad.yaml:1: data.train: got 0", ["1"]),
    "label noise one": (
        "test: 20",
        "test: 20, label_noise: 1.0",
        "bad.yaml:1: data.label_noise: got 1.0",
        ["less than 1"],
    ),
    "optimizer kind unknown": ("kind: gd", "kind: gdd", "bad.yaml:4: optimizer.kind: got 'gdd'", ["'gd', 'sgd'"]),
    "optimizer kind null": ("kind: gd", "kind: null", "bad.yaml:4: optimizer.kind: ", ["'gd', 'sgd'"]),
    "optimizer kind a number": ("kind: gd", "kind: 3", "bad.yaml:4: optimizer.kind: got 3", ["'gd', 'sgd'"]),
    "optimizer kind missing": ("kind: gd, ", "", "bad.yaml:4: optimizer.kind: missing", []),
    "network kind unknown": ("kind: mlp", "kind: cnn", "bad.yaml:2: network.kind: got 'cnn'", ["'mlp'"]),
    "network kind missing": ("kind: mlp, ", "", "bad.yaml:2: network.kind: missing", []),
    "init kind unknown": ("equal-norms", "zeros", "bad.yaml:3: init.kind: got 'zeros'", ["'equal-norms', 'he'"]),
    "init kind missing": ("kind: equal-norms, ", "", "bad.yaml:3: init.kind: missing", []),
    "rho_k negative": ("rho_k: 1.0", "rho_k: -1.0", "bad.yaml:3: init.rho_k: got -1.0", ["greater than"]),
    "missing section": ("init: {kind: equal-norms, rho_k: 1.0}\n", "", "bad.yaml: init: missing", []),
    "missing steps": ("steps: 60\n", "", "bad.yaml: steps: missing", []),
    "section a word": ("{kind: gd, lr: 0.05}", "gd", "bad.yaml:4: optimizer: got 'gd'", ["section"]),
    "section a list": ("{kind: gd, lr: 0.05}", "[gd]", "bad.yaml:4: optimizer: got ['gd']", ["section"]),
    "section empty": ("{kind: gd, lr: 0.05}", "", "bad.yaml:4: optimizer: got None", ["section"]),
    "steps text": ("steps: 60", 'steps: "60"', "bad.yaml:6: steps: got '60'", ["integer"]),
    "steps a float": ("steps: 60", "steps: 1e3", "bad.yaml:6: steps: got 1000.0", ["integer"]),
    "steps zero": ("steps: 60", "steps: 0", "bad.yaml:6: steps: got 0", ["1"]),
    "steps beyond any run": ("steps: 60", "steps: 9999999999", "bad.yaml:6: steps: got 9999999999", ["1000000000"]),
    "steps of 40 digits": ("steps: 60", f"steps: {'9' * 40}", "bad.yaml:6: ", ["40 digits"]),
    "steps of 5000 digits": ("steps: 60", f"steps: {'9' * 5000}", "bad.yaml:6: ", ["5000 digits"]),
    "no seeds": ("seeds: 3", "seeds: 0", "bad.yaml:5: members.seeds: got 0", ["greater than or equal to 1"]),
    "empty seeds": ("seeds: 3", "seeds: []", "bad.yaml:5: members.seeds: got []", ["at least 1"]),
    "negative seed": (
        "seeds: 3",
        "seeds: [0, -1]",
        "bad.yaml:5: members.seeds",
        ["got -1", "greater than or equal to 0"],
    ),
    "huge seed": ("seeds: 3", f"seeds: [{2**63}]", "bad.yaml:5: members.seeds", [f"got {2**63}", "less than"]),
    "too few lr": ("seeds: 3", "seeds: 3, lr: [0.1]", "bad.yaml:5: members.lr: got 1 value", ["3 seeds"]),
    "too many rho_k": ("seeds: 3", "seeds: 1, rho_k: [1, 2]", "bad.yaml:5: members.rho_k: got 2 value", ["1 seed"]),
    "too few batch seeds": ("seeds: 3", "seeds: 3, batch_seeds: [1]", "bad.yaml:5: members.batch_seeds: got 1", []),
    "scale without he": ("seeds: 3", "seeds: 3, scale: [1, 2, 3]", "bad.yaml:5: members.scale: ", ["equal-norms"]),
    "one lr negative": ("seeds: 3", "seeds: 3, lr: [0.1, -1, 0.2]", "bad.yaml:5: members.lr.1: got -1", ["than 0"]),
    "batch over train": ("kind: gd", "kind: sgd, batch_size: 41", "bad.yaml:4: optimizer.batch_size: got 41", ["40"]),
    "batch zero": ("kind: gd", "kind: sgd, batch_size: 0", "bad.yaml:4: optimizer.batch_size: got 0", ["1"]),
    "batch missing": ("kind: gd", "kind: sgd", "bad.yaml:4: optimizer.batch_size: missing", []),
    "record never": ("test_every: 10", "test_every: 0", "bad.yaml:7: record.test_every: got 0", ["1"]),
    "anchor": ("steps: 60", "steps: &a 60", "bad.yaml:6: ", ["anchor"]),
    "alias": ("steps: 60", "steps: *a", "bad.yaml:6: ", ["alias"]),
    "tag": ("steps: 60", "steps: !!int 60", "bad.yaml:6: ", ["tag"]),
    "python tag": ("steps: 60", "steps: !!python/object/apply:os.system [ls]", "bad.yaml:6: ", ["tag"]),
    "merge key": ("steps: 60", "steps: 60\n<<: {steps: 3}", "bad.yaml:7: <<: ", ["unknown key"]),
    "tab": ("steps: 60", "\tsteps: 60", "bad.yaml:6: ", ["YAML", r"'\t'"]),
    "open bracket": ("[0, 1]", "[0, 1", "bad.yaml:", ["YAML"]),
    "list as a key": ("steps: 60", "? [a]\n: 60", "bad.yaml:6: ", ["key"]),
    "escapes in a key": ("steps: 60", 'steps: 60\n"\\e[31ma\\nb": 60', "bad.yaml:7: ", ["unknown key"]),
    "NUL": ("steps: 60", "steps: \0", "bad.yaml", ["YAML", "#x0000"]),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_names_line_key_and_what_was_expected(small, case):
    old, new, begins, says = FAULTS[case]
    message = fault(swap(small, old, new))
    assert message.startswith(begins)
    for words in says:
        assert words in message


@pytest.mark.parametrize(
    "case", ["one width zero", "classes misspelt", "class a fraction", "empty seeds", "negative seed"]
)
def test_one_fault_is_not_counted_as_several(small, case):
    old, new, *_ = FAULTS[case]
    assert "more)" not in fault(swap(small, old, new))


def test_several_faults_are_counted(small):
    assert fault(swap(small, "depth: 3", "depth: 0").replace("lr: 0.05", "lr: -1")).endswith("(and 1 more)")


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "hello", "3", "true"])
def test_a_recipe_must_be_a_mapping(text):
    message = fault(text)
    assert message.startswith("bad.yaml: got ")
    assert "expected a mapping" in message
    assert "NoneType" not in message


@pytest.mark.parametrize("text", ["", "# only a comment\n", "{}", "null"])
def test_an_empty_recipe_names_what_is_missing(text):
    assert "data: missing" in fault(text)


def test_a_second_document_is_refused(small):
    assert fault(f"{small}---\n{small}").startswith("bad.yaml:8: ")


def test_a_yaml_bomb_is_refused_at_its_first_anchor_and_read_no_further():
    bomb = "a: &a [x, x]\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert fault(f"{bomb}]").startswith("bad.yaml:1: got an anchor")  # and not as the text that ends with no YAML


@pytest.mark.parametrize(
    "text", ["a: " + "[" * 5000, "a: " + "{b: " * 5000, "- " * 500 + "x", "a: " + "[" * 400 + "]" * 400]
)
def test_deep_nesting_is_refused_where_it_is_too_deep_and_read_no_further(text):
    message = fault(f"{text}\n]}}")  # which is no YAML, and not what is reported
    assert message.startswith("bad.yaml:1: nested more than")


# --- files -------------------------------------------------------------------------------------------------


def file_fault(path: Path) -> str:
    with pytest.raises(RecipeError) as caught:
        recipe.load(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(str(path))
    return message


def test_load_reads_a_file_and_errors_name_it(tmp_path, small):
    path = tmp_path / "r.yaml"
    path.write_text(small, encoding="utf-8")
    assert recipe.load(path, ["steps=7"]).steps == 7
    path.write_text(small.replace("depth: 3", "depth: 0"), encoding="utf-8")
    assert file_fault(path).startswith(f"{path}:2: network.depth: ")


def test_invalid_utf8_is_refused(tmp_path, small):
    path = tmp_path / "r.yaml"
    path.write_bytes(small.encode() + b"claim: \xff\xfe\n")
    assert "utf-8" in file_fault(path)


def test_an_oversize_file_is_refused_unread(tmp_path, small):
    path = tmp_path / "r.yaml"
    path.write_text(small + "#" * strict_yaml.MAX_BYTES, encoding="utf-8")
    assert f"at most {strict_yaml.MAX_BYTES}" in file_fault(path)


def test_an_empty_file_names_what_is_missing(tmp_path):
    path = tmp_path / "r.yaml"
    path.touch()
    assert "data: missing" in file_fault(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path, small):
    (tmp_path / "deep8.yaml").write_text(small, encoding="utf-8")
    assert f"did you mean {tmp_path / 'deep8.yaml'}?" in file_fault(tmp_path / "dep8.yaml")
    assert "no such recipe" in file_fault(tmp_path / "nowhere" / "else.yaml")
    assert "cannot be read" in file_fault(tmp_path)


def test_a_byte_order_mark_is_ignored(tmp_path, small):
    path = tmp_path / "r.yaml"
    path.write_text(small, encoding="utf-8-sig")
    assert recipe.load(path) == parse(small)


# --- overrides ---------------------------------------------------------------------------------------------


def test_set_changes_a_nested_key_and_adds_a_new_one(small):
    changed = parse(small, ["optimizer.lr=1e-3", "data.label_noise=0.25", "members.lr=[1, 2, 3]", "claim=a = b, c"])
    assert changed.optimizer.lr == 1e-3
    assert changed.data.label_noise == 0.25
    assert changed.lr == [1.0, 2.0, 3.0]
    assert changed.claim == "a = b, c"


def test_set_makes_a_section_that_is_not_there_and_the_last_one_wins(small):
    without = small.replace("record: {test_every: 10, snapshots: 6}\n", "")
    assert parse(without, ["record.test_every=5", "record.test_every=6"]).record.test_every == 6


def test_set_replaces_a_whole_section(small):
    assert parse(small, ["optimizer={kind: sgd, batch_size: 4, lr: 1}"]).optimizer.batch_size == 4


def test_set_with_no_value_is_null(small):
    assert parse(small, ["data.train="]).data.train is None


@pytest.mark.parametrize("override", ["optimizer.lr", "=3", "a..b=3", ".lr=3", "", "optimizer.=3"])
def test_set_with_bad_syntax_shows_the_right_one(small, override):
    message = fault(small, override)
    assert message.startswith("--set: got ")
    assert "expected key.path=value" in message


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("optimizer.lr=fast", "optimizer.lr: got 'fast'"),
        ("steps=1.5", "steps: got 1.5"),
        ("steps=", "steps: got None"),
        ("members.rho_k=[1.0]", "members.rho_k: got 1 value"),
        ("data.classes=[3, 3]", "data.classes: got [3, 3]"),
        ("optimizer.impetus=0.9", "optimizer.impetus: unknown key"),
        ("optimzer.lr=0.1", "optimzer: unknown key; did you mean 'optimizer'"),
        ("stepz=3", "stepz: unknown key; did you mean 'steps'"),
        ("network=mlp", "network: got 'mlp'"),
        ("steps.x=3", "steps is a value"),
        ("data.classes.0=3", "data.classes is a value"),
        ("optimizer.lr=[1", "not valid YAML"),
        ("optimizer.lr=!!float 1", "tag"),
        ("optimizer={a: 1, a: 2}", "is already in line"),
        ("steps=" + "9" * 50, "50 digits"),
    ],
)
def test_a_fault_in_set_names_set_and_no_line_of_the_file(small, override, says):
    message = fault(small, override)
    assert "--set" in message
    assert "bad.yaml:" not in message
    assert says in message


def test_a_fault_elsewhere_still_names_its_line_beside_set(small):
    assert fault(swap(small, "lr: 0.05", "lr: -1"), "network.depth=2").startswith("bad.yaml:4: optimizer.lr: ")


# --- round trip and digest ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "claim", ["1e3", "09", "1e-3", "-1E5", "true", "null", "~", "12", ".5", "a: b", "# no", "é\n\n x "]
)
def test_a_claim_that_looks_like_something_else_round_trips(small, claim):
    read = parse(small).model_copy(update={"claim": claim})
    assert parse(read.to_yaml()).claim == claim


def test_digest_ignores_the_claim_and_the_place_of_the_data(small):
    digest = parse(small).digest
    assert len(digest) == 64
    assert parse(small, ["claim=other words", "data.root=/elsewhere"]).digest == digest
    assert parse(parse(small).to_yaml()).digest == digest  # defaults written out
    assert parse(small, ["init.rho_k=1"]).digest == digest  # 1 is 1.0


@pytest.mark.parametrize(
    "override",
    [
        "data.dataset=fashion-mnist",
        "data.classes=[1, 0]",
        "data.train=41",
        "data.test=21",
        "data.balanced=false",
        "data.label_noise=0.1",
        "data.unit_norm=false",
        "data.seed=1",
        "data.noise_seed=1",
        "network.depth=4",
        "network.width=9",
        "network.dtype=float32",
        "init.rho_k=1.0000001",
        "init={kind: he}",
        "optimizer.lr=0.050000001",
        "optimizer={kind: weight-norm, lr: 0.05}",
        "optimizer={kind: sgd, lr: 0.05, batch_size: 40}",
        "members.seeds=4",
        "members.seeds=[0, 1, 3]",
        "members.batch_seeds=[4, 5, 6]",
        "members.lr=[0.05, 0.05, 0.06]",
        "members.rho_k=[1, 1, 2]",
        "steps=61",
        "record.full_every=2",
        "record.test_every=11",
        "record.snapshots=7",
    ],
)
def test_digest_changes_with_everything_else(small, override):
    assert parse(small, [override]).digest != parse(small).digest


# --- schema ------------------------------------------------------------------------------------------------


def test_the_json_schema_is_json_and_lists_every_kind():
    text = json.dumps(Recipe.model_json_schema(), allow_nan=False)
    assert json.loads(text)["additionalProperties"] is False
    for kind in (*OPTIMIZERS, *NETWORKS, *INITIALISERS, "mnist", "fashion-mnist", "cifar-10"):
        assert f'"{kind}"' in text
    for key in ("seeds", "label_noise", "test_every", "depth", "lr"):
        assert f'"{key}"' in text


def test_numbers_survive_the_round_trip_to_the_last_bit(small):
    for lr in (0.1 + 0.2, 1e-300, 5e-324, 1.7976931348623157e308, math.pi):
        read = parse(small).model_copy(update={"optimizer": parse(small).optimizer.model_copy(update={"lr": lr})})
        assert parse(read.to_yaml()).optimizer.lr == lr


@pytest.mark.parametrize("mark", ["\x85", "\u2028", "\u2029", "a\x85b", "\n", " x "])
def test_text_with_line_breaks_of_any_kind_survives_the_writing(mark):
    assert strict_yaml.read(strict_yaml.write({"claim": mark}), "recipe")[0] == {"claim": mark}
