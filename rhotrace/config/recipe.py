"""A run as a YAML file: read strictly, validated against the components' own signatures, kept with the run."""

from __future__ import annotations

import difflib
import hashlib
import inspect
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from annotated_types import Ge, Gt, Le, MinLen
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from rhotrace.config import strict_yaml
from rhotrace.errors import DataError, RecipeError, nearest_file
from rhotrace.models import datasets
from rhotrace.models.networks import INITS, NETWORKS
from rhotrace.models.optimizers import OPTIMIZERS

MAX_BYTES = 1_000_000


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def _options(component: Callable[..., Any], *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """A component's keyword-only parameters as pydantic fields: its signature is its schema."""
    parameters = inspect.signature(component, eval_str=True).parameters.values()
    return {
        p.name: (p.annotation, p.default if p.default is not p.empty else ...)
        for p in parameters
        if p.kind is p.KEYWORD_ONLY and p.name not in without
    }


def _one_of(registry: Mapping[str, Callable[..., Any]], title: str, **shared: Any) -> Any:  # noqa: ANN401 - a type
    """A union of sections, one per registered component, told apart by ``kind``."""
    models: list[Any] = []
    for kind, component in registry.items():
        fields: dict[str, Any] = {"kind": (Literal[kind], ...), **shared, **_options(component)}
        models.append(create_model(f"{title}: {kind}", __base__=_Section, **fields))
    union = models[0]
    for model in models[1:]:
        union |= model
    return Annotated[union, Field(discriminator="kind")] if len(models) > 1 else union


DataSection: Any = create_model("data", __base__=_Section, **_options(datasets.load, without=("dtype",)))
Positive = Annotated[float, Gt(0)]
Seed = Annotated[int, Ge(0), Field(lt=2**63)]


class Members(_Section):
    """The networks trained side by side; each list has one entry per member."""

    seeds: Annotated[int, Ge(1), Field(le=100_000)] | Annotated[list[Seed], MinLen(1)] = Field(
        default=1, description="seed of each member's weights and batches; a number n means 0 to n-1"
    )
    batch_seeds: list[Seed] | None = Field(
        default=None, description="seed of each member's batches, where not the same"
    )
    rho_k: list[Annotated[float, Ge(1e-12), Le(1e12)]] | None = Field(
        default=None, description="initial layer norm of each member"
    )
    scale: list[Positive] | None = Field(default=None, description="He factor of each member")
    lr: list[Positive] | None = Field(default=None, description="learning rate of each member")


class Record(_Section):
    """How often the quantities that cost something are evaluated, in steps."""

    full_every: Annotated[int, Ge(1)] = Field(
        default=1, description="full training set under minibatches; every step by default"
    )
    test_every: Annotated[int, Ge(1)] = Field(default=100, description="test set")
    snapshots: Annotated[int, Ge(0), Field(le=1000)] = Field(default=12, description="log-spaced copies of all weights")


NetworkSection: Any = _one_of(NETWORKS, "network", dtype=(Literal["float32", "float64"], "float32"))
InitSection: Any = _one_of(INITS, "init")
OptimizerSection: Any = _one_of(OPTIMIZERS, "optimizer", lr=(Positive, ...))


class Recipe(_Section):
    """A validated recipe; every component's options are those of its function's signature."""

    claim: str = Field(default="", description="what the run shows and what to expect")
    data: DataSection
    network: NetworkSection
    init: InitSection
    optimizer: OptimizerSection
    members: Members = Members()
    steps: Annotated[int, Ge(1), Field(le=10**9)]
    record: Record = Record()

    @property
    def seeds(self) -> list[int]:
        """Seed of each member's weights, length M."""
        seeds = self.members.seeds
        return list(range(seeds)) if isinstance(seeds, int) else seeds

    @property
    def batch_seeds(self) -> list[int]:
        """Seed of each member's minibatches, length M."""
        return self.members.batch_seeds or self.seeds

    @property
    def lr(self) -> list[float]:
        """Learning rate of each member, length M."""
        return self.members.lr or [self.optimizer.lr] * len(self.seeds)

    @property
    def init_options(self) -> list[dict[str, float]]:
        """Keyword arguments of the initialiser for each member, length M."""
        base = options(self.init)
        name = next(iter(base))
        return [{**base, name: value} for value in getattr(self.members, name) or [base[name]] * len(self.seeds)]

    @property
    def per_member(self) -> dict[str, NDArray[Any]]:
        """What may differ between members, arrays of length M: seeds, learning rates and initial scales."""
        starts = {f"init_{name}": [how[name] for how in self.init_options] for name in self.init_options[0]}
        seeds = {"seed": self.seeds, "batch_seed": self.batch_seeds}
        return {
            **{name: np.array(values, dtype=np.int64) for name, values in seeds.items()},
            **{name: np.array(values) for name, values in {"lr": self.lr, **starts}.items()},
        }

    @property
    def digest(self) -> str:
        """SHA-256 of everything that decides the numbers (the claim's wording and the data's place do not)."""
        content = self.model_dump(exclude={"claim": True, "data": {"root"}})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_yaml(self) -> str:
        """The resolved recipe, every default spelled out."""
        return strict_yaml.write(self.model_dump())

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        members = len(self.seeds)
        for name in ("batch_seeds", "rho_k", "scale", "lr"):
            values = getattr(self.members, name)
            if values is not None and len(values) != members:
                raise _fault(
                    f"members.{name}",
                    f"got {len(values)} values, expected one for each of the {members} seeds",
                )
            if values is not None and name in ("rho_k", "scale") and name not in type(self.init).model_fields:
                raise _fault(
                    f"members.{name}",
                    f"init.kind {self.init.kind} has no {name}; remove the list or change init.kind",
                )
        if isinstance(self.network.width, list) and len(self.network.width) != self.network.depth - 1:
            raise _fault(
                "network.width",
                f"got {len(self.network.width)} widths, expected depth - 1 = {self.network.depth - 1}",
            )
        try:
            datasets.class_groups(self.data.dataset, self.data.classes)
        except DataError as error:
            raise _fault(*str(error).split(": ", 1)) from None
        batch = getattr(self.optimizer, "batch_size", None)
        if batch is not None and self.data.train is not None and batch > self.data.train:
            raise _fault("optimizer.batch_size", f"got {batch}, expected at most data.train = {self.data.train}")
        return self


def _fault(path: str, message: str) -> ValueError:
    return ValueError(f"{path}: {message}")


def options(section: BaseModel, *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """A section's values as the keyword arguments of its component."""
    return section.model_dump(exclude={"kind", *without})


def load(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Reads a recipe file and applies ``a.b=c`` overrides.

    Raises:
        RecipeError: the file cannot be read, is not plain YAML, or does not validate; the message
            has the file, the line and the path of the key.
    """
    try:
        size = path.stat().st_size
        text = path.read_text(encoding="utf-8") if size <= MAX_BYTES else ""
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe{_suggest_file(path)}") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise RecipeError(f"{path}: cannot be read as a recipe ({problem})") from None
    if size > MAX_BYTES:
        raise RecipeError(f"{path}: got {size} bytes, expected a recipe of at most {MAX_BYTES}")
    return parse(text, overrides, where=str(path))


def parse(text: str, overrides: list[str] | None = None, *, where: str = "recipe") -> Recipe:
    """A recipe from its text; ``where`` begins every error message. See ``load``."""
    content, lines = strict_yaml.read(text, where)
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise RecipeError(
            f"{where}: got {type(content).__name__}, expected a mapping with the keys {', '.join(Recipe.model_fields)}"
        )
    for override in overrides or []:
        changed = _override(content, override)
        lines = {path: line for path, line in lines.items() if path[: len(changed)] != changed}
        lines.update(
            {changed[:n]: 0 for n in range(1, len(changed) + 1) if n == len(changed) or changed[:n] not in lines}
        )
    try:
        return Recipe.model_validate(content)
    except ValidationError as invalid:
        errors = invalid.errors()
        faults = {_own_path(error, content)[:2] for error in errors}
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        worst = min(errors, key=lambda error: _rank(error, content))
        raise RecipeError(_explain(worst, content, lines, where) + more) from None


def _suggest_file(path: Path) -> str:
    if near := nearest_file(path, "*.y*ml"):
        return f"; did you mean {near}?"
    return (
        ""
        if path.suffix
        else f"; `rhotrace recipe list` shows those that can be copied, as `rhotrace recipe copy {path.name}`"
    )


def differences(first: Any, second: Any, path: str = "") -> dict[str, tuple[Any, Any]]:  # noqa: ANN401 - recipe values
    """Keys at which two resolved recipes differ, with both values; the claim's wording is no difference."""
    if isinstance(first, dict) and isinstance(second, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for key in dict.fromkeys([*first, *second]):
            if path or key != "claim":
                found.update(differences(first.get(key), second.get(key), f"{path}.{key}" if path else key))
        return found
    return {} if first == second else {path: (first, second)}


def _override(content: dict[str, Any], override: str) -> tuple[str, ...]:
    """Sets one key from the command line; returns its path."""
    path, equals, value = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise RecipeError(f"--set: got {_short(override)}, expected key.path=value, such as optimizer.lr=0.05")
    where = f"--set {strict_yaml.dotted((path,))}"
    place: Any = content
    for key in keys[:-1]:
        place = place.setdefault(key, {}) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        raise RecipeError(f"{where}: {strict_yaml.dotted((path.rpartition('.')[0],))} holds a value, not a section")
    place[keys[-1]] = strict_yaml.read(value, where)[0] if value.strip() else None
    return tuple(keys)


# --- messages ----------------------------------------------------------------------------------------------


def _rank(error: Any, content: Any) -> tuple[bool, int, bool]:  # noqa: ANN401 - pydantic's error, untyped here
    """The error to show first: a misspelt key, then the deepest, then one about a value rather than its type.

    pydantic reports every branch of a union; the branch that was meant is the one that got furthest.
    """
    kind = error["type"]
    mismatch = kind.endswith("_type") or kind in {"literal_error", "int_parsing", "int_from_float"}
    return kind != "extra_forbidden", -len(_own_path(error, content)), mismatch


def _explain(error: Any, content: Any, lines: strict_yaml.Lines, where: str) -> str:  # noqa: ANN401 - pydantic's error, untyped here
    """One line for one fault: file, line, key, what was got, what was expected."""
    path = _own_path(error, content)
    got = error.get("input")
    if error["type"] == "value_error":  # ours, with its own path
        named, _, message = str(error["ctx"]["error"]).partition(": ")
        path = tuple(named.split("."))
    elif error["type"] == "extra_forbidden":
        known = _known_keys(path[:-1], content)
        near = difflib.get_close_matches(str(path[-1]), known, 1, 0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
        message = f"unknown key; {hint}"
    elif error["type"] == "missing":
        message = "missing; it has no default"
    elif error["type"].startswith("union_tag"):
        path = (*path, "kind")
        expected = error["ctx"].get("expected_tags", "the known kinds")
        section = got if isinstance(got, dict) else {}
        message = (
            f"got {_short(section['kind'])}, expected one of {expected}"
            if "kind" in section
            else "missing; it chooses the component"
        )
    else:
        message = f"got {_short(got)}, {_expectation(error['msg'])}"
    line = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), None)
    if line == 0:
        where, line = f"{where}, --set", None
    place = f"{where}:{line}" if line else where
    return f"{place}: {strict_yaml.dotted(path)}: {message}"


def _short(value: Any) -> str:  # noqa: ANN401 - anything YAML holds
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _expectation(message: str) -> str:
    if "valid dictionary" in message:
        return "expected a section, a mapping of keys to values"
    return re.sub(r"^(Input|Value) should (be )?", "expected ", message)


def _own_path(error: Any, content: Any) -> tuple[str | int, ...]:  # noqa: ANN401 - pydantic's error, as read
    """pydantic's location without the names of union branches, which are not keys of the file."""
    path: list[str | int] = []
    place = content
    loc = error["loc"]
    for number, part in enumerate(loc):
        absent = error["type"] == "missing" and number == len(loc) - 1
        if absent or (isinstance(place, dict) and part in place):
            path.append(part)
            place = place.get(part) if isinstance(place, dict) else None
        elif isinstance(place, list) and isinstance(part, int) and part < len(place):
            path.append(part)
            place = place[part]
    return tuple(path)


def _known_keys(path: tuple[str | int, ...], content: Any) -> list[str]:  # noqa: ANN401 - as read
    model: Any = Recipe
    place = content
    for part in path:
        annotation = model.model_fields[part].annotation
        place = place[part]
        kinds = [m for m in get_args(annotation) if isinstance(m, type) and issubclass(m, BaseModel)] or [annotation]
        model = next(
            (
                m
                for m in kinds
                if len(kinds) == 1 or get_args(m.model_fields["kind"].annotation) == (place.get("kind"),)
            ),
            kinds[0],
        )
    return list(model.model_fields)
