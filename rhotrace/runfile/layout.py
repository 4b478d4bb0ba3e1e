"""The format of a run file: which datasets it holds, with which named dimensions; no HDF5 here."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from rhotrace.models.network import Block
from rhotrace.recording.quantity import Description
from rhotrace.runfile import format2
from rhotrace.runfile.stored_layout import FORMAT2_CHECKS, StoredLayout

FORMAT = "rhotrace-run"
FORMAT_VERSION = 3
READABLE_VERSIONS = (2, 3)
SESSIONS_BYTES = 1 << 14
SLAB_BYTES = 1 << 25  # copied at a time

Array = NDArray[Any]


@dataclass(frozen=True)
class Facts:
    """The properties of a run that decide which statements and formulas apply to it.

    Attributes:
        loss: kind of the loss.
        equilibrium: whether the loss has a, q and rho_eq, as the square loss does.
        optimizer: kind of the optimizer.
        law: name of the exact law of its steps in ``theory.step_laws.LAWS``; None where none is known.
        minibatches: whether a step sees only a part of the training set.
    """

    loss: str
    equilibrium: bool
    optimizer: str
    law: str | None
    minibatches: bool


@dataclass(frozen=True)
class IndexList:
    """A list of whole numbers that belongs to the run and not to its steps: its length, and what it lists."""

    size: int
    says: str


@dataclass(frozen=True)
class Layout:
    """Everything that decides the datasets of a run file.

    The file contains it, so that a reader does not depend on the tables of its own version.

    Attributes:
        steps: training steps the run will have.
        members: M.
        blocks: of the network, in order.
        dtype: of the weights.
        strides: steps between evaluations, by cadence.
        snapshots: step of each snapshot of the weights, ascending.
        quantities: in the order in which they are written and enter the checksum.
        axes: coordinates of the axes other than ``member`` and ``layer``, by name.
        state: shape after the member axis of each tensor of the optimizer's state, by name and in order.
        per_member: symbol in tables of each array of length M except the seeds, by name.
        facts: see ``Facts``.
        lists: the lists of whole numbers, such as the indices of the samples, by name.
        open_ended: the number of steps is not planned; ``steps`` is how many the file has room for.
        version: format version of the file.
    """

    steps: int
    members: int
    blocks: tuple[Block, ...]
    dtype: str
    strides: Mapping[str, int]
    snapshots: Sequence[int]
    quantities: tuple[Description, ...]
    axes: Mapping[str, tuple[float, ...]]
    state: Mapping[str, Sequence[tuple[int, ...]]]
    per_member: Mapping[str, str]
    facts: Facts
    lists: Mapping[str, IndexList] = field(default_factory=dict)
    open_ended: bool = False
    version: int = FORMAT_VERSION

    @property
    def number_type(self) -> str:
        """HDF5 type of weights and optimizer state."""
        return "<f4" if self.dtype == "float32" else "<f8"

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """(out, fan_in) of each block."""
        return tuple(block.matrix for block in self.blocks)

    @property
    def layers(self) -> tuple[Block, ...]:
        """The blocks that the axis ``layer`` counts."""
        return tuple(block for block in self.blocks if block.role == "weight")

    def quantity(self, name: str) -> Description:
        """The quantity of this name.

        Raises:
            KeyError: there is none.
        """
        found = next((quantity for quantity in self.quantities if quantity.name == name), None)
        if found is None:
            raise KeyError(name)
        return found

    def rows(self, cadence: str, steps: int) -> int:
        """Number of evaluations of a cadence within the first ``steps`` steps."""
        return -(-steps // self.strides[cadence])

    def span(self, cadence: str, first: int, last: int) -> slice:
        """Rows of the evaluations of a cadence among the steps ``first`` to ``last - 1``."""
        return slice(self.rows(cadence, first), self.rows(cadence, last))

    def steps_within(self, size: int) -> int:
        """Number of steps whose rows fit into ``size`` bytes, at least 1."""
        return max(1, size // (8 * self.row_numbers))

    @property
    def row_numbers(self) -> int:
        """Largest number of values that a step adds to the file."""
        sizes = dimension_sizes(self)
        return sum(int(np.prod([sizes[axis] for axis in q.axes])) for q in self.quantities)

    def block_dims(self, number: int) -> tuple[str, str]:
        """Names of the two dimensions of a block's matrix in a snapshot."""
        if self.version == 2:
            return format2.block_dims(number)
        name = self.blocks[number].name
        return f"{name}_out", f"{name}_in"

    def attributes(self) -> dict[str, str]:
        """Root attributes of a file, from which ``from_attributes`` restores the layout."""
        if self.version == 2:
            return format2.attributes(
                steps=self.steps,
                dtype=self.dtype,
                strides=self.strides,
                snapshots=self.snapshots,
                shapes=self.shapes,
                state=self.state,
            )
        content = {name: value for name, value in asdict(self).items() if name not in ("members", "version", "dtype")}
        if not self.open_ended:  # what a recipe's file does not say, as in the versions before
            del content["open_ended"]
        return {"dtype": self.dtype, "layout": json.dumps(content)}

    @staticmethod
    def from_attributes(attributes: Mapping[str, Any]) -> Layout:
        """The layout of a file, with one member in place of the number that the file has.

        Args:
            attributes: of the root group.

        Raises:
            KeyError: one is missing.
            ValueError: one has a value that no run has.
        """
        version, dtype = int(attributes["format_version"]), str(attributes["dtype"])
        if dtype not in ("float32", "float64"):
            raise ValueError(f"attribute dtype: got {dtype[:60]!r}, which no run has")
        name = "layout"
        try:
            if version == 2:
                for name, check in FORMAT2_CHECKS.items():  # so that an error names the attribute
                    check.model_validate({"it": json.loads(attributes[name])})
                name = "layer_shapes"
                content = format2.content(attributes)
            else:
                content = json.loads(attributes[name])
            stored = StoredLayout.model_validate(content)
        except (ValidationError, RecursionError, json.JSONDecodeError):
            raise ValueError(f"attribute {name}: got {str(attributes[name])[:60]!r}, which no run has") from None
        return Layout(
            steps=stored.steps,
            members=1,
            blocks=tuple(Block(**block.model_dump()) for block in stored.blocks),
            dtype=dtype,
            strides=stored.strides,
            snapshots=stored.snapshots,
            quantities=tuple(Description(**quantity.model_dump()) for quantity in stored.quantities),
            axes={axis: tuple(values) for axis, values in stored.axes.items()},
            state=stored.state,
            per_member=stored.per_member,
            facts=Facts(**stored.facts.model_dump()),
            lists={name: IndexList(**stated.model_dump()) for name, stated in stored.lists.items()},
            open_ended=stored.open_ended,
            version=version,
        )


