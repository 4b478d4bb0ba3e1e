"""A sweep as a YAML file: a recipe, axes over its keys, seeds; and the runs, of many members each, that cover them.

Points that differ only in options that members of one run may differ in (initial scale, learning rate, seed) become
members of one run, trained side by side; other points become separate runs.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from rhotrace.config import recipe as recipes
from rhotrace.config import strict_yaml
from rhotrace.config.recipe import Recipe
from rhotrace.errors import RecipeError
from rhotrace.models.component import per_member
from rhotrace.models.initial_weights import INITIALISERS
from rhotrace.models.optimizers import OPTIMIZERS

KEYS = ("claim", "recipe", "set", "axes", "seeds")
MOST_POINTS = 100_000
MOST_NETWORKS = 1_000_000
MOST_MEMBERS = 4000  # of one run, so that its recipe stays readable, and little is lost with it


def member_keys() -> dict[str, TypeAdapter[list[Any]]]:
    """Keys of a recipe that may differ between members of one run, with the type of a list of their values."""
    found: dict[str, TypeAdapter[list[Any]]] = {}
    strict = ConfigDict(strict=True, allow_inf_nan=False)
    for registry in (INITIALISERS, OPTIMIZERS):
        for component in registry.values():
            for name in per_member(component):
                field = component.model_fields[name]
                own: Any = field.annotation
                values = TypeAdapter[list[Any]](list[Annotated[(own, *field.metadata)]], config=strict)
                found.setdefault(f"{registry.section}.{name}", values)
    return found


@dataclass(frozen=True)
class Sweep:
    """What a sweep file asks for.

    Attributes:
        path: of the sweep file.
        recipe: path of the recipe to vary.
        base: overrides for every point, as ``key=value``.
        axes: keys that vary, in order.
        points: value of each key, for each point.
        seeds: of the weights, for every point.
        digest: SHA-256 of everything that decides the points.
        trust_code: whether the Python files that the recipe names may run.
    """

    path: Path
    recipe: Path
    base: tuple[str, ...]
    axes: tuple[str, ...]
    points: tuple[dict[str, Any], ...]
    seeds: tuple[int, ...]
    digest: str
    trust_code: bool = False


@dataclass(frozen=True)
class Run:
    """One training of a sweep: its file's name, its recipe, its group, and the point that each member belongs to."""

    name: str
    recipe: Recipe
    group: str
    points: tuple[int, ...]


def read(path: Path, overrides: Sequence[str] = (), *, trust_code: bool = False) -> Sweep:
    """Reads a sweep file.

    Args:
        path: of the file; the recipe it names is found beside it.
        overrides: for the recipe of every point, as ``key=value``; they win over the file's own ``set``.
        trust_code: run the Python files that the recipe names.

    Raises:
        RecipeError: the file cannot be read, or is not a sweep; the message has the file and the key.
    """
    try:
        text = strict_yaml.read_file(path, "sweep")
    except FileNotFoundError as problem:
        raise RecipeError(f"{path}: cannot be read as a sweep ({problem})") from None
    where = str(path)
    content, lines = strict_yaml.read(text, where)

    def refuse(message: str, *key: str) -> RecipeError:
        line = next((lines[key[:n]] for n in range(len(key), 0, -1) if key[:n] in lines), None)
        place = f"{where}:{line}" if line else where
        return RecipeError(f"{place}: {strict_yaml.dotted(key)}: {message}" if key else f"{place}: {message}")

    if not isinstance(content, dict):
        raise refuse(f"got {type(content).__name__}, expected a mapping with the keys {', '.join(KEYS)}")
    for key in content:
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, 1, 0.5)
            raise refuse(f"unknown key; {f'did you mean {near[0]!r}?' if near else 'expected ' + ', '.join(KEYS)}", key)
    given = content.get("recipe")
    if not isinstance(given, str) or "\0" in given:
        raise refuse(f"got {given!r}, expected the path of a recipe, from this file", "recipe")
    if not (path.parent / given).is_file():
        try:
            recipes.load(path.parent / given)
        except RecipeError as missing:
            raise refuse(str(missing), "recipe") from None
    axes, points = _points(content.get("axes"), refuse)
    fixed = _fixed(content.get("set", {}), overrides, axes, refuse)
    seeds = _seeds(content.get("seeds", 1), len(points), refuse)
    decides = json.dumps([content["recipe"], fixed, points, seeds], sort_keys=True)
    return Sweep(
        path=path,
        recipe=path.parent / content["recipe"],
        base=fixed,
        axes=axes,
        points=tuple(points),
        seeds=seeds,
        digest=hashlib.sha256(decides.encode()).hexdigest(),
        trust_code=trust_code,
    )


def override(key: str, value: Any) -> str:  # noqa: ANN401 - any recipe value
    """``key=value`` as ``recipe.load`` takes it; JSON is YAML."""
    return f"{key}={json.dumps(value)}"


