"""A sweep as a YAML file: a recipe, axes over its keys, seeds; and the runs, of many members each, that cover them.

Points that differ only in what members of one run may differ in (initial scale, learning rate, seed) become members of
one run, trained side by side; the others become runs of their own.
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
from typing import Any

import numpy as np

from rhotrace import recipe as recipes
from rhotrace import strict_yaml
from rhotrace.errors import RecipeError
from rhotrace.recipe import Recipe

KEYS = ("claim", "recipe", "set", "axes", "seeds")
MEMBER_KEYS = {"init.rho_k": "rho_k", "init.scale": "scale", "optimizer.lr": "lr"}
MOST_POINTS = 100_000
MOST_MEMBERS = 4000  # of one run: its recipe stays readable, and a lost run is not a lost day


@dataclass(frozen=True)
class Sweep:
    """What a sweep file asks for.

    Attributes:
        path: of the sweep file.
        recipe: path of the recipe that is varied.
        base: overrides for every point, as ``key=value``.
        axes: keys that vary, in order.
        points: value of each key, for each point.
        seeds: of the weights, for every point.
        digest: SHA-256 of what decides the points.
    """

    path: Path
    recipe: Path
    base: tuple[str, ...]
    axes: tuple[str, ...]
    points: tuple[dict[str, Any], ...]
    seeds: tuple[int, ...]
    digest: str


@dataclass(frozen=True)
class Run:
    """One training of a sweep: its file's name, its recipe, and the point that each member belongs to."""

    name: str
    recipe: Recipe
    points: tuple[int, ...]


