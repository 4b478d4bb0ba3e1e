"""A run as labelled arrays: an xarray data set with the names and coordinates of the run file's axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rhotrace.errors import RhoTraceError

if TYPE_CHECKING:
    import xarray

    from rhotrace.recording.quantity import Description


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
    held: dict[str, Any] = {}
    for quantity in trace.quantities:
        dims, about, thin = labels(trace, quantity, every)
        # A copy of what is kept: a view of some rows would hold all of them in memory.
        held[quantity.name] = dims, np.ascontiguousarray(trace[quantity.name][::thin]), about
    return axes_of(trace, every=every).assign(held)


def axes_of(trace: Any, *, every: int = 1) -> xarray.Dataset:  # noqa: ANN401 - as above
    """As ``to_xarray``, without the quantities.

    Raises:
        RhoTraceError: xarray is not installed.
    """
    try:
        import xarray
    except ImportError:
        raise RhoTraceError("to_xarray: needs xarray; python -m pip install 'rhotrace[netcdf]'") from None
    fixed: dict[str, Any] = {
        "member": np.arange(trace.members),
        "layer": np.arange(1, trace.depth + 1),
        **{axis: np.array(values) for axis, values in trace.layout.axes.items()},
        **{name: ("member", trace[name]) for name in trace.per_member},
    }
    coordinates: dict[str, Any] = {}
    for quantity in trace.quantities:  # in the order in which netCDF numbers the dimensions
        (axis, *others), _, thin = labels(trace, quantity, every)
        coordinates[axis] = trace[axis][::thin]
        coordinates |= {name: fixed[name] for name in others}
    plain = {key: value for key, value in trace.attributes.items() if isinstance(value, str | int | float)}
    return xarray.Dataset(coords=coordinates | fixed, attrs=plain)


def labels(trace: Any, quantity: Description, every: int) -> tuple[tuple[str, ...], dict[str, str], int]:  # noqa: ANN401 - as above
    """Dimensions and attributes of a quantity, and of how many rows one is kept."""
    about = {"units": quantity.units, "long_name": quantity.says, "symbol": quantity.symbol}
    return (trace.axis(quantity.name), *quantity.axes), about, max(1, every // trace.strides[quantity.cadence])
