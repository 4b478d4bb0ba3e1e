"""What a layout may contain in a file of unknown origin: names, counts and sizes within bounds."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Literal

from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator


def _ascending(steps: list[int]) -> list[int]:
    if any(b <= a for a, b in pairwise(steps)):
        raise ValueError("not ascending")
    return steps


def _identifier(name: str) -> str:
    if not name.isidentifier() or not name.isascii():
        raise ValueError("not a name for a dataset")
    return name


def _distinct(names: Iterable[str]) -> None:
    listed = list(names)
    if len(set(listed)) != len(listed):
        raise ValueError("a name occurs twice")


Count = Annotated[int, Ge(1), Le(10**9 + 1)]
Name = Annotated[str, MinLen(1), MaxLen(100), AfterValidator(_identifier)]
Words = Annotated[str, MaxLen(1000)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class _StoredBlock(_Strict):
    name: Name
    shape: Annotated[tuple[Count, ...], MinLen(1), MaxLen(8)]
    role: Literal["weight", "scale", "shift", "buffer"]
    degree: float | None
    start: float


class _StoredQuantity(_Strict):
    name: Name
    symbol: Words
    axes: Annotated[tuple[Name, ...], MinLen(1), MaxLen(6)]
    units: Words
    equation: Words | None
    cadence: Name
    says: Words


class _StoredFacts(_Strict):
    loss: Words
    equilibrium: bool
    optimizer: Words
    law: Words | None
    minibatches: bool


class _StoredList(_Strict):
    size: Count
    says: Words


class StoredLayout(_Strict):
    """The attribute ``layout`` of a run file."""

    steps: Count
    blocks: Annotated[list[_StoredBlock], MinLen(1), MaxLen(10_000)]
    strides: dict[Name, Count]
    snapshots: Annotated[list[Annotated[int, Ge(0), Le(10**9)]], AfterValidator(_ascending)]
    quantities: Annotated[list[_StoredQuantity], MinLen(1), MaxLen(1000)]
    axes: dict[Name, Annotated[list[float], MaxLen(100_000)]]
    state: dict[Name, list[tuple[Count, ...]]]
    per_member: dict[Name, Words]
    facts: _StoredFacts
    lists: Annotated[dict[Name, _StoredList], MaxLen(100)] = {}
    open_ended: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> StoredLayout:
        _distinct(block.name for block in self.blocks)
        own = ["step", "member", "layer", "seed", "batch_seed", *self.per_member]
        _distinct([*(quantity.name for quantity in self.quantities), *self.axes, *self.lists, *own])
        known = {"member", "layer", *self.axes}
        odd = [q.name for q in self.quantities if q.cadence not in self.strides or not set(q.axes) <= known]
        if not any(q.cadence == "step" for q in self.quantities):
            raise ValueError("nothing is recorded at every step")
        if odd or "step" not in self.strides or self.snapshots[-1:] > [self.steps]:
            raise ValueError("contradicts itself")
        if not any(block.role == "weight" for block in self.blocks):
            raise ValueError("no weights")
        return self


class _Steps(_Strict):
    it: Count


class _Strides(_Strict):
    it: dict[Literal["free", "forward", "test"], Count]


class _Snapshots(_Strict):
    it: Annotated[list[Annotated[int, Ge(0), Le(10**9)]], AfterValidator(_ascending)]


class _Shapes(_Strict):
    it: Annotated[list[tuple[Count, Count]], MinLen(1)]


class _State(_Strict):
    it: dict[Name, list[tuple[Count, ...]]]


FORMAT2_CHECKS: dict[str, type[_Strict]] = {
    "planned_steps": _Steps,
    "strides": _Strides,
    "planned_snapshots": _Snapshots,
    "layer_shapes": _Shapes,
    "state_shapes": _State,
}
