"""The samples of each step: a pure function of the seed and the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Sampling = Literal["shuffled", "with-replacement"]

_CHUNK = 256  # steps drawn from one random stream; a change would change the batches of every run


@dataclass(frozen=True)
class Minibatches:
    """How minibatches are drawn.

    There is no generator state that a resumed run could lose. A member draws the same batches alone, in any ensemble
    and on any device.

    Attributes:
        size: samples per step.
        sampling: ``shuffled`` uses a fresh permutation in each epoch and leaves out the last partial batch;
            ``with-replacement`` draws every sample independently.
    """

    size: int
    sampling: Sampling = "shuffled"

    def indices(self, seeds: Sequence[int], first: int, last: int, *, samples: int) -> NDArray[np.int64]:
        """Sample numbers of steps ``first`` to ``last - 1``, (steps, M, size).

        Args:
            seeds: of each member's batches.
            first: first step.
            last: one past the last step.
            samples: N.
        """
        return np.stack([self._member(seed, first, last, samples) for seed in seeds], axis=1)

    def _member(self, seed: int, first: int, last: int, samples: int) -> NDArray[np.int64]:
        per_stream = samples // self.size if self.sampling == "shuffled" else _CHUNK
        streams = []
        for stream in range(first // per_stream, -(-last // per_stream)):
            rng = np.random.default_rng([seed, 4, stream])
            if self.sampling == "shuffled":
                drawn = rng.permutation(samples)[: per_stream * self.size]
            else:
                drawn = rng.integers(samples, size=per_stream * self.size)
            streams.append(drawn.reshape(per_stream, self.size))
        start = first - first // per_stream * per_stream
        return np.concatenate(streams)[start : start + last - first]
