"""The quantities on request that a recording has too: those of the weights alone, as the table of quantities measures them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from rhotrace.errors import RhoTraceError, choice
from rhotrace.models.losses import Loss
from rhotrace.recording import shipped
from rhotrace.recording.quantity import CADENCES, QUANTITIES, Axis, Quantity, Traced

if TYPE_CHECKING:
    import torch

    from rhotrace.models.module_parts import ModulePart
    from rhotrace.models.network import Block, Network
    from rhotrace.recording.moment import Moment
    from rhotrace.runfile.reader import Trace

_REGISTERS = shipped.REGISTERED  # imported for what they register
OFFERED = ("rank", "stable_rank", "alignment", "distance")  # cadences
_OF_START = "distance"


def refuse_unoffered(every: Mapping[str, int]) -> None:
    """Raises RhoTraceError for a cadence that a recording does not have, or that is not a number of steps."""
    for name, steps in every.items():
        if name in CADENCES and name not in OFFERED:
            raise RhoTraceError(
                f"rhotrace.record: every: got {name!r}, which needs a recipe; a recording has {', '.join(OFFERED)}"
            )
        if name not in OFFERED:
            raise choice("rhotrace.record: every", name, OFFERED)
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise RhoTraceError(
                f"rhotrace.record: every[{name!r}]: got {steps!r}, expected a number of steps, 1 or more"
            )


def with_start(snapshots: Sequence[int], every: Mapping[str, int]) -> Sequence[int]:
    """The steps of the snapshots, the first step among them where a resumed recording needs its weights."""
    return (0, *snapshots) if _OF_START in every and 0 not in snapshots else snapshots


def quantities(strides: Mapping[str, int]) -> list[Quantity]:
    """The quantities on request, measured and derived, of a recording with these cadences."""
    return [one for one in QUANTITIES.values() if one.cadence in OFFERED and one.cadence in strides]


def axes(strides: Mapping[str, int], layers: Sequence[Block]) -> dict[str, tuple[float, ...]]:
    """The coordinates of their axes, by name."""
    traced = _traced(tuple(layers))
    return {axis.name: axis.coordinates(traced) for one in quantities(strides) for axis in one.own_axes}


@dataclass(frozen=True)
class _Layers:
    """What the quantities ask of a network."""

    layers: tuple[Block, ...]

    def of_layers(self, tensors: Any) -> Any:  # noqa: ANN401 - as ``Network`` has it
        return tensors


@dataclass(frozen=True)
class _Weights:
    """What the quantities ask of a moment: weights (1, out, fan_in) of each layer, now and before the first step."""

    network: _Layers
    weights: tuple[torch.Tensor, ...]
    start: tuple[torch.Tensor, ...]


def _traced(layers: tuple[Block, ...]) -> Traced:
    return Traced(cast("Network", _Layers(layers)), Loss(kind="not stated"), frozenset(), 1)


class OfWeights:
    """Measures them at their cadences.

    Args:
        strides: of the recording.
        parts: the module's blocks that are layers.

    Raises:
        RhoTraceError: the layers have none of what is asked for.
    """

    def __init__(self, strides: Mapping[str, int], parts: Sequence[ModulePart]) -> None:
        self._network = _Layers(tuple(part.block for part in parts))
        self._start: tuple[torch.Tensor, ...] = ()
        self.strides = {name: strides[name] for name in OFFERED if name in strides}
        joined = [part.block.name for part in parts if len(part.names) > 1]
        for one in quantities(strides):
            why = one.refuses(_traced(self._network.layers))
            if joined and one.cadence != _OF_START:
                why = f"{joined[0]} consists of several parameters and is no matrix"
            if why:
                raise RhoTraceError(f"rhotrace.record: every: got {one.cadence!r}, but {why}; leave it out")

    @cached_property
    def due(self) -> dict[str, dict[str, int]]:
        """Numbers of each measured quantity, by cadence and name."""
        traced = _traced(self._network.layers)

        def width(one: Quantity) -> int:
            axis = one.axes[1]
            return len(axis.coordinates(traced)) if isinstance(axis, Axis) else len(self._network.layers)

        return {
            cadence: {one.name: width(one) for one in quantities({cadence: 1}) if one.measure}
            for cadence in self.strides
        }

    def resume(self, trace: Trace) -> None:
        """Takes the weights before the first step from the file that is resumed."""
        import torch

        if _OF_START in self.strides and 0 in trace.snapshot_steps():
            pairs = zip(trace.layout.blocks, trace.snapshot(0), strict=True)
            self._start = tuple(torch.as_tensor(W) for block, W in pairs if block.role == "weight")

    def measured(self, step: int, layers: Sequence[Sequence[torch.Tensor]]) -> dict[str, dict[str, torch.Tensor]]:
        """What is due at a step, by cadence and name, (width,) each; from the tensors of each layer."""
        due = [cadence for cadence, stride in self.strides.items() if step % stride == 0]
        if not due:
            return {}
        import torch

        with torch.no_grad():
            weights = tuple(
                torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).reshape(1, *block.matrix)
                for tensors, block in zip(layers, self._network.layers, strict=True)
            )
            if _OF_START in due:
                self._start = tuple(W.to(weights[0].device) for W in self._start or (W.clone() for W in weights))
            moment = cast("Moment", _Weights(self._network, weights, self._start))
            return {
                cadence: {
                    one.name: one.measure(moment).double().reshape(-1)
                    for one in quantities({cadence: 1})
                    if one.measure
                }
                for cadence in due
            }
