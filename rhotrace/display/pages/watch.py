"""The state of a run in words, as ``watch`` shows it in a terminal and in a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rhotrace.display.numbers import number

if TYPE_CHECKING:
    from rhotrace.analysis.transient.live_follower import Glimpse

_PER_DECADE = float(np.log(10))


def words(glimpse: Glimpse) -> list[str]:
    """Progress, speed, transient and the last values, each a few words."""
    left = f", {_duration(glimpse.seconds_left)} left" if np.isfinite(glimpse.seconds_left) else ""
    rate = f"{number(glimpse.steps_per_second)} steps/s{left}" if np.isfinite(glimpse.steps_per_second) else ""
    last = glimpse.last
    values = []
    if last:
        medians = "medians: " if glimpse.members > 1 else ""
        values = [
            f"{medians}loss {number(last['loss'])}  error {number(last['error'])}  "
            f"rho {_power(last['log_rho'])}  rho_eq/rho {number(last['rho_eq_over_rho'])}"
        ]
    planned = "" if glimpse.planned_steps is None else f" of {glimpse.planned_steps}"
    return [
        f"{glimpse.state}: step {glimpse.steps}{planned}",
        *([rate] if rate else []),
        glimpse.transient,
        *values,
    ]


def _power(log: float) -> str:
    return f"10^{log / _PER_DECADE:.2f}" if np.isfinite(log) else number(float(np.exp(log)))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
