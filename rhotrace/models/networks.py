"""Bias-free ReLU networks, M of them side by side: every weight tensor has a leading member axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from annotated_types import Ge, Gt, Le, MinLen
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    Weights = tuple[torch.Tensor, ...]

Width = Annotated[int, Ge(1), Le(1_000_000)]


@dataclass(frozen=True)
class Network:
    """A family of networks with one set of weight shapes.

    Attributes:
        shapes: (out, in) of each layer's weight tensor, without the member axis.
        forward: ``(weights, x) -> outputs``; x is (N, d), shared by all members, or (M, N, d);
            outputs are (M, C, N).
        gradients: ``(weights, x, y) -> (outputs, gradients)`` of the square loss
            ``L = mean_n ||g(x_n) - y_n||^2`` of each member; y is (N, C) or (M, N, C).
        tangent_kernel: ``(weights, x, factors) -> sum_k factors_k <dg/dW_k, dg/dW_k>`` between all outputs
            and samples, (M, C N, C N) with index c N + n; x is (N, d), factors are (M, L).
    """

    shapes: tuple[tuple[int, int], ...]
    forward: Callable[[Weights, torch.Tensor], torch.Tensor]
    gradients: Callable[[Weights, torch.Tensor, torch.Tensor], tuple[torch.Tensor, Weights]]
    tangent_kernel: Callable[[Weights, torch.Tensor, torch.Tensor], torch.Tensor]


def mlp(
    inputs: int,
    outputs: int,
    /,
    *,
    depth: Annotated[int, Ge(1), Le(1000)],
    width: Width | Annotated[list[Width], MinLen(1)] = 32,
) -> Network:
    """A bias-free ReLU multilayer perceptron, ``g(x) = W_L relu(W_(L-1) ... relu(W_1 x))``.

    Args:
        inputs: dimension d of x.
        outputs: number of outputs C.
        depth: number of weight layers L.
        width: units of each hidden layer, or a list of L - 1 widths.

    Raises:
        ValueError: a list of widths of another length than L - 1.
    """
    hidden = [width] * (depth - 1) if isinstance(width, int) else list(width)
    if len(hidden) != depth - 1:
        raise ValueError(f"got {len(hidden)} widths, expected depth - 1 = {depth - 1}")
    sizes = [inputs, *hidden, outputs]
    shapes = tuple(zip(sizes[1:], sizes[:-1], strict=True))
    return Network(shapes, _mlp_forward, _mlp_gradients, _mlp_tangent_kernel)


NETWORKS: dict[str, Callable[..., Network]] = {"mlp": mlp}


# torch.bmm and not @, which spends as long on finding out what its arguments are as on these products.


def _first_layer(W: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """W x for every member and sample, (M, out, N); one large product where the members share x."""
    import torch

    members, out, _ = W.shape
    if x.dim() == 2:
        return torch.mm(W.reshape(members * out, -1), x.T).view(members, out, -1)
    return torch.bmm(W, x.mT)


def _mlp_forward(weights: Weights, x: torch.Tensor) -> torch.Tensor:
    import torch

    h = _first_layer(weights[0], x)
    for W in weights[1:]:
        h = torch.bmm(W, h.relu_())
    return h


def _mlp_gradients(weights: Weights, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, Weights]:
    """Back-propagation by hand: at these sizes automatic differentiation costs more than the products.

    The test suite holds it to ``autograd_gradients``.
    """
    import torch

    active = []  # relu(h_k), (M, width, N)
    h = _first_layer(weights[0], x)
    for W in weights[1:]:
        h = h.relu_()
        active.append(h)
        h = torch.bmm(W, h)
    outputs = h
    error = (outputs - y.mT) * (2 / x.shape[-2])  # dL/dg, (M, C, N)
    gradients: list[Any] = [None] * len(weights)
    for k in range(len(weights) - 1, 0, -1):
        gradients[k] = torch.bmm(error, active[k - 1].mT)
        # relu'(h) is the sign of relu(h): 1 where it is positive, and 0 at h = 0, as torch takes it.
        error = torch.bmm(weights[k].mT, error).mul_(active[k - 1].sign_())
    if x.dim() == 2:
        members, out, _ = error.shape
        gradients[0] = torch.mm(error.reshape(members * out, -1), x).view(members, out, -1)
    else:
        gradients[0] = torch.bmm(error, x)
    return outputs, tuple(gradients)


def _mlp_tangent_kernel(weights: Weights, x: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """By layers: dg_c/dW_k is an outer product, so its inner products are those of its two sides, multiplied.

    The test suite holds it to ``autograd_tangent_kernel``, which takes N C times the numbers of a layer.
    """
    import torch

    inputs = [x.T.expand(len(weights[0]), -1, -1)]  # of each layer, (M, in, N)
    for W in weights[:-1]:
        inputs.append(torch.bmm(W, inputs[-1]).relu_())
    members, outputs, _ = weights[-1].shape
    samples = len(x)
    # dg_c/dz_k for every output and sample, (M, units, C N); dg/dz_L is the identity.
    signal = torch.eye(outputs, dtype=x.dtype, device=x.device).repeat_interleave(samples, dim=1)
    signal = signal.expand(members, -1, -1)
    kernel = torch.zeros(members, outputs * samples, outputs * samples, dtype=x.dtype, device=x.device)
    for k in range(len(weights) - 1, -1, -1):
        of_inputs = torch.bmm(inputs[k].mT, inputs[k]).repeat(1, outputs, outputs)
        kernel += factors[:, k, None, None] * torch.bmm(signal.mT, signal) * of_inputs
        if k:
            signal = torch.bmm(weights[k].mT, signal) * inputs[k].sign().repeat(1, 1, outputs)
    return kernel


def autograd_tangent_kernel(
    forward: Callable[[Weights, torch.Tensor], torch.Tensor],
) -> Callable[[Weights, torch.Tensor, torch.Tensor], torch.Tensor]:
    """``Network.tangent_kernel`` of any ``forward``, by automatic differentiation of every output; for new networks."""

    def tangent_kernel(weights: Weights, x: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        import torch
        from torch.func import jacrev, vmap

        def output(own: Weights, sample: torch.Tensor) -> torch.Tensor:
            return forward(tuple(W[None] for W in own), sample[None])[0, :, 0]  # (C,)

        def of_member(own: Weights, factor: torch.Tensor) -> torch.Tensor:
            total = torch.zeros((), dtype=x.dtype, device=x.device)
            for k, J in enumerate(vmap(jacrev(output), in_dims=(None, 0))(own, x)):  # (N, C, out, in)
                flat = J.transpose(0, 1).reshape(J.shape[0] * J.shape[1], -1)
                total = total + factor[k] * (flat @ flat.T)
            return total

        return torch.stack([of_member(tuple(W[m] for W in weights), factors[m]) for m in range(len(factors))])

    return tangent_kernel


def autograd_gradients(
    forward: Callable[[Weights, torch.Tensor], torch.Tensor],
) -> Callable[[Weights, torch.Tensor, torch.Tensor], tuple[torch.Tensor, Weights]]:
    """``Network.gradients`` of any ``forward``, by automatic differentiation; a new network starts from this."""

    def gradients(weights: Weights, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, Weights]:
        import torch

        with torch.enable_grad():
            leaves = tuple(W.detach().requires_grad_() for W in weights)
            outputs = forward(leaves, x)
            # Members do not interact, so the gradient of the summed losses is each member's own.
            loss = (outputs - y.mT).square().sum(dim=1).mean(dim=1).sum()
            return outputs.detach(), torch.autograd.grad(loss, leaves)

    return gradients


# --- initial weights ---------------------------------------------------------------------------------------


def equal_norms(
    shapes: Sequence[tuple[int, int]], seed: int, /, *, rho_k: Annotated[float, Ge(1e-12), Le(1e12)]
) -> list[NDArray[np.float64]]:
    """Gaussian directions, each layer scaled to the same Frobenius norm (the memo's assumption, section 2.2).

    Args:
        shapes: (out, in) of each layer.
        seed: of this member's weights.
        rho_k: Frobenius norm of every layer at the start.
    """
    return [rho_k * W / np.linalg.norm(W) for W in _gaussian(shapes, seed)]


def he(
    shapes: Sequence[tuple[int, int]], seed: int, /, *, scale: Annotated[float, Gt(0)] = 1.0
) -> list[NDArray[np.float64]]:
    """Gaussian entries of variance ``scale^2 2/in`` (He et al., arXiv:1502.01852, equation (10), times a factor).

    Args:
        shapes: (out, in) of each layer.
        seed: of this member's weights.
        scale: factor on every weight.
    """
    return [scale * np.sqrt(2 / W.shape[1]) * W for W in _gaussian(shapes, seed)]


def _gaussian(shapes: Sequence[tuple[int, int]], seed: int) -> list[NDArray[np.float64]]:
    # A stream of its own for each layer: a deeper network starts with the shallower one's layers.
    return [np.random.default_rng([seed, 3, k]).standard_normal(shape) for k, shape in enumerate(shapes)]


INITS: dict[str, Callable[..., list[NDArray[np.float64]]]] = {"equal-norms": equal_norms, "he": he}
