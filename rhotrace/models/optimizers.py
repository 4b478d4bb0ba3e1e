"""Gradient descent, SGD, weight normalisation and controlled norms: how the parameters move in one step, for all members.

An optimizer makes its state from the parameters and updates it in place. ``state["weights"]`` always holds the
parameters of the next forward pass, in the order of the network's parameter blocks, each (M, out, fan_in). An optimizer
may keep other tensors, such as the ``v`` of weight normalisation and the ``velocity`` of
momentum. All of its state is saved with every commit and
restored when a run is resumed. A minibatch optimizer defines ``minibatches``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Lt

from rhotrace.models.component import Component, PerMember, Registry
from rhotrace.models.minibatches import Minibatches, Sampling
from rhotrace.models.network import Block
from rhotrace.models.norm_schedules import ConstantNorms, Descended, Norms
from rhotrace.models.schedules import Constant, Schedule
from rhotrace.models.side_by_side import copied, together

if TYPE_CHECKING:
    import torch

    from rhotrace.models.network import Tensors

    State = dict[str, Tensors]

BatchSize = Annotated[int, Ge(1)]


class Optimizer(Component):
    """An optimizer's section of a recipe, and what it does.

    Attributes:
        lr: learning rate eta.
        schedule: of the learning rate; see ``models.schedules``.
        law: name in ``theory.step_laws.LAWS`` of the exact change of the layer norms in one step; None where no
            such law is known.
        copies: memory of a step in multiples of the parameters, counting the parameters and the gradients.
    """

    kind: str
    lr: Annotated[float, Gt(0), PerMember("learning rate", "lr")]
    schedule: Schedule = Constant()
    law: ClassVar[str | None] = None
    copies: ClassVar[int] = 3

    @property
    def step_law(self) -> str | None:
        """The law under these options."""
        return self.law

    @property
    def tensors(self) -> int:
        """The copies under these options."""
        return self.copies

    @property
    def minibatches(self) -> Minibatches | None:
        """How each step's samples are drawn; None for the full training set."""
        return None

    def refuses(self, parameters: Sequence[Block]) -> str:
        """Why it cannot train a network with these parameters; empty where it can."""
        del parameters
        return ""

    def init(self, parameters: Tensors) -> State:
        """The state before the first step; ``parameters`` may be kept and changed in place."""
        return {"weights": parameters}

    def begin(self, parameters: Tensors, options: Mapping[str, torch.Tensor]) -> State:
        """As ``init``, for options that make the start of each member another; they are those of ``step``."""
        del options
        return self.init(parameters)

    def step(self, state: State, gradients: Tensors, *, lr: torch.Tensor) -> None:
        """One step, in place.

        Args:
            state: of the optimizer.
            gradients: dL/dW for each parameter, (M, out, fan_in).
            lr: of each member at this step, (M, 1, 1); likewise any other field that is marked as per member, unless
                all members have it off.
        """
        raise NotImplementedError


OPTIMIZERS: Registry[Optimizer] = Registry("optimizer")


class Descent(Optimizer):
    """Descent along the gradient of the full set or of a batch, with weight decay and momentum where they are asked for.

    As ``torch.optim.SGD`` without dampening: ``u <- momentum u + (dL/dW + weight_decay W)`` from u = 0, and
    ``W <- W - lr u``. Weight decay is that of ``L + (weight_decay/2) sum ||W||^2`` over every trained block.

    Attributes:
        weight_decay: lambda.
        momentum: beta, of the heavy ball.
    """

    weight_decay: Annotated[float, Ge(0), PerMember("weight decay", "weight decay", off=0.0)] = 0.0
    momentum: Annotated[float, Ge(0), Lt(1), PerMember("momentum", "momentum", off=0.0)] = 0.0

    @property
    def step_law(self) -> str:
        """See ``Optimizer.step_law``."""
        return "heavy-ball" if self.momentum else "decay" if self.weight_decay else "descent"

    @property
    def tensors(self) -> int:
        """See ``Optimizer.tensors``; the velocity is one more, and so is the decayed gradient."""
        return self.copies + (self.momentum > 0) + (self.weight_decay > 0)

    def init(self, parameters: Tensors) -> State:
        """See ``Optimizer.init``."""
        if not self.momentum:
            return {"weights": parameters}
        velocity = copied([W.new_zeros(W.shape) for W in parameters])
        return {"weights": parameters, "velocity": velocity}

    def step(
        self,
        state: State,
        gradients: Tensors,
        *,
        lr: torch.Tensor,
        weight_decay: torch.Tensor | None = None,
        momentum: torch.Tensor | None = None,
    ) -> None:
        """See ``Optimizer.step``."""
        weights, along = state["weights"], gradients
        if weight_decay is not None:
            along = tuple(G.addcmul(W, weight_decay) for W, G in zip(weights, along, strict=True))
        if momentum is not None:
            for u, G in zip(state["velocity"], along, strict=True):
                u.mul_(momentum).add_(G)
            along = state["velocity"]
        _descend(weights, along, lr)


@OPTIMIZERS.register
class GD(Descent):
    """Full-batch gradient descent, ``W <- W - lr dL/dW`` (CBMM Memo 112, equation (1), with finite steps)."""

    kind: Literal["gd"] = "gd"


