"""Explains a validation error of a recipe in one line: file, line, key, what was got, what was expected."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel

from rhotrace.config import strict_yaml


def rank(error: Any, content: Any) -> tuple[bool, int, bool]:  # noqa: ANN401 - pydantic's error, untyped here
    """Sort key that puts the error to show first: a misspelt key, then the deepest, then a value rather than a type.

    pydantic reports every branch of a union; the branch that was meant is the one whose error is deepest.
    """
    kind = error["type"]
    mismatch = kind.endswith("_type") or kind in {"literal_error", "int_parsing", "int_from_float"}
    return kind != "extra_forbidden", -len(own_path(error, content)), mismatch


def explain(error: Any, model: type[BaseModel], content: Any, lines: strict_yaml.Lines, where: str) -> str:  # noqa: ANN401 - pydantic's error, untyped here
    """One error of pydantic in one line: file, line, key, what was got, what was expected."""
    path = own_path(error, content)
    got = error.get("input")
    if error["type"] == "value_error":  # from our own validators, which name the field
        named, _, message = str(error["ctx"]["error"]).partition(": ")
        path = (*path, *named.split("."))
    elif error["type"] == "extra_forbidden":
        known = _known_keys(model, path[:-1], content)
        near = difflib.get_close_matches(str(path[-1]), known, 1, 0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
        message = f"unknown key; {hint}"
    elif error["type"] == "missing":
        message = "missing; it has no default"
    elif error["type"].startswith("union_tag"):
        tag = error["ctx"]["discriminator"].strip("'")
        path = (*path, tag)
        expected = error["ctx"].get("expected_tags", "the known kinds")
        section = got if isinstance(got, dict) else {}
        message = (
            f"got {short(section[tag])}, expected one of {expected}"
            if tag in section
            else "missing; it chooses the component"
        )
    else:
        message = f"got {short(got)}, {_expectation(error['msg'])}"
    line = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), None)
    if line == 0:
        where, line = f"{where}, --set", None
    place = f"{where}:{line}" if line else where
    return f"{place}: {strict_yaml.dotted(path)}: {message}"


def short(value: Any) -> str:  # noqa: ANN401 - anything YAML holds
    """The ``repr`` of a value, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _expectation(message: str) -> str:
    if "valid dictionary" in message:
        return "expected a section, a mapping of keys to values"
    return re.sub(r"^(Input|Value) should (be )?", "expected ", message)


def own_path(error: Any, content: Any) -> tuple[str | int, ...]:  # noqa: ANN401 - pydantic's error, as read
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


def _known_keys(model: Any, path: tuple[str | int, ...], content: Any) -> list[str]:  # noqa: ANN401 - as read
    place = content
    for part in path:
        place = place[part]
        if isinstance(part, int):  # the entries of a list are of one type
            continue
        field = model.model_fields[part]
        kinds, tag = list(_models(field.annotation)), field.discriminator
        model = next(
            (m for m in kinds if tag is None or get_args(m.model_fields[tag].annotation) == (place.get(tag),)),
            kinds[0],
        )
    return [field.alias or name for name, field in model.model_fields.items()]


def _models(annotation: Any) -> Iterator[Any]:  # noqa: ANN401 - a type, or a union or list of some
    """The sections that a type allows."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)
