"""The norms of layers too large for the processor's cache, against exact sums and against PyTorch's own."""

from __future__ import annotations

import math

import pytest
import torch

from rhotrace.recording.quantities import layer_norms


def drawn(*shapes: tuple[int, int, int]) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    return tuple(torch.randn(shape) for shape in shapes)


def test_many_members_have_the_bits_of_pytorch():
    layers = drawn((70, 64, 784), (70, 64, 64), (70, 64, 64), (70, 1, 64))
    expected = [torch.linalg.vector_norm(W, dim=(1, 2), dtype=torch.float64) for W in layers]
    assert torch.equal(layer_norms(layers), torch.stack(expected, dim=1))


@pytest.mark.parametrize("shape", [(1, 1030, 600), (2, 700, 1000), (1, 3, 300_000)])
def test_large_layers_have_their_exact_norm(shape):
    (W,) = drawn(shape)
    exact = [math.sqrt(math.fsum(v * v for v in one.double().reshape(-1).tolist())) for one in W]
    assert layer_norms((W,))[:, 0].tolist() == pytest.approx(exact, rel=1e-13)
