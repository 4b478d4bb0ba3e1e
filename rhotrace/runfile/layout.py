"""The format of a run file: which datasets it holds, with which named dimensions; no HDF5 here."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from rhotrace.recording.quantities import QUANTILES, QUANTITIES, Cost, Quantity

FORMAT = "rhotrace-run"
FORMAT_VERSION = 2
SESSIONS_BYTES = 1 << 14
SLAB_BYTES = 1 << 25  # copied at a time
_MAX_COUNT = 10**9 + 1

Array = NDArray[Any]


@dataclass(frozen=True)
class Layout:
    """Everything that decides the datasets of a run file.

    Attributes:
        steps: training steps the run will have.
        members: M.
        shapes: (out, in) of each layer.
        dtype: of the weights.
        strides: steps between evaluations, by cost class.
        snapshots: step of each copy of the weights, ascending.
        quantities: rows of the quantities table.
        state: shape after the member axis of each tensor of the optimizer's state, by name and layer.
    """

    steps: int
    members: int
    shapes: tuple[tuple[int, int], ...]
    dtype: str
    strides: Mapping[Cost, int]
    snapshots: Sequence[int]
    quantities: tuple[Quantity, ...]
    state: Mapping[str, Sequence[tuple[int, ...]]]

    @property
    def number_type(self) -> str:
        """HDF5 type of weights and optimizer state."""
        return "<f4" if self.dtype == "float32" else "<f8"

    def rows(self, cost: Cost, steps: int) -> int:
        """Number of evaluations of a cost class within the first ``steps`` steps."""
        return -(-steps // self.strides[cost])

    def span(self, cost: Cost, first: int, last: int) -> slice:
        """Rows of the evaluations of a cost class among the steps ``first`` to ``last - 1``."""
        return slice(self.rows(cost, first), self.rows(cost, last))

    def steps_within(self, size: int) -> int:
        """Number of steps whose rows fit into ``size`` bytes, at least 1."""
        sizes = dimension_sizes(self)
        row_bytes = 8 * sum(int(np.prod([sizes[axis] for axis in q.axes])) for q in self.quantities)
        return max(1, size // row_bytes)

    def attributes(self) -> dict[str, str]:
        """What ``from_attributes`` needs to know again, for the root group of a file."""
        return {
            "dtype": self.dtype,
            "strides": json.dumps(dict(self.strides)),
            "planned_steps": str(self.steps),
            "planned_snapshots": json.dumps(list(self.snapshots)),
            "layer_shapes": json.dumps(self.shapes),
            "state_shapes": json.dumps(dict(self.state)),
        }

    @staticmethod
    def from_attributes(attributes: Mapping[str, Any], members: int) -> Layout:
        """The layout of a file that was written with ``attributes``.

        Raises:
            KeyError: one is missing.
            ValueError: one is not what any run has.
        """
        steps, dtype = int(attributes["planned_steps"]), str(attributes["dtype"])
        names = ("strides", "planned_snapshots", "layer_shapes", "state_shapes")
        strides, snapshots, shapes, state = (json.loads(attributes[name]) for name in names)
        odd = {
            "planned_steps": not _counts([steps]),
            "dtype": dtype not in ("float32", "float64"),
            "strides": set(strides) != set(get_args(Cost)) or not _counts(strides.values()),
            "planned_snapshots": not _counts(s + 1 for s in snapshots)
            or any(b <= a for a, b in pairwise(snapshots))
            or snapshots[-1:] > [steps],
            "layer_shapes": not shapes
            or not all(len(s) == 2 and _counts(s) for s in shapes)
            or any(out != into for (out, _), (_, into) in pairwise(shapes)),
            "state_shapes": not all(
                key.isidentifier() and len(tensors) == len(shapes) and all(map(_counts, tensors))
                for key, tensors in state.items()
            ),
        }
        for name in (name for name, is_odd in odd.items() if is_odd):
            raise ValueError(f"attribute {name}: got {str(attributes[name])[:60]!r}, which no run has")
        return Layout(
            steps=steps,
            members=members,
            shapes=tuple((out, into) for out, into in shapes),
            dtype=dtype,
            strides=strides,
            snapshots=snapshots,
            quantities=tuple(q for q in QUANTITIES if q.only is None or q.only in state),
            state={key: [tuple(shape) for shape in tensors] for key, tensors in state.items()},
        )


@dataclass(frozen=True)
class Column:
    """One dataset of a run file: its path, named dimensions, type and HDF5 attributes."""

    path: str
    dims: tuple[str, ...]
    dtype: str
    attributes: Mapping[str, str]


def _counts(values: Iterable[Any]) -> bool:
    """Whether all of some JSON values are counts: whole numbers from 1 to 10^9."""
    return all(type(value) is int and 0 < value <= _MAX_COUNT for value in values)


def checksum(arrays: Iterable[Array]) -> int:
    """CRC-32 of the bytes of several arrays in a row: of a block's quantities, a snapshot's or a state's tensors."""
    crc = 0
    for array in arrays:
        crc = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, crc)
    return crc


