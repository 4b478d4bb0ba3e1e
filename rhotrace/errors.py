"""The errors that a user can cause; each message says where, what was got, what was expected and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class RhoTraceError(Exception):
    """A mistake or a state of the world that the user can mend; the command line prints it and exits with 2."""


class RecipeError(RhoTraceError):
    """A recipe that cannot be read or does not validate."""


class DataError(RhoTraceError):
    """A dataset that is absent, damaged or too small for what the recipe asks.

    Attributes:
        brief: the same without where was looked and what can be done, for use within a sentence.
    """

    def __init__(self, message: str, brief: str = "") -> None:
        super().__init__(message)
        self.brief = brief or message.splitlines()[0]


class TraceError(RhoTraceError):
    """A run file that is missing, foreign, damaged or in the way."""


class AnalysisError(RhoTraceError):
    """An analysis that the given run or runs cannot support."""


class DeviceError(RhoTraceError):
    """A device that was asked for and is not there."""


def nearest_file(path: Path, pattern: str) -> Path | None:
    """The file beside a path that is not there whose name is nearest to it, if one is near."""
    near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob(pattern)], 1)
    return path.parent / near[0] if near else None


def choice(option: str, got: str, known: Iterable[str]) -> RhoTraceError:
    """What to raise for a word that is none of the known ones; with the nearest of them, if one is near."""
    names = list(known)
    near = difflib.get_close_matches(got, names, 1, 0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    return RhoTraceError(f"{option}: got {got!r}, expected one of {', '.join(names)}{hint}")
