"""The errors that a user can cause; each message says where, what was got, what was expected, and the remedy."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable
from pathlib import Path


class RhoTraceError(Exception):
    """A user error, or a state of the machine that the user can change; the command line prints it and exits with 2."""


class RecipeError(RhoTraceError):
    """A recipe that cannot be read or is not valid."""


class DataError(RhoTraceError):
    """A dataset that is absent, damaged, or too small for the recipe.

    Attributes:
        brief: the same without the places that were searched and the remedy, for use within a sentence.
    """

    def __init__(self, message: str, brief: str = "") -> None:
        super().__init__(message)
        self.brief = brief or message.splitlines()[0]


class TraceError(RhoTraceError):
    """A run file that is missing, damaged, in the way, or not a run file at all."""


class BusyError(TraceError):
    """A run file that a living process writes; each caller adds what its user can do instead of waiting."""

    def or_else(self, remedy: str) -> BusyError:
        """The same with another remedy, such as ``use -o FILE``."""
        return BusyError(f"{self}, or {remedy}")


class AnalysisError(RhoTraceError):
    """An analysis that the given runs do not allow."""


class DeviceError(RhoTraceError):
    """A device that was asked for and is not available."""


class AlreadySaid(RhoTraceError):  # noqa: N818 - not an error of its own
    """Another process of the same run reports the error; this one only exits."""


def nearest_file(path: Path, pattern: str) -> Path | None:
    """For a file that does not exist, the file beside it with the most similar name; None if no name is similar."""
    near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob(pattern)], 1)
    return path.parent / near[0] if near else None


def choice(option: str, got: str, known: Iterable[str]) -> RhoTraceError:
    """The error for a word that is not one of the known ones; it names the most similar, if there is one."""
    names = list(known)
    near = difflib.get_close_matches(got, names, 1, 0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    return RhoTraceError(f"{option}: got {got!r}, expected one of {', '.join(names)}{hint}")


def out_of_memory(error: Exception) -> str:
    """Where memory ran out, and for how much: `` (tried to allocate 3.2 GB)``; empty for any other error.

    torch raises a RuntimeError on the processor and a class of its own on a GPU. It is not imported here: where it is not
    loaded, it has raised nothing.
    """
    torch, text = sys.modules.get("torch"), str(error)
    on_gpu = torch is not None and isinstance(error, torch.OutOfMemoryError)
    allocator = "DefaultCPUAllocator" in text and ("allocate memory" in text or "not enough memory" in text)
    if not (isinstance(error, MemoryError) or on_gpu or allocator):
        return ""
    size = re.search(r"(?i)allocate ([\d.]+) ?(bytes|[kmgt]i?b)", text)
    if not size:
        return f" on the {'GPU' if on_gpu else 'machine'}"
    amount = f"{float(size[1]) / 1e9:.1f} GB" if size[2] == "bytes" else f"{size[1]} {size[2]}"
    return f" on the {'GPU' if on_gpu else 'machine'} (tried to allocate {amount})"
