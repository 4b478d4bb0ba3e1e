"""What a ``torch.optim`` optimizer does: its options, and the exact law of its steps where there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    Optimizers = Sequence[torch.optim.Optimizer]


_NOT_SAID = {
    "lr",
    "initial_lr",
    "capturable",
    "differentiable",
    "foreach",
    "fused",
}  # they change no number, or the rate


@dataclass(frozen=True)
class Rule:
    """How the layers are trained.

    Attributes:
        name: class of the optimizer, in lower case.
        law: name in ``theory.step_laws.LAWS`` of the exact change of the layer norms; None where there is none.
        why_not: why there is no law; empty where there is one.
        lr: learning rate of each layer at the start.
        options: of the first parameter group with a layer, those that are plain values and on.
        several: whether the layers have learning rates of their own.
    """

    name: str
    law: str | None
    why_not: str
    lr: tuple[float, ...]
    options: Mapping[str, float | bool | str]
    several: bool


def rule_of(optimizers: Optimizers, layers: Sequence[tuple[torch.Tensor, ...]]) -> Rule:
    """The rule by which some optimizers train the layers, each of which is one tensor or several."""
    homes = groups_of(optimizers, layers)
    groups = [home[1] for home in homes if home]
    first: Mapping[str, Any] = groups[0] if groups else {}
    names = dict.fromkeys(type(one).__name__.lower() for one in optimizers)
    law, why_not = _law(optimizers, homes)
    return Rule(
        name="+".join(names) or "none",
        law=law,
        why_not=why_not,
        lr=tuple(float(home[1]["lr"]) if home else 0.0 for home in homes),
        options={
            key: value if isinstance(value, bool | str) else float(value)
            for key, value in {**first, "betas": ", ".join(map(str, first.get("betas", ())))}.items()
            if isinstance(value, bool | str | int | float) and value and key not in _NOT_SAID
        },
        several=len({id(group) for group in groups}) > 1,
    )


def groups_of(
    optimizers: Optimizers, layers: Sequence[tuple[torch.Tensor, ...]]
) -> list[tuple[torch.optim.Optimizer, dict[str, Any]] | None]:
    """The optimizer and the parameter group of each layer; None of one that is not trained."""
    homes = {id(p): (one, group) for one in optimizers for group in one.param_groups for p in group["params"]}
    return [homes.get(id(tensors[0])) for tensors in layers]


def _law(
    optimizers: Optimizers, homes: Sequence[tuple[torch.optim.Optimizer, dict[str, Any]] | None]
) -> tuple[str | None, str]:
    import torch

    if len(optimizers) != 1 or type(optimizers[0]) is not torch.optim.SGD:
        names = " and ".join(type(one).__name__ for one in optimizers) or "no optimizer"
        return None, f"{names} is not plain gradient descent (torch.optim.SGD)"
    groups = [home[1] for home in homes if home]
    if len(groups) < len(homes):
        return None, "some layers are not trained by the optimizer"
    odd = {"nesterov": "Nesterov's momentum", "maximize": "maximize", "dampening": "dampening"}
    for key, words in odd.items():
        if any(group.get(key) for group in groups):
            return None, f"SGD with {words} has no law here"
    for key in ("weight_decay", "momentum"):
        if len({float(group[key]) for group in groups}) > 1:
            return None, f"the parameter groups differ in {key}"
    return ("heavy-ball" if groups[0]["momentum"] else "decay" if groups[0]["weight_decay"] else "descent"), ""
