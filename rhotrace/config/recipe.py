"""A recipe: one run described in YAML, read strictly, validated by its components, and saved with the run."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, MinLen
from numpy.typing import NDArray
from pydantic import Field, ModelWrapValidatorHandler, SerializeAsAny, ValidationError, create_model, model_validator

from rhotrace.config import faults, strict_yaml, trusted_code
from rhotrace.errors import RecipeError, nearest_file
from rhotrace.models.component import Component, Registry, fault, per_member
from rhotrace.models.datasets import DATASETS, Dataset, Samples
from rhotrace.models.initial_weights import INITIALISERS, AsBuilt, Initialiser
from rhotrace.models.losses import LOSSES, Loss, Square
from rhotrace.models.network import NetworkOptions
from rhotrace.models.networks import NETWORKS
from rhotrace.models.optimizers import OPTIMIZERS, Optimizer
from rhotrace.recording import shipped
from rhotrace.recording.quantity import CADENCES, Cadence

_REGISTERS = shipped.REGISTERED  # imported for what they register
NEVER = "never"  # of a cadence that costs much: the quantities are not recorded

_MOST_MEMBERS = 100_000

Every = Annotated[int, Ge(1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Seed = Annotated[int, Ge(0), Field(lt=2**63)]


class MemberLists(Component):
    """Values for members, by key.

    ``schema`` adds a list for each option that a component marks as ``PerMember``.
    """

    seeds: Annotated[int, Ge(1), Field(le=_MOST_MEMBERS)] | Annotated[list[Seed], MinLen(1)] = Field(
        default=1, description="seed of each member's weights and batches; a number n means 0 to n-1"
    )
    batch_seeds: list[Seed] | None = Field(
        default=None, description="seed of each member's batches, where it differs from that of the weights"
    )


class Members(MemberLists):
    """The networks trained side by side; each list has one entry per member.

    Attributes:
        grid: lists whose every combination is a member, the last key varying fastest; or several such grids, one after
            the other. The resolved recipe has every member written out, and is the recipe that was written so.
    """

    grid: MemberLists | Annotated[list[MemberLists], MinLen(1)] | None = Field(
        default=None,
        exclude_if=lambda grid: grid is None,
        description="lists whose every combination is a member, or a list of such grids",
    )

    @model_validator(mode="wrap")
    @classmethod
    def _spelled_out(cls, content: Any, handler: ModelWrapValidatorHandler[Members]) -> Members:  # noqa: ANN401 - as read
        read = handler(content)
        if read.grid is None:
            return read
        if beside := [name for name in content if name != "grid"]:
            raise fault(beside[0], "got a key beside members.grid; move it into the grid, or remove the grid")
        one = isinstance(read.grid, MemberLists)
        written, grids = ([content["grid"]], [read.grid]) if one else (content["grid"], read.grid)
        lists: dict[str, list[Any]] = {name: [] for name in ("seeds", *written[0])}
        for number, (keys, grid) in enumerate(zip(written, grids, strict=True)):
            place = "grid" if one else f"grid.{number}"
            if set(keys) != set(written[0]):
                raise fault(place, f"got the keys {', '.join(keys)}, expected {', '.join(written[0])} in each grid")
            for name, values in _combinations({name: getattr(grid, name) for name in keys}, place).items():
                lists[name] += values
        return handler(lists)


def _combinations(axes: Mapping[str, Any], place: str) -> dict[str, list[Any]]:
    """Every combination of the axes of a grid: a list of equal length for each."""
    lists = {name: list(range(axis)) if isinstance(axis, int) else axis for name, axis in axes.items()}
    lists.setdefault("seeds", [0])
    if empty := next((name for name, values in lists.items() if not values), None):
        raise fault(f"{place}.{empty}", f"got {lists[empty]}, expected at least one value")
    members = math.prod(len(values) for values in lists.values())
    if members > _MOST_MEMBERS:
        raise fault(place, f"got {members} members, expected at most {_MOST_MEMBERS}")
    return {name: list(own) for name, own in zip(lists, zip(*product(*lists.values()), strict=True), strict=True)}


class Record(Component):
    """Steps between evaluations of the quantities that need extra work, and the number of snapshots."""

    full_every: Every = Field(default=1, description="full training set under minibatches; every step by default")
    test_every: Every = Field(default=100, description="test set")
    snapshots: Annotated[int, Ge(0), Field(le=1000)] = Field(
        default=12, description="log-spaced snapshots of all weights"
    )


class Recipe(Component):
    """A validated recipe; the options of each section are the fields of the component that it chooses.

    Attributes:
        claim: what the run shows and what to expect.
        code: files of the user's own, with the SHA-256 of each; see ``trusted_code``.
        data: the dataset.
        network: see ``models.network``.
        loss: see ``models.losses``.
        init: see ``models.initial_weights``.
        optimizer: see ``models.optimizers``.
        members: the networks trained side by side.
        steps: number of training steps.
        record: how often each kind of quantity is recorded.
    """

    claim: str = Field(default="", description="what the run shows and what to expect")
    code: list[str] | dict[str, Sha256] = Field(
        default={},
        description="Python files, relative to the recipe, that register components and quantities of your own",
        exclude_if=lambda files: not files,  # the digest of a recipe without any is that of versions before the key
    )
    data: SerializeAsAny[Samples]
    network: SerializeAsAny[NetworkOptions]
    loss: SerializeAsAny[Loss] = Square()
    init: SerializeAsAny[Initialiser]
    optimizer: SerializeAsAny[Optimizer]
    members: Members = Members()
    steps: Annotated[int, Ge(1), Field(le=10**9)]
    record: Record = Record()

    @classmethod
    def model_validate(cls, obj: Any, **how: Any) -> Recipe:  # noqa: ANN401 - as pydantic's
        """A recipe, validated by the components that are registered now; see ``schema``."""
        return schema().model_validate(obj, **how) if cls is Recipe else super().model_validate(obj, **how)

    @classmethod
    def model_json_schema(cls, *how: Any, **named: Any) -> dict[str, Any]:  # noqa: ANN401 - as pydantic's
        """The JSON Schema of recipes, with the components that are registered now."""
        return schema().model_json_schema(*how, **named) if cls is Recipe else super().model_json_schema(*how, **named)

    @property
    def seeds(self) -> list[int]:
        """Seed of each member's weights, length M."""
        seeds = self.members.seeds
        return list(range(seeds)) if isinstance(seeds, int) else seeds

    @property
    def batch_seeds(self) -> list[int]:
        """Seed of each member's minibatches, length M."""
        return self.members.batch_seeds or self.seeds

    def each(self, section: Component) -> dict[str, list[Any]]:
        """The options of a section that may differ between members: a value for each member, by name."""
        members = len(self.seeds)
        return {
            name: getattr(self.members, name, None) or [getattr(section, name)] * members
            for name in per_member(type(section))
        }

    def switched_on(self, section: Component) -> dict[str, list[Any]]:
        """As ``each``, without the options that all members have off."""
        marks = per_member(type(section))
        return {
            name: values
            for name, values in self.each(section).items()
            if marks[name].off is None or any(value != marks[name].off for value in values)
        }

    @property
    def trained_by(self) -> Optimizer:
        """The optimizer with every option on that a member has on: its largest value among the members."""
        marks = per_member(type(self.optimizer))
        on = {n: max(values) for n, values in self.switched_on(self.optimizer).items() if marks[n].off is not None}
        return self.optimizer.model_copy(update=on)

    def load_data(self, dtype: str | None = None) -> Dataset:
        """The dataset, with each row in the order that the network reads.

        Args:
            dtype: floating-point type; that of the network by default.

        Raises:
            DataError: see ``Samples.load``.
        """
        loaded = self.data.load(dtype or self.network.dtype)
        return loaded.in_order() if self.network.reads_images else loaded

    @property
    def lr(self) -> list[float]:
        """Learning rate of each member, length M."""
        return self.each(self.optimizer)["lr"]

    @property
    def initialisers(self) -> list[Initialiser]:
        """The initialiser of each member, length M."""
        options = self.each(self.init)
        return [
            self.init.model_copy(update={name: values[m] for name, values in options.items()})
            for m in range(len(self.seeds))
        ]

    @property
    def per_member(self) -> dict[str, NDArray[Any]]:
        """All that may differ between members, as arrays of length M: seeds, and options of optimizer and initialiser."""
        return per_member_of(self.model_dump(), self.per_member_symbols)

    @property
    def per_member_symbols(self) -> dict[str, str]:
        """Symbol of each array of ``per_member``, except the seeds, in tables and figures."""
        sections: tuple[tuple[Component, str], ...] = ((self.optimizer, ""), (self.init, "init_"))
        return {
            f"{prefix}{name}": per_member(type(section))[name].symbol or name
            for section, prefix in sections
            for name in self.switched_on(section)
        }

    def stride(self, cadence: Cadence) -> int | None:
        """Steps between the evaluations of a cadence, from 1 to ``steps``; None where the recipe asks for none."""
        if cadence.name == "step" or (cadence.name == "full" and self.optimizer.minibatches is None):
            return 1
        there = self.record if cadence.name in _OWN_KEYS else getattr(self.record, "every", None)
        every = getattr(there, _OWN_KEYS.get(cadence.name, cadence.name), cadence.default)
        return None if every in (None, NEVER) else min(int(every), self.steps)

    @property
    def digest(self) -> str:
        """SHA-256 of everything that affects the numbers; see ``digest_of``."""
        return digest_of(self.model_dump())

    def to_yaml(self) -> str:
        """The resolved recipe as YAML, with every default written out."""
        return strict_yaml.write(self.model_dump())

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        members = len(self.seeds)
        chosen = {*per_member(type(self.init)), *per_member(type(self.optimizer)), "batch_seeds"}
        for name in type(self.members).model_fields:
            values = getattr(self.members, name)
            if name in ("seeds", "grid") or values is None:
                continue
            if len(values) != members:
                raise fault(
                    f"members.{name}",
                    f"got {len(values)} values, expected one for each of the {members} seeds; "
                    "for every combination, give the lists in members.grid",
                )
            if name not in chosen:
                section = "init" if any(name in per_member(c) for c in INITIALISERS.values()) else "optimizer"
                kind = getattr(self, section).kind
                raise fault(
                    f"members.{name}",
                    f"{section}.kind {kind} has no {name}; remove the list or change {section}.kind",
                )
        if isinstance(self.init, AsBuilt) and not self.network.starts_itself:
            raise fault(
                "init.kind", f"got module, but network.kind {self.network.kind} has no initialisation of its own"
            )
        batch = self.optimizer.minibatches
        if batch is None and self.data.augmentation is not None:
            raise fault(
                "data.augment",
                f"optimizer.kind {self.optimizer.kind} has no minibatches here to augment; remove it, or use minibatches",
            )
        size, least = batch.size if batch else self.data.train, self.network.smallest_batch
        if size is not None and size < least:
            where = "optimizer.batch_size" if batch else "data.train"
            raise fault(where, f"got {size}, expected at least {least}: network.batch_norm normalises over the batch")
        if batch is not None and self.data.train is not None and batch.size > self.data.train:
            raise fault("optimizer.batch_size", f"got {batch.size}, expected at most data.train = {self.data.train}")
        return self


