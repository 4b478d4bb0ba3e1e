"""A run as the tools that show training logs see it: a run of the tool for each member, and series over the steps.

A series is named after its quantity, with the layer or quantile behind a slash (``rho_k/1``, ``margin_quantile/0.5``),
by which TensorBoard and Weights & Biases group their charts. Values that were not evaluated at a step, or are NaN, are
left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rhotrace.errors import TraceError
from rhotrace.runfile.reader import Trace

Blocks = Callable[[], Iterable[Mapping[str, NDArray[Any]]]]


def clock(trace: Trace) -> Callable[[int], float]:
    """Time of a step in seconds since 1970: the start, and the step's share of the time spent in training."""
    try:
        start = datetime.fromisoformat(trace.attributes["started"]).timestamp()
    except (TypeError, ValueError):
        raise TraceError(f"{trace.path}: a damaged run file: the attribute started is not a time") from None
    seconds = float(np.nan_to_num(trace.wall_seconds)) / trace.steps
    return lambda step: start + step * seconds


def rows(trace: Trace, block: Mapping[str, NDArray[Any]], member: int) -> Iterator[tuple[int, dict[str, float]]]:
    """A member's steps of a block: the step, and each value that it has by the name of its series."""
    traced = {quantity.name for quantity in trace.quantities}
    names = [name for name in block if name.partition("/")[0] in traced]
    values = [block[name][member :: trace.members].tolist() for name in names]
    steps = block["step"][member :: trace.members].tolist()
    for step, row in zip(steps, zip(*values, strict=True), strict=True):
        yield step, {name: value for name, value in zip(names, row, strict=True) if value == value}  # noqa: PLR0124 - NaN


def about_member(trace: Trace, member: int) -> dict[str, float]:
    """What may distinguish a member from the others."""
    return {"member": member, **{name: trace[name][member].item() for name in trace.per_member}}
