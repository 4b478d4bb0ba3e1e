"""One run after its transient: each member's fluctuation around rho_eq, what theory says of it, and both over members."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rhotrace.analysis.fluctuation import one_series
from rhotrace.analysis.fluctuation.linearised_prediction import Prediction, predict
from rhotrace.analysis.fluctuation.one_series import Decay, Fluctuation, pooled_decay, spectrum
from rhotrace.analysis.run_analysis import delta, passages, summary
from rhotrace.analysis.transient.transient_time import Outcome
from rhotrace.runfile.reader import Trace
from rhotrace.statistics.intervals import NONE, Interval, geometric_mean, mean
from rhotrace.theory.linearised_sgd import frozen_std
from rhotrace.theory.norm_dynamics import THETA

Floats = NDArray[np.float64]
Align = Literal["step", "time"]

STILL = 1e-12  # a fluctuation this small is rounding, and a ratio to it means nothing
_SEGMENTS = (64, 512)  # values in a segment of a spectrum


@dataclass(frozen=True)
class Member:
    """One network of a run.

    Attributes:
        seed: of its weights.
        lr: learning rate eta.
        unit: by which steps are multiplied for display: 1, or the learning rate where runs are aligned in time.
        T: transient time, in steps; 0 where there was no transient.
        fluctuation: of delta after T.
        frozen: standard deviation of delta if V stood still (``linearised.frozen_std``), from the traced batch sums;
            0 for a full batch.
        prediction: by the linearised network, where it was asked for and is to be had.
    """

    seed: int
    lr: float
    unit: float
    T: float
    fluctuation: Fluctuation
    frozen: float
    prediction: Prediction | None = None

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
    """One run of a comparison; intervals over members are Student's t, a single member's are of blocks of time.

    Attributes:
        letter: A is the run that the others are held against.
        path: of the run file.
        summary: as ``rhotrace info`` has it.
        batch: samples per step; None for all.
        each: the members that have a fluctuation.
        left_out: why a member has none, by its number.
        no_prediction: why a member has no prediction, by its number.
        T: geometric mean over members of the transient time, in steps or in time.
        offset: mean of delta.
        std: geometric mean of the fluctuation of delta.
        std_rho: the same of log rho alone.
        std_rho_eq: the same of log rho_eq.
        over_frozen: measured fluctuation over that of the memo's equation with V at rest.
        predicted_over: predicted by the linearised network over measured, on the same stretches.
        decay: how the fluctuation changes after T, per step or per unit of time.
        spectrum: None where no member is long enough.
    """

    letter: str
    path: str
    summary: dict[str, Any]
    batch: int | None
    each: tuple[Member, ...]
    left_out: dict[int, str]
    no_prediction: dict[int, str]
    T: Interval
    offset: Interval
    std: Interval
    std_rho: Interval
    std_rho_eq: Interval
    over_frozen: Interval
    predicted_over: Interval
    decay: Decay | None
    spectrum: Spectrum | None


def examine(
    trace: Trace,
    letter: str = "A",
    *,
    align: Align = "step",
    window: tuple[float, float] | None = None,
    theta: float = THETA,
    predicting: bool = False,
) -> Side:
    """Everything about one run's fluctuation; the arguments are those of ``comparison.compare``.

    Raises:
        AnalysisError: a prediction was asked for, and the data or the network cannot be had again.
    """
    steps, deltas, log_rho = delta(trace)
    T, found, left_out = _measure(trace, (steps, deltas, log_rho), align, window, theta)
    about, batch = summary(trace), trace.recipe["optimizer"].get("batch_size")
    frozen = _frozen(trace, found, batch)
    predictions = predict(trace, {m: f.window for m, f in found.items()}) if predicting else {}
    seeds, lr = trace["seed"], trace["lr"]
    each = tuple(
        Member(
            seed=int(seeds[m]),
            lr=float(lr[m]),
            unit=float(lr[m]) if align == "time" else 1.0,
            T=T[m],
            fluctuation=f,
            frozen=frozen[m],
            prediction=p if isinstance(p := predictions.get(m), Prediction) else None,
        )
        for m, f in found.items()
    )
    offsets = [m.fluctuation.offset for m in each]
    predicted = [m.prediction for m in each if m.prediction]
    decays = [m.decay for m in each if m.decay]
    return Side(
        letter=letter,
        path=str(trace.path),
        summary=about,
        batch=batch,
        each=each,
        left_out=left_out,
        no_prediction={m: p for m, p in predictions.items() if isinstance(p, str)},
        T=geometric_mean(np.array([m.T * m.unit for m in each if m.T > 0])) if any(m.T > 0 for m in each) else NONE,
        offset=offsets[0] if len(offsets) == 1 else mean(np.array([o.value for o in offsets])),
        std=_over_members([m.fluctuation.std for m in each]),
        std_rho=_over_members([m.fluctuation.std_rho for m in each]),
        std_rho_eq=_over_members([m.fluctuation.std_rho_eq for m in each]),
        over_frozen=_ratios([m.fluctuation.std.value for m in each], [m.frozen for m in each]),
        predicted_over=_ratios([p.predicted for p in predicted], [p.measured for p in predicted]),
        decay=pooled_decay(decays) if decays else None,
        spectrum=_spectrum(steps, deltas, each, trace.strides["full"]),
    )


def _measure(
    trace: Trace,
    series: tuple[NDArray[np.int64], Floats, Floats],
    align: Align,
    window: tuple[float, float] | None,
    theta: float,
) -> tuple[dict[int, float], dict[int, Fluctuation], dict[int, str]]:
    """By member: T in steps (0 where there was no transient), the fluctuation, or why there is none."""
    steps, deltas, log_rho = series
    loss, lr = trace["loss"], trace["lr"]
    T: dict[int, float] = {}
    found: dict[int, Fluctuation] = {}
    left_out: dict[int, str] = {}
    for m, passed in enumerate(passages(trace, theta=theta)):
        if passed.outcome not in {Outcome.LEFT, Outcome.NONE}:
            left_out[m] = str(passed.outcome)
            continue
        T[m] = passed.T if passed.outcome is Outcome.LEFT else 0.0
        unit = lr[m] if align == "time" else 1.0
        first, last = (max(T[m], window[0] / unit), window[1] / unit) if window else (T[m], np.inf)
        measured = one_series.measure(
            m,
            steps,
            deltas[:, m],
            first,
            until=last,
            find_window=window is None,
            log_rho=log_rho[:, m],
            loss=loss[:, m],
        )
        if isinstance(measured, str):
            left_out[m] = measured
        else:
            found[m] = measured
    return T, found, left_out


def _over_members(values: Sequence[Interval]) -> Interval:
    if len(values) == 1:
        one = values[0]
        return Interval(max(one.value, STILL), one.low, one.high)
    return geometric_mean(np.array([max(v.value, STILL) for v in values])) if values else NONE


def _ratios(above: Sequence[float], below: Sequence[float]) -> Interval:
    ratios = [a / b for a, b in zip(above, below, strict=True) if STILL < a < np.inf and STILL < b < np.inf]
    return geometric_mean(np.array(ratios)) if ratios else NONE


def _frozen(trace: Trace, found: dict[int, Fluctuation], batch: int | None) -> dict[int, float]:
    """Fluctuation of each member if V stood still, from the traced sums over its window."""
    if not batch or not found:
        return dict.fromkeys(found, 0.0)
    every, steps, lr = trace.strides["full"], trace.step_of("a"), trace["lr"]
    h, q = trace["a"] - trace["q"], trace["q"]  # mean of y g - g^2
    excess = trace["batch_a"][::every] - trace["batch_q"][::every] - h
    S = np.sum(trace["rho_k"][::every] ** -2.0, axis=2)
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


def _spectrum(steps: NDArray[np.int64], deltas: Floats, each: Sequence[Member], every: int) -> Spectrum | None:
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