@dataclass(frozen=True)
class Column:
    """One dataset of a run file: its path, named dimensions, type and HDF5 attributes."""

    path: str
    dims: tuple[str, ...]
    dtype: str
    attributes: Mapping[str, str]


def checksum(arrays: Iterable[Array]) -> int:
    """CRC-32 of the bytes of several arrays, one after the other: of a block's quantities, a snapshot's or a state's tensors."""
    crc = 0
    for array in arrays:
        crc = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, crc)
    return crc


def attributes_digest(attributes: Mapping[str, Any]) -> str:
    """SHA-256 of the root attributes: HDF5 keeps no checksum of text."""
    content = {name: value for name, value in attributes.items() if name != "attributes_digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def fixed_digest(arrays: Mapping[str, Array]) -> str:
    """SHA-256 of the root datasets that do not grow with time: a live file has no other checksum of them."""
    digest = hashlib.sha256()
    for name, values in sorted(arrays.items()):
        little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        digest.update(f"{name} {little.dtype.str} {little.shape} ".encode())
        digest.update(little.tobytes())
    return digest.hexdigest()


def time_axis(cadence: str, strides: Mapping[str, int]) -> str:
    """Name of a cadence's time axis: ``step`` where it is evaluated at every step."""
    return "step" if strides[cadence] == 1 or cadence == "step" else f"{cadence}_step"


def snapshot_steps(steps: int, count: int) -> list[int]:
    """At most ``count`` steps between 0 and ``steps``, both included, evenly spaced in the logarithm."""
    if count <= 2:
        return [0, steps][:count]  # a single snapshot is the start, from which everything can be recomputed
    return sorted({0, *(int(s) for s in np.geomspace(1, steps, count - 1).round())})


@dataclass(frozen=True)
class Commit:
    """A commit record of a live file.

    Attributes:
        steps: number of committed steps.
        blocks: number of blocks in which they were written.
        slot: which of the two places contains the optimizer's state after them.
        state_crc: CRC-32 of that state.
        seconds: time spent training.
        sessions: length and CRC-32 of the list of sessions then; None in files whose records have none.
    """

    steps: int
    blocks: int
    slot: int
    state_crc: int
    seconds: float
    sessions: tuple[int, int] | None = None


@dataclass(frozen=True)
class WrittenBlock:
    """Steps ``first`` to ``last - 1`` of a live file, written together, and the CRC-32 of their rows."""

    first: int
    last: int
    crc: int


def dimension_sizes(layout: Layout) -> dict[str, int]:
    """Length of each named dimension."""
    sizes = {"step": layout.steps, "member": layout.members, "layer": len(layout.layers)}
    sizes |= {axis: len(values) for axis, values in layout.axes.items()}
    for cadence in layout.strides:
        sizes[time_axis(cadence, layout.strides)] = layout.rows(cadence, layout.steps)
    sizes["snapshot"] = len(layout.snapshots)
    sizes |= {name: stated.size for name, stated in layout.lists.items()}
    return sizes | _units(layout)


def _units(layout: Layout) -> dict[str, int]:
    """Length of each dimension of the snapshots' matrices, inputs before outputs, as in format 2."""
    units: dict[str, int] = {}
    for number, shape in enumerate(layout.shapes):
        (out, into), (out_size, in_size) = layout.block_dims(number), shape
        units |= {into: in_size, out: out_size}
    return units


def fixed_axes(layout: Layout) -> dict[str, Array]:
    """Path and content of the axes that do not grow with time."""
    found = {"member": np.arange(layout.members), "layer": np.arange(1, len(layout.layers) + 1)}
    found |= {axis: np.array(values, dtype=np.float64) for axis, values in layout.axes.items()}
    if layout.snapshots:
        found["weights/snapshot"] = np.arange(len(layout.snapshots))
        found |= {f"weights/{name}": np.arange(size) for name, size in _units(layout).items()}
    return found


def list_columns(layout: Layout) -> Iterator[Column]:
    """The lists of whole numbers, each an axis of its own."""
    for name, stated in layout.lists.items():
        yield Column(name, (name,), "<i8", {"long_name": stated.says})


def columns(layout: Layout) -> Iterator[Column]:
    """The datasets that grow with time, in the order of the file."""
    for axis in dict.fromkeys(time_axis(cadence, layout.strides) for cadence in layout.strides):
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
        yield Column(quantity.name, (time_axis(quantity.cadence, layout.strides), *quantity.axes), "<f8", described)
    if not layout.snapshots:
        return
    yield Column(
        "weights/snapshot_step",
        ("snapshot",),
        "<i8",
        {"long_name": "training steps taken before the snapshot; -1 where none"},
    )
    for number, block in enumerate(layout.blocks):
        dims = ("snapshot", "member", *layout.block_dims(number))
        described = format2.block_attributes(number) if layout.version == 2 else _block_attributes(block)
        yield Column(f"weights/{block.name}", dims, layout.number_type, described)


def _block_attributes(block: Block) -> dict[str, str]:
    degree = "none" if block.degree is None else f"{block.degree:g}"
    shape = "x".join(map(str, block.shape))
    return {"units": "1", "long_name": f"{block.role} {block.name}, flattened from {shape}", "degree": degree}
