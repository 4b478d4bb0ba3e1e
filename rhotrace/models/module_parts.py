"""The tensors of a ``torch.nn.Module`` as blocks of a network: their names and roles.

A block is one tensor, or several parameters that the user groups. Its name is the tensor's, made a Python identifier:
``features.0.weight`` becomes ``features_0``. Run files of recipes from older versions have ``features_0_weight``, and keep
it: where a file exists, its blocks count.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rhotrace.models.network import Block, Role

if TYPE_CHECKING:
    import torch
    from torch import nn

_TAKEN = {"snapshot", "snapshot_step"}  # names of other datasets beside the weights


@dataclass(frozen=True)
class ModulePart:
    """A block, and where it is in the module.

    Attributes:
        block: as the run file describes it; its degree is None until it is measured.
        names: of the parameters (or of the buffer) that it consists of.
        kind: class of the module that owns it, such as ``Conv2d``.
    """

    block: Block
    names: tuple[str, ...]
    kind: str


def module_parts(
    module: nn.Module, buffers: Collection[str], groups: Mapping[str, tuple[str, ...]] | None = None
) -> tuple[ModulePart, ...]:
    """The blocks of a module, parameters before buffers, in the module's own order; a tied parameter is one block.

    Args:
        module: any.
        buffers: names of those that become blocks, parameters that are not trained among them.
        groups: names of the weights of each block that consists of several.
    """
    owners = {
        f"{path}.{name}".lstrip("."): part
        for path, part in module.named_modules()
        for name, _ in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False))
    }
    parameters, grouped = dict(module.named_parameters()), groups or {}
    home = {name: group for group, names in grouped.items() for name in names}
    naming = _Names()
    found: list[ModulePart] = []
    for name, tensor in (*parameters.items(), *module.named_buffers()):
        group = home.get(name)
        if group is None and (name in parameters or name in buffers):
            role: Role = "buffer" if name in buffers else role_of(name, tensor, owners[name])
            block = Block(naming.of(name), tuple(tensor.shape) or (1,), role, degree=None)
            found.append(ModulePart(block, (name,), type(owners[name]).__name__))
        elif group is not None and grouped[group][0] == name:  # the whole group, at the place of its first parameter
            size = sum(parameters[each].numel() for each in grouped[group])
            block = Block(naming.of(group), (size,), "weight", degree=None)
            found.append(ModulePart(block, grouped[group], "group"))
    return tuple(found)


def role_of(name: str, parameter: torch.Tensor, owner: nn.Module) -> Role:
    """The role of a trained parameter.

    Args:
        name: in the module, such as ``features.0.bias``, which is a shift; so is ``bias_hh_l0``.
        parameter: of two dimensions or more it is a weight, unless a normalisation owns it.
        owner: the module that it is an attribute of.
    """
    import torch

    norms = (torch.nn.modules.batchnorm._NormBase, torch.nn.LayerNorm, torch.nn.GroupNorm)
    if re.search(r"(^|_)bias($|_)", name.rpartition(".")[2]):
        return "shift"
    normalises = isinstance(owner, norms) or type(owner).__name__.endswith("Norm")
    return "scale" if normalises or parameter.dim() < 2 else "weight"


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


def tied(module: nn.Module) -> list[str]:
    """Which names stand for one and the same parameter, in words; the first is that of its block."""
    first: dict[int, str] = {}
    return [
        f"{name} is the same parameter as {first[id(tensor)]}"
        for name, tensor in module.named_parameters(remove_duplicate=False)
        if first.setdefault(id(tensor), name) != name
    ]


def random_parts(module: nn.Module) -> list[str]:
    """The modules inside that draw random numbers in training, in words."""
    return [
        f"{name or 'the module'} ({type(part).__name__}, p={rate:g})"
        for name, part in module.named_modules()
        if (rate := _rate(part))
    ]


def _rate(part: nn.Module) -> float:
    """The rate at which a module drops numbers: ``p`` of a Dropout, ``dropout`` of an LSTM or of attention."""
    rate = getattr(part, "p" if "Dropout" in type(part).__name__ else "dropout", 0.0)
    return float(rate) if isinstance(rate, int | float) else 0.0
