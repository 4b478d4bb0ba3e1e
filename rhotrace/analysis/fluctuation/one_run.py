"""One run after its transient: each member's fluctuation around rho_eq, what theory says of it, and both over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rhotrace.analysis.applicability import not_plain
from rhotrace.analysis.fluctuation import one_series
from rhotrace.analysis.fluctuation.linearised_prediction import Prediction, predict
from rhotrace.analysis.fluctuation.one_series import Decay, Fluctuation, pooled_decay, spectrum
from rhotrace.analysis.run_series import RunSeries
from rhotrace.analysis.run_summary import summary
from rhotrace.analysis.stability import Stability, stability
from rhotrace.analysis.transient.transient_time import Outcome
from rhotrace.errors import AnalysisError
from rhotrace.statistics.intervals import NONE, Interval, by_unit, geometric_centre, geometric_mean, mean
from rhotrace.theory.linearised_sgd import frozen_std

Floats = NDArray[np.float64]
Align = Literal["step", "time"]

STILL = 1e-12  # a fluctuation this small is rounding, and a ratio to it means nothing
_SEGMENTS = (64, 512)  # values in a segment of a spectrum


@dataclass(frozen=True)
class Member:
    """One network of a run.

    Attributes:
        seed: of its weights.
        start: its initial scale, such as ``rho_k(0) 2.5``.
        lr: learning rate eta.
        unit: by which steps are multiplied for display: 1, or the learning rate where runs are aligned in time.
        T: transient time, in steps; 0 where there was no transient.
        fluctuation: of delta after T.
        frozen: standard deviation of delta if V stood still (``linearised.frozen_std``), from the traced batch sums;
            0 for a full batch.
        prediction: by the linearised network, where it was asked for and is available.
        stability: sharpness and flips; None where the run recorded neither.
        choices: the fluctuation by each choice of window and trend (``one_series.choices``); empty outside a comparison.
    """

    seed: int
    start: str
    lr: float
    unit: float
    T: float
    fluctuation: Fluctuation
    frozen: float
    prediction: Prediction | None = None
    stability: Stability | None = None
    choices: tuple[float, ...] = ()

    @property
    def decay(self) -> Decay | None:
        """Of the fluctuation, per step or per unit of time."""
        found = self.fluctuation.decay
        if found is None:
            return None
        rate = found.rate
        return replace(found, rate=Interval(rate.value / self.unit, rate.low / self.unit, rate.high / self.unit))


@dataclass(frozen=True)
class Spectrum:
    """Power density of delta, the mean over members: variance per cycle per step (or per unit of time)."""

    frequency: Floats
    density: Floats


@dataclass(frozen=True)
class Side:
    """One run of a comparison, or those of its members that differ in nothing but their seeds.

    Intervals are Student's t over distinct seeds; a single member's are of blocks of time.

    Attributes:
        letter: A is the run that the others are compared with, with a number where the run has several groups.
        path: of the run file.
        group: what its members share that the run's others do not; empty where it is the whole run.
        summary: as ``rhotrace info`` has it.
        batch: samples per step; None for all.
        each: the members that have a fluctuation.
        left_out: why a member has none, by its number.
        no_prediction: why a member has no prediction, by its number.
        T: geometric mean over members of the transient time, in steps or in time.
        offset: mean of delta.
        distance: geometric mean of the root mean square of delta.
        drift: change of delta along its line in the window.
        rise: the same of log rho.
        std: geometric mean of the fluctuation of delta.
        std_rho: the same of log rho alone.
        std_rho_eq: the same of log rho_eq.
        over_frozen: measured fluctuation over that of the memo's equation with V at rest.
        predicted_over: predicted by the linearised network over measured, on the same stretches.
        decay: how the fluctuation changes after T, per step or per unit of time.
        spectrum: None where no member is long enough.
        choices: geometric mean over members of their choices; empty outside a comparison.
        recordings: the run files of its members, where each is a recording of its own; empty where ``path`` has all.
    """

    letter: str
    path: str
    group: str
    summary: dict[str, Any]
    batch: int | None
    each: tuple[Member, ...]
    left_out: dict[int, str]
    no_prediction: dict[int, str]
    T: Interval
    offset: Interval
    distance: Interval
    drift: Interval
    rise: Interval
    std: Interval
    std_rho: Interval
    std_rho_eq: Interval
    over_frozen: Interval
    predicted_over: Interval
    decay: Decay | None
    spectrum: Spectrum | None
    choices: tuple[float, ...] = ()
    recordings: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """The run files that it is made of."""
        return self.recordings or (self.path,)

    @property
    def recorded(self) -> bool:
        """Whether it is a training loop of a user's own, which has no recipe and no planned end."""
        return self.summary["planned_steps"] is None

    def place(self, member: int) -> tuple[str, int]:
        """The run file of a member, and its number there."""
        return (self.recordings[member], 0) if self.recordings else (self.path, member)

    @property
    def settled(self) -> bool:
        """Whether every member is at rest at rho_eq in its window, apart from fluctuation."""
        return bool(self.each) and all(m.fluctuation.settled for m in self.each)


