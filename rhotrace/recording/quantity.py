"""What a traced quantity is, and the tables of quantities and cadences that a run draws on.

A quantity either *measures* a ``Moment`` (torch tensors on the run's device, float64 accumulations, no host
synchronisation) or is *derived* in numpy from blocks of measured ones, when a block leaves the device. A new one is
registered by ``register(Quantity(...))``; recipes, run files, listings and pictures know it from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from rhotrace.models.losses import Loss
    from rhotrace.models.network import Network
    from rhotrace.recording.moment import Moment

Rows = Mapping[str, NDArray[np.float64]]
Need = Literal["outputs", "test outputs", "features", "hessian products"]


@dataclass(frozen=True)
class Cadence:
    """How often some quantities are evaluated.

    Attributes:
        name: in quantities, in run files, and below ``record.every`` in a recipe.
        default: steps from one evaluation to the next, where the recipe does not say.
        says: what is evaluated, for the listing and the schema.
    """

    name: str
    default: int
    says: str

    @property
    def axis(self) -> str:
        """Name of the time axis in a run file, where it is not evaluated at every step."""
        return "step" if self.name == "step" else f"{self.name}_step"


@dataclass(frozen=True)
class Axis:
    """An axis of a quantity beside ``member`` and ``layer``.

    Attributes:
        name: of the axis and of its dataset in a run file; a Python identifier.
        values: its coordinates, or a function of what is traced that gives them.
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
    """

    network: Network
    loss: Loss
    state: frozenset[str]
    outputs: int


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
        says: a line for the listing.
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
        measure: of the ``Moment``, a tensor of the axes' lengths.
        derive: of rows by name, each (rows, M, ...): those of every step, and those of the same cadence.
        needs: what must be computed for it, beside what each step has in hand.
        applies: whether a run has it.
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

    def describe(self, loss: Loss) -> Description:
        """What the file of a run with this loss says of it; ``<loss>`` stands for the loss's formula and units."""
        axes = tuple(axis if isinstance(axis, str) else axis.name for axis in self.axes)
        units, says = self.units.replace("<loss>", loss.units), self.says.replace("<loss>", loss.formula)
        return Description(self.name, self.symbol, axes, units, self.equation, self.cadence, says)

    @property
    def own_axes(self) -> tuple[Axis, ...]:
        """Axes beside ``member`` and ``layer``."""
        return tuple(axis for axis in self.axes if isinstance(axis, Axis))


class _Row(Protocol):
    @property
    def name(self) -> str: ...


R = TypeVar("R", bound=_Row)


class Table(Generic[R], Mapping[str, R]):
    """Rows by name, in the order of their registration.

    Args:
        what: a row is, for messages.
    """

    def __init__(self, what: str) -> None:
        self._what, self._rows = what, dict[str, R]()

    def register(self, row: R) -> R:
        """Adds a row and returns it.

        Raises:
            ValueError: another row has the name, or the name cannot be that of a dataset.
        """
        if not row.name.isidentifier():
            raise ValueError(f"{self._what} {row.name!r}: expected a name that is a Python identifier")
        if self._rows.get(row.name, row) != row:
            raise ValueError(f"{self._what} {row.name!r}: the name is taken")
        self._rows[row.name] = row
        return row

    def unregister(self, name: str) -> None:
        """Removes a row, as a test does with its own."""
        del self._rows[name]

    def __getitem__(self, name: str) -> R:
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


CADENCES: Table[Cadence] = Table("cadence")
CADENCES.register(Cadence("step", 1, "in hand at every step"))
CADENCES.register(Cadence("full", 1, "outputs on the full training set"))
CADENCES.register(Cadence("test", 100, "outputs on the test set"))

QUANTITIES: Table[Quantity] = Table("quantity")  # filled by the modules of this package, and by whoever registers more


def register(quantity: Quantity, cadence: Cadence | None = None) -> Quantity:
    """Adds a quantity to the table, and its cadence where that is a new one.

    Raises:
        ValueError: a name is taken or unfit, the cadence is not known, or not exactly one of ``measure`` and ``derive``
            is set.
    """
    if cadence:
        CADENCES.register(cadence)
    if quantity.cadence not in CADENCES:
        raise ValueError(f"quantity {quantity.name!r}: cadence {quantity.cadence!r} is not registered")
    if (quantity.measure is None) == (quantity.derive is None) or quantity.axes[:1] != ("member",):
        raise ValueError(f"quantity {quantity.name!r}: expected either measure or derive, and member as the first axis")
    return QUANTITIES.register(quantity)


def traced_quantities(traced: Traced) -> tuple[Quantity, ...]:
    """The rows of the table that a run has."""
    return tuple(quantity for quantity in QUANTITIES.values() if quantity.applies(traced))
