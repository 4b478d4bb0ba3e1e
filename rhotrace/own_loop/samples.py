"""Sets of samples on which a recording evaluates the module: tensors, or batches from a loader."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rhotrace.errors import RhoTraceError
from rhotrace.models.homogeneity import SAMPLES
from rhotrace.own_loop.homogeneity import outputs_of, undisturbed, without_autocast

if TYPE_CHECKING:
    import torch

    from rhotrace.models.losses import Loss

CHUNK = 2048  # samples in a forward pass
_HASHED = 1 << 28  # bytes of each tensor that enter the digest


def as_targets(y: torch.Tensor, outputs: int, loss: Loss | None) -> torch.Tensor:
    """Targets as (N, C) in float64, without synchronising with the host.

    Args:
        y: class numbers (N,), or values (N,) or (N, C).
        outputs: C.
        loss: that they are for; of one that needs targets -1 and +1, whole numbers are 0 and 1.
    """
    import torch

    whole = not y.is_floating_point()
    if whole and outputs > 1 and y.numel() and y.dim() < 2 + (y.shape[-1:] != (outputs,)):
        return (y.reshape(-1, 1) == torch.arange(outputs, device=y.device)).double()
    values = y.reshape(-1, outputs).double()
    return 2 * values - 1 if whole and loss is not None and loss.one_output else values


@dataclass(frozen=True)
class Samples:
    """A set of samples: two tensors, or a loader of batches (inputs, targets) that can be read again and again.

    Attributes:
        name: of the argument, for messages.
        content: what the user gave.
    """

    name: str
    content: Any

    @classmethod
    def of(cls, name: str, content: Any) -> Samples | None:  # noqa: ANN401 - checked here
        """The samples of an argument of ``rhotrace.record``.

        Raises:
            RhoTraceError: it is neither a pair of tensors of one length nor a loader.
        """
        import torch

        if content is None:
            return None
        pair = isinstance(content, tuple | list) and len(content) == 2
        if pair and all(isinstance(each, torch.Tensor) for each in content):
            if len(content[0]) != len(content[1]):
                raise RhoTraceError(
                    f"rhotrace.record: {name}: got {len(content[0])} inputs and {len(content[1])} targets, expected one "
                    "target for each input"
                )
            return cls(name, tuple(content))
        if isinstance(content, Iterable) and not isinstance(content, Iterator | tuple | list | str | torch.Tensor):
            return cls(name, content)
        raise RhoTraceError(
            f"rhotrace.record: {name}: got {type(content).__name__}, expected two tensors (inputs, targets), or a loader "
            "of such batches that can be read again, such as a DataLoader"
        )

    @property
    def tensors(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Inputs and targets, where they are two tensors."""
        return self.content if isinstance(self.content, tuple) else None

    @property
    def size(self) -> int | None:
        """N, where it is known."""
        if self.tensors:
            return len(self.tensors[0])
        dataset = getattr(self.content, "dataset", None)
        return len(dataset) if isinstance(dataset, Sized) else None

    @property
    def digest(self) -> str:
        """SHA-256 of the tensors, of their first 256 MiB each; of a loader, of its type and length."""
        found = hashlib.sha256()
        if self.tensors is None:
            found.update(f"{type(getattr(self.content, 'dataset', self.content)).__name__} {self.size}".encode())
            return found.hexdigest()
        for tensor in self.tensors:
            rows = max(1, _HASHED * len(tensor) // max(1, tensor.nbytes)) if tensor.nbytes > _HASHED else len(tensor)
            values = np.ascontiguousarray(tensor[:rows].detach().cpu().numpy())
            found.update(f"{values.dtype.str} {tuple(tensor.shape)} ".encode())
            found.update(values.tobytes())
        return found.hexdigest()

    def few(self, device: torch.device) -> tuple[Any, ...] | None:
        """The inputs of a few samples, as the arguments of a forward pass; None where there are none."""
        for inputs, _ in self.batches(device):
            return (inputs[:SAMPLES],)
        return None

    def batches(self, device: torch.device) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Inputs and targets in batches, on a device."""
        if self.tensors:
            x, y = self.tensors
            for first in range(0, len(x), CHUNK):
                yield _sent(x[first : first + CHUNK], device), _sent(y[first : first + CHUNK], device)
            return
        for batch in self.content:
            if not isinstance(batch, tuple | list) or len(batch) != 2:
                raise RhoTraceError(
                    f"rhotrace.record: {self.name}: got a batch of type {type(batch).__name__}, expected (inputs, targets)"
                )
            yield _sent(batch[0], device), _sent(batch[1], device)

    def evaluate(
        self, model: torch.nn.Module, loss: Loss | None, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs and targets, (N, C) each, in mode ``eval`` and the module's own floating-point type."""
        import torch

        outputs, targets = [], []
        with torch.no_grad(), undisturbed(model, training=False), without_autocast(model):
            for x, y in self.batches(device):
                g = outputs_of(model(x))
                outputs.append(g.detach())
                targets.append(as_targets(y, g.shape[1], loss))
        if len(outputs) == 1:
            return outputs[0], targets[0]
        return torch.cat(outputs), torch.cat(targets)


def _sent(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    return values if values.device == device else values.to(device, non_blocking=True)