@OPTIMIZERS.register
class SGD(Descent):
    """Minibatch gradient descent.

    Attributes:
        batch_size: samples per step.
        sampling: see ``Minibatches``.
    """

    kind: Literal["sgd"] = "sgd"
    batch_size: BatchSize
    sampling: Sampling = "shuffled"

    @property
    def minibatches(self) -> Minibatches:
        """How each step's samples are drawn."""
        return Minibatches(self.batch_size, self.sampling)


class NormsApart(Optimizer):
    """What optimizers share that split each weight tensor into norm and direction.

    Attributes:
        batch_size: samples per step; None for the full training set.
        sampling: see ``Minibatches``.
    """

    batch_size: BatchSize | None = None
    sampling: Sampling = "shuffled"

    @property
    def minibatches(self) -> Minibatches | None:
        """How each step's samples are drawn; None for the full training set."""
        return Minibatches(self.batch_size, self.sampling) if self.batch_size else None

    def refuses(self, parameters: Sequence[Block]) -> str:
        """Only weights can be split into norm and direction; see ``Optimizer.refuses``."""
        other = [block.name for block in parameters if block.role != "weight"]
        return (
            f"the network's {', '.join(other)} are not weights, and cannot be split into norm and direction"
            if other
            else ""
        )


@OPTIMIZERS.register
class WeightNorm(NormsApart):
    """Gradient descent on ``(gamma_k, v_k)`` with ``W_k = gamma_k v_k / ||v_k||``, one norm for each weight tensor.

    Salimans and Kingma (arXiv:1602.07868), equation (3); CBMM Memo 112, remark 4. Starts at
    ``v_k = v_scale W_k``, ``gamma_k = ||W_k||``. The length of v_k is a learning rate of the directions, for
    ``d V_k = -lr (gamma_k/||v_k||^2) (G - V <V, G>)``: that of gradient descent where ||v_k|| = gamma_k. The law of gamma_k
    does not know it.

    Attributes:
        v_scale: ||v_k|| over ||W_k|| at the start.
    """

    kind: Literal["weight-norm"] = "weight-norm"
    v_scale: Annotated[float, Gt(0), PerMember("||v_k|| over ||W_k|| at the start", "v(0)/W", off=1.0)] = 1.0
    law: ClassVar[str | None] = "weight-norm"
    copies: ClassVar[int] = 6

    def init(self, parameters: Tensors) -> State:
        """See ``Optimizer.init``."""
        return {
            "weights": parameters,
            "v": tuple(W.clone() for W in parameters),
            "gamma": tuple(_frobenius(W) for W in parameters),
        }

    def begin(self, parameters: Tensors, options: Mapping[str, torch.Tensor]) -> State:
        """See ``Optimizer.begin``."""
        state = self.init(parameters)
        if "v_scale" in options:
            for v in state["v"]:
                v.mul_(options["v_scale"])
        return state

    def step(self, state: State, gradients: Tensors, *, lr: torch.Tensor, v_scale: torch.Tensor | None = None) -> None:
        """With V = v/||v||: ``d gamma = <V, G>`` and ``d v = (gamma/||v||)(G - V <V, G>)``."""
        del v_scale  # it is in ||v|| from the start on
        for W, v, gamma, G in zip(state["weights"], state["v"], state["gamma"], gradients, strict=True):
            norm = _frobenius(v)
            V = v / norm
            along = (V * G).sum(dim=(1, 2), keepdim=True)
            v.addcmul_(G.addcmul(V, along, value=-1), lr * gamma / norm, value=-1)
            gamma.addcmul_(along, lr, value=-1)
            W.copy_(v * (gamma / _frobenius(v)))


@OPTIMIZERS.register
class NormControl(NormsApart):
    """Gradient descent whose norms follow a schedule of their own: rho as a control (CBMM Memo 112, open question 5).

    Takes the step ``W_k - lr dL/dW_k`` and scales each layer to the norm that ``norms`` gives. For small steps the
    directions follow equation (4), ``dV_k/dt = -(dL/dW_k - V_k <V_k, dL/dW_k>)/rho_k``, at these norms.

    Attributes:
        norms: see ``models.norm_schedules``.
    """

    kind: Literal["norm-control"] = "norm-control"
    norms: Norms = ConstantNorms()
    copies: ClassVar[int] = 4

    @property
    def step_law(self) -> str | None:
        """See ``Optimizer.step_law``."""
        return self.norms.law

    def init(self, parameters: Tensors) -> State:
        """See ``Optimizer.init``."""
        start = tuple(_frobenius(W) for W in parameters)
        return {"weights": parameters, "start": start, "taken": (start[0].new_zeros(start[0].shape),)}

    def step(self, state: State, gradients: Tensors, *, lr: torch.Tensor) -> None:
        """See ``Optimizer.step``."""
        import torch

        weights, (taken,) = state["weights"], state["taken"]
        taken.add_(1)
        before = torch.cat([_frobenius(W) for W in weights], dim=2)  # (M, 1, L)
        _descend(weights, gradients, lr)
        free = torch.cat([_frobenius(W) for W in weights], dim=2)
        wanted = self.norms.norms(Descended(torch.cat(state["start"], dim=2), before, free, taken, lr))
        for k, W in enumerate(weights):
            W.mul_((wanted / free)[:, :, k : k + 1])


def _descend(parameters: Tensors, directions: Tensors, lr: torch.Tensor) -> None:
    for W, u in zip(*together(parameters, directions), strict=True):
        W.addcmul_(u, lr, value=-1)


def _frobenius(W: torch.Tensor) -> torch.Tensor:
    return W.square().sum(dim=(1, 2), keepdim=True).sqrt()  # (M, 1, 1)