def _fixed(
    base: object, overrides: Sequence[str], axes: Sequence[str], refuse: Callable[..., RecipeError]
) -> tuple[str, ...]:
    """Overrides for every point; none may change what the sweep itself sets."""
    if not isinstance(base, dict):
        raise refuse(f"got {base!r}, expected keys of the recipe with their values", "set")
    for key in base:
        if _clashes(str(key), axes):
            raise refuse(
                f"{key} is set by the sweep: it is an axis, or belongs to members, which come from the axes and `seeds`",
                "set",
                key,
            )
    for text in overrides:
        if _clashes(text.partition("=")[0].strip(), axes):
            raise RecipeError(f"--set: got {text}, but the sweep sets that from its own axes and seeds")
    return (*(override(str(key), value) for key, value in base.items()), *overrides)


def _clashes(key: str, axes: Sequence[str]) -> bool:
    """Whether a key is an axis or part of one, so that its value would be lost, or belongs to the members."""
    return any(f"{key}.".startswith(f"{axis}.") for axis in axes) or key.partition(".")[0] == "members"


def _seeds(given: Any, points: int, refuse: Callable[..., RecipeError]) -> tuple[int, ...]:  # noqa: ANN401 - as read
    count = given if isinstance(given, int) else len(given) if isinstance(given, list) else 0
    if count * points > MOST_NETWORKS:
        raise refuse(f"got {count} seeds of {points} points, expected at most {MOST_NETWORKS} networks", "seeds")
    seeds = list(range(given)) if isinstance(given, int) and not isinstance(given, bool) else given
    good = isinstance(seeds, list) and all(isinstance(s, int) and not isinstance(s, bool) and s >= 0 for s in seeds)
    if not good or not seeds:
        raise refuse(f"got {given!r}, expected a number of seeds, or a list of them", "seeds")
    if len(set(seeds)) < len(seeds):
        raise refuse("got a seed twice; the same network would be trained twice", "seeds")
    return tuple(seeds)


def _points(given: Any, refuse: Callable[..., RecipeError]) -> tuple[tuple[str, ...], list[dict[str, Any]]]:  # noqa: ANN401 - as read
    """The keys that vary, and every point: the product of all grids and zips."""
    if not isinstance(given, list) or not given:
        raise refuse(f"got {given!r}, expected a list of `grid` and `zip` entries", "axes")
    factors = [factor for number, entry in enumerate(given) for factor in _factors(entry, refuse, "axes", number)]
    axes = [key for factor in factors for key in factor[0]]
    for number, key in enumerate(axes):
        others = axes[:number] + axes[number + 1 :]
        if key in others:
            raise refuse(f"{key} is there twice, expected each key once", "axes")
        if key.partition(".")[0] == "members":
            raise refuse(f"got {key}; members come from the axes and `seeds`", "axes")
        if key not in member_keys() and _clashes(key, others):  # member keys are set last
            raise refuse(
                f"{key} is part of another axis, which replaces it; expected keys of which none contains another",
                "axes",
            )
    size = np.prod([len(factor) for factor in factors], dtype=float)
    if size > MOST_POINTS:
        raise refuse(f"got {size:.0f} points, expected at most {MOST_POINTS}", "axes")
    points = [{k: v for part in parts for k, v in part.items()} for parts in itertools.product(*factors)]
    if len({json.dumps(point, sort_keys=True) for point in points}) < len(points):
        raise refuse("a point is there twice; remove repeated values", "axes")
    return tuple(axes), points


def _factors(entry: Any, refuse: Callable[..., RecipeError], *place: str | int) -> list[list[dict[str, Any]]]:  # noqa: ANN401 - as read
    """The values of one ``grid``, a factor for each key, or of one ``zip``, a single factor."""
    if not isinstance(entry, dict) or len(entry) != 1 or next(iter(entry)) not in {"grid", "zip"}:
        raise refuse(f"got {entry!r}, expected one of grid: and zip:, with keys of the recipe below it", *place)
    kind, keys = next(iter(entry.items()))
    if not isinstance(keys, dict) or not keys:
        raise refuse(f"got {keys!r}, expected keys of the recipe with their values", *place, kind)
    for key in keys:
        if not re.fullmatch(r"[a-z_0-9]+(\.[a-z_0-9]+)*", str(key)) or key in {"claim", "data.root"}:
            raise refuse(
                f"got {key!r}, expected a key of the recipe that affects its numbers, such as init.rho_k", *place, kind
            )
    values = {key: _values(value, refuse, *place, kind, key) for key, value in keys.items()}
    for key, values_of in member_keys().items():
        try:
            if key in values:
                values[key] = values_of.validate_python(values[key])
        except ValidationError as invalid:
            fault = invalid.errors()[0]
            expected = re.sub(r"^Input should (be )?", "", fault["msg"])
            raise refuse(f"got {fault['input']!r} in {keys[key]!r}, expected {expected}", *place, kind, key) from None
    if kind == "grid":
        return [[{key: value} for value in each] for key, each in values.items()]
    lengths = {key: len(each) for key, each in values.items()}
    if len(set(lengths.values())) > 1:
        raise refuse(f"got lists of lengths {lengths}, expected equally long ones", *place, kind)
    return [[dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]]


