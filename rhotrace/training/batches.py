"""The samples of each step on the device: the whole training set, or minibatches, augmented where the recipe says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from rhotrace.config.recipe import Recipe
from rhotrace.models.augmentation import Augment
from rhotrace.models.datasets import Dataset
from rhotrace.training.recorder import BLOCK_STEPS

if TYPE_CHECKING:
    import torch

TARGETS = 1 << 18  # numbers in the targets of minibatches that are taken at once


class Batch(NamedTuple):
    """The samples of a step.

    Attributes:
        x: inputs, (N, d) shared by all members or (M, N, d).
        y: targets, (N, C) or (M, N, C).
        targets: as ``y``, float64, in the shape of ``Evaluation``, (C, N) or (M, C, N).
        samples: places in the training set, (M, N).
    """

    x: torch.Tensor
    y: torch.Tensor
    targets: torch.Tensor
    samples: torch.Tensor


class Batches:
    """The batches of a run, a pure function of the recipe and the step.

    Args:
        recipe: of the run.
        dataset: its data.
        x: inputs of the training set on the device, (N, d).
        y: its targets, (N, C).
        targets: its targets, float64, (C, N).
    """

    def __init__(
        self, recipe: Recipe, dataset: Dataset, x: torch.Tensor, y: torch.Tensor, targets: torch.Tensor
    ) -> None:
        self.recipe, self.dataset = recipe, dataset
        self.x, self.y, self.targets = x, y, targets

    def since(self, start: int) -> Iterator[Batch]:
        """Of each step from ``start`` on."""
        import torch

        minibatches = self.recipe.optimizer.minibatches
        if minibatches is None:
            everything = torch.arange(len(self.x), device=self.x.device).expand(len(self.recipe.seeds), -1)
            while True:
                yield Batch(self.x, self.y, self.targets, everything)
        seeds, augment = self.recipe.batch_seeds, self.recipe.data.augmentation
        flat = self.x.new_empty(len(seeds) * minibatches.size, self.x.shape[1])
        shape = len(seeds), minibatches.size, -1
        for first in range(start, self.recipe.steps, BLOCK_STEPS):
            last = min(first + BLOCK_STEPS, self.recipe.steps)
            drawn = minibatches.indices(seeds, first, last, samples=len(self.x))
            # On the device at once: a copy at each step would wait for a GPU each time.
            changes = (
                torch.as_tensor(augment.draw(seeds, first, last, minibatches.size), device=self.x.device)
                if augment
                else None
            )
            index = torch.as_tensor(drawn, device=self.x.device)  # (steps, M, batch)
            for number, (of_step, y, exact) in enumerate(self._targets_of(index)):
                # The same memory at each step.
                x = torch.index_select(self.x, 0, of_step.view(-1), out=flat).view(shape)
                if augment and changes is not None:
                    x = self._augmented(augment, x, changes[number])
                yield Batch(x, y, exact, of_step)

    def _targets_of(self, index: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Samples of each step, with their targets in both shapes; these are looked up for several steps at once."""
        import torch

        at_once = max(1, TARGETS // (index[0].numel() * self.y.shape[1]))
        for some in torch.split(index, at_once):
            y = self.y[some]
            yield from zip(some, y, y.mT.double(), strict=True)

    def _augmented(self, augment: Augment, x: torch.Tensor, changes: torch.Tensor) -> torch.Tensor:
        """A step's images after augmentation, at norm 1 again where the recipe wants that."""
        import torch

        channels, height, width = self.dataset.shape
        x = augment.apply(x, changes, (channels, height, width), channels_last=self.dataset.channels_last)
        if not self.recipe.data.unit_norm:
            return x
        norms = x.square().sum(dim=2, keepdim=True).sqrt()
        return x / torch.where(norms > 0, norms, torch.ones_like(norms))
