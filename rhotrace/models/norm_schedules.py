"""Norms that do not follow the gradient: what ``optimizer.kind: norm-control`` gives each layer after every step.

A schedule is a pure function of the norms at the start, of those that the step of gradient descent would leave, and of the
number of steps taken. To add one, define a class here and add it to ``Norms``.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from annotated_types import Ge, Gt, MinLen
from pydantic import Field, model_validator

from rhotrace.models.component import Component, fault

if TYPE_CHECKING:
    import torch

Factor = Annotated[float, Gt(0)]


class NormSchedule(Component):
    """The norms after a step.

    Attributes:
        law: name in ``theory.step_identity.LAWS`` of what a step does to the norms; None where none is written down.
    """

    kind: str
    law: ClassVar[str | None] = None

    def norms(self, start: torch.Tensor, free: torch.Tensor, taken: torch.Tensor) -> torch.Tensor:
        """The norms to set, (M, 1, L).

        Args:
            start: before the first step, (M, 1, L).
            free: after this step of gradient descent, (M, 1, L).
            taken: number of steps taken with this one, (M, 1, 1).
        """
        raise NotImplementedError


class ConstantNorms(NormSchedule):
    """Each norm stays at its start, so that only the directions move."""

    kind: Literal["constant"] = "constant"
    law: ClassVar[str | None] = "held"

    def norms(self, start: torch.Tensor, free: torch.Tensor, taken: torch.Tensor) -> torch.Tensor:
        """``start``."""
        del free, taken
        return start


class LinearNorms(NormSchedule):
    """Each norm goes linearly to ``factor`` times its start, and stays there.

    Attributes:
        factor: of the start.
        steps: until then.
    """

    kind: Literal["linear"] = "linear"
    factor: Factor = Field(description="norm at the end over that at the start")
    steps: Annotated[int, Ge(1)] = Field(description="steps from the start to the end")

    def norms(self, start: torch.Tensor, free: torch.Tensor, taken: torch.Tensor) -> torch.Tensor:
        """``start (1 + (factor - 1) min(taken/steps, 1))``."""
        del free
        return start * (1 + (self.factor - 1) * (taken / self.steps).clamp(max=1))


class StepNorms(NormSchedule):
    """Each norm is multiplied by ``factor`` at each milestone.

    Attributes:
        milestones: steps, ascending.
        factor: at each.
    """

    kind: Literal["step"] = "step"
    milestones: Annotated[list[Annotated[int, Ge(1)]], MinLen(1)] = Field(description="steps, ascending")
    factor: Factor = Field(description="factor of each norm at each milestone")

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if any(b <= a for a, b in pairwise(self.milestones)):
            raise fault("milestones", f"got {self.milestones}, expected ascending steps")
        return self

    def norms(self, start: torch.Tensor, free: torch.Tensor, taken: torch.Tensor) -> torch.Tensor:
        """``start`` times ``factor`` to the number of milestones that are not after ``taken``."""
        del free
        passed = sum((taken >= milestone).to(start.dtype) for milestone in self.milestones)
        return start * self.factor**passed


class IvanovNorms(NormSchedule):
    """Gradient descent under rho <= C, the constraint of CBMM Memo 112, equation (9).

    Where a step would lead beyond C, all layers are scaled by one factor so that their product is C.

    Attributes:
        C: largest product of the norms.
    """

    kind: Literal["ivanov"] = "ivanov"
    C: Annotated[float, Gt(0)] = Field(description="largest product of the layer norms")

    def norms(self, start: torch.Tensor, free: torch.Tensor, taken: torch.Tensor) -> torch.Tensor:
        """``free``, or ``free (C/rho)^(1/L)`` where rho, their product, is above C."""
        import math

        del start, taken
        over = free.double().log().sum(dim=2, keepdim=True) - math.log(self.C)
        return free * (-over.clamp(min=0) / free.shape[2]).exp().to(free.dtype)


Norms = Annotated[ConstantNorms | LinearNorms | StepNorms | IvanovNorms, Field(discriminator="kind")]
