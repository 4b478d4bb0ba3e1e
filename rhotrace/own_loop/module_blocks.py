"""The parameter blocks of any ``torch.nn.Module``: which of its tensors are weights, scales, shifts or buffers.

A block is one parameter, or several that the user groups by their names. Its name in the run file is the parameter's,
made a Python identifier: ``features.0.weight`` becomes ``features_0``.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rhotrace.errors import RhoTraceError
from rhotrace.models.network import Block, Role

if TYPE_CHECKING:
    import torch

_TAKEN = {"snapshot", "snapshot_step"}  # names of other datasets beside the weights
_SAID = 5  # names in an error message


@dataclass(frozen=True)
class ModuleBlock:
    """A block, and where it is in the module.

    Attributes:
        block: as the run file describes it; its degree is None until it is measured.
        names: of the parameters (or of the buffer) that it consists of.
        kind: class of the module that owns it, such as ``Conv2d``.
    """

    block: Block
    names: tuple[str, ...]
    kind: str


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


def module_blocks(model: torch.nn.Module, groups: Mapping[str, str] | None = None) -> tuple[ModuleBlock, ...]:
    """The blocks of a module, parameters before buffers, in the module's own order.

    Args:
        model: a plain module; see ``plain_module``.
        groups: name of a block of several weights, and the pattern of their names, as in ``{"encoder": "encoder.*"}``.

    Raises:
        RhoTraceError: the module has no weights, a pattern matches none, or a parameter is in two groups.
    """
    owners = {
        f"{path}.{name}".lstrip("."): module
        for path, module in model.named_modules()
        for name, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    }
    named = _Names()
    found: list[ModuleBlock] = []
    parameters = dict(model.named_parameters())
    grouped = _grouped(parameters, groups or {})
    for name, parameter in parameters.items():
        group = grouped.get(name)
        if group is None:
            role = _role(name, parameter, owners[name])
            block = Block(named.of(name), tuple(parameter.shape) or (1,), role, degree=None)
            found.append(ModuleBlock(block, (name,), type(owners[name]).__name__))
        elif group[1][0] == name:  # the whole group, at the place of its first parameter
            size = sum(parameters[each].numel() for each in group[1])
            block = Block(named.of(group[0]), (size,), "weight", degree=None)
            found.append(ModuleBlock(block, group[1], "group"))
    if not any(each.block.role == "weight" for each in found):
        raise RhoTraceError(
            f"rhotrace.record: model: got {type(model).__name__} with no weights ({_listed(parameters)}), expected a "
            "module with at least one parameter of two or more dimensions"
        )
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point() and buffer.dim():  # a count of batches is no part of the function
            block = Block(named.of(name), tuple(buffer.shape), "buffer", degree=None)
            found.append(ModuleBlock(block, (name,), type(owners[name]).__name__))
    return tuple(found)


def _grouped(
    parameters: Mapping[str, torch.Tensor], groups: Mapping[str, str]
) -> dict[str, tuple[str, tuple[str, ...]]]:
    """The group of each grouped parameter: its name, and the names of its parameters."""
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for group, pattern in groups.items():
        names = tuple(name for name in parameters if fnmatch.fnmatchcase(name, pattern))
        if not names:
            raise RhoTraceError(
                f"rhotrace.record: blocks[{group!r}]: got the pattern {pattern!r}, which matches no parameter; expected "
                f"one for {_listed(parameters)}"
            )
        if twice := [name for name in names if name in found]:
            raise RhoTraceError(
                f"rhotrace.record: blocks: got {twice[0]} in {found[twice[0]][0]!r} and in {group!r}, expected each "
                "parameter in one block at most"
            )
        found |= dict.fromkeys(names, (group, names))
    return found


def _role(name: str, parameter: torch.Tensor, owner: torch.nn.Module) -> Role:
    import torch

    last = name.rpartition(".")[2]
    norms = (torch.nn.modules.batchnorm._NormBase, torch.nn.LayerNorm, torch.nn.GroupNorm)
    if re.search(r"(^|_)bias($|_)", last):
        return "shift"
    if isinstance(owner, norms) or type(owner).__name__.endswith("Norm"):
        return "scale"
    return "weight" if parameter.dim() >= 2 else "scale"


class _Names:
    """Names for blocks: identifiers, each given once, none of which is that of another's axis."""

    def __init__(self) -> None:
        self._given: set[str] = set(_TAKEN)

    def of(self, name: str) -> str:
        parts = name.split(".")
        plain = "_".join(parts[:-1] if parts[-1] == "weight" and len(parts) > 1 else parts)
        plain = re.sub(r"\W", "_", plain, flags=re.ASCII)[-80:]
        plain = plain if plain[:1].isalpha() else f"layer_{plain.lstrip('_')}"
        candidate, number = plain, 1
        while not self._is_free(candidate):
            number += 1
            candidate = f"{plain}_{number}"
        self._given.add(candidate)
        return candidate

    def _is_free(self, name: str) -> bool:
        axes = {f"{name}_out", f"{name}_in"}  # dimensions of its snapshots
        owner = name.removesuffix("_out").removesuffix("_in")
        return name not in self._given and not axes & self._given and (owner == name or owner not in self._given)


def tensors_of(model: torch.nn.Module, blocks: tuple[ModuleBlock, ...]) -> Iterator[tuple[torch.Tensor, ...]]:
    """The tensors of each block, as they are now."""
    named: dict[str, torch.Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for each in blocks:
        yield tuple(named[name] for name in each.names)


def size_of(blocks: tuple[ModuleBlock, ...]) -> int:
    """Numbers in all blocks."""
    return sum(math.prod(each.block.shape) for each in blocks)


def _listed(names: Mapping[str, object]) -> str:
    known = list(names)
    more = f" and {len(known) - _SAID} more" if len(known) > _SAID else ""
    return (", ".join(known[:_SAID]) or "no parameters") + more
