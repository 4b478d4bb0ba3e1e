"""Norms that do not follow the gradient: what ``optimizer.kind: norm-control`` gives each layer after every step.

A schedule is a pure function of one step: of the norms at the start, of those before and after the step of gradient descent, of the
number of steps taken and of the learning rate. To add one, define a class here and add it to ``Norms``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from annotated_types import Ge, Gt, MinLen
from pydantic import Field, model_validator

from rhotrace.models.component import Component, fault

if TYPE_CHECKING:
    import torch

Factor = Annotated[float, Gt(0)]


@dataclass(frozen=True)
class Descended:
    """A step of gradient descent whose norms are to be replaced.

    Attributes:
        start: norms before the first step, (M, 1, L).
        before: norms before this step, (M, 1, L).
        free: norms after this step of gradient descent, (M, 1, L).
        taken: number of steps taken with this one, (M, 1, 1).
        lr: learning rate of this step, (M, 1, 1).
    """

    start: torch.Tensor
    before: torch.Tensor
    free: torch.Tensor
    taken: torch.Tensor
    lr: torch.Tensor


class NormSchedule(Component):
    """The norms after a step.

    Attributes:
        law: name in ``theory.step_laws.LAWS`` of what a step does to the norms; None where none is written down.
    """

    kind: str
    law: ClassVar[str | None] = None

    def norms(self, step: Descended) -> torch.Tensor:
        """The norms to set, (M, 1, L)."""
        raise NotImplementedError


class ConstantNorms(NormSchedule):
    """Each norm stays at its start, so that only the directions move."""

    kind: Literal["constant"] = "constant"
    law: ClassVar[str | None] = "held"

    def norms(self, step: Descended) -> torch.Tensor:
        """``start``."""
        return step.start


class LinearNorms(NormSchedule):
    """Each norm goes linearly to ``factor`` times its start, and stays there.

    Attributes:
        factor: of the start.
        steps: until then.
    """

    kind: Literal["linear"] = "linear"
    factor: Factor = Field(description="norm at the end over that at the start")
    steps: Annotated[int, Ge(1)] = Field(description="steps from the start to the end")
    law: ClassVar[str | None] = "linear-norms"

    def norms(self, step: Descended) -> torch.Tensor:
        """``start (1 + (factor - 1) min(taken/steps, 1))``."""
        return step.start * (1 + (self.factor - 1) * (step.taken / self.steps).clamp(max=1))


class StepNorms(NormSchedule):
    """Each norm is multiplied by ``factor`` at each milestone.

    Attributes:
        milestones: steps, ascending.
        factor: at each.
    """

    kind: Literal["step"] = "step"
    milestones: Annotated[list[Annotated[int, Ge(1)]], MinLen(1)] = Field(description="steps, ascending")
    factor: Factor = Field(description="factor of each norm at each milestone")
    law: ClassVar[str | None] = "step-norms"

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if any(b <= a for a, b in pairwise(self.milestones)):
            raise fault("milestones", f"got {self.milestones}, expected ascending steps")
        return self

    def norms(self, step: Descended) -> torch.Tensor:
        """``start`` times ``factor`` to the number of milestones that are not after ``taken``."""
        passed = sum((step.taken >= milestone).to(step.start.dtype) for milestone in self.milestones)
        return step.start * self.factor**passed


class IvanovNorms(NormSchedule):
    """Gradient descent under rho <= C, the constraint of CBMM Memo 112, equation (9).

    Where a step would lead beyond C, all layers are scaled by one factor so that their product is C.

    Attributes:
        C: largest product of the norms.
    """

    kind: Literal["ivanov"] = "ivanov"
    C: Annotated[float, Gt(0)] = Field(description="largest product of the layer norms")
    law: ClassVar[str | None] = "ivanov-norms"

    def norms(self, step: Descended) -> torch.Tensor:
        """``free``, or ``free (C/rho)^(1/L)`` where rho, their product, is above C."""
        import math

        over = _log_product(step.free) - math.log(self.C)
        return step.free * (-over.clamp(min=0) / step.free.shape[2]).exp().to(step.free.dtype)


class ClosedFormNorms(NormSchedule):
    """rho follows CBMM Memo 112, equation (5), with constant A and B, and not the directions.

    All layers are scaled by one factor, so that equal norms stay equal. In the clock ``tau = int rho_k^(L-2) dt`` equation (5)
    is a logistic equation, ``d rho/d tau = 2 L rho (A - B rho)``, with ``1/rho`` as a sum of a constant and an exponential.
    The time that a stretch of the clock takes, ``t = int rho_k^(2-L) d tau``, has a smooth integrand. So each step
    is integrated to rounding, by Gauss-Legendre quadrature and Newton's method, as long as rho changes by less than about a factor
    of 3 in it.

    Attributes:
        A: mean(y f).
        B: mean(f^2); rho grows, or shrinks, to A/B.
    """

    kind: Literal["closed-form"] = "closed-form"
    A: Annotated[float, Gt(0)] = Field(description="mean(y f) of equation (5)")
    B: Annotated[float, Gt(0)] = Field(description="mean(f^2) of equation (5); rho goes to A/B")
    law: ClassVar[str | None] = "closed-form-norms"

    def norms(self, step: Descended) -> torch.Tensor:
        """``before (rho(t + lr)/rho(t))^(1/L)``."""
        depth = step.before.shape[2]
        grown = _log_growth(_log_product(step.before), step.lr.double(), self.A, self.B, depth)
        return step.before * (grown / depth).exp().to(step.before.dtype)


class TikhonovNorms(NormSchedule):
    """Gradient descent on ``L + lambda rho^2``, as far as the norms are concerned: the Tikhonov problem of CBMM Memo 112, Figure 2.

    The penalty's gradient ``2 lambda rho^2/rho_k`` is taken after the step of gradient descent, implicitly, so that norms stay
    positive. Where training comes to rest, ``lambda = (A - rho B)/rho``. In Figure 2 lambda falls as rho grows: while rho is small,
    equation (5) with constant A gives ``lambda = A/rho ~ (1 - t/T)^(L/(L-2))``, which ``steps`` and ``power`` follow.

    Attributes:
        penalty: lambda at the start.
        steps: after which lambda is 0; None for a constant lambda.
        power: lambda is ``penalty (1 - t/steps)^power`` after t steps, until then.
    """

    kind: Literal["tikhonov"] = "tikhonov"
    penalty: Annotated[float, Ge(0)] = Field(description="lambda of the penalty lambda rho^2, at the start")
    steps: Annotated[int, Ge(1)] | None = Field(
        default=None, description="steps until lambda is 0; null: it is constant"
    )
    power: Annotated[float, Gt(0)] = Field(
        default=1.0, description="of the fall of lambda; L/(L-2) as in Figure 2 while rho is small"
    )
    law: ClassVar[str | None] = "tikhonov-norms"

    def norms(self, step: Descended) -> torch.Tensor:
        """``free/(1 + 2 lr lambda rho^2/rho_k^2)``, with the norms before the step on the right."""
        import torch

        now = torch.full_like(step.taken, self.penalty)
        if self.steps is not None:
            now = now * (1 - (step.taken - 1) / self.steps).clamp(min=0) ** self.power
        pull = (2 * (_log_product(step.before) - step.before.double().log())).exp()
        return step.free / (1 + 2 * step.lr * now * pull).to(step.free.dtype)


_NODES = 8  # of the quadrature over one step
_ITERATIONS = 6  # of Newton's method, which converges quadratically, from one side


def _log_product(norms: torch.Tensor) -> torch.Tensor:
    """Logarithm of the product of the layers' norms, (M, 1, 1)."""
    return norms.double().log().sum(dim=2, keepdim=True)