def examine(
    run: RunSeries,
    letter: str = "A",
    *,
    group: str = "",
    members: Sequence[int] | None = None,
    align: Align = "step",
    window: tuple[float, float] | None = None,
    common: tuple[float, float] | None = None,
    since_T: bool = True,
    predicting: bool = False,
) -> Side:
    """Everything about the fluctuation of one run, or of a group of its members.

    Args:
        run: the run's series, with its theta.
        letter: of the side.
        group: what the members share that the run's others do not.
        members: which; all of them by default.
        align: as for ``comparison.compare``.
        window: as for ``comparison.compare``.
        common: first and last step (or time) that all runs have after T, for the choices; none without.
        since_T: whether the decay is measured from T on, and not from the window's start.
        predicting: also predict each fluctuation from the snapshots.

    Raises:
        AnalysisError: a prediction was asked for, and the data or the network is not available.
    """
    members = range(run.trace.members) if members is None else members
    T, found, left_out = _measure(run, members, align, window, since_T=since_T)
    frozen = _frozen(run, found)
    predictions = predict(run, {m: f.window for m, f in found.items()}) if predicting and found else {}
    each = tuple(_member(run, f, T[m], frozen[m], predictions.get(m), align, common) for m, f in found.items())
    return _side(
        each,
        letter=letter,
        path=str(run.trace.path),
        group=group,
        summary=summary(run.trace),
        batch=run.batch_size,
        left_out=left_out,
        no_prediction={m: p for m, p in predictions.items() if isinstance(p, str)},
        spectrum=_spectrum(run, each),
    )


def pooled(sides: Sequence[Side]) -> Side:
    """Recordings of one network each as one run, whose members are numbered in the order of the recordings."""
    first = sides[0]
    if len(sides) == 1:
        return first
    found = [side.spectrum for side in sides if side.spectrum]
    alike = found and all(np.array_equal(one.frequency, found[0].frequency) for one in found)
    return _side(
        tuple(
            replace(m, fluctuation=replace(m.fluctuation, member=number))
            for number, side in enumerate(sides)
            for m in side.each
        ),
        letter=first.letter,
        path=first.path,
        group=first.group,
        summary={
            **first.summary,
            "members": len(sides),
            "wall_seconds": sum(side.summary["wall_seconds"] for side in sides),
        },
        batch=first.batch,
        left_out={number: why for number, side in enumerate(sides) for why in side.left_out.values()},
        no_prediction={number: why for number, side in enumerate(sides) for why in side.no_prediction.values()},
        spectrum=Spectrum(found[0].frequency, np.mean([one.density for one in found], axis=0)) if alike else None,
        recordings=tuple(side.path for side in sides),
    )


def _side(each: tuple[Member, ...], **known: Any) -> Side:  # noqa: ANN401 - other fields of a side, by their names
    """A side with what is computed over its members."""
    seeds, offsets = [m.seed for m in each], [m.fluctuation.offset for m in each]
    chosen = list(zip(*(m.choices for m in each), strict=True))
    predicted = [(m.prediction, m.seed) for m in each if m.prediction]
    decays = [(decay, m.seed) for m in each if (decay := m.decay)]
    return Side(
        each=each,
        T=_geometric([(m.T * m.unit, m.seed) for m in each if m.T > 0]),
        offset=offsets[0] if len(offsets) == 1 else _arithmetic([o.value for o in offsets], seeds),
        distance=_geometric([(max(m.fluctuation.distance, STILL), m.seed) for m in each]),
        drift=_arithmetic([m.fluctuation.drift for m in each], seeds),
        rise=_arithmetic([m.fluctuation.rise for m in each], seeds),
        std=_over_seeds([m.fluctuation.std for m in each], seeds),
        std_rho=_over_seeds([m.fluctuation.std_rho for m in each], seeds),
        std_rho_eq=_over_seeds([m.fluctuation.std_rho_eq for m in each], seeds),
        over_frozen=_ratios([(m.fluctuation.std.value, m.frozen, m.seed) for m in each]),
        predicted_over=_ratios([(p.predicted, p.measured, seed) for p, seed in predicted]),
        decay=pooled_decay([d for d, _ in decays], [seed for _, seed in decays]) if decays else None,
        choices=tuple(
            _geometric([(max(std, STILL), seed) for std, seed in zip(one, seeds, strict=True)]).value for one in chosen
        ),
        **known,
    )


def unit_of(run: RunSeries, member: int, align: Align) -> float:
    """By what a member's steps are multiplied: 1, or its learning rate where runs are aligned in time."""
    if align == "time" and run.elapsed is not None:
        raise AnalysisError(f"{run.trace.path}: --align time does not apply: its learning rate follows a schedule")
    return float(run.lr[member]) if align == "time" else 1.0


def transient_of(run: RunSeries, member: int) -> float | None:
    """T in steps, 0 where there was no transient; None where the member has not left it."""
    passed = run.passages[member]
    if passed.outcome is Outcome.NONE:
        return 0.0
    return passed.T if passed.outcome is Outcome.LEFT else None


