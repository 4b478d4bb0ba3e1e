"""Inner products in float64 against exact sums, for every length that the compiled loop treats on its own."""

from __future__ import annotations

import math

import pytest
import torch

from rhotrace.recording.inner_products import PIECE, fits, inner_products
from rhotrace.recording.quantities import layer_norms


def drawn(*shapes: tuple[int, ...], seed: int = 0) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    return [torch.randn(shape) for shape in shapes]


def exact(x: torch.Tensor, y: torch.Tensor) -> float:
    """Products of float32 are exact in float64, and ``fsum`` rounds once."""
    return math.fsum(
        a * b for a, b in zip(x.double().reshape(-1).tolist(), y.double().reshape(-1).tolist(), strict=True)
    )


def assert_close(found: float, x: torch.Tensor, y: torch.Tensor) -> None:
    """By the size of the terms, as they may cancel."""
    assert found == pytest.approx(exact(x, y), rel=0, abs=1e-14 * exact(x.abs(), y.abs()))


def test_every_short_length_is_summed_to_its_end():
    xs, ys = drawn(*[(n,) for n in range(1, 200)]), drawn(*[(n,) for n in range(1, 200)], seed=1)
    for found, x, y in zip(inner_products(xs, ys)[0].tolist(), xs, ys, strict=True):
        assert_close(found, x, y)
    for found, x in zip(inner_products(xs)[0].tolist(), xs, strict=True):
        assert_close(found, x, x)


@pytest.mark.parametrize("length", [PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 300_000])
def test_pieces_meet_without_gap_or_overlap(length):
    (x,), (y,) = drawn((length,)), drawn((length,), seed=1)
    assert_close(inner_products([x], [y]).item(), x, y)
    assert_close(inner_products([x]).item(), x, x)


def test_members_have_the_bits_that_they_have_alone():
    shapes = [(5, 64, 70), (5, 3, 64), (5, 1, 3)]
    xs, ys = drawn(*shapes), drawn(*shapes, seed=1)
    for other in (None, ys):
        found = inner_products(xs, other, members=5)
        for m in range(5):
            alone = inner_products([x[m : m + 1] for x in xs], other and [y[m : m + 1] for y in other])
            assert torch.equal(found[m], alone[0])


def test_where_the_numbers_lie_does_not_matter():
    (numbers,) = drawn((3000,))
    for start in range(20):  # at every alignment
        x = torch.cat([torch.zeros(start), numbers])[start:]
        assert torch.equal(inner_products([x]), inner_products([numbers]))
    (square,) = drawn((40, 30))
    assert_close(inner_products([square.T[::2]]).item(), square.T[::2], square.T[::2])


def test_what_overflows_float32_and_what_is_not_finite():
    x = torch.tensor([3e38, 1e-30])
    assert inner_products([x]).item() == pytest.approx(9e76, rel=1e-6)
    nan, infinite = torch.tensor([1.0, math.nan]), torch.tensor([math.inf, 1.0])
    found = inner_products([nan, infinite, torch.ones(2), torch.empty(0)])[0]
    assert math.isnan(found[0])
    assert found[1:].tolist() == [math.inf, 2, 0]


def test_only_float32_on_the_processor_fits():
    (x,) = drawn((4,))
    assert fits([x, x])
    assert not fits([x, x.double()])
    assert not fits([x.to("meta")])


@pytest.mark.parametrize("shape", [(1, 1030, 600), (2, 700, 1000), (7, 64, 784)])
def test_layers_have_their_exact_norm(shape):
    (W,) = drawn(shape)
    expected = [math.sqrt(exact(one, one)) for one in W]
    assert layer_norms((W,))[:, 0].tolist() == pytest.approx(expected, rel=1e-14)
