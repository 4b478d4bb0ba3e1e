"""The user's Python files that a recipe names: always read and hashed, but run only after the user has allowed it.

A file runs once for each version of its text, in a namespace of its own. What it defines is found again by the SHA-256 of
that text, so no other version of the file can take its place. ``config.trusted_code`` decides what may run.
"""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from rhotrace.errors import RecipeError, out_of_memory

_LOADED: dict[str, tuple[ModuleType, str]] = {}  # what each file defines, and its text, by SHA-256


class NotLoadedError(RecipeError):
    """Something needs code that has not run: the user has not allowed it.

    Attributes:
        place: of the code.
    """

    def __init__(self, place: str) -> None:
        super().__init__(f"network.build: needs code of its own, {place}, which runs only with --trust-code")
        self.place = place


@dataclass(frozen=True)
class Source:
    """A file's text.

    Attributes:
        name: as the recipe writes it, such as ``my_nets.py``.
        text: its content, with line feeds between the lines.
        shown: where it is, for tracebacks.
    """

    name: str
    text: str
    shown: str

    @property
    def sha256(self) -> str:
        """SHA-256 of the text in UTF-8."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def run(source: Source) -> ModuleType:
    """Runs a file; what it defines is then available under its SHA-256.

    Raises:
        RecipeError: it cannot be compiled, or raises an error.
    """
    name = f"rhotrace_own_code_{source.sha256[:16]}"
    module = ModuleType(name)
    module.__file__ = source.shown
    sys.modules[name] = module  # dataclasses and pydantic look annotations up there
    try:
        exec(compile(source.text, source.shown, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - the user has allowed it
    except Exception as error:
        del sys.modules[name]
        raise raised(source.name, error) from error
    _LOADED[source.sha256] = module, source.text
    return module


def forget() -> None:
    """As if no file had run; see ``trusted_code.forget``."""
    _LOADED.clear()


def is_loaded(sha256: str) -> bool:
    """Whether a version of a file has run in this process."""
    return sha256 in _LOADED


def text_of(sha256: str) -> str:
    """The text of a file that has run."""
    return _LOADED[sha256][1] if sha256 in _LOADED else ""


def function(place: str, sha256: str | None) -> Callable[..., Any]:
    """A function of a file that has run.

    Args:
        place: ``FILE:NAME``.
        sha256: of the file's text.

    Raises:
        NotLoadedError: that version of the file has not run.
        RecipeError: it defines no such function.
    """
    file, _, name = place.rpartition(":")
    if not is_loaded(sha256 or ""):
        raise NotLoadedError(place)
    module, _text = _LOADED[sha256 or ""]
    found = getattr(module, name, None)
    if not callable(found):
        own = [n for n, value in vars(module).items() if callable(value) and _made_in(value, module)]
        known = f"; it defines {', '.join(own[:8])}" if own else ""
        raise RecipeError(f"{place}: got no function {name} in {file}{known}")
    return found  # type: ignore[no-any-return]


def _made_in(value: object, module: ModuleType) -> bool:
    return getattr(value, "__module__", None) == module.__name__


def raised(place: str, error: Exception) -> Exception:
    """The error to raise where a user's code raised one: what it says, and the line of that code.

    An error of RhoTrace's own, or one that says that memory ran out, is returned unchanged.
    """
    if isinstance(error, RecipeError) or out_of_memory(error):
        return error
    frames = traceback.extract_tb(error.__traceback__)
    file = place.rpartition(":")[0] or place
    own = [frame for frame in frames if file in frame.filename]
    line = f" (line {own[-1].lineno})" if own else f" (line {error.lineno})" if isinstance(error, SyntaxError) else ""
    text = " ".join(str(error).split())
    return RecipeError(f"{place}: raised {type(error).__name__}{line}: {text[:300] or 'without a message'}")


def texts(attributes: Mapping[str, Any]) -> dict[str, str]:
    """The texts of the files that a run file stores, by name; none where it stores none or they are damaged."""
    import json

    try:
        found = json.loads(str(attributes.get("code", "{}")))
    except (ValueError, RecursionError):
        return {}
    good = isinstance(found, dict) and all(isinstance(text, str) for text in found.values())
    return found if good else {}
