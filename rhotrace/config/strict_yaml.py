"""YAML read strictly: 1.2 numbers, no repeated keys, anchors, aliases or tags, and the line of every key."""

from __future__ import annotations

import io
import re
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from rhotrace.errors import RecipeError

MAX_BYTES = 1_000_000
MAX_NESTING = 20
MAX_VALUES = 20_000


class _Loader(yaml.SafeLoader):
    """YAML 1.2 numbers: ``1e-3`` is a number, ``yes`` is text and ``010`` is ten, unlike in YAML 1.1."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|false|True|False", "tfTF"),
    ("null", r"null|~|", ["n", "~", ""]),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))


class _Dumper(yaml.SafeDumper):
    """Quotes text that ``_Loader`` would read as something else."""


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def _text(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    # Without double quotes, Unicode's own line breaks would be folded when they are read again.
    style = '"' if any(mark in value for mark in "\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style)


_Dumper.add_representer(str, _text)


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _int(loader: _Loader, node: yaml.ScalarNode) -> int:
    if len(node.value) > 30:
        raise yaml.constructor.ConstructorError(
            None, None, f"a whole number of {len(node.value)} digits", node.start_mark
        )
    return int(str(loader.construct_scalar(node)), 10)


_Loader.add_constructor("tag:yaml.org,2002:int", _int)


class _Parsed(_Loader):
    """Composes the content from events that have been parsed already: parsing is what takes long."""

    def __init__(self, events: Iterable[yaml.Event]) -> None:
        super().__init__("")
        self._events = deque(events)

    def check_event(self, *choices: Any) -> bool:  # noqa: ANN401 - PyYAML's
        return bool(self._events) and (not choices or isinstance(self._events[0], choices))

    def peek_event(self) -> yaml.Event | None:
        return self._events[0] if self._events else None

    def get_event(self) -> yaml.Event | None:
        return self._events.popleft() if self._events else None


Lines = dict[tuple[str | int, ...], int]


def read_file(path: Path, kind: str) -> str:
    """The text of a file, of which no more is read than any recipe has.

    Args:
        path: of the file.
        kind: what it is expected to be, such as ``recipe``.

    Raises:
        FileNotFoundError: there is none.
        RecipeError: it is too long, no text, or no file but a device or a pipe, which may have no end.
    """
    try:
        if path.exists() and not path.is_file():
            what = "folder" if path.is_dir() else "special file"
            raise RecipeError(f"{path}: cannot be read as a {kind}: it is a {what}")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise RecipeError(f"{path}: got more than {MAX_BYTES} bytes, expected a {kind} of at most {MAX_BYTES}")
        return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8").read()
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as problem:
        raise RecipeError(f"{path}: cannot be read as a {kind} ({problem})") from None


def read(text: str, where: str) -> tuple[Any, Lines]:
    """The content, and the line of each key; duplicate keys, anchors, aliases and tags are refused."""
    try:
        depth, events = 0, []
        for number, event in enumerate(yaml.parse(text, Loader=_Loader)):
            if number > MAX_VALUES:
                raise RecipeError(
                    f"{where}:{_line(event)}: more than {MAX_VALUES} keys, values and brackets, which no recipe needs"
                )
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_NESTING:
                raise RecipeError(f"{where}:{_line(event)}: nested more than {MAX_NESTING} deep, which no recipe needs")
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) or getattr(event, "tag", None):
                raise RecipeError(
                    f"{where}:{_line(event)}: got an anchor, alias or tag, expected plain YAML; write the value out"
                )
            events.append(event)
        loader = _Parsed(events)
        try:
            node = loader.get_single_node()
            lines: Lines = dict(_key_lines(node, (), where)) if node is not None else {}
            return (loader.construct_document(node) if node is not None else {}), lines
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as problem:
        line = problem.problem_mark.line + 1 if problem.problem_mark else 1
        raise RecipeError(f"{where}:{line}: not valid YAML: {problem.problem}") from None
    except (yaml.YAMLError, ValueError) as problem:
        raise RecipeError(f"{where}: not valid YAML: {' '.join(str(problem).split())}") from None


def _key_lines(node: yaml.Node, path: tuple[str | int, ...], where: str) -> Iterator[tuple[tuple[str | int, ...], int]]:
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise RecipeError(f"{where}:{line}: got a list or mapping as a key, expected a name")
            if key.tag != "tag:yaml.org,2002:str":
                raise RecipeError(
                    f"{where}:{line}: {dotted((*path, key.value))}: got a number as a key, expected a name"
                )
            name = str(key.value)
            if name in seen:
                raise RecipeError(
                    f"{where}:{line}: {dotted((*path, name))}: this key is already in line {seen[name]}; keep one"
                )
            seen[name] = line
            yield (*path, name), line
            yield from _key_lines(value, (*path, name), where)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield from _key_lines(value, (*path, number), where)


def write(content: Any) -> str:  # noqa: ANN401 - anything YAML holds
    """YAML that ``read`` reads back unchanged. It is printable: other characters are escaped."""

    def dumped(*, unicode: bool) -> str:
        return str(yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=unicode, width=100))

    text = dumped(unicode=True)
    return text if text.replace("\n", "").isprintable() else dumped(unicode=False)


def dotted(path: tuple[str | int, ...]) -> str:
    """A key's path as users write it; unprintable characters are escaped, and long keys are cut."""
    return ".".join(text if (text := str(p)).isprintable() and len(text) <= 60 else repr(text)[:60] for p in path)
