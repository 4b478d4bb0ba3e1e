"""Quantities of the user's own, and those that only a recording has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rhotrace.errors import RhoTraceError
from rhotrace.recording.quantity import Description

_LONGEST = 1000  # values of a vector


@dataclass(frozen=True)
class Own:
    """A scalar or a small vector of the user's own, recorded beside the norms.

    ``Own("temperature", unit="K", says="of the sampler")`` is given to ``record(own=[...])``, and its value to
    ``trace.step(..., temperature=3.0)``: a number, or a tensor on any device. At a step without a value it is NaN.

    Attributes:
        name: of the quantity, a Python identifier.
        unit: of its numbers; ``1`` for pure numbers.
        says: what it is, in one line.
        axis: name of the axis of a vector, such as ``eigenvalue``; empty for a scalar.
        values: coordinates on that axis; the vector has their length.
        every: steps between two values; values at other steps are ignored.
    """

    name: str
    unit: str = "1"
    says: str = ""
    axis: str = ""
    values: Sequence[float] = field(default=())
    every: int = 1

    @property
    def width(self) -> int:
        """Number of values."""
        return len(self.values) if self.axis else 1

    @property
    def cadence(self) -> str:
        """Name of how often it is recorded."""
        return "step" if self.every == 1 else f"every_{self.every}"

    def describe(self) -> Description:
        """Its description in the run file."""
        axes = ("member", self.axis) if self.axis else ("member",)
        return Description(self.name, self.name, axes, self.unit, None, self.cadence, self.says or self.name)


def refuse_odd(own: Sequence[Own], taken: set[str]) -> None:
    """Raises RhoTraceError unless each quantity can be recorded under its name.

    Args:
        own: the user's quantities.
        taken: names of the others, and of axes.
    """
    seen, axes = set(taken), dict[str, tuple[float, ...]]()
    for one in own:
        where = f"rhotrace.record: own: {one.name!r}"
        for what, name in (("name", one.name), ("axis", one.axis)):
            if name and not (name.isidentifier() and name.isascii()):
                raise RhoTraceError(f"{where}: got the {what} {name!r}, expected a Python identifier in ASCII")
        if not one.name or one.name in seen:
            raise RhoTraceError(
                f"{where}: got a name that is taken, expected another, such as own_{one.name or 'value'}"
            )
        if bool(one.axis) != bool(len(one.values)) or len(one.values) > _LONGEST:
            raise RhoTraceError(
                f"{where}: got axis {one.axis!r} with {len(one.values)} values, expected an axis with 1 to {_LONGEST} "
                "values, or neither"
            )
        if one.every < 1:
            raise RhoTraceError(f"{where}: got every={one.every}, expected 1 or more")
        if one.axis and (one.axis in taken or axes.setdefault(one.axis, tuple(one.values)) != tuple(one.values)):
            raise RhoTraceError(f"{where}: got the axis {one.axis!r}, which has other values; expected another name")
        seen.add(one.name)
    if both := sorted(seen & set(axes)):
        raise RhoTraceError(f"rhotrace.record: own: got {both[0]!r} as a quantity and as an axis, expected two names")


_LAYER = ("member", "layer")
UPDATE_NORM = Description(
    "update_norm", "||dW_k||", _LAYER, "1", None, "step", "Frobenius norm of each layer's change in the step"
)
LR_STEP = Description("lr_step", "eta", ("member",), "1", "eq1", "step", "learning rate of the step")
LR_LAYER = Description("lr_layer", "eta_k", _LAYER, "1", "eq1", "step", "learning rate of each layer in the step")
BATCH_LOSS = Description("batch_loss", "L_b", ("member",), "1", None, "step", "loss over the step's batch")
