"""Gradient descent, SGD and weight normalisation as pairs of plain functions, and the order of the minibatches.

An optimizer is ``init(weights) -> state`` and ``step(state, gradients, lr)``, which updates the state
in place. ``state["weights"]`` always holds the weights of the next forward pass, so whatever else an
optimizer keeps (the ``v`` of weight normalisation) is its own affair. Learning rates are (M, 1, 1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from rhotrace.models.networks import Weights

    State = dict[str, Weights]

Sampling = Literal["shuffled", "with-replacement"]


@dataclass(frozen=True)
class Optimizer:
    """How the weights move, and on which samples each step looks.

    Attributes:
        init: ``(weights) -> state``.
        step: ``(state, gradients, lr)``, in place.
        batch_size: samples per step; None for the full training set.
        sampling: how minibatches are drawn.
    """

    init: Callable[[Weights], State]
    step: Callable[[State, Weights, torch.Tensor], None]
    batch_size: int | None = None
    sampling: Sampling = "shuffled"


def gd() -> Optimizer:
    """Full-batch gradient descent, ``W <- W - lr dL/dW`` (CBMM Memo 112, equation (1), with finite steps)."""
    return Optimizer(_plain_init, _plain_step)


def sgd(*, batch_size: Annotated[int, Ge(1)], sampling: Sampling = "shuffled") -> Optimizer:
    """Minibatch gradient descent without momentum or weight decay.

    Args:
        batch_size: samples per step.
        sampling: ``shuffled`` goes through a fresh permutation each epoch (a last partial batch is
            left out); ``with-replacement`` draws every sample independently.
    """
    return Optimizer(_plain_init, _plain_step, batch_size, sampling)


def weight_norm(*, batch_size: Annotated[int, Ge(1)] | None = None, sampling: Sampling = "shuffled") -> Optimizer:
    """Gradient descent on ``(gamma_k, v_k)`` with ``W_k = gamma_k v_k / ||v_k||``, a norm per weight tensor.

    Salimans and Kingma (arXiv:1602.07868), equation (3); CBMM Memo 112, remark 4. Starts at
    ``v_k = W_k``, ``gamma_k = ||W_k||``.

    Args:
        batch_size: samples per step; None for the full training set.
        sampling: as for ``sgd``.
    """
    return Optimizer(_weight_norm_init, _weight_norm_step, batch_size, sampling)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"gd": gd, "sgd": sgd, "weight-norm": weight_norm}


def _plain_init(weights: Weights) -> State:
    return {"weights": weights}


def _plain_step(state: State, gradients: Weights, lr: torch.Tensor) -> None:
    for W, G in zip(state["weights"], gradients, strict=True):
        W.addcmul_(G, lr, value=-1)


def _frobenius(W: torch.Tensor) -> torch.Tensor:
    return W.square().sum(dim=(1, 2), keepdim=True).sqrt()  # (M, 1, 1)


def _weight_norm_init(weights: Weights) -> State:
    return {
        "weights": weights,
        "v": tuple(W.clone() for W in weights),
        "gamma": tuple(_frobenius(W) for W in weights),
    }


def _weight_norm_step(state: State, gradients: Weights, lr: torch.Tensor) -> None:
    """With V = v/||v||: ``d gamma = <V, G>`` and ``d v = (gamma/||v||)(G - V <V, G>)``."""
    for W, v, gamma, G in zip(state["weights"], state["v"], state["gamma"], gradients, strict=True):
        norm = _frobenius(v)
        V = v / norm
        along = (V * G).sum(dim=(1, 2), keepdim=True)
        v.addcmul_(G.addcmul(V, along, value=-1), lr * gamma / norm, value=-1)
        gamma.addcmul_(along, lr, value=-1)
        W.copy_(v * (gamma / _frobenius(v)))


# --- minibatches -------------------------------------------------------------------------------------------

_CHUNK = 256  # steps drawn from one stream; part of the definition of a run, so never to be tuned


def batch_indices(
    seeds: Sequence[int], first: int, last: int, *, samples: int, batch_size: int, sampling: Sampling
) -> NDArray[np.int64]:
    """Sample numbers of the minibatches of steps ``first`` to ``last - 1``, (steps, M, batch).

    A pure function of the seed and the step: no generator state exists that a resumed run could lose,
    and a member draws the same batches alone, in any ensemble and on any device.
    """
    return np.stack([_member_batches(s, first, last, samples, batch_size, sampling) for s in seeds], axis=1)


def _member_batches(
    seed: int, first: int, last: int, samples: int, batch_size: int, sampling: Sampling
) -> NDArray[np.int64]:
    per_stream = samples // batch_size if sampling == "shuffled" else _CHUNK
    streams = []
    for stream in range(first // per_stream, -(-last // per_stream)):
        rng = np.random.default_rng([seed, 4, stream])
        if sampling == "shuffled":
            drawn = rng.permutation(samples)[: per_stream * batch_size]
        else:
            drawn = rng.integers(samples, size=per_stream * batch_size)
        streams.append(drawn.reshape(per_stream, batch_size))
    start = first - first // per_stream * per_stream
    return np.concatenate(streams)[start : start + last - first]
