"""Recipes by the hundred: every valid one round-trips, every value that decides counts, and nothing else ever escapes."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import pytest
from damaging import measured
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import SMALL

from rhotrace.config import strict_yaml
from rhotrace.config.recipe import Recipe, parse
from rhotrace.errors import RecipeError
from rhotrace.models.datasets import DATASETS
from rhotrace.models.datasets.torchvision_images import LabelledImages
from rhotrace.models.initial_weights import INITIALISERS
from rhotrace.models.network import NETWORKS
from rhotrace.models.optimizers import OPTIMIZERS

IMAGES = {name: each for name, each in DATASETS.items() if issubclass(each, LabelledImages)}

QUIET = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))

# --- valid ones --------------------------------------------------------------------------------------------

positive = st.floats(1e-12, 1e12) | st.integers(1, 1000)
seed = st.integers(0, 9) | st.integers(0, 2**63 - 1)
words = st.text(max_size=40) | st.sampled_from(
    ["1e3", "09", "yes", "null", "0x1f", "1_0", "=", "<<", "2020-01-01", "~"]
)


@st.composite
def classes(draw, dataset: str):
    """All classes, or two groups of them by number or by name."""
    names = IMAGES[dataset].names
    order = [draw(st.sampled_from([number, names[number]])) for number in draw(st.permutations(range(10)))]
    cut, end = draw(st.integers(1, 8)), draw(st.integers(9, 10))
    return draw(st.sampled_from(["all", [order[0], order[9]], [order[:cut], order[cut:end]], [order[:cut], order[9]]]))


@st.composite
def recipes(draw, *, spelled_out: bool = False):
    """A valid recipe as plain values; keys that have a default may be absent."""
    members, depth = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    train = draw(st.none() | st.integers(1, 60_000))
    dataset = draw(st.sampled_from(sorted(IMAGES)))
    optimizer = {"kind": draw(st.sampled_from(sorted(OPTIMIZERS))), "lr": draw(positive)}
    batch = st.integers(1, train or 100)
    if optimizer["kind"] != "gd":
        optimizer |= {"batch_size": draw(batch), "sampling": draw(st.sampled_from(["shuffled", "with-replacement"]))}
    if optimizer["kind"] == "weight-norm" and draw(st.booleans()):
        optimizer["batch_size"] = None
    init, start = draw(st.sampled_from([("equal-norms", "rho_k"), ("he", "scale")]))

    def each(values):
        return draw(st.none() | st.lists(values, min_size=members, max_size=members))

    widths = st.lists(st.integers(1, 9), min_size=depth - 1, max_size=depth - 1) if depth > 1 else st.integers(1, 9)
    kinds = {
        "mlp": {"depth": depth, "width": draw(st.integers(1, 512) | widths)},
        "conv": {
            "channels": draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)),
            "stride": draw(st.integers(1, 3)),
        },
        "residual": {"depth": depth + 2, "width": draw(st.integers(1, 512))},
        "residual-conv": {"channels": draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))},
        "shared": {"depth": depth + 2, "width": draw(st.integers(1, 512))},
    }
    assert set(kinds) == set(NETWORKS) - {"module"}  # which needs a file; see test_trusted_code.py
    kind = draw(st.sampled_from(sorted(kinds)))
    network = {"kind": kind, **kinds[kind]}
    content = {
        "claim": draw(words),
        "data": {
            "dataset": dataset,
            "classes": draw(classes(dataset)),
            "train": train,
            "test": draw(st.none() | st.integers(1, 10_000)),
            "balanced": draw(st.booleans()),
            "label_noise": draw(st.just(0) | st.floats(0, 0.99)),
            "unit_norm": draw(st.booleans()),
            "seed": draw(seed),
            "noise_seed": draw(seed),
            "root": draw(st.none() | st.sampled_from(["data", "1e3", "/a b/ü", "~", "null", "007"])),
        },
        "network": {**network, "dtype": draw(st.sampled_from(["float32", "float64"]))},
        "init": {"kind": init, start: draw(positive)},
        "optimizer": optimizer,
        "members": {
            "seeds": draw(st.just(members) | st.lists(seed, min_size=members, max_size=members)),
            "batch_seeds": each(seed),
            "lr": each(positive),
            start: each(positive),
        },
        "steps": draw(st.integers(1, 10**9)),
        "record": {
            "full_every": draw(st.integers(1, 50)),
            "test_every": draw(st.integers(1, 10**6)),
            "snapshots": draw(st.integers(0, 1000)),
        },
    }
    return content if spelled_out else drop_defaults(draw, content)


def drop_defaults(draw, content: dict[str, Any]) -> dict[str, Any]:
    """The same recipe with some keys left out whose value is the default's."""
    kept = Recipe.model_validate(content)

    def thin(values: dict[str, Any], section: Any) -> dict[str, Any]:
        fields = type(section).model_fields
        return {
            key: thin(value, getattr(section, key)) if isinstance(value, dict) else value
            for key, value in values.items()
            if key in {"kind", "dataset"}  # which choose the component
            or fields[key].is_required()
            or getattr(section, key) != fields[key].default
            or draw(st.booleans())
        }

    return thin(content, kept)


