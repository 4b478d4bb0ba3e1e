"""Blocks of steps on their way from the device to the file, copied while the steps of the next block go on.

On a processor a full block is at hand and is written at once. On a GPU, reading it waits for every step that is queued, and the
GPU then has nothing to do until the block is on the disk. So there each block leaves by a stream of its own into page-locked
memory, and is written when the next block is full, or when there is none. A process that is killed may lose one block
more. Writing still takes the host's time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from rhotrace.models.network import Tensors


@dataclass(frozen=True)
class Filled:
    """A block of steps.

    Attributes:
        first: its first step.
        done: one past its last step.
        rows: of each of the recorder's groups of quantities, (rows, quantities, M, ...).
        state: of the optimizer after its last step.
    """

    first: int
    done: int
    rows: Tensors
    state: Mapping[str, Tensors]

    def each(self, copy: Callable[[torch.Tensor], torch.Tensor]) -> Filled:
        """The block with another tensor in place of each."""
        state = {key: tuple(map(copy, tensors)) for key, tensors in self.state.items()}
        return Filled(self.first, self.done, tuple(map(copy, self.rows)), state)


def one_behind(blocks: Iterable[Filled]) -> Iterator[Filled]:
    """Copies of the blocks in host memory, each when the next one is full, and the last at the end.

    If a later step fails, the block before it comes first, and then the error.

    Args:
        blocks: on the device; the steps of each begin when it is asked for, and may overwrite the tensors of the last.
    """
    pending: Callable[[], Filled] | None = None
    try:
        for block in blocks:
            leaving = _leave(block)
            if pending:
                yield pending()
            pending = leaving
    except Exception:
        if pending:
            yield pending()
        raise
    if pending:
        yield pending()


def _leave(block: Filled) -> Callable[[], Filled]:
    """Starts to copy a block, and returns what waits for the copy."""
    import torch

    kept = block.each(torch.clone)  # in the queue of the steps, which then go on
    if not kept.rows[0].is_cuda:
        return lambda: kept
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())

    def to_host(tensor: torch.Tensor) -> torch.Tensor:
        tensor.record_stream(stream)  # its memory is not given to another before it is copied
        return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)

    with torch.cuda.stream(stream):
        host = kept.each(to_host)
    copied = stream.record_event()

    def wait() -> Filled:
        copied.synchronize()
        return host

    return wait
