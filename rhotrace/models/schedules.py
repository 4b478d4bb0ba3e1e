"""Learning-rate schedules: the factor on every member's learning rate, a pure function of the step.

A schedule knows nothing of the run's length, so that a run which is resumed or extended takes the same steps.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt, MinLen
from pydantic import Field, model_validator

from rhotrace.models.component import Component, fault


class Constant(Component):
    """The same learning rate at every step."""

    kind: Literal["constant"] = "constant"

    def at(self, step: int) -> float:
        """1."""
        del step
        return 1.0


class StepDecay(Component):
    """The learning rate times ``factor`` from each milestone on, as torch's ``MultiStepLR``.

    Attributes:
        milestones: steps, ascending.
        factor: of each milestone.
    """

    kind: Literal["step"] = "step"
    milestones: Annotated[list[Annotated[int, Ge(1)]], MinLen(1)] = Field(description="steps, ascending")
    factor: Annotated[float, Gt(0)] = Field(default=0.1, description="factor from each milestone on")

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if any(b <= a for a, b in pairwise(self.milestones)):
            raise fault("milestones", f"got {self.milestones}, expected ascending steps")
        return self

    def at(self, step: int) -> float:
        """``factor`` to the number of milestones that are not after the step."""
        return self.factor ** sum(milestone <= step for milestone in self.milestones)


class Cosine(Component):
    """Half a period of a cosine from 1 to ``final`` over ``steps`` steps, and ``final`` afterwards.

    Attributes:
        steps: from the first step to the smallest learning rate.
        final: factor from there on.
    """

    kind: Literal["cosine"] = "cosine"
    steps: Annotated[int, Ge(1)] = Field(description="steps from the full to the smallest learning rate")
    final: Annotated[float, Ge(0)] = Field(default=0.0, description="factor from there on")

    def at(self, step: int) -> float:
        """As torch's ``CosineAnnealingLR`` up to ``steps``."""
        turned = math.cos(math.pi * min(step, self.steps) / self.steps)
        return self.final + (1 - self.final) * (1 + turned) / 2


Schedule = Annotated[Constant | StepDecay | Cosine, Field(discriminator="kind")]