def leaves(content: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Paths of all values of a recipe; a list is one value."""
    if not isinstance(content, dict):
        return [path]
    return [leaf for key, value in content.items() for leaf in leaves(value, (*path, key))]


def others(value: Any) -> list[Any]:
    """Values near another one, each different from it; which of them are valid depends on the key."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    if isinstance(value, float):
        return [math.nextafter(value, math.inf), math.nextafter(value, 0)]
    if isinstance(value, list):
        return [[*value[:-1], other] for other in others(value[-1])] + [value[::-1]]
    known = [*IMAGES, "float32", "float64", "shuffled", "with-replacement", "all", [0, 1]]
    return [other for other in (*known, 1, 7, [3]) if other != value]


def neighbours(read: Recipe, path: tuple[str, ...], more: tuple[object, ...] = ()) -> list[Recipe]:
    """The valid recipes that differ from one in the value at a place alone."""
    found = []
    *sections, key = path
    content = json.loads(json.dumps(read.model_dump()))  # as run files keep it
    assert Recipe.model_validate(content) == read
    place = content
    for name in sections:
        place = place[name]
    for other in (*others(place[key]), *more):
        place[key] = other
        try:
            found.append(Recipe.model_validate(content))
        except ValueError:
            continue
    return [recipe for recipe in found if recipe != read]


WITHOUT_CONSEQUENCE = {("claim",), ("data", "root")}


def test_a_valid_recipe_round_trips_and_its_digest_tells_it_from_its_neighbours():
    met = Counter()

    @settings(QUIET, max_examples=500)
    @given(recipes(), st.data())
    def check(content, data):
        read = parse(strict_yaml.write(content))
        assert read == Recipe.model_validate(content)
        again = parse(read.to_yaml())
        assert again == read
        assert again.digest == read.digest
        assert all(len(values) == len(read.seeds) for values in read.per_member.values())
        met.update([read.data.dataset, read.optimizer.kind, read.init.kind, read.network.kind, "recipes"])
        path = data.draw(st.sampled_from([path for path in leaves(read.model_dump()) if path[-1] != "kind"]))
        for other in neighbours(read, path):
            assert (other.digest == read.digest) == (path in WITHOUT_CONSEQUENCE), path
            met["neighbours"] += 1

    check()
    assert met["recipes"] >= 500
    assert met["neighbours"] >= 500
    kinds = {*IMAGES, *OPTIMIZERS, *INITIALISERS, *NETWORKS} - {"module"}
    assert all(met[kind] >= 50 for kind in kinds), met


def test_every_value_of_a_recipe_decides_but_its_claim_and_the_place_of_the_data(small):
    read = parse(small, ["optimizer={kind: sgd, lr: 0.05, batch_size: 7}", "members.seeds=[3, 1, 2]"])
    scaled = parse(small, ["init={kind: he}", "members.scale=[1.0, 2.0, 3.0]"])
    changed = parse(
        small,
        [
            "optimizer={kind: sgd, lr: 0.05, batch_size: 7}",
            "members={seeds: 3, momentum: [0.0, 0.1, 0.2]}",
        ],
    )
    decides = {}
    normalised = parse(small, ["network={kind: mlp, depth: 3, width: 8, batch_norm: true}"])
    slower = parse(small, ["optimizer={kind: weight-norm, lr: 0.05}", "members={seeds: 3, v_scale: [1.0, 2.0, 3.0]}"])
    for recipe in (read, scaled, changed, normalised, slower):
        for path in (path for path in leaves(recipe.model_dump()) if path[-1] != "kind"):
            found = neighbours(recipe, path, ([5, 6, 7], [1.5, 2.5, 3.5], [0.1, 0.2, 0.3], {"crop": 1}, "x"))
            decides[path] = decides.get(path, False) or any(other.digest != recipe.digest for other in found)
    assert {path for path, does in decides.items() if not does} == WITHOUT_CONSEQUENCE


# --- anything at all ---------------------------------------------------------------------------------------


def met_with(text: str, overrides: list[str] | None = None) -> str:
    """How a text is met: a recipe, or one or two lines that begin with the place and can be printed."""
    try:
        parse(text, overrides, where="r.yaml")
    except RecipeError as error:
        message = str(error)
        assert 1 <= len(message.split("\n")) <= 2, message
        assert message.startswith("r.yaml" if overrides is None else ("r.yaml", "--set")), message
        assert message.replace("\n", "").isprintable(), message
        assert len(message) < 1000
        return "refused"
    return "valid"


ODD = [
    *"\0\t\n\r\x1b\x7f\x85\xa0\u00ad\u200b\u200e\u200f\u2028\u2029\u202e\u2066\ufeff\ufffe\uffff\ud800\udfff",
    "👩‍👩‍👧",
    "e\u0301",
]
SNIPPETS = [
    *(
        "&a ",
        "*a",
        "!!int ",
        "!!python/object/apply:os.system [ls]",
        "!<x> ",
        "<<: ",
        "? ",
        "- ",
        "---\n",
        "...\n",
        "%YAML 1.1\n",
    ),
    *(
        ".nan",
        ".inf",
        "-.inf",
        "1e999",
        "-0.0",
        "9" * 31,
        "9" * 5000,
        "0x1F",
        "0o7",
        "1_000",
        "1:30",
        "2020-01-01",
        "=",
        "~",
    ),
    *(
        "{",
        "}",
        "[",
        "]",
        "[" * 30,
        "{a: " * 30,
        ": ",
        ", ",
        "'",
        '"',
        "|\n",
        ">\n",
        "#",
        "@",
        "`",
        "%",
        "\\",
        "\\x1b",
        "\\ud83d",
    ),
    *(
        "null",
        "true",
        "yes",
        "[]",
        "{}",
        "[[[]]]",
        "{a: 1, a: 2}",
        "kind: gd",
        "steps: 3\n",
        "data: {}\n",
        "\n\n",
        "  ",
        "seeds: 3",
    ),
    *ODD,
]
text_like = st.lists(st.sampled_from(SNIPPETS) | st.text(max_size=5), max_size=12).map("".join)


@st.composite
def spoiled(draw):
    """A recipe's text with a few things put in, taken out, doubled or changed about."""
    text = draw(st.sampled_from([SMALL, parse(SMALL).to_yaml()]))
    for _ in range(draw(st.integers(1, 3))):
        at, end = sorted(draw(st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))))
        lines = text.splitlines(keepends=True) or [""]
        number = at % len(lines)
        text = draw(
            st.sampled_from(
                [
                    text[:at] + draw(st.sampled_from(SNIPPETS)) + text[at:],
                    text[:at] + draw(st.sampled_from(SNIPPETS)) + text[at + 1 :],
                    text[:at] + text[min(end, at + 9) :],
                    "".join([*lines[: number + 1], *lines[number:]]),
                    "".join([*lines[:number], *lines[number + 1 :]]),
                    text.replace(": ", ": " + draw(st.sampled_from(SNIPPETS)), 1),
                ]
            )
        )
    return text