def _is_number(value: Any) -> bool:  # noqa: ANN401 - as read
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300  # and not NaN


def _values(given: Any, refuse: Callable[..., RecipeError], *place: str | int) -> list[Any]:  # noqa: ANN401 - as read
    """A list unchanged, or a range: ``{from: 0.5, to: 4, points: 6, spacing: log}``."""
    if isinstance(given, list) and given:
        return given
    if isinstance(given, dict) and {"from", "to", "points"} <= set(given) <= {"from", "to", "points", "spacing"}:
        ends, count, spacing = (given["from"], given["to"]), given["points"], given.get("spacing", "log")
        whole = isinstance(count, int) and not isinstance(count, bool) and 2 <= count <= MOST_POINTS
        good = all(map(_is_number, ends)) and whole and spacing in ("log", "linear")
        if good and (spacing == "linear" or min(ends) > 0):
            return _range(*ends, count, spacing)
    raise refuse(
        f"got {given!r}, expected a list, or {{from: 0.5, to: 4, points: 6, spacing: log}} (or linear)", *place
    )


def _range(first: float, last: float, count: int, spacing: str) -> list[Any]:
    """Values to six digits, with the ends unchanged; integers where all of them are whole numbers."""
    steps = np.linspace if spacing == "linear" else np.geomspace
    between = [float(f"{value:.6g}") for value in steps(float(first), float(last), count)[1:-1]]
    values = [first, *between, last]
    if isinstance(first, int) and isinstance(last, int) and all(float(v).is_integer() for v in values):
        return [int(v) for v in values]
    return [float(v) for v in values]


# --- runs --------------------------------------------------------------------------------------------------


def static_groups(sweep: Sweep) -> list[tuple[dict[str, Any], list[int]]]:
    """The values that must be equal within a run, with the numbers of the points that have them."""
    groups: dict[str, tuple[dict[str, Any], list[int]]] = {}
    of_members = member_keys()
    for number, point in enumerate(sweep.points):
        static = {key: value for key, value in point.items() if key not in of_members}
        groups.setdefault(group_key(static), (static, []))[1].append(number)
    return list(groups.values())


def runs(sweep: Sweep, most: Callable[[Recipe], int], sizes: Mapping[str, int] | None = None) -> list[Run]:
    """The trainings of a sweep, in order of its points.

    Args:
        sweep: what to cover.
        most: largest number of members that one run of a recipe may have.
        sizes: members per run that a group had before, by ``group_key``; these are kept.

    Raises:
        RecipeError: a point's recipe is not valid.
    """
    found: list[Run] = []
    for static, numbers in static_groups(sweep):
        members = [(number, seed) for number in numbers for seed in sweep.seeds]
        size = (sizes or {}).get(group_key(static), 0)
        if not size:
            largest = max(1, min(most(_run(sweep, static, members[:1]).recipe), MOST_MEMBERS))
            chunks = -(-len(members) // largest)
            size = -(-len(members) // chunks)  # of equal size, so that none takes longer
        found += [_run(sweep, static, members[start : start + size]) for start in range(0, len(members), size)]
    return found


def group_key(static: Mapping[str, Any]) -> str:
    """The name of a group of points in the index."""
    return json.dumps(static, sort_keys=True)


def _run(sweep: Sweep, static: Mapping[str, Any], members: Sequence[tuple[int, int]]) -> Run:
    content: dict[str, Any] = {"seeds": [seed for _, seed in members]}
    of_members = member_keys()
    for key in of_members:
        if key in sweep.axes:
            content[key.rpartition(".")[2]] = [sweep.points[number][key] for number, _ in members]
    # A section that an axis replaces is set before the keys in it.
    values = {**static, **{k: v for k, v in sweep.points[members[0][0]].items() if k in of_members}}
    overrides = [override(key, value) for key, value in values.items()]
    try:
        every = [*sweep.base, *overrides, override("members", content)]
        recipe = recipes.load(sweep.recipe, every, trust_code=sweep.trust_code)
    except RecipeError as fault:
        at = f" at {', '.join(overrides)}" if overrides else ""
        raise RecipeError(f"{sweep.path}{at}: {fault}") from None
    words = [re.sub(r"[^A-Za-z0-9.]+", "-", f"{k.rpartition('.')[2]} {v}").strip("-")[:24] for k, v in static.items()]
    name = "_".join([*words[:4], recipe.digest[:12]])
    return Run(f"{name}.h5", recipe, group_key(static), tuple(number for number, _ in members))
