"""Gradient descent, SGD and weight normalisation: how the parameters move in one step, for all members at once.

An optimizer makes its state from the parameters and updates it in place. ``state["weights"]`` always holds the
parameters of the next forward pass, in the order of the network's parameter blocks, each (M, out, fan_in). An optimizer
may keep other tensors, such as the ``v`` of weight normalisation. All of its state is saved with every commit and
restored when a run is resumed. A minibatch optimizer defines ``minibatches``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Gt

from rhotrace.models.component import Component, PerMember, Registry
from rhotrace.models.minibatches import Minibatches, Sampling
from rhotrace.models.network import Block

if TYPE_CHECKING:
    import torch

    from rhotrace.models.network import Tensors

    State = dict[str, Tensors]

BatchSize = Annotated[int, Ge(1)]


class Optimizer(Component):
    """An optimizer's section of a recipe, and what it does.

    Attributes:
        lr: learning rate eta.
        law: name in ``theory.step_identity.LAWS`` of the exact change of the layer norms in one step; None where no
            such law is known.
        copies: memory of a step in multiples of the parameters, counting the parameters and the gradients.
    """

    kind: str
    lr: Annotated[float, Gt(0), PerMember("learning rate", "lr")]
    law: ClassVar[str | None] = None
    copies: ClassVar[int] = 3

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

    def step(self, state: State, gradients: Tensors, *, lr: torch.Tensor) -> None:
        """One step, in place.

        Args:
            state: of the optimizer.
            gradients: dL/dW for each parameter, (M, out, fan_in).
            lr: of each member, (M, 1, 1); likewise any other field that is marked as per member.
        """
        raise NotImplementedError


OPTIMIZERS: Registry[Optimizer] = Registry("optimizer")


@OPTIMIZERS.register
class GD(Optimizer):
    """Full-batch gradient descent, ``W <- W - lr dL/dW`` (CBMM Memo 112, equation (1), with finite steps)."""

    kind: Literal["gd"] = "gd"
    law: ClassVar[str | None] = "descent"

    def step(self, state: State, gradients: Tensors, *, lr: torch.Tensor) -> None:
        """See ``Optimizer.step``."""
        _descend(state["weights"], gradients, lr)


@OPTIMIZERS.register
class SGD(Optimizer):
    """Minibatch gradient descent without momentum or weight decay.

    Attributes:
        batch_size: samples per step.
        sampling: see ``Minibatches``.
    """

    kind: Literal["sgd"] = "sgd"
    batch_size: BatchSize
    sampling: Sampling = "shuffled"
    law: ClassVar[str | None] = "descent"

    @property
    def minibatches(self) -> Minibatches:
        """How each step's samples are drawn."""
        return Minibatches(self.batch_size, self.sampling)

    def step(self, state: State, gradients: Tensors, *, lr: torch.Tensor) -> None:
        """See ``Optimizer.step``."""
        _descend(state["weights"], gradients, lr)


@OPTIMIZERS.register
class WeightNorm(Optimizer):
    """Gradient descent on ``(gamma_k, v_k)`` with ``W_k = gamma_k v_k / ||v_k||``, one norm for each weight tensor.

    Salimans and Kingma (arXiv:1602.07868), equation (3); CBMM Memo 112, remark 4. Starts at
    ``v_k = W_k``, ``gamma_k = ||W_k||``.

    Attributes:
        batch_size: samples per step; None for the full training set.
        sampling: see ``Minibatches``.
    """

    kind: Literal["weight-norm"] = "weight-norm"
    batch_size: BatchSize | None = None
    sampling: Sampling = "shuffled"
    law: ClassVar[str | None] = "weight-norm"
    copies: ClassVar[int] = 6

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

    def init(self, parameters: Tensors) -> State:
        """See ``Optimizer.init``."""
        return {
            "weights": parameters,
            "v": tuple(W.clone() for W in parameters),
            "gamma": tuple(_frobenius(W) for W in parameters),
        }

    def step(self, state: State, gradients: Tensors, *, lr: torch.Tensor) -> None:
        """With V = v/||v||: ``d gamma = <V, G>`` and ``d v = (gamma/||v||)(G - V <V, G>)``."""
        for W, v, gamma, G in zip(state["weights"], state["v"], state["gamma"], gradients, strict=True):
            norm = _frobenius(v)
            V = v / norm
            along = (V * G).sum(dim=(1, 2), keepdim=True)
            v.addcmul_(G.addcmul(V, along, value=-1), lr * gamma / norm, value=-1)
            gamma.addcmul_(along, lr, value=-1)
            W.copy_(v * (gamma / _frobenius(v)))


def _descend(parameters: Tensors, gradients: Tensors, lr: torch.Tensor) -> None:
    for W, G in zip(parameters, gradients, strict=True):
        W.addcmul_(G, lr, value=-1)


def _frobenius(W: torch.Tensor) -> torch.Tensor:
    return W.square().sum(dim=(1, 2), keepdim=True).sqrt()  # (M, 1, 1)
