"""Components of a recipe: frozen, validated options with the code that they choose, and the registries that list them.

A component is one class: its fields are the keys of its section in a recipe, with their types, ranges, defaults
and descriptions; its methods do the work. To add one, define it and decorate it with its registry's ``register``;
recipes, their JSON Schema, error messages and sweeps include it from then on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic_core import PydanticUndefined


class Component(BaseModel):
    """Options of one section of a recipe; unknown keys, wrong types and numbers that are not finite are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class PerMember:
    """Marks a field that may differ between members: ``lr: Annotated[float, PerMember("learning rate")]``.

    A recipe lists its values under ``members.<field>``; a run file has them in a dataset of that name.

    Attributes:
        says: what it is, for the schema and for labels.
        symbol: in tables and figures; the field's name if empty.
        off: the value at which the option does nothing, or None. A run in which all members have it off takes the steps
            of one without the option, and its file has no such dataset.
    """

    says: str
    symbol: str = ""
    off: float | None = None


C = TypeVar("C", bound=Component)


class Registry(Generic[C], Mapping[str, type[C]]):
    """The components of one section by name, in the order of their registration.

    Args:
        section: of the recipe.
        tag: key of the section whose value names the component.
    """

    def __init__(self, section: str, tag: str = "kind") -> None:
        self.section, self.tag = section, tag
        self._components: dict[str, type[C]] = {}

    def register(self, component: type[C]) -> type[C]:
        """Adds a component under the value of its tag; a class decorator.

        Raises:
            TypeError: its tag has no default, which would be its name.
            ValueError: another component has the name.
        """
        field = component.model_fields.get(self.tag)
        if field is None or field.default is PydanticUndefined:
            raise TypeError(
                f"{component.__name__}: expected a field {self.tag}: Literal[NAME] = NAME, which names it in {self.section}"
            )
        name = str(field.default)
        if self._components.get(name, component) is not component:
            raise ValueError(f"{self.section}.{self.tag}: {name!r} is taken by {self._components[name].__qualname__}")
        self._components[name] = component
        return component

    def unregister(self, name: str) -> None:
        """Removes a component that a user's file or a test registered."""
        del self._components[name]

    def __getitem__(self, name: str) -> type[C]:
        return self._components[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._components)

    def __len__(self) -> int:
        return len(self._components)

    def union(self) -> Any:  # noqa: ANN401 - a type
        """The type of the section: a union of the components, discriminated by the tag."""
        types = list(self._components.values())
        if len(types) > 1:
            return Annotated[reduce(or_, types), Field(discriminator=self.tag)]
        only, field = types[0], types[0].model_fields[self.tag]
        named: dict[str, Any] = {self.tag: (field.annotation, ...)}  # a single component is named in a recipe too
        return create_model(only.__name__, __base__=only, **named)


def per_member(component: type[Component]) -> dict[str, PerMember]:
    """The fields of a component that may differ between members, with their marks."""
    marked = {
        name: next((m for m in field.metadata if isinstance(m, PerMember)), None)
        for name, field in component.model_fields.items()
    }
    return {name: mark for name, mark in marked.items() if mark}


def fault(field: str, message: str) -> ValueError:
    """The error for a component's validator to raise; the user then sees the field's full path in the recipe."""
    return ValueError(f"{field}: {message}")