def digest_of(content: Mapping[str, Any]) -> str:
    """SHA-256 of a resolved recipe without its claim and the folder of the data, which affect no number."""
    kept = {key: value for key, value in content.items() if key != "claim"}
    kept["data"] = {key: value for key, value in dict(content["data"]).items() if key != "root"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def per_member_of(content: Mapping[str, Any], names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """``Recipe.per_member`` from the plain content of a resolved recipe; its components need not be registered.

    Args:
        content: the resolved recipe, as a run file stores it.
        names: of the arrays other than the seeds: an option of the optimizer, or ``init_`` and one of the initialiser.
    """
    members = content["members"]
    seeds = list(range(members["seeds"])) if isinstance(members["seeds"], int) else members["seeds"]
    found = {
        name: np.array(values, dtype=np.int64)
        for name, values in {"seed": seeds, "batch_seed": members["batch_seeds"] or seeds}.items()
    }
    for name in names:
        section = content["init" if name.startswith("init_") else "optimizer"]
        option = name.removeprefix("init_")
        found[name] = np.array(members.get(option) or [section[option]] * len(seeds))
    return found


_OWN_KEYS = {"full": "full_every", "test": "test_every"}  # cadences whose key is directly under ``record``


def schema() -> type[Recipe]:
    """The type of recipes with the components, quantities and cadences that are registered now."""
    registries: tuple[Registry[Any], ...] = (DATASETS, NETWORKS, LOSSES, INITIALISERS, OPTIMIZERS)
    return _schema(tuple(tuple(registry.items()) for registry in registries), tuple(CADENCES.values()))


@cache
def _schema(
    components: tuple[tuple[tuple[str, type[Component]], ...], ...], cadences: tuple[Cadence, ...]
) -> type[Recipe]:
    del components  # the key of the cache: it says what the registries below contain
    lists = {
        name: (list[annotation] | None, Field(default=None, description=f"{says} of each member"))  # type: ignore[valid-type]
        for name, (annotation, says) in _per_member_fields().items()
    }
    strides: dict[str, Any] = {
        cadence.name: (
            (Every, Field(default=cadence.default, description=cadence.says))
            if cadence.default
            else (Every | Literal["never"], Field(default=NEVER, description=cadence.says, exclude_if=_is_never))
        )
        for cadence in cadences
        if cadence.name not in {"step", *_OWN_KEYS}
    }
    grid: Any = create_model("grid", __base__=MemberLists, **lists)  # type: ignore[call-overload]
    crossed = (grid | Annotated[list[grid], MinLen(1)] | None, Members.model_fields["grid"])
    members: Any = create_model("members", __base__=Members, grid=crossed, **lists)  # type: ignore[call-overload]
    record: Any = Record
    if strides:
        every: Any = create_model("every", __base__=Component, **strides)
        # What is never recorded is not written either: the digest of a recipe is that of versions which knew less.
        record = create_model("record", __base__=Record, every=(every, Field(default=every(), exclude_if=_is_empty)))
    return create_model(
        "Recipe",
        __base__=Recipe,
        __doc__=Recipe.__doc__,
        data=(DATASETS.union(), ...),
        network=(NETWORKS.union(), ...),
        loss=(LOSSES.union(), Square()),
        init=(INITIALISERS.union(), ...),
        optimizer=(OPTIMIZERS.union(), ...),
        members=(members, members()),
        record=(record, record()),
    )


def _is_never(value: Any) -> bool:  # noqa: ANN401 - pydantic's
    return bool(value == NEVER)


def _is_empty(section: Component) -> bool:
    return not section.model_dump()


def _per_member_fields() -> dict[str, tuple[Any, str]]:
    """Type and description of every option that may differ between members, by name.

    Raises:
        TypeError: two components have such an option of the same name, with different types or in different sections.
    """
    found: dict[str, tuple[Any, str]] = {}
    homes: dict[str, str] = {}
    for registry in (INITIALISERS, OPTIMIZERS):
        for component in registry.values():
            for name, mark in per_member(component).items():
                field = component.model_fields[name]
                limits = [limit for limit in field.metadata if limit is not mark]
                own: Any = field.annotation
                annotation: Any = Annotated[(own, *limits)] if limits else own
                if (
                    homes.setdefault(name, registry.section) != registry.section
                    or found.get(name, (annotation,))[0] != annotation
                ):
                    raise TypeError(
                        f"{component.__name__}.{name}: another component has a per-member option {name} of another type"
                    )
                found.setdefault(name, (annotation, mark.says))
    return found


def load(path: Path, overrides: list[str] | None = None, *, trust_code: bool = False) -> Recipe:
    """Reads a recipe file and applies ``a.b=c`` overrides.

    Args:
        path: of the recipe.
        overrides: as ``key=value``.
        trust_code: run the Python files that the recipe names, which have all the rights of the user.

    Raises:
        RecipeError: the file cannot be read, is not plain YAML, does not validate, or names code that is not trusted;
            the message gives the file, the line and the path of the key.
    """
    try:
        text = strict_yaml.read_file(path, "recipe")
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe{_suggest_file(path)}") from None
    return parse(text, overrides, where=str(path), folder=path.parent, trust_code=trust_code)


def parse(
    text: str,
    overrides: list[str] | None = None,
    *,
    where: str = "recipe",
    folder: Path = Path(),
    trust_code: bool = False,
) -> Recipe:
    """A recipe from its text; ``where`` begins every error message, and code is in ``folder``. See ``load``."""
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

    def refuse(message: str, *key: str) -> RecipeError:
        line = next((lines[key[:n]] for n in range(len(key), 0, -1) if key[:n] in lines), None)
        place = f"{where}, --set" if line == 0 else f"{where}:{line}" if line else where
        return RecipeError(f"{place}: {strict_yaml.dotted(key)}: {message}")

    content = trusted_code.resolve(content, folder, refuse, trust=trust_code)
    try:
        return Recipe.model_validate(content)
    except ValidationError as invalid:
        errors = invalid.errors()
        found = {faults.own_path(error, content)[:2] for error in errors}
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        worst = min(errors, key=lambda error: faults.rank(error, content))
        raise RecipeError(faults.explain(worst, schema(), content, lines, where) + more) from None


def code_files(path: Path, overrides: Iterable[str] = ()) -> list[str]:
    """The Python files that a recipe names, as it writes them, relative to its folder; none is run."""
    content, _ = strict_yaml.read(strict_yaml.read_file(path, "recipe"), str(path))
    for override in overrides:
        _override(content, override)
    return list(trusted_code.named(content))


def _suggest_file(path: Path) -> str:
    if near := nearest_file(path, "*.y*ml"):
        return f"; did you mean {near}?"
    return (
        ""
        if path.suffix
        else f"; `rhotrace recipe list` shows the shipped recipes, and `rhotrace recipe copy {path.name}` copies the one of this name"
    )


def differences(first: Any, second: Any, path: str = "") -> dict[str, tuple[Any, Any]]:  # noqa: ANN401 - recipe values
    """Keys at which two resolved recipes differ, with both values; the claim is ignored."""
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
        raise RecipeError(f"--set: got {faults.short(override)}, expected key.path=value, such as optimizer.lr=0.05")
    where = f"--set {strict_yaml.dotted((path,))}"
    place: Any = content
    for key in keys[:-1]:
        place = place.setdefault(key, {}) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        raise RecipeError(f"{where}: {strict_yaml.dotted((path.rpartition('.')[0],))} is a value, not a section")
    place[keys[-1]] = strict_yaml.read(value, where)[0] if value.strip() else None
    return tuple(keys)
