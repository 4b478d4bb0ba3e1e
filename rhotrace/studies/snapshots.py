"""What studies measure in the snapshots of the weights: distances between directions, and between outputs on the test set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rhotrace.analysis.rebuild_network import data_and_network, parameters_and_buffers
from rhotrace.errors import RhoTraceError
from rhotrace.runfile.reader import Trace

Floats = NDArray[np.float64]
Weights = list[NDArray[Any]]


def between(low: NDArray[Any], high: NDArray[Any], share: float) -> NDArray[Any]:
    """A quantity a share of the way from one snapshot to the next, as a straight line between them."""
    return np.asarray(low if share == 0 else low + np.asarray(share, dtype=low.dtype) * (high - low))


def bracket(readings: Floats, at: float) -> tuple[int, int, float]:
    """The places of the two snapshots around a reading, and the share of the way from the first to the second.

    Args:
        readings: at the snapshots, ascending, (S,).
        at: the reading; NaN or outside the readings gives a share of NaN.
    """
    if not len(readings) or not readings[0] <= at <= readings[-1]:
        return 0, 0, np.nan
    if at == readings[0]:
        return 0, 0, 0.0
    place = int(np.searchsorted(readings, at)) - 1  # readings[place] < at <= readings[place + 1]
    return place, place + 1, float((at - readings[place]) / (readings[place + 1] - readings[place]))


@dataclass(frozen=True, eq=False)
class Directions:
    """The directions V_k = W_k/||W_k|| of a run's networks at its snapshots.

    Attributes:
        steps: of the snapshots, (S,).
        V: for each layer, (S, M, ...).
    """

    steps: NDArray[np.int64]
    V: tuple[NDArray[Any], ...]

    @classmethod
    def of(cls, trace: Trace) -> Directions:
        """Reads them from the run file."""
        found = [[_unit(W) for W in weights] for _, weights in trace.snapshots()]
        return cls(np.array(trace.snapshot_steps()), tuple(np.stack(layer) for layer in zip(*found, strict=True)))

    def at(self, member: int, readings: Floats, reading: float) -> Weights | None:
        """Directions of a member at a reading of a clock, from the two snapshots around it; None outside the snapshots.

        Args:
            member: which.
            readings: of the clock at the snapshots, ascending, (S,).
            reading: at which.
        """
        low, high, share = bracket(readings, reading)
        if np.isnan(share):
            return None
        return [_unit(between(V[low, member], V[high, member], share)[None])[0] for V in self.V]


def _unit(W: NDArray[Any]) -> NDArray[Any]:
    sizes = np.sqrt(np.square(W, dtype=np.float64).reshape(len(W), -1).sum(axis=1))
    with np.errstate(all="ignore"):
        return np.asarray(W / sizes.reshape(-1, *(1,) * (W.ndim - 1)).astype(W.dtype))


def distance(one: Weights | None, other: Weights | None) -> float:
    """Root mean square over the layers of ``||V_k - V'_k||``, from 0 to 2; NaN where a network is not available."""
    if one is None or other is None:
        return np.nan
    squares = [np.square(V - W, dtype=np.float64).sum() for V, W in zip(one, other, strict=True)]
    return float(np.sqrt(np.mean(squares)))


def outputs_on_test_set(trace: Trace) -> Floats:
    """Outputs on the test set at the snapshots, (S, M, N C), in float64.

    Raises:
        RhoTraceError: the data or the network are not available.
    """
    import torch

    again = data_and_network(trace, trace.validated_recipe())
    if isinstance(again, str):
        raise RhoTraceError(f"{trace.path}: {again}")
    loaded, network = again
    x = torch.as_tensor(loaded.x_test)
    found = []
    with torch.no_grad():
        for _, weights in trace.snapshots():
            parameters, buffers = parameters_and_buffers(network, weights, np.float64)
            found.append(network.forward(parameters, x, buffers).numpy().reshape(trace.members, -1))
    return np.stack(found)


def angle(one: Floats | None, other: Floats | None) -> float:
    """Angle between two vectors of outputs in degrees, the same for g and for f = g/rho; NaN where one is not available."""
    if one is None or other is None:
        return np.nan
    with np.errstate(all="ignore"):
        cosine = float(np.sum(one * other) / np.sqrt(np.sum(one * one) * np.sum(other * other)))
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
