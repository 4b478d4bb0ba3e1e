"""A run as labelled arrays: an xarray data set with the names and coordinates of the run file's axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rhotrace.errors import RhoTraceError

if TYPE_CHECKING:
    import xarray


def to_xarray(trace: Any, *, every: int = 1) -> xarray.Dataset:  # noqa: ANN401 - a Trace, whose module imports this one
    """A run as an xarray data set, in memory.

    Dimensions are ``step`` (``full_step`` and ``test_step`` for what is evaluated at a stride), ``member``, ``layer``
    and the quantities' own axes, such as ``quantile``. The members' settings (``seed``, ``batch_seed``, ``lr``, ``init_rho_k`` or ``init_scale``)
    are coordinates along ``member``; every quantity carries ``units``, ``long_name`` and ``symbol``.

    Args:
        trace: the run.
        every: steps from one entry to the next; for a quantity with a stride, rounded down to a multiple of the stride,
            and at least one stride.

    Raises:
        RhoTraceError: xarray is not installed.
        TraceError: the run file is damaged.
    """
    try:
        import xarray
    except ImportError:
        raise RhoTraceError("to_xarray: needs xarray; python -m pip install 'rhotrace[netcdf]'") from None
    coordinates: dict[str, Any] = {
        "member": np.arange(trace.members),
        "layer": np.arange(1, trace.depth + 1),
        **{axis: np.array(values) for axis, values in trace.layout.axes.items()},
        **{name: ("member", trace[name]) for name in trace.per_member},
    }
    held: dict[str, Any] = {}
    for quantity in trace.quantities:
        axis, thin = trace.axis(quantity.name), slice(None, None, max(1, every // trace.strides[quantity.cadence]))
        about = {"units": quantity.units, "long_name": quantity.says, "symbol": quantity.symbol}
        coordinates[axis] = trace[axis][thin]
        # A copy of what is kept: a view of some rows would hold all of them in memory.
        values = np.ascontiguousarray(trace[quantity.name][thin])
        held[quantity.name] = ((axis, *quantity.axes), values, about)
    plain = {key: value for key, value in trace.attributes.items() if isinstance(value, str | int | float)}
    return xarray.Dataset(held, coordinates, plain)
