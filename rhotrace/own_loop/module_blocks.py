"""The blocks of a module that is recorded: all its parameters, some of them grouped by the user, and its buffers.

Their names and roles are those of ``models.module_parts``.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rhotrace.errors import RhoTraceError
from rhotrace.models.module_parts import ModulePart, module_parts

if TYPE_CHECKING:
    import torch

_SAID = 5  # names in an error message


def plain_module(model: torch.nn.Module) -> torch.nn.Module:
    """The module itself, without the wrappers of ``torch.compile`` and of data-parallel training."""
    import torch

    wrappers = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
    while True:
        if isinstance(inner := getattr(model, "_orig_mod", None), torch.nn.Module):
            model = inner
        elif isinstance(model, wrappers):
            model = model.module
        else:
            return model


def module_blocks(model: torch.nn.Module, groups: Mapping[str, str] | None = None) -> tuple[ModulePart, ...]:
    """The blocks of a module; see ``models.module_parts.module_parts``.

    Args:
        model: a plain module; see ``plain_module``.
        groups: name of a block of several weights, and the pattern of their names, as in ``{"encoder": "encoder.*"}``.

    Raises:
        RhoTraceError: the module has no weights, a pattern matches none, or a parameter is in two groups.
    """
    parameters = dict(model.named_parameters())
    # A count of batches is no part of the function.
    buffers = {name for name, tensor in model.named_buffers() if tensor.is_floating_point() and tensor.dim()}
    found = module_parts(model, buffers, _grouped(parameters, groups or {}))
    if not any(each.block.role == "weight" for each in found):
        raise RhoTraceError(
            f"rhotrace.record: model: got {type(model).__name__} with no weights ({_listed(parameters)}), expected a "
            "module with at least one parameter of two or more dimensions"
        )
    return found


def _grouped(parameters: Mapping[str, torch.Tensor], groups: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The names of the parameters of each group."""
    found: dict[str, tuple[str, ...]] = {}
    for group, pattern in groups.items():
        names = tuple(name for name in parameters if fnmatch.fnmatchcase(name, pattern))
        if not names:
            raise RhoTraceError(
                f"rhotrace.record: blocks[{group!r}]: got the pattern {pattern!r}, which matches no parameter; expected "
                f"one for {_listed(parameters)}"
            )
        for other, taken in found.items():
            if twice := [name for name in names if name in taken]:
                raise RhoTraceError(
                    f"rhotrace.record: blocks: got {twice[0]} in {other!r} and in {group!r}, expected each "
                    "parameter in one block at most"
                )
        found[group] = names
    return found


def tensors_of(model: torch.nn.Module, blocks: Sequence[ModulePart]) -> Iterator[tuple[torch.Tensor, ...]]:
    """The tensors of each block, as they are now."""
    named: dict[str, torch.Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for each in blocks:
        yield tuple(named[name] for name in each.names)


def _listed(names: Mapping[str, object]) -> str:
    known = list(names)
    more = f" and {len(known) - _SAID} more" if len(known) > _SAID else ""
    return (", ".join(known[:_SAID]) or "no parameters") + more
