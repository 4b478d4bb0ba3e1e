"""The rows of a recording that are not in its file yet: on the module's device, copied to the host in blocks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from rhotrace.errors import RhoTraceError
from rhotrace.own_loop.measures import DERIVED
from rhotrace.own_loop.own_quantity import Own
from rhotrace.own_loop.settings import Settings
from rhotrace.own_loop.weight_quantities import quantities
from rhotrace.recording.quantities import QUANTITIES

if TYPE_CHECKING:
    import torch

    from rhotrace.own_loop.layer_norms import Numbers

Array = NDArray[np.float64]

BLOCK_STEPS = 1024
BLOCK_BYTES = 1 << 26

_VECTORS = {"rho_k", "grad_norm", "update_norm", "velocity_norm", "velocity_along", "lr_layer", "margin_quantile"}


class Rows:
    """All rows since the last block: those of every step, those at a stride, and the user's.

    Args:
        settings: of the recording.
        device: of the module.
        due: numbers of each quantity that is measured at a stride, by cadence and name.

    Attributes:
        begun: whether there has been a row.
        batch_size: samples of the first step's batch; None where its outputs were not given.
    """

    def __init__(self, settings: Settings, device: torch.device, due: Mapping[str, Mapping[str, int]]) -> None:
        self.begun, self.batch_size = False, cast("int | None", None)
        self._settings, self._device = settings, device
        self._ring: Ring | None = None
        self._rates: list[list[float]] = []
        self._due: dict[str, list[Mapping[str, torch.Tensor]]] = {cadence: [] for cadence in due}
        self._widths = due
        self._own = {one.name: OwnValues(one) for one in settings.own}

    @property
    def count(self) -> int:
        """Rows since the last block."""
        return len(self._rates)

    @property
    def full(self) -> bool:
        """Whether there is no room for another row."""
        return self._ring is not None and self._ring.count == self._ring.size

    @property
    def names(self) -> tuple[str, ...]:
        """Of the measured quantities other than the user's."""
        every_step = self._ring.widths if self._ring else {}
        return tuple(dict.fromkeys([*every_step, *(name for due in self._widths.values() for name in due)]))

    def add_due(self, cadence: str, pieces: Mapping[str, torch.Tensor]) -> None:
        """Adds what was measured at the stride of a cadence, for the row that begins."""
        self._due[cadence].append(pieces)

    def add(self, pieces: Mapping[str, Numbers], rates: list[float], own: Mapping[str, Any]) -> None:
        """Completes a row.

        Args:
            pieces: measured at every step; NaN stands for those of the first row that a later one lacks.
            rates: learning rate of each layer.
            own: values of the user's quantities.

        Raises:
            RhoTraceError: a value has no quantity, or not its length.
        """
        if self._ring is None:
            self._ring, self.begun = Ring(_widths(pieces), self._device), True
        if own or self._own:
            self._add_own(own)
        widths = self._ring.widths
        if pieces.keys() == widths.keys():
            self._ring.add([*pieces.values()])
        else:
            self._ring.add([pieces[name] if name in pieces else self._nan(width) for name, width in widths.items()])
        self._rates.append(rates)

    def _nan(self, width: int) -> torch.Tensor:
        import torch

        return torch.full((width,), np.nan, dtype=torch.float64, device=self._device)

    def _add_own(self, own: Mapping[str, Any]) -> None:
        for name in own:
            if name not in self._own:
                known = ", ".join(self._own) or "none"
                raise RhoTraceError(
                    f"trace.step: {name}: got a value of no quantity, expected those of record(own=[...]), which are {known}"
                )
        for name, values in self._own.items():
            try:
                values.add(own.get(name))
            except ValueError as problem:
                raise RhoTraceError(f"trace.step: {name}: {problem}, as record(own=[...]) says") from None

    def take(self, first: int) -> dict[str, Array]:
        """The rows since the last call as a block of the file: (rows, 1) or (rows, 1, width) of each quantity.

        Args:
            first: step of the first row.
        """
        if self._ring is None:
            return {}
        rates, self._rates = np.array(self._rates, dtype=np.float64), []
        found = {**self._ring.take(), "lr_step": rates[:, :1], "lr_layer": rates}
        for cadence, due in self._due.items():
            stride = self._settings.strides[cadence]
            count = -(-(first + len(rates)) // stride) - -(
                -first // stride
            )  # one more may belong to a row that has begun
            found |= _stacked(due[:count], self._widths[cadence])
            del due[:count]
        on_request = quantities(self._settings.strides)
        vectors = {*_VECTORS, *(quantity.name for quantity in on_request)}
        block = {name: rows[:, None] if name in vectors else rows for name, rows in found.items()}
        block |= {quantity.name: quantity.derive(block) for quantity in on_request if quantity.derive}
        self._derive(block, first)
        for name, values in self._own.items():
            rows = values.take()[-first % values.own.every :: values.own.every]
            block[name] = rows[:, None] if values.own.axis else rows
        return block

    def _derive(self, block: dict[str, Array], first: int) -> None:
        """Adds the quantities that follow from others, by the table's own formulas."""
        stride = self._settings.strides["full"]
        with np.errstate(all="ignore"):
            for quantity in (QUANTITIES[name] for name in DERIVED):
                due = {
                    name: rows[-first % stride :: stride]
                    if quantity.cadence == "full" and name in QUANTITIES and QUANTITIES[name].cadence == "step"
                    else rows
                    for name, rows in block.items()
                }
                if quantity.derive and follows(quantity.name, block):
                    block[quantity.name] = quantity.derive(due)


