"""Following a run from another process while it trains: its state, its speed, and its curves so far."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rhotrace.analysis.applicability import no_equilibrium
from rhotrace.analysis.transient.transient_time import first_lasting
from rhotrace.errors import TraceError
from rhotrace.runfile.layout import SLAB_BYTES
from rhotrace.runfile.reader import Trace, open_trace
from rhotrace.runfile.run_lock import is_locked
from rhotrace.statistics.extremes import Curve, Envelope, over_members
from rhotrace.statistics.intervals import geometric_mean
from rhotrace.theory.norm_dynamics import THETA

TRAINING = "training now"
CURVES = ("log_rho", "log_rho_eq", "loss")
_RECENT = 10  # looks at something new from which the rate is taken


class TransientWatch:
    """Follows each member's T while it trains: what ``transient_time.first_lasting`` finds in the rows so far.

    Args:
        theta: the transient ends at rho = theta rho_eq.

    Attributes:
        T: step of each member's first lasting crossing, NaN where there is none yet; None before the first row.
        inapplicable: why the run has no T, to be set by who knows; empty where it may have one.
    """

    def __init__(self, theta: float = THETA) -> None:
        self.theta, self.inapplicable = theta, ""
        self.T: NDArray[np.float64] | None = None
        self._since: NDArray[np.float64] = np.empty(0)  # step from which each member's condition holds, or NaN

    def update(self, steps: NDArray[np.int64], rho_eq_over_rho: NDArray[np.float64]) -> None:
        """Takes in the next rows of the run, (n,) and (n, M); the first ones must be those of step 0."""
        if self.T is None:
            self.T, self._since = np.full((2, rho_eq_over_rho.shape[1]), np.nan)
        reached = (rho_eq_over_rho > 0) & (rho_eq_over_rho <= 1 / self.theta)
        for member in np.flatnonzero(np.isnan(self.T) & (reached.any(axis=0) | ~np.isnan(self._since))):
            since = self._since[member]
            before = [] if np.isnan(since) else [int(since)]  # stands for all rows since then
            rows = np.concatenate([np.array(before, np.int64), steps])
            holds = np.append(np.ones(len(before), np.bool_), reached[:, member])
            row, _ = first_lasting(holds, rows)
            if row >= 0:
                self.T[member] = rows[row]
            unbroken = int(np.flatnonzero(np.append(True, ~holds))[-1])  # row after the last break
            self._since[member] = rows[unbroken] if unbroken < len(rows) else np.nan

    def words(self) -> str:
        """Such as ``T about 4410 steps (3 of 4 members)``, the geometric mean over those that have passed it."""
        if self.inapplicable:
            return f"T: {self.inapplicable}"
        if self.T is None:
            return "T not yet reached"
        members = len(self.T)
        passed, at_once = self.T[self.T > 0], int((self.T == 0).sum())
        if at_once == members:
            reached = "rho_eq/2" if self.theta == 0.5 else f"{self.theta:g} rho_eq"
            return f"no transient: rho started at or above {reached}"
        counts = [f"{len(passed)} of {members} members"] if len(passed) and members > 1 else []
        counts += [f"{at_once} of {members} had no transient"] if at_once else []
        T = f"T about {geometric_mean(passed).value:.0f} steps" if len(passed) else "T not yet reached"
        return f"{T} ({', '.join(counts)})" if counts else T


@dataclass(frozen=True)
class Glimpse:
    """Where a run stands.

    Attributes:
        path: of the run file.
        run: what distinguishes it from another that takes its place under the same name.
        state: ``training now``, ``interrupted``, ``finished`` or ``diverged``.
        steps: committed.
        planned_steps: that it will have; None of a recording that is not finished, whose end is not planned.
        members: M.
        seconds: of training so far.
        steps_per_second: recently; NaN where no process is training the run.
        seconds_left: NaN where it is not known.
        transient: how many members have passed their T, and when, in words.
        T: step of each member's T, NaN where there is none yet.
        last: median over members of the last value of each quantity that is shown.
        curves: medians over members of ``CURVES``, cut down to what can be seen.
    """

    path: Path
    run: str
    state: str
    steps: int
    planned_steps: int | None
    members: int
    seconds: float
    steps_per_second: float
    seconds_left: float
    transient: str
    T: tuple[float, ...]
    last: dict[str, float]
    curves: dict[str, Curve]


class Follower:
    """Looks at a run again and again, and reads each time only what is new.

    Args:
        path: of the run file, of a run in any state.
        stretches: of each curve that are kept.
        theta: the transient ends at rho = theta rho_eq.
    """

    def __init__(self, path: Path, stretches: int = 800, *, theta: float = THETA) -> None:
        self._path, self._stretches, self._theta = path, stretches, theta
        self._run = ""
        self._begin()

    def _begin(self) -> None:
        self._seen = 0
        self._transient = TransientWatch(self._theta)
        self._curves = {name: Envelope(self._stretches) for name in CURVES}
        self._times: deque[tuple[int, float]] = deque(maxlen=_RECENT)

    def look(self) -> Glimpse:
        """Reads what is new.

        Raises:
            TraceError: there is no such run, or it is damaged.
        """
        was_locked = is_locked(self._path)
        with open_trace(self._path) as trace:
            run = f"{trace.attributes['recipe_digest']} {trace.attributes['started']}"
            if run != self._run or trace.steps < self._seen:  # another run under the same name
                self._begin()
            self._run = run
            try:
                self._read(trace)
            except TraceError:  # some curves may have got the new rows, and others not
                self._run = ""
                raise
            state = _state(trace, was_locked)
            return Glimpse(
                path=self._path,
                run=run,
                state=state,
                steps=trace.steps,
                planned_steps=_planned(trace),
                members=trace.members,
                seconds=float(np.nan_to_num(trace.wall_seconds)),
                **self._speed(trace, state),
                transient=self._transient.words(),
                T=() if self._transient.T is None else tuple(self._transient.T.tolist()),
                last=_last(trace),
                curves={name: self._curve(trace, name) for name in CURVES},
            )

    def _read(self, trace: Trace) -> None:
        self._transient.inapplicable = no_equilibrium(trace)
        slab = trace.layout.steps_within(SLAB_BYTES)
        for first in range(self._seen, trace.steps, slab):
            last = min(first + slab, trace.steps)
            rows = trace.layout.span("full", first, last)
            stride = trace.strides["full"]
            if not self._transient.inapplicable:
                ratio = trace.rows("rho_eq_over_rho", rows)
                self._transient.update(np.arange(rows.start, rows.stop) * stride, ratio)
            for name, curve in self._curves.items():
                if name not in trace:
                    continue
                own = trace.layout.span("step", first, last) if name == "log_rho" else rows
                curve.extend(over_members(trace.rows(name, own))[1])
        self._seen = trace.steps

    def _curve(self, trace: Trace, name: str) -> Curve:
        rows, values = self._curves[name].curve()
        return rows * (1 if name == "log_rho" else trace.strides["full"]), values

    def _speed(self, trace: Trace, state: str) -> dict[str, float]:
        if not self._times or trace.steps > self._times[-1][0]:
            self._times.append((trace.steps, trace.wall_seconds))
        if state != TRAINING:
            return {"steps_per_second": np.nan, "seconds_left": np.nan}
        (steps, seconds), (now, then) = self._times[0], self._times[-1]
        if then <= seconds:  # nothing new yet: since the start
            steps, seconds = 0, 0.0
        rate = (now - steps) / (then - seconds) if then > seconds else np.nan
        planned = _planned(trace)
        left = np.nan if planned is None or not rate > 0 else (planned - now) / rate
        return {"steps_per_second": rate, "seconds_left": left}


def _planned(trace: Trace) -> int | None:
    return trace.layout.steps if trace.complete or not trace.layout.open_ended else None


def _state(trace: Trace, was_locked: bool) -> str:
    """The state of a run as it was opened; a training that held its lock just before, and has ended, did not stop there."""
    if trace.complete:
        return str(trace.attributes.get("ended", "finished"))
    return TRAINING if was_locked or is_locked(trace.path) else "interrupted"


def _last(trace: Trace) -> dict[str, float]:
    if not trace.steps:
        return {}
    found = {}
    for name in ("log_rho", "log_rho_eq", "rho_eq_over_rho", "loss", "error"):
        if name not in trace:
            found[name] = np.nan
            continue
        rows = trace.layout.rows(trace.quantity(name).cadence, trace.steps)
        found[name] = float(over_members(trace.rows(name, slice(rows - 1, rows)))[1][0])
    return found


def as_plain(glimpse: Glimpse) -> dict[str, object]:
    """Where a run stands, as a mapping without its curves."""
    return {
        "path": str(glimpse.path),
        "state": glimpse.state,
        "steps": glimpse.steps,
        "planned_steps": glimpse.planned_steps,
        "members": glimpse.members,
        "seconds": glimpse.seconds,
        "steps_per_second": glimpse.steps_per_second,
        "seconds_left": glimpse.seconds_left,
        "T": glimpse.T,
        "last": glimpse.last,
    }