def test_a_spoiled_recipe_is_read_or_refused_in_words_that_can_be_printed():
    met = Counter()

    @settings(QUIET, max_examples=300)
    @given(spoiled())
    def check(text):
        met[met_with(text)] += 1

    check()
    assert met["refused"] >= 150
    assert met["valid"] >= 10


@settings(QUIET, max_examples=300)
@given(st.text() | text_like)
def test_any_text_is_refused_in_words_that_can_be_printed(text):
    met_with(text)


odd_text = st.text(max_size=8) | st.sampled_from(ODD) | st.lists(st.sampled_from(ODD), max_size=3).map("".join)
scalars = st.none() | st.booleans() | st.integers() | st.integers(-(10**40), 10**40) | st.floats() | odd_text
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(odd_text | st.integers() | st.none(), inner, max_size=3)
    ),
    max_leaves=6,
)
PLACES = leaves(parse(SMALL).model_dump())
PLACES += [
    *sorted({path[:1] for path in PLACES}),
    ("steps", "x"),
    ("optimizer", "impetus"),
    ("members", "lr"),
    ("nonsense",),
]


def set_at(content: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    for key in path[:-1]:
        content = content.setdefault(key, {}) if isinstance(content.get(key, {}), dict) else content
    content[path[-1]] = value


def test_any_value_anywhere_is_taken_or_refused_in_words_that_can_be_printed():
    met = Counter()

    @settings(QUIET, max_examples=300)
    @given(st.lists(st.tuples(st.sampled_from(PLACES), anything), min_size=1, max_size=3))
    def check(changes):
        content = parse(SMALL).model_dump()
        for path, value in changes:
            set_at(content, path, value)
        met[met_with(strict_yaml.write(content))] += 1

    check()
    assert met["refused"] >= 200
    assert met["valid"] >= 1


@settings(QUIET, max_examples=300)
@given(st.sampled_from([".".join(path) for path in PLACES]), text_like | anything.map(repr))
def test_any_override_is_taken_or_refused_in_words_that_can_be_printed(key, value):
    met_with(SMALL, [f"{key}={value}"])
    met_with("steps: 3\n", [value])


LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(9 * [f'*{a}'])}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
HEAVY = {  # ten megabytes, most of them, and what of it is refused
    "brackets": ("a: " + "[" * 10_000_000, "nested more than"),
    "braces": ("{a: " * 2_500_000, "nested more than"),
    "dashes": ("- " * 5_000_000, "nested more than"),
    "questions": ("? " * 5_000_000, "nested more than"),
    "numbers": ("a: [" + "1," * 5_000_000 + "]", "more than 20000 keys, values and brackets"),
    "keys": ("".join(f"k{number}: 1\n" for number in range(1_000_000)), "more than 20000 keys, values and brackets"),
    "laughs": (LAUGHS, "got an anchor, alias or tag"),
}


@pytest.mark.parametrize("case", HEAVY)
def test_megabytes_of_mischief_are_refused_before_their_end_is_read(case):
    text, refused = HEAVY[case]
    with pytest.raises(RecipeError, match=refused):  # and not as the text that ends with no YAML
        parse(f"{text}\n]}}")


def test_a_process_refuses_a_billion_laughs_in_little_memory(tmp_path):
    (tmp_path / "laughs.yaml").write_text(LAUGHS)
    code, out, err = measured("recipe", "check", "laughs.yaml", folder=tmp_path)
    assert (code, out) == (2, "")
    assert err == "error: laughs.yaml:1: got an anchor, alias or tag, expected plain YAML; write the value out\n"