def _member(
    run: RunSeries,
    found: Fluctuation,
    T: float,
    frozen: float,
    prediction: Prediction | str | None,
    align: Align,
    common: tuple[float, float] | None,
) -> Member:
    m, lr, unit = found.member, float(run.lr[found.member]), unit_of(run, found.member, align)
    chosen: tuple[float, ...] = ()
    if common:
        first, last = (round(edge / unit, 6) for edge in common)
        rows = (run.steps >= first) & (run.steps <= last)
        chosen = one_series.choices(run.delta[rows, m])
    return Member(
        seed=run.seeds[m],
        start=run.starts[m],
        lr=lr,
        unit=unit,
        T=T,
        fluctuation=found,
        frozen=frozen,
        prediction=prediction if isinstance(prediction, Prediction) else None,
        stability=next(iter(stability(run, [m])), None),
        choices=chosen,
    )


def _measure(
    run: RunSeries, members: Sequence[int], align: Align, window: tuple[float, float] | None, *, since_T: bool
) -> tuple[dict[int, float], dict[int, Fluctuation], dict[int, str]]:
    """By member: T in steps (0 where there was no transient), the fluctuation, or why there is none."""
    units = {m: unit_of(run, m, align) for m in members}
    steps, deltas, log_rho, loss = run.steps, run.delta, run.log_rho, run.loss
    T: dict[int, float] = {}
    found: dict[int, Fluctuation] = {}
    left_out: dict[int, str] = {}
    if run.no_equilibrium:
        return T, found, dict.fromkeys(members, run.no_equilibrium)
    for m in members:
        own_T = transient_of(run, m)
        if own_T is None:
            left_out[m] = str(run.passages[m].outcome)
            continue
        T[m], unit = own_T, units[m]
        first, last = T[m], np.inf
        if window:  # rounded, since a time is a step times its learning rate
            first, last = max(T[m], round(window[0] / unit, 6)), round(window[1] / unit, 6)
        measured = one_series.measure(
            m,
            steps,
            deltas[:, m],
            first,
            until=last,
            find_window=window is None,
            log_rho=log_rho[:, m],
            loss=loss[:, m],
            transient=T[m] if since_T else None,
        )
        if isinstance(measured, str):
            left_out[m] = measured
        else:
            found[m] = measured
    return T, found, left_out


def _geometric(values: Sequence[tuple[float, int]]) -> Interval:
    """Geometric mean over distinct seeds of (value, seed); NaN where there is none."""
    if not values:
        return NONE
    return geometric_mean(by_unit(np.array([v for v, _ in values]), [seed for _, seed in values], geometric_centre))


def _arithmetic(values: Sequence[float], seeds: Sequence[int]) -> Interval:
    """Mean over distinct seeds; NaN where there is none."""
    return mean(by_unit(np.array(values), seeds, lambda same: float(same.mean())))


def _over_seeds(values: Sequence[Interval], seeds: Sequence[int]) -> Interval:
    if len(values) == 1:
        one = values[0]
        return Interval(max(one.value, STILL), one.low, one.high)
    return _geometric([(max(v.value, STILL), seed) for v, seed in zip(values, seeds, strict=True)])


def _ratios(pairs: Sequence[tuple[float, float, int]]) -> Interval:
    """Geometric mean over distinct seeds of ratios, from (above, below, seed)."""
    return _geometric([(a / b, seed) for a, b, seed in pairs if STILL < a < np.inf and STILL < b < np.inf])


def _frozen(run: RunSeries, found: dict[int, Fluctuation]) -> dict[int, float]:
    """Fluctuation of each member if V stood still, from the traced sums over its window."""
    if not run.batch_size or not found:
        return dict.fromkeys(found, 0.0)
    if not_plain(run.trace):
        return dict.fromkeys(found, np.nan)
    trace, steps, lr, q = run.trace, run.steps, run.lr, run.q
    h = run.a - q  # mean of y g - g^2
    excess = trace.aligned("batch_a") - trace.aligned("batch_q") - h
    S = np.sum(run.rho_k**-2.0, axis=2)
    of = {}
    for m, f in found.items():
        rows = (steps >= f.window[0]) & (steps <= f.window[1])
        of[m] = frozen_std(
            lr=float(lr[m]),
            S=float(S[rows, m].mean()),
            q=float(q[rows, m].mean()),
            step_variance=float(np.mean(excess[rows, m] ** 2)),
        )
    return of


def _spectrum(run: RunSeries, each: Sequence[Member]) -> Spectrum | None:
    steps, deltas, every = run.steps, run.delta, run.trace.strides["full"]
    if not each or len({m.unit for m in each}) > 1:  # members that count time differently have no common frequencies
        return None
    windows = [m.fluctuation.window for m in each]
    series = [
        deltas[(steps >= first) & (steps <= last), m.fluctuation.member]
        for (first, last), m in zip(windows, each, strict=True)
    ]
    segment = min(_SEGMENTS[1], min(map(len, series)) // 4)
    if segment < _SEGMENTS[0]:
        return None
    pairs = [spectrum(x, every * each[0].unit, segment) for x in series]
    return Spectrum(pairs[0][0], np.mean([density for _, density in pairs], axis=0))
