"""Products of matrices by the faster of the two libraries that torch brings.

torch multiplies float32 matrices on a processor by MKL. On AMD's processors with AVX-512 that takes twice as long as oneDNN,
which torch uses for convolutions (``benchmarks/README.md``). There, and only there, large products are oneDNN's. The
processor and the shapes of one member's matrices decide, never a measurement: the same run on the same machine has the same
bits, and a member has those of the network alone.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

LARGE = 1_500_000  # multiplications; in smaller products oneDNN's calls cost more than it gains
NARROW = 16  # rows, terms or columns; products with fewer wait for memory


class Product(Protocol):
    """Multiplies a by b into a tensor, as ``torch.mm`` and ``torch.bmm`` do."""

    def __call__(self, a: torch.Tensor, b: torch.Tensor, /, *, out: torch.Tensor) -> torch.Tensor:
        """The tensor ``out``, filled."""


def product(a: torch.Tensor, b: torch.Tensor, members: int = 1) -> Product:
    """How to multiply matrices of the shapes of a and b, again and again.

    Args:
        a: (rows, terms), or (M, rows, terms) for the matrices of M members; only its shape, type and device matter.
        b: (terms, columns) or (M, terms, columns), likewise.
        members: that share the rows of one matrix a.
    """
    import torch

    if _large(a.shape[-2] // members, *b.shape[-2:]) and a.dtype is torch.float32 and a.is_cpu and one_dnn_is_faster():
        return _matrix_by_one_dnn if a.dim() == 2 else _matrices_by_one_dnn
    # Not @: at these sizes, it spends as long on dispatch as on the product itself.
    return torch.mm if a.dim() == 2 else torch.bmm


def multiplied(a: torch.Tensor, b: torch.Tensor, members: int = 1) -> torch.Tensor:
    """The product of a and b, as in ``product``, in a new tensor.

    Where it is to be differentiated, it is torch's.
    """
    import torch

    multiply = product(a, b, members)
    if multiply in (torch.mm, torch.bmm) or a.requires_grad or b.requires_grad:
        return torch.mm(a, b) if a.dim() == 2 else torch.bmm(a, b)
    if multiply is _matrix_by_one_dnn:
        return _by_one_dnn(a, b)
    if len(a) == 1:
        return _by_one_dnn(a[0], b[0])[None]
    return multiply(a, b, out=a.new_empty(*a.shape[:-1], b.shape[-1]))


def library(dtype: str, device: str) -> str:
    """What multiplies large matrices: ``oneDNN`` or ``torch``. A run's bits depend on it, so that the run file names it."""
    return "oneDNN" if dtype == "float32" and device == "cpu" and one_dnn_is_faster() else "torch"


@cache
def one_dnn_is_faster() -> bool:
    """Whether this processor is one of AMD's with AVX-512 (Zen 4 or later) and torch has the product used below."""
    import torch

    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # type: ignore[no-untyped-call]
        return False
    import llvmlite.binding as llvm

    return llvm.get_host_cpu_name().startswith("znver") and bool(llvm.get_host_cpu_features().get("avx512f"))


def _large(rows: int, terms: int, columns: int) -> bool:
    return rows * terms * columns >= LARGE and min(rows, terms, columns) >= NARROW


def _by_one_dnn(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    import torch

    # The public way, ``linear`` of tensors in oneDNN's layout, first copies each matrix into it.
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(a, b.mT, None, "none", [], "")
    return product


def _matrix_by_one_dnn(a: torch.Tensor, b: torch.Tensor, /, *, out: torch.Tensor) -> torch.Tensor:
    return out.copy_(_by_one_dnn(a, b))


def _matrices_by_one_dnn(a: torch.Tensor, b: torch.Tensor, /, *, out: torch.Tensor) -> torch.Tensor:
    for one, other, place in zip(a.unbind(), b.unbind(), out.unbind(), strict=True):
        place.copy_(_by_one_dnn(one, other))
    return out
