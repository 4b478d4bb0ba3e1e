"""Inner products and norms of float32 numbers, accumulated in float64, in one pass over the numbers.

NumPy and PyTorch first write a copy of the numbers in float64. That takes several times as long as the sums, and forty
times where the copy does not fit into the cache (``benchmarks/README.md``). LLVM compiles the loop below for the
processor when it is first used, in a few hundredths of a second.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PIECE = 4096  # numbers that one loop sums; the sums of the pieces are then added one after another


def inner_products(
    first: Sequence[torch.Tensor],
    second: Sequence[torch.Tensor] | None = None,
    *,
    members: int = 1,
    into: torch.Tensor | None = None,
) -> torch.Tensor:
    """<x, y> of each member of each pair of tensors, (members, pairs), in float64.

    Products of float32 numbers are exact in float64, so that only the sums round. The result depends on nothing but the
    numbers of a member and the processor: neither on the other members nor on where the numbers lie.

    Args:
        first: tensors x that ``fits`` accepts; the first axis is that of the members.
        second: tensors y of the same shapes; x by default, for squared norms.
        members: number of equal parts that each tensor has.
        into: a contiguous tensor for the result, (members, pairs) in float64; a new one by default.
    """
    import torch

    xs = _in_order(first)
    x_places = y_places = _places(xs)
    if second is not None:
        ys = _in_order(second)
        y_places = _places(ys)
    x_list, y_list, counts, pairs, _ = _lists(x_places, y_places, tuple([x.numel() for x in xs]), members)
    found = torch.empty(members, len(xs), dtype=torch.float64) if into is None else into
    _compiled()[0](x_list, y_list, counts, pairs, found.data_ptr())
    return found


def squares_in_place(tensors: Sequence[torch.Tensor], into: torch.Tensor) -> Callable[[], object]:
    """A function that measures the squared norms of the same tensors again and again, with nothing to do but the sums.

    It reads the numbers where they lie now, and keeps that memory, so that no other tensor can come to lie there.

    Args:
        tensors: contiguous, and such that ``fits`` accepts them.
        into: a contiguous tensor for the norms, (1, tensors) in float64.
    """
    kept = [x.detach() for x in tensors]
    x_list, _, counts, pairs, lists = _lists.__wrapped__(
        *(_places(kept),) * 2, tuple([x.numel() for x in kept]), members=1
    )
    compute, found = _compiled()[0], into.data_ptr()

    def measure(_kept: object = (kept, into, lists)) -> None:
        compute(x_list, x_list, counts, pairs, found)

    return measure


def fits(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether ``inner_products`` takes these tensors: float32 on the processor."""
    import torch

    narrow = torch.float32
    for x in tensors:  # noqa: SIM110 - at every step: a loop takes half the time of ``all``
        if x.dtype is not narrow or not x.is_cpu:
            return False
    return True