def read(path: Path, overrides: Sequence[str] = ()) -> Sweep:
    """Reads a sweep file.

    Args:
        path: of the file; the recipe it names is found beside it.
        overrides: for the recipe of every point, as ``key=value``; they win over the file's own ``set``.

    Raises:
        RecipeError: the file cannot be read, or is no sweep; the message has the file and the key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
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
    if not isinstance(content.get("recipe"), str):
        raise refuse(f"got {content.get('recipe')!r}, expected the path of a recipe", "recipe")
    base = content.get("set") or {}
    if not isinstance(base, dict):
        raise refuse(f"got {base!r}, expected keys of the recipe with their values", "set")
    axes, points = _points(content.get("axes"), refuse)
    seeds = _seeds(content.get("seeds", 1), refuse)
    fixed = (*(override(key, value) for key, value in base.items()), *overrides)
    decides = json.dumps([content["recipe"], fixed, points, seeds], sort_keys=True)
    return Sweep(
        path=path,
        recipe=path.parent / content["recipe"],
        base=fixed,
        axes=axes,
        points=tuple(points),
        seeds=seeds,
        digest=hashlib.sha256(decides.encode()).hexdigest(),
    )


def override(key: str, value: Any) -> str:  # noqa: ANN401 - any recipe value
    """``key=value`` as ``recipe.load`` takes it; JSON is YAML."""
    return f"{key}={json.dumps(value)}"


def _seeds(given: Any, refuse: Callable[..., RecipeError]) -> tuple[int, ...]:  # noqa: ANN401 - as read
    seeds = list(range(given)) if isinstance(given, int) and not isinstance(given, bool) else given
    good = isinstance(seeds, list) and all(isinstance(s, int) and not isinstance(s, bool) and s >= 0 for s in seeds)
    if not good or not seeds:
        raise refuse(f"got {given!r}, expected a number of seeds, or a list of them", "seeds")
    if len(set(seeds)) < len(seeds):
        raise refuse("got a seed twice; the same network would be trained twice", "seeds")
    return tuple(seeds)


def _points(given: Any, refuse: Callable[..., RecipeError]) -> tuple[tuple[str, ...], list[dict[str, Any]]]:  # noqa: ANN401 - as read
    """Keys that vary, and every point: the product of all grids and zips."""
    if not isinstance(given, list) or not given:
        raise refuse(f"got {given!r}, expected a list of `grid` and `zip` entries", "axes")
    factors = [factor for number, entry in enumerate(given) for factor in _factors(entry, refuse, "axes", str(number))]
    axes = [key for factor in factors for key in factor[0]]
    for key in axes:
        if axes.count(key) > 1:
            raise refuse(f"{key} stands twice, expected each key once", "axes")
        if key.partition(".")[0] == "members":
            raise refuse(f"got {key}; members are made from the axes and from `seeds`", "axes")
    size = np.prod([len(factor) for factor in factors], dtype=float)
    if size > MOST_POINTS:
        raise refuse(f"got {size:.0f} points, expected at most {MOST_POINTS}", "axes")
    points = [{k: v for part in parts for k, v in part.items()} for parts in itertools.product(*factors)]
    if len({json.dumps(point, sort_keys=True) for point in points}) < len(points):
        raise refuse("a point stands twice; remove repeated values", "axes")
    return tuple(axes), points


def _factors(entry: Any, refuse: Callable[..., RecipeError], *place: str) -> list[list[dict[str, Any]]]:  # noqa: ANN401 - as read
    """The values of one ``grid``, a factor for each key, or of one ``zip``, a single factor."""
    if not isinstance(entry, dict) or len(entry) != 1 or next(iter(entry)) not in {"grid", "zip"}:
        raise refuse(f"got {entry!r}, expected one of grid: and zip:, with keys of the recipe below it", *place)
    kind, keys = next(iter(entry.items()))
    if not isinstance(keys, dict) or not keys:
        raise refuse(f"got {keys!r}, expected keys of the recipe with their values", *place, kind)
    values = {key: _values(value, refuse, *place, kind, key) for key, value in keys.items()}
    if kind == "grid":
        return [[{key: value} for value in each] for key, each in values.items()]
    lengths = {key: len(each) for key, each in values.items()}
    if len(set(lengths.values())) > 1:
        raise refuse(f"got lists of lengths {lengths}, expected equally long ones", *place, kind)
    return [[dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]]


def _values(given: Any, refuse: Callable[..., RecipeError], *place: str) -> list[Any]:  # noqa: ANN401 - as read
    """A list as it is, or a range: ``{from: 0.5, to: 4, points: 6, spacing: log}``."""
    if isinstance(given, list) and given:
        return given
    if isinstance(given, dict) and {"from", "to", "points"} <= set(given) <= {"from", "to", "points", "spacing"}:
        first, last, count, spacing = given["from"], given["to"], given["points"], given.get("spacing", "log")
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (first, last))
        if numbers and isinstance(count, int) and 2 <= count <= MOST_POINTS and spacing in {"log", "linear"}:
            if spacing == "linear":
                return [float(f"{v:.6g}") for v in np.linspace(first, last, count)]
            if first > 0 and last > 0:
                return [float(f"{v:.6g}") for v in np.geomspace(first, last, count)]
    raise refuse(
        f"got {given!r}, expected a list, or {{from: 0.5, to: 4, points: 6, spacing: log}} (or linear)", *place
    )


# --- runs --------------------------------------------------------------------------------------------------


def static_groups(sweep: Sweep) -> list[tuple[dict[str, Any], list[int]]]:
    """What must be equal within a run, with the numbers of the points that have it."""
    groups: dict[str, tuple[dict[str, Any], list[int]]] = {}
    for number, point in enumerate(sweep.points):
        static = {key: value for key, value in point.items() if key not in MEMBER_KEYS}
        groups.setdefault(json.dumps(static), (static, []))[1].append(number)
    return list(groups.values())


def resolved(sweep: Sweep, static: Mapping[str, Any]) -> Recipe:
    """The recipe of a group, with the sweep's seeds and without what its members differ in.

    Raises:
        RecipeError: the recipe and the overrides do not make a valid one.
    """
    varied = [override("members", {"seeds": list(sweep.seeds)})]
    return recipes.load(sweep.recipe, [*sweep.base, *(override(k, v) for k, v in static.items()), *varied])


def runs(sweep: Sweep, most: Callable[[Recipe], int]) -> list[Run]:
    """The trainings of a sweep, in order of its points.

    Args:
        sweep: what to cover.
        most: largest number of members that one run of a recipe may have.

    Raises:
        RecipeError: a point's recipe is not valid.
    """
    found: list[Run] = []
    for static, numbers in static_groups(sweep):
        members = [(number, seed) for number in numbers for seed in sweep.seeds]
        size = max(1, min(most(resolved(sweep, static)), MOST_MEMBERS))
        chunks = -(-len(members) // size)
        even = -(-len(members) // chunks)  # equally long, so that none lags behind
        found += [_run(sweep, static, members[start : start + even]) for start in range(0, len(members), even)]
    return found


def _run(sweep: Sweep, static: Mapping[str, Any], members: Sequence[tuple[int, int]]) -> Run:
    content: dict[str, Any] = {"seeds": [seed for _, seed in members]}
    for key, name in MEMBER_KEYS.items():
        if key in sweep.axes:
            content[name] = [float(sweep.points[number][key]) for number, _ in members]
    first = {key: value for key, value in sweep.points[members[0][0]].items() if key in MEMBER_KEYS}
    overrides = [override(k, v) for k, v in {**first, **static}.items()]
    recipe = recipes.load(sweep.recipe, [*sweep.base, *overrides, override("members", content)])
    words = [re.sub(r"[^A-Za-z0-9.]+", "-", f"{k.rpartition('.')[2]} {v}").strip("-") for k, v in static.items()]
    name = "_".join([*words[:4], recipe.digest[:8]])[:100]
    return Run(f"{name}.h5", recipe, tuple(number for number, _ in members))