def attributes_digest(attributes: Mapping[str, Any]) -> str:
    """SHA-256 of the root attributes: HDF5 keeps no checksum of text."""
    content = {name: value for name, value in attributes.items() if name != "attributes_digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def time_axis(cost: Cost, strides: Mapping[Cost, int]) -> str:
    """Name of a cost class's time axis: ``step`` where it is evaluated at every step."""
    return "step" if strides[cost] == 1 else {"free": "step", "forward": "full_step", "test": "test_step"}[cost]


def snapshot_steps(steps: int, count: int) -> list[int]:
    """At most ``count`` steps between 0 and ``steps``, both included, evenly spaced in the logarithm."""
    if count <= 2:
        return [0, steps][:count]  # a single one is the start, from which everything can be recomputed
    return sorted({0, *(int(s) for s in np.geomspace(1, steps, count - 1).round())})


@dataclass(frozen=True)
class Commit:
    """A commit record of a live file.

    Attributes:
        steps: that count.
        blocks: in which they were written.
        slot: place of the optimizer's state after them.
        state_crc: CRC-32 of that state.
        seconds: spent training.
    """

    steps: int
    blocks: int
    slot: int
    state_crc: int
    seconds: float


@dataclass(frozen=True)
class WrittenBlock:
    """Steps ``first`` to ``last - 1`` of a live file, written at once, and the CRC-32 of their rows."""

    first: int
    last: int
    crc: int


def dimension_sizes(layout: Layout) -> dict[str, int]:
    """Length of each named dimension."""
    sizes = {
        "step": layout.steps,
        "member": layout.members,
        "layer": len(layout.shapes),
        "quantile": len(QUANTILES),
    }
    for cost in layout.strides:
        sizes[time_axis(cost, layout.strides)] = layout.rows(cost, layout.steps)
    sizes["snapshot"] = len(layout.snapshots)
    sizes["units_0"] = layout.shapes[0][1]
    sizes.update({f"units_{k}": out for k, (out, _) in enumerate(layout.shapes, 1)})
    return sizes


def fixed_axes(layout: Layout) -> dict[str, Array]:
    """Path and content of the axes that do not grow with time."""
    found = {
        "member": np.arange(layout.members),
        "layer": np.arange(1, len(layout.shapes) + 1),
        "quantile": np.array(QUANTILES),
    }
    if layout.snapshots:
        found["weights/snapshot"] = np.arange(len(layout.snapshots))
        units = {name: size for name, size in dimension_sizes(layout).items() if name.startswith("units_")}
        found |= {f"weights/{name}": np.arange(size) for name, size in units.items()}
    return found


def columns(layout: Layout) -> Iterator[Column]:
    """The datasets that grow with time, in the order of the file."""
    for axis in dict.fromkeys(time_axis(cost, layout.strides) for cost in layout.strides):
        yield Column(
            axis,
            (axis,),
            "<i8",
            {"long_name": "training steps taken before this row; -1 where none is committed yet"},
        )
    for quantity in layout.quantities:
        described = {
            "units": quantity.units,
            "long_name": quantity.says,
            "symbol": quantity.symbol,
            "equation": quantity.equation or "",
        }
        yield Column(quantity.name, (time_axis(quantity.cost, layout.strides), *quantity.axes), "<f8", described)
    if not layout.snapshots:
        return
    yield Column(
        "weights/snapshot_step",
        ("snapshot",),
        "<i8",
        {"long_name": "training steps taken before the snapshot; -1 where none"},
    )
    for k in range(1, len(layout.shapes) + 1):
        dims = ("snapshot", "member", f"units_{k}", f"units_{k - 1}")
        yield Column(
            f"weights/W{k}",
            dims,
            layout.number_type,
            {"units": "1", "long_name": f"weights of layer {k}", "symbol": f"W_{k}"},
        )
