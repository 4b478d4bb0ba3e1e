"""Augmentation of the images of each minibatch: mirrored and shifted at random, as a pure function of seed and step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray
from pydantic import Field

from rhotrace.models.component import Component

if TYPE_CHECKING:
    import torch

_CHUNK = 256  # steps drawn from one stream; part of the definition of a run, so never to be tuned


class Augment(Component):
    """What is done to each image of a minibatch.

    Attributes:
        flip: mirror left and right with probability 1/2.
        crop: cut an image of the old size at random out of one with this many zeros around it.
    """

    flip: bool = Field(default=False, description="mirror left and right with probability 1/2")
    crop: Annotated[int, Ge(0), Le(1000)] = Field(
        default=0, description="pixels of zeros around each image, out of which one of the old size is cut at random"
    )

    def draw(self, seeds: Sequence[int], first: int, last: int, size: int) -> NDArray[np.int64]:
        """Mirrored (0 or 1), rows and columns shifted (0 to 2 crop), of the steps ``first`` to ``last - 1``.

        Args:
            seeds: of each member's batches.
            first: step.
            last: one past the last step.
            size: samples per step.

        Returns:
            (steps, M, size, 3).
        """
        return np.stack([self._member(seed, first, last, size) for seed in seeds], axis=1)

    def _member(self, seed: int, first: int, last: int, size: int) -> NDArray[np.int64]:
        ends = np.array([2, 2 * self.crop + 1, 2 * self.crop + 1])
        streams = [
            np.random.default_rng([seed, 5, stream]).integers(ends, size=(_CHUNK, size, 3))
            for stream in range(first // _CHUNK, -(-last // _CHUNK))
        ]
        start = first - first // _CHUNK * _CHUNK
        drawn = np.concatenate(streams)[start : start + last - first]
        return drawn if self.flip else drawn * np.array([0, 1, 1])

    def apply(
        self, x: torch.Tensor, drawn: torch.Tensor, shape: tuple[int, int, int], *, channels_last: bool
    ) -> torch.Tensor:
        """The images of one step after it.

        Args:
            x: (M, batch, d).
            drawn: what ``draw`` gives for the step, (M, batch, 3).
            shape: channels, height, width.
            channels_last: whether a row of x is in the order height, width, channel.
        """
        import torch

        channels, height, width = shape
        mirrored, down, right = (drawn[..., None, k] for k in range(3))  # (M, batch, 1)
        rows = torch.arange(height, device=x.device) + down - self.crop
        columns = torch.arange(width, device=x.device) + right - self.crop
        inside = ((rows >= 0) & (rows < height))[..., :, None] & ((columns >= 0) & (columns < width))[..., None, :]
        columns = torch.where(mirrored == 1, width - 1 - columns, columns)
        pixel = rows.clamp(0, height - 1)[..., :, None] * width + columns.clamp(0, width - 1)[..., None, :]
        pixel, inside = pixel.flatten(2), inside.flatten(2)  # (M, batch, height width)
        images = x.shape[:2]
        if channels_last:
            planes = x.reshape(*images, height * width, channels)
            taken = planes.gather(2, pixel[..., None].expand(-1, -1, -1, channels)) * inside[..., None]
        else:
            planes = x.reshape(*images, channels, height * width)
            taken = planes.gather(3, pixel[:, :, None].expand(-1, -1, channels, -1)) * inside[:, :, None]
        return taken.flatten(2)