def follows(name: str, measured: Collection[str]) -> bool:
    """Whether a derived quantity can be derived from what is measured."""
    if name == "log_margin":  # of the losses without rho_eq
        return "margin_min" in measured and "a" not in measured
    return "rho_k" in measured and (name == "log_rho" or ("a" in measured and "q" in measured))


def _widths(pieces: Mapping[str, Numbers]) -> dict[str, int]:
    return {name: len(values) for name, values in pieces.items()}


def _stacked(due: Sequence[Mapping[str, torch.Tensor]], widths: Mapping[str, int]) -> dict[str, Array]:
    import torch

    if not due:
        return {name: np.empty((0, width)) for name, width in widths.items()}
    rows = torch.stack([torch.cat([pieces[name] for name in widths]) for pieces in due]).cpu().numpy()
    return split(rows, widths)


def split(rows: Array, widths: Mapping[str, int]) -> dict[str, Array]:
    """The columns of some rows by name, (rows, width) each."""
    ends = np.cumsum([*widths.values()])
    return {name: rows[:, end - width : end] for (name, width), end in zip(widths.items(), ends, strict=True)}


class Ring:
    """Rows of numbers where the module is, written one after another and copied out together.

    Args:
        widths: numbers of each column of the row, by name.
        device: of the module.
    """

    def __init__(self, widths: Mapping[str, int], device: torch.device) -> None:
        import torch

        self.widths = dict(widths)
        width = sum(self.widths.values())
        self.size = max(1, min(BLOCK_STEPS, BLOCK_BYTES // (8 * max(1, width))))
        self._rows = torch.empty(self.size, width, dtype=torch.float64, device=device)
        self._each = self._rows.unbind()
        self._on_host = [*self._rows.numpy()] if device.type == "cpu" else []
        self.count = 0

    def add(self, pieces: Sequence[Numbers]) -> None:
        """Writes the next row: the columns one after another, each (width,)."""
        if self._on_host and len(pieces) == 1 and isinstance(pieces[0], np.ndarray):
            self._on_host[self.count][:] = pieces[0]
        elif self._on_host:  # numpy's call costs half of torch's
            there = [piece if isinstance(piece, np.ndarray) else piece.numpy() for piece in pieces]
            np.concatenate(there, out=self._on_host[self.count])
        else:
            import torch

            torch.cat(cast("list[torch.Tensor]", pieces), out=self._each[self.count])
        self.count += 1

    def take(self) -> dict[str, Array]:
        """The rows since the last call, (rows, width) of each column; the only wait for the device."""
        filled, self.count = self._rows[: self.count].cpu().numpy().copy(), 0
        return split(filled, self.widths)


class OwnValues:
    """Values of one quantity of the user's own: numbers stay on the host, tensors on their device until they are taken."""

    def __init__(self, own: Own) -> None:
        self.own = own
        self._values: list[Any] = []

    def add(self, value: Any) -> None:  # noqa: ANN401 - checked here
        """Keeps the value of a row; None for none.

        Raises:
            ValueError: it does not have the length of the quantity's axis.
        """
        import torch

        if value is None:
            self._values.append(None)
            return
        if isinstance(value, torch.Tensor):
            kept: Any = value.detach().to(torch.float64, copy=True).reshape(-1)
        else:
            kept = np.asarray(value, dtype=np.float64).reshape(-1).copy()
        if len(kept) != self.own.width:
            raise ValueError(f"got {len(kept)} values, expected {self.own.width}")
        self._values.append(kept)

    def take(self) -> Array:
        """The rows since the last call, (rows, width)."""
        import torch

        values, self._values = self._values, []
        rows = np.full((len(values), self.own.width), np.nan)
        there = [n for n, value in enumerate(values) if isinstance(value, torch.Tensor)]
        if there:
            rows[there] = torch.stack([values[n] for n in there]).cpu().numpy()
        for number, value in enumerate(values):
            if isinstance(value, np.ndarray):
                rows[number] = value
        return rows
