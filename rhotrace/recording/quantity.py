"""What a traced quantity is, and the tables of quantities and cadences that runs choose from.

A quantity either *measures* a ``Moment`` (torch tensors on the run's device, float64 accumulations, no host
synchronisation) or is *derived* in numpy from blocks of measured ones, when a block leaves the device. A new one is
registered by ``register(Quantity(...))``; recipes, run files, listings and figures include it from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from rhotrace.models.losses import Loss
    from rhotrace.models.network import Network
    from rhotrace.recording.moment import Moment

Rows = Mapping[str, NDArray[np.float64]]
Need = Literal["outputs", "test outputs", "features", "hessian products", "sample gradients", "tangent kernel", "start"]


@dataclass(frozen=True)
class Cadence:
    """How often some quantities are evaluated.

    Attributes:
        name: in quantities, in run files, and under ``record.every`` in a recipe.
        default: steps from one evaluation to the next, where the recipe states none; None for never.
        says: what is evaluated, for the listing and the schema.
    """

    name: str
    default: int | None
    says: str


@dataclass(frozen=True)
class Axis:
    """An axis of a quantity other than ``member`` and ``layer``.

    Attributes:
        name: of the axis and of its dataset in a run file; a Python identifier.
        values: its coordinates, or a function that returns them for a run.
    """

    name: str
    values: Sequence[float] | Callable[[Traced], Sequence[float]]

    def coordinates(self, traced: Traced) -> tuple[float, ...]:
        """The coordinates in a run."""
        return tuple(self.values(traced) if callable(self.values) else self.values)


@dataclass(frozen=True)
class Traced:
    """What decides which quantities a run has, and the lengths of their axes.

    Attributes:
        network: the run's.
        loss: the run's.
        state: names of the optimizer's state.
        outputs: C.
        scheduled: whether the learning rate changes from step to step.
        samples: N; 0 before the data is read.
        classes: whether the targets are classes.
        features: shape of each of the network's features of one sample, by name.
    """

    network: Network
    loss: Loss
    state: frozenset[str]
    outputs: int
    scheduled: bool = False
    samples: int = 0
    classes: bool = True
    features: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Description:
    """A quantity as a run file describes it.

    Attributes:
        name: of the dataset.
        symbol: as in the memo, in plain text.
        axes: names, after the time axis.
        units: of the stored numbers; "1" for pure numbers, "output" for those of g.
        equation: key in ``paper.STATEMENTS``, or None for what the memo does not define.
        cadence: name of how often it is evaluated: ``step``, ``full``, ``test``, or one of its own.
        says: what it is, in one line.
    """

    name: str
    symbol: str
    axes: tuple[str, ...]
    units: str
    equation: str | None
    cadence: str
    says: str


@dataclass(frozen=True)
class Quantity:
    """One traced quantity; exactly one of ``measure`` and ``derive`` is set.

    Attributes:
        name: see ``Description``; likewise symbol, units, equation, cadence and says.
        axes: names, or axes of the quantity's own; the first is ``member``.
        measure: returns a tensor with the lengths of the axes from a ``Moment``.
        derive: returns (rows, M, ...) from the rows of other quantities by name: those recorded at every step, taken at
            the steps of this cadence, and those of this cadence.
        needs: what must be computed for it beyond what every step computes.
        applies: whether a run records it.
        refuses: why a run whose recipe asks for its cadence cannot have it; nothing where it can. Such a run does not begin.
    """

    name: str
    symbol: str
    axes: tuple[str | Axis, ...]
    units: str
    equation: str | None
    cadence: str
    says: str
    measure: Callable[[Moment], torch.Tensor] | None = None
    derive: Callable[[Rows], NDArray[np.float64]] | None = None
    needs: tuple[Need, ...] = ()
    applies: Callable[[Traced], bool] = lambda _: True
    refuses: Callable[[Traced], str] = lambda _: ""

    def describe(self, loss: Loss) -> Description:
        """Its description in the file of a run with this loss; ``<loss>`` becomes the loss's formula or units."""
        axes = tuple(axis if isinstance(axis, str) else axis.name for axis in self.axes)
        units, says = self.units.replace("<loss>", loss.units), self.says.replace("<loss>", loss.formula)
        return Description(self.name, self.symbol, axes, units, self.equation, self.cadence, says)

    @property
    def own_axes(self) -> tuple[Axis, ...]:
        """Axes other than ``member`` and ``layer``."""
        return tuple(axis for axis in self.axes if isinstance(axis, Axis))


class _Row(Protocol):
    @property
    def name(self) -> str: ...


R = TypeVar("R", bound=_Row)


class Table(Generic[R], Mapping[str, R]):
    """Rows by name, in the order of their registration.

    Args:
        what: name of the kind of row, for messages.
    """

    def __init__(self, what: str) -> None:
        self._what, self._rows = what, dict[str, R]()

    def register(self, row: R) -> R:
        """Adds a row and returns it.

        Raises:
            ValueError: another row has the name, or the name is not a Python identifier.
        """
        if not row.name.isidentifier():
            raise ValueError(f"{self._what} {row.name!r}: expected a name that is a Python identifier")
        if self._rows.get(row.name, row) != row:
            raise ValueError(f"{self._what} {row.name!r}: the name is taken")
        self._rows[row.name] = row
        return row

    def unregister(self, name: str) -> None:
        """Removes a row that a user's file or a test registered."""
        del self._rows[name]

    def __getitem__(self, name: str) -> R:
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


CADENCES: Table[Cadence] = Table("cadence")
CADENCES.register(Cadence("step", 1, "known at every step without extra work"))
CADENCES.register(Cadence("full", 1, "outputs on the full training set"))
CADENCES.register(Cadence("test", 100, "outputs on the test set"))

QUANTITIES: Table[Quantity] = Table(
    "quantity"
)  # filled by ``quantities``, and by any other code that registers its own


def register(quantity: Quantity, cadence: Cadence | None = None) -> Quantity:
    """Adds a quantity to the table, and its cadence if that is new.

    Raises:
        ValueError: a name is taken or not a Python identifier, the cadence is not registered, the first axis is not
            ``member``, or not exactly one of ``measure`` and ``derive`` is set.
    """
    if cadence:
        CADENCES.register(cadence)
    if quantity.cadence not in CADENCES:
        raise ValueError(f"quantity {quantity.name!r}: cadence {quantity.cadence!r} is not registered")
    if (quantity.measure is None) == (quantity.derive is None) or quantity.axes[:1] != ("member",):
        raise ValueError(f"quantity {quantity.name!r}: expected either measure or derive, and member as its first axis")
    return QUANTITIES.register(quantity)


def traced_quantities(traced: Traced) -> tuple[Quantity, ...]:
    """The quantities that a run records."""
    return tuple(quantity for quantity in QUANTITIES.values() if quantity.applies(traced))