@lru_cache(maxsize=8)
def _quadrature(dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Nodes and weights of Gauss and Legendre; made once, as a copy to a GPU would make each step wait."""
    import numpy as np
    import torch

    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return torch.tensor(nodes, dtype=dtype, device=device), torch.tensor(weights, dtype=dtype, device=device)


def _log_growth(log_rho: torch.Tensor, lr: torch.Tensor, A: float, B: float, depth: int) -> torch.Tensor:
    """log rho(t + lr) - log rho(t) by equation (5)."""
    import torch

    share = (depth - 2) / depth
    excess = B / A * log_rho.exp() - 1  # rho/rho_eq - 1

    def grown(clock: torch.Tensor) -> torch.Tensor:
        """log rho after a stretch of the clock, in units of the step at its start, over that at its start."""
        return -torch.log1p(excess * -torch.expm1(-2 * depth * A * (share * log_rho).exp() * clock))

    nodes, weights = _quadrature(log_rho.dtype, log_rho.device)
    clock = lr
    for _ in range(_ITERATIONS):
        slowness = (-share * grown(clock * (nodes + 1) / 2)).exp()
        time = clock * (slowness * weights / 2).sum(dim=2, keepdim=True)
        clock = clock + (lr - time) * (share * grown(clock)).exp()
    return grown(clock)


Norms = Annotated[
    ConstantNorms | LinearNorms | StepNorms | IvanovNorms | ClosedFormNorms | TikhonovNorms, Field(discriminator="kind")
]
