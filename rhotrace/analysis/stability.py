"""Learning rate times sharpness, and activations that flip: what a run that alternates from step to step shows of why.

Gradient descent on a quadratic loss is stable where learning rate times sharpness is below 2. Training at that edge
alternates from step to step. So does training below it whose activations flip at every step. The edge is named only
where it was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rhotrace.analysis.run_series import RunSeries
from rhotrace.statistics.numbers import written

EDGE = 2.0
NEAR = 0.1  # of the edge
_END = 0.1  # of the recorded rows


@dataclass(frozen=True)
class Stability:
    """What one member shows; NaN where its recipe did not ask for the quantity, or it diverged.

    Attributes:
        member: its number.
        lr_sharpness: learning rate times sharpness, median over the last tenth of the rows.
        largest: the largest in the run.
        flips: activations that flip in a step, median over the last tenth of the rows.
    """

    member: int
    lr_sharpness: float
    largest: float
    flips: float

    @property
    def at_edge(self) -> bool:
        """Whether learning rate times sharpness ends within a tenth of 2."""
        return bool(abs(self.lr_sharpness - EDGE) <= NEAR * EDGE)


def stability(run: RunSeries, members: Sequence[int] | None = None) -> tuple[Stability, ...]:
    """What the members of a run show; empty where the run recorded neither quantity.

    Args:
        run: the run.
        members: which; all of them by default.
    """
    trace = run.trace
    recorded = {name: trace[name] for name in ("sharpness", "activation_flips") if name in trace}
    if not recorded:
        return ()
    missing = np.full((1, trace.members), np.nan)
    rates = run.lr if run.rates.ndim == 1 else run.rates[trace.step_of("sharpness")] if "sharpness" in recorded else 1.0
    sharp = recorded.get("sharpness", missing) * rates
    flips = recorded.get("activation_flips", missing)
    return tuple(
        Stability(m, _median(sharp[-_last(sharp) :, m]), _largest(sharp[:, m]), _median(flips[-_last(flips) :, m]))
        for m in (range(trace.members) if members is None else members)
    )


def in_words(each: Sequence[Stability]) -> str:
    """What was measured of some members, for a sentence; empty where nothing was."""
    sharp = [one.lr_sharpness for one in each if np.isfinite(one.lr_sharpness)]
    flips = [one.flips for one in each if np.isfinite(one.flips)]
    said = [f"learning rate times sharpness is {_span(sharp)}"] if sharp else []
    said += [f"{_span(flips)} activations flip at a step"] if flips else []
    edge = [one for one in each if one.at_edge]
    if sharp:
        said.append(f"at the edge of stability, which is 2: {len(edge)} of {len(sharp)} members")
    return "; ".join(said)


def _last(rows: np.ndarray) -> int:
    return max(1, int(_END * len(rows)))


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else np.nan


def _largest(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.max()) if len(known) else np.nan


def _span(values: Sequence[float]) -> str:
    return " to ".join(dict.fromkeys(f"{written(value)}" for value in (min(values), max(values))))
