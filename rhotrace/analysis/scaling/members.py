"""What ``scaling`` reads of each member of a run: T by several definitions, its first-order error, phases, and the clock.

All arrays have the members on their last axis, so that a subset of the members is one mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rhotrace.analysis import applicability
from rhotrace.analysis.run_series import RunSeries
from rhotrace.analysis.scaling.clock import clock_of
from rhotrace.analysis.transient.transient_time import first_lasting, loss_time, same_rise
from rhotrace.statistics.intervals import Interval, mean

Floats = NDArray[np.float64]

THETAS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
DEFINITIONS = ("theta", *THETAS, "loss")


@dataclass(frozen=True)
class Members:
    """The members at one depth.

    Attributes:
        seed: of the weights, (M,).
        start: rho_k(0), (M,).
        lr: learning rate, (M,).
        times: T by each of ``DEFINITIONS``, learning rate x steps, NaN where there is none, (D, M): at the asked theta,
            at each of ``THETAS``, and by the loss.
        late: first-order estimate of the steps by which finite steps make each of these too long, (D, M); see ``_late``.
        half: time at which half of the final rise of rho is reached, (M,).
        falls: steps by which the loss comes down, (M,); 0 where it does not fall.
        grown: rho(T)/rho(0), (M,).
        distance: |rho_eq/rho| before the first step, (M,).
        clock: see ``Clock``; None without a T, (M,).
    """

    seed: NDArray[np.int64]
    start: Floats
    lr: Floats
    times: Floats
    late: Floats
    half: Floats
    falls: NDArray[np.int64]
    grown: Floats
    distance: Floats
    clock: NDArray[Any]

    @property
    def T(self) -> Floats:
        """T at the asked theta, (M,)."""
        return np.asarray(self.times[0])

    def where(self, mask: NDArray[np.bool_]) -> Members:
        """Some of the members."""
        return Members(*(getattr(self, field.name)[..., mask] for field in fields(self)))

    def one_for_each_start(self, *, largest: bool) -> Members:
        """Of the members that share seed and start, those of the largest, or smallest, learning rate with a T."""
        pairs = list(zip(self.seed.tolist(), self.start.tolist(), strict=True))
        without = 0.0 if largest else np.inf
        rates = np.where(self.T > 0, self.lr, without).tolist()
        chosen: dict[tuple[int, float], float] = {}
        for pair, rate in zip(pairs, rates, strict=True):
            chosen[pair] = (max if largest else min)(rate, chosen.get(pair, rate))
        return self.where(np.array([rate == chosen[p] for p, rate in zip(pairs, rates, strict=True)], bool))


def pooled(each: Sequence[Members]) -> Members:
    """The members of several runs together."""
    return Members(*(np.concatenate([getattr(one, f.name) for one in each], axis=-1) for f in fields(Members)))


def read(run: RunSeries) -> Members:
    """The members of a run."""
    members = range(run.trace.members)
    steps = np.array([_steps_of(run, m) for m in members]).T  # (D, M)
    clocks = np.empty(len(members), dtype=object)
    clocks[:] = [clock_of(run.members[m], steps[0, m]) if steps[0, m] > 0 else None for m in members]
    with np.errstate(all="ignore"):
        grown = [
            np.exp(np.interp(steps[0, m], run.steps, run.log_rho[:, m]) - run.log_rho[0, m])
            if steps[0, m] > 0
            else np.nan
            for m in members
        ]
    return Members(
        seed=run.trace["seed"],
        start=run.trace["init_rho_k"],
        lr=run.lr,
        times=np.array([[run.time_of(m, T) for m, T in enumerate(row)] for row in steps]),
        late=_late(run, steps),
        half=np.array([run.time_of(m, _half(run, m)) for m in members]),
        falls=np.array([max(len(found) - 1, 0) for found in run.plateaus]),
        grown=np.array(grown),
        distance=np.abs(run.rho_eq_over_rho[0]),
        clock=clocks,
    )


def _steps_of(run: RunSeries, m: int) -> list[float]:
    """T of one member by each of ``DEFINITIONS``, in steps."""
    by_theta = same_rise(run.steps, run.rho_eq_over_rho[:, m], THETAS)
    return [run.passages[m].T, *by_theta, loss_time(run.steps, run.loss[:, m])]


def _half(run: RunSeries, m: int) -> float:
    """First step from which rho stays above the middle between its start and its end."""
    log_rho = run.log_rho[:, m]
    with np.errstate(all="ignore"):
        rho = np.exp(log_rho - np.nanmax(log_rho))
        row, _ = first_lasting(rho >= (rho[0] + rho[-1]) / 2, run.steps)
    return float(run.steps[row]) if row > 0 else np.nan


def _late(run: RunSeries, steps: Floats) -> Floats:
    """Steps by which finite steps make each time too long, to first order: log(||G(T)||/||G(0)||)/2.

    Descent in steps eta follows ``dW/dt = v - (eta/2) dv/dt`` with v = -G, up to eta^2 (backward error analysis of Euler's
    method). Along the path that is a speed of ``|v| - (eta/2) d|v|/dt``, so a stretch takes longer by
    ``eta/2 log(|v| at its end / |v| at its start)``. What the path itself bends is left out: at L = 8 the estimate
    is 55 to 80 % of what is measured between learning rates. NaN where steps are not plain descent on the full set.
    """
    nothing = np.full(steps.shape, np.nan)
    law = applicability.law_of(run.trace)
    if law is None or law.name != "descent" or run.trace.facts.minibatches or applicability.not_plain(run.trace):
        return nothing
    with np.errstate(all="ignore"):
        size = np.log(np.sqrt(np.square(run.every_step("grad_norm")).sum(axis=2)))
    for place, m in np.argwhere(steps > 0):
        nothing[place, m] = (size[int(steps[place, m]), m] - size[0, m]) / 2
    return nothing


# --- slopes ------------------------------------------------------------------------------------------------


def slopes(
    seed: NDArray[np.int64], start: Floats, T: Floats, of_T: Callable[[Floats], Floats] = np.log
) -> tuple[Floats, float]:
    """Slope of ``of_T(T)`` on log rho_k(0) of each seed with two starts or more, and the residuals' rms over all."""
    found, squares, freedom = [], 0.0, 0
    for own in np.unique(seed):
        mine = (seed == own) & (T > 0)
        x, y = np.log(start[mine]), of_T(T[mine])
        if len(np.unique(x)) < 2:
            continue
        slope, level = np.polyfit(x, y, 1)
        found.append(float(slope))
        squares += float(np.sum((y - slope * x - level) ** 2))
        freedom += len(x) - 2
    return np.array(found), float(np.sqrt(squares / freedom)) if freedom > 0 else np.nan


def at_zero(depth: int, seed: NDArray[np.int64], start: Floats, T: Floats) -> Interval:
    """The exponent for a start that goes to zero, mean over seeds.

    With constant A and B, T is ``a r^(2-L) + b`` but for smaller terms, so one over the exponent at r is a line in
    r^(L-2). That line through the exponents between neighbouring starts leads to the limit.
    """
    limits = []
    for own in np.unique(seed) if depth > 2 else []:
        mine = (seed == own) & (T > 0)
        x, level = np.log(start[mine]), np.log(T[mine])
        starts = np.unique(x)
        if len(starts) < 3:
            continue
        log_T = np.array([level[x == one].mean() for one in starts])
        middle = (starts[1:] + starts[:-1]) / 2
        if (np.diff(log_T) < 0).all():
            inverse = np.polyfit(np.exp((depth - 2) * middle), np.diff(starts) / np.diff(log_T), 1)[1]
            limits.append(float(1 / inverse))
    return mean(np.array(limits))