def _in_order(tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """The tensors, or copies whose numbers lie one after another."""
    for x in tensors:
        if not x.is_contiguous():
            return [x.contiguous() for x in tensors]
    return tensors


def _places(tensors: Sequence[torch.Tensor]) -> tuple[int, ...]:
    return tuple([x.data_ptr() for x in tensors])


_POINTER = ctypes.c_void_p


@lru_cache(maxsize=64)
def _lists(
    xs: tuple[int, ...], ys: tuple[int, ...], sizes: tuple[int, ...], members: int
) -> tuple[int, int, int, int, object]:
    """What the compiled function takes, kept because weights mostly stay where they are.

    Args:
        xs: address of each tensor.
        ys: address of the tensor that it is multiplied by.
        sizes: numbers of each tensor.
        members: that share them.

    Returns:
        The addresses of three lists, in the order (members, pairs): where each x and each y begins, and their numbers;
        the length of the lists; and the lists themselves, which must live as long as their addresses are used.
    """
    pairs = len(sizes) * members
    parts = [size // members for size in sizes]

    def begin(places: tuple[int, ...]) -> ctypes.Array[ctypes.c_void_p]:
        each = [start + 4 * part * m for m in range(members) for start, part in zip(places, parts, strict=True)]
        return (_POINTER * pairs)(*each)

    counts = (ctypes.c_int64 * pairs)(*parts * members)
    x_list = begin(xs)
    y_list = x_list if ys == xs else begin(ys)
    at = ctypes.addressof
    return at(x_list), at(y_list), at(counts), pairs, (x_list, y_list, counts)


_SIGNATURE = ctypes.CFUNCTYPE(None, _POINTER, _POINTER, _POINTER, ctypes.c_int64, _POINTER)


@cache
def _compiled() -> tuple[Any, Any]:
    """``inner_products`` of the source below as a function of Python, and what its machine code belongs to."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    processor = {"cpu": llvm.get_host_cpu_name(), "features": llvm.get_host_cpu_features().flatten()}
    machine = llvm.Target.from_default_triple().create_target_machine(**processor, opt=3)
    module = llvm.parse_assembly(_SOURCE)
    module.verify()
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(module, passes)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return _SIGNATURE(engine.get_function_address("inner_products")), engine


# What follows is, in C:
#
#     double piece(float *x, float *y, int64_t n)
#     {
#         double sum = 0;
#         for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)y[i];
#         return sum;
#     }
#
#     void inner_products(float **xs, float **ys, int64_t *sizes, int64_t count, double *found)
#     {
#         for (int64_t k = 0; k < count; k++) {
#             double sum = 0;
#             for (int64_t i = 0; i < sizes[k]; i += PIECE)
#                 sum += piece(xs[k] + i, ys[k] + i, min(sizes[k] - i, PIECE));
#             found[k] = sum;
#         }
#     }
#
# ``reassoc`` allows as many partial sums as the processor can add at once. Inlined with x alone, ``piece`` loads a number once.
_SOURCE = f"""
define internal double @piece(ptr %x, ptr %y, i64 %n) alwaysinline {{
start:
  br label %loop
loop:
  %i = phi i64 [ 0, %start ], [ %next, %loop ]
  %sum = phi double [ 0.0, %start ], [ %more, %loop ]
  %x_place = getelementptr inbounds float, ptr %x, i64 %i
  %y_place = getelementptr inbounds float, ptr %y, i64 %i
  %x_narrow = load float, ptr %x_place
  %y_narrow = load float, ptr %y_place
  %x_wide = fpext float %x_narrow to double
  %y_wide = fpext float %y_narrow to double
  %product = fmul double %x_wide, %y_wide
  %more = fadd reassoc double %sum, %product
  %next = add nuw nsw i64 %i, 1
  %ends = icmp eq i64 %next, %n
  br i1 %ends, label %done, label %loop
done:
  ret double %more
}}

define void @inner_products(ptr %xs, ptr %ys, ptr %sizes, i64 %count, ptr %found) {{
start:
  %same = icmp eq ptr %xs, %ys
  br label %each
each:
  %k = phi i64 [ 0, %start ], [ %k_next, %store ]
  %k_ends = icmp sge i64 %k, %count
  br i1 %k_ends, label %done, label %pair
pair:
  %x_place = getelementptr ptr, ptr %xs, i64 %k
  %y_place = getelementptr ptr, ptr %ys, i64 %k
  %size_place = getelementptr i64, ptr %sizes, i64 %k
  %x = load ptr, ptr %x_place
  %y = load ptr, ptr %y_place
  %size = load i64, ptr %size_place
  br label %pieces
pieces:
  %i = phi i64 [ 0, %pair ], [ %i_next, %add ]
  %sum = phi double [ 0.0, %pair ], [ %more, %add ]
  %left = sub i64 %size, %i
  %ends = icmp sle i64 %left, 0
  br i1 %ends, label %store, label %begin
begin:
  %last = icmp slt i64 %left, {PIECE}
  %n = select i1 %last, i64 %left, i64 {PIECE}
  %x_piece = getelementptr float, ptr %x, i64 %i
  br i1 %same, label %square, label %product
square:
  %squared = call double @piece(ptr %x_piece, ptr %x_piece, i64 %n)
  br label %add
product:
  %y_piece = getelementptr float, ptr %y, i64 %i
  %multiplied = call double @piece(ptr %x_piece, ptr %y_piece, i64 %n)
  br label %add
add:
  %part = phi double [ %squared, %square ], [ %multiplied, %product ]
  %more = fadd double %sum, %part
  %i_next = add i64 %i, %n
  br label %pieces
store:
  %found_place = getelementptr double, ptr %found, i64 %k
  store double %sum, ptr %found_place
  %k_next = add i64 %k, 1
  br label %each
done:
  ret void
}}
"""
