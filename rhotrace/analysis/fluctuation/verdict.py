"""A comparison in words: what a referee would accept, and the cautions that belong with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rhotrace.analysis.fluctuation.comparison import Comparison, Contrast
from rhotrace.analysis.fluctuation.linearised_prediction import REACH
from rhotrace.analysis.fluctuation.noise_scale_exponent import LAW, Exponent
from rhotrace.analysis.fluctuation.one_run import Side
from rhotrace.analysis.fluctuation.one_series import LONG_ENOUGH, SHARES, TRENDS
from rhotrace.analysis.member_bands import run_names
from rhotrace.analysis.stability import in_words
from rhotrace.statistics.intervals import Interval
from rhotrace.statistics.numbers import written

Floats = NDArray[np.float64]

_DIES = 0.5  # last piece of the window over the first, below which a fluctuation is said to die
_DRIFTS = 3.0  # size about the mean over that about a running mean, beyond which delta drifts
_ALTERNATES = 0.5  # share of the variance at periods under 2.5 evaluations


def cautions(result: Comparison) -> list[str]:
    """What weakens the comparison, a line for each kind and run; first what was asked for and is not there."""
    names = called(result.sides)
    return [
        *unpredicted(result),
        *_about_recipes(result),
        *(line for side in result.sides for line in _about_run(side, names[side.letter])),
    ]


def unpredicted(result: Comparison) -> list[str]:
    """Which members, or stretches, have no prediction although it was asked for, and why."""
    names = called(result.sides)
    lines = [
        f"{names[side.letter]}: no prediction for member {', '.join(str(m) for m, why in side.no_prediction.items() if why == reason)}: {reason}"
        for side in result.sides
        for reason in sorted(set(side.no_prediction.values()))
    ]
    return lines + [line for side in result.sides for line in _nonlinear(side, names[side.letter])]


def _nonlinear(side: Side, name: str) -> Iterator[str]:
    """For which stretches the prediction is not given."""
    found = [m.prediction for m in side.each if m.prediction]
    beyond = [(p, s.reached) for p in found for s in p.stretches if not s.holds]
    if beyond:
        all_of = sum(len(p.stretches) for p in found)
        members = ", ".join(dict.fromkeys(str(p.member) for p, _ in beyond))
        how_many = f"{len(beyond)} of {all_of} stretches" if len(beyond) < all_of else "any stretch"
        reached = _span([x for _, x in beyond], 2)
        yield (
            f"{name}: the prediction is not given for {how_many} (member {members}), because lr x sharpness reaches {reached} "
            f"along the predicted motion, not below {found[0].limit:g}: descent is near instability there, and the terms that "
            "the linearised network leaves out decide"
        )


def verdicts(result: Comparison) -> list[str]:
    """What follows, a sentence or two for each finding; the first is about the memo's remark 5 where it can be."""
    names = labels(result.sides)
    said = list(_contrasts(result, names))
    starts = {(e.optimizer, e.sampling, e.start) for e in result.exponents}
    several = len(starts) > len({kind[:2] for kind in starts})
    said += [_exponent(exponent, several=several) for exponent in result.exponents]
    said += [line for side in result.sides for line in _decay(side, names[side.letter], result.align)]
    return said + list(_theory(result.sides))


def labels(sides: Sequence[Side]) -> dict[str, str]:
    """A short name for each side, by letter: its optimizer, the options that distinguish the runs, and its group."""
    words: dict[str, list[str]] = {side.letter: [_optimizer(side)] for side in sides}
    for key, symbol in (("lr", "lr"), ("batch_size", "b"), ("sampling", "")):
        values = {side.letter: side.summary["optimizer_options"].get(key) for side in sides}
        minibatch = {values[side.letter] for side in sides if side.batch}
        if len(minibatch if key != "lr" else set(values.values())) < 2:
            continue
        for side in sides:
            value = values[side.letter]
            in_group = key == "lr" and "lr " in side.group
            if (side.batch or key == "lr") and not in_group:
                words[side.letter].append(f"{symbol} {value:g}" if symbol else str(value).replace("-", " "))
    for side in sides:
        words[side.letter] += [side.group] if side.group else []
    found = {letter: ", ".join(parts) for letter, parts in words.items()}
    if len(sides) == 2 and len(set(found.values())) == 2:
        return found
    files = _files(sides)
    return {side.letter: f"{files[side.path]} ({found[side.letter]})" for side in sides}


def called(sides: Sequence[Side]) -> dict[str, str]:
    """What tables and figures call each side, by letter: the name of its file, and its group."""
    files = _files(sides)
    return {side.letter: ", ".join(part for part in (files[side.path], side.group) if part) for side in sides}


def _files(sides: Sequence[Side]) -> dict[str, str]:
    """A short name of each run, by the path of its file, or of the first of its recordings."""
    paths = list(dict.fromkeys(path for side in sides for path in side.files))
    names = dict(zip(paths, run_names([Path(path) for path in paths]), strict=True))
    return {
        side.path: names[side.path] + (f" and {len(side.files) - 1} more" if side.recordings else "") for side in sides
    }


def _optimizer(side: Side) -> str:
    kind = side.summary["optimizer"]
    if kind in ("gd", "sgd"):
        return "GD" if side.batch is None else "SGD"
    name = "weight normalisation" if kind == "weight-norm" else str(kind)
    return name if side.batch is None else f"minibatch {name}"


# --- verdicts ----------------------------------------------------------------------------------------------


def _contrasts(result: Comparison, names: dict[str, str]) -> Iterator[str]:
    """Every side against one of the first run, those with one outcome in one sentence; then the sampling alone."""
    empty = [side for side in result.sides if not side.each]
    stayed = [names[side.letter] for side in empty if not _inapplicable(side)]
    if stayed:
        yield f"No verdict on {', '.join(stayed)}: no member left its transient with enough steps after it."
    for side in empty:
        if why := _inapplicable(side):
            yield f"No verdict on {names[side.letter]}: {why}."
    for base in (side for side in result.sides if side.path == result.sides[0].path):
        yield from _against(base, result, names)
    yield from settling(result, names)
    own = called(result.sides)
    yield from (_sampling(c, own) for c in result.contrasts if c.only_sampling and np.isfinite(c.ratio.value))


def _inapplicable(side: Side) -> str:
    """Why nothing can be said of a run's fluctuation; empty where its members may have one."""
    return next((why for why in side.left_out.values() if why.startswith("does not apply")), "")


def _against(side: Side, result: Comparison, names: dict[str, str]) -> Iterator[str]:
    """What was compared with one side of the first run."""
    sides, base = {one.letter: one for one in result.sides}, names[side.letter]
    known = [c for c in result.contrasts if c.base == side.letter and np.isfinite(c.ratio.value)]
    for contrast in known:
        if not np.isfinite(contrast.ratio.low):
            yield (
                f"log(rho/rho_eq) fluctuates {written(contrast.ratio.value)} times as much under {names[contrast.run]} as under "
                f"{base}, but no interval can be given: that takes at least 3 members with different seeds{_how(sides, contrast)}."
            )
    more = [c for c in known if c.ratio.low > 1]
    less = [c for c in known if c.ratio.high < 1]
    same = [c for c in known if c.ratio.low <= 1 <= c.ratio.high]
    for group in (more, less):
        if group:
            yield f"{_how_much(group, names, base)}{_remark(group, sides)}. {_which_moves(group, sides)}"
    if same:
        which = "; ".join(f"{names[c.run]}: {_with(c.ratio)}" for c in same)
        yield f"No difference is shown from {base}: the ratio's interval contains 1 ({which})."


def _how(sides: dict[str, Side], contrast: Contrast) -> str:
    """How a recording, which is of one network, comes to several members."""
    if not (sides[contrast.base].recorded or sides[contrast.run].recorded):
        return ""
    return "; recordings of one description are its members where each has a seed of its own, as in rhotrace.record(..., seed=1)"


def _spread(contrast: Contrast) -> str:
    """The ratio by every choice of window and trend, such as ``; 1.5 to 135 by 16 choices of window and trend``."""
    ratios = [choice.ratio.value for choice in contrast.choices]
    return (
        f"; {written(min(ratios))} to {written(max(ratios))} by {len(ratios)} choices of window and trend"
        if ratios
        else ""
    )


def _how_much(group: Sequence[Contrast], names: dict[str, str], base: str) -> str:
    if len(group) > 1:
        which = "; ".join(f"{_with(c.ratio)} under {names[c.run]}" for c in group)
        how = "more" if group[0].ratio.low > 1 else "less"
        return f"log(rho/rho_eq) fluctuates {how} than under {base}, by factors of {which} (95 % intervals)"
    ratio, high, low, spread = group[0].ratio, names[group[0].run], base, _spread(group[0])
    if ratio.high < 1:
        ratio, high, low = _over(ratio), low, high
        spread = _spread(_inverse(group[0]))
    return (
        f"log(rho/rho_eq) fluctuates {written(ratio.value)} times as much under {high} as under {low} "
        f"(95 % interval {written(ratio.low)} to {written(ratio.high)}{spread})"
    )


def _inverse(contrast: Contrast) -> Contrast:
    return replace(contrast, choices=tuple(replace(c, ratio=_over(c.ratio)) for c in contrast.choices))


def _remark(group: Sequence[Contrast], sides: dict[str, Side]) -> str:
    """Whether remark 5 is borne out, where a GD that has settled and SGD are what is compared."""
    pairs = [(_optimizer(sides[c.base]), _optimizer(sides[c.run])) for c in group]
    livelier = {run if group[0].ratio.low > 1 else base for base, run in pairs if {base, run} == {"GD", "SGD"}}
    full = [side for c in group for side in (sides[c.base], sides[c.run]) if _optimizer(side) == "GD"]
    if not livelier or any(not sides[c.base].batch and not sides[c.run].batch for c in group):
        return ""
    if not all(side.settled for side in full):
        return ""
    said = ", as the memo's remark 5 says" if livelier == {"SGD"} else ", against the memo's remark 5"
    return said if all(c.robust for c in group) else f"{said}, but not by every choice of window and trend"


def settling(result: Comparison, names: dict[str, str]) -> Iterator[str]:
    """Whether each GD run that is compared with SGD has settled; if not, its drift apart from its fluctuation."""
    sides = {side.letter: side for side in result.sides}
    for side in result.sides:
        against = [
            (c, sides[c.run if c.base == side.letter else c.base])
            for c in result.contrasts
            if side.letter in (c.base, c.run) and np.isfinite(c.ratio.value)
        ]
        noisy = [(c, other) for c, other in against if _optimizer(other) == "SGD"]
        if _optimizer(side) == "GD" and noisy:
            yield _settled(side, noisy, names)


def _settled(side: Side, noisy: Sequence[tuple[Contrast, Side]], names: dict[str, str]) -> str:
    name = names[side.letter]
    if side.settled:
        rest, largest = (
            max(abs(m.fluctuation.offset.value) for m in side.each),
            max(m.fluctuation.distance for m in side.each),
        )
        return (
            f"{name} has settled: log(rho/rho_eq) is at most {written(rest, 2)} in size on average, "
            f"and at most {written(largest, 2)} as a root mean square."
        )
    said = (
        f"Remark 5 is not decided in this window, because {name} has not settled at rho_eq: log(rho/rho_eq) is "
        f"{written(side.offset.value, 2)} on average and drifts by {written(side.drift.value, 2)}, while log rho moves by {written(side.rise.value, 2)}."
    )
    if side.choices:
        others = [size for _, other in noisy for size in other.choices]
        said += (
            f" What is left about a trend is {written(min(side.choices), 2)} to {written(max(side.choices), 2)} by {len(side.choices)} "
            f"choices of window and trend, against {written(min(others), 2)} to {written(max(others), 2)} under SGD"
        )
        said += f": {_nature(side)}." if _nature(side) else "."
    distances = [
        (c.distance if c.base == side.letter else _over(c.distance)) for c, _ in noisy if np.isfinite(c.distance.value)
    ]
    if len(distances) == 1:
        said += f" With offset and drift, log(rho/rho_eq) is {_with(distances[0])} times as large under SGD (root mean square)."
    elif distances:
        said += f" With offset and drift, log(rho/rho_eq) is {_span([d.value for d in distances])} times as large under SGD (root mean square)."
    return said


def _nature(side: Side) -> str:
    """What the fluctuation of a full batch is, for it is not noise."""
    alternating = sum(m.fluctuation.period_two > _ALTERNATES for m in side.each)
    if 2 * alternating > len(side.each):
        return "under GD it is an alternation from step to step and not noise"
    about = np.reshape(side.choices, (len(SHARES), len(TRENDS)))  # the mean comes first, the running mean last
    if (about[:, 0] > _DRIFTS * about[:, -1]).all():
        return "under GD it is drift and not fluctuation, since little of it is left about a running mean"
    return ""


def _over(ratio: Interval) -> Interval:
    return Interval(1 / ratio.value, 1 / ratio.high, 1 / ratio.low)


def _which_moves(group: Sequence[Contrast], sides: dict[str, Side]) -> str:
    """Whether it is rho or rho_eq that fluctuates: the memo's remark speaks of rho at fixed sums."""
    livelier = [sides[c.run if c.ratio.low > 1 else c.base] for c in group]
    rho, rho_eq = np.array([[side.std_rho.value, side.std_rho_eq.value] for side in livelier]).T
    alone = [c.rho.value if c.ratio.low > 1 else 1 / c.rho.value for c in group if np.isfinite(c.rho.value)]
    rest = f"log rho {_span(rho, 2)}, log rho_eq {_span(rho_eq, 2)}"
    rest += f"; log rho alone {_span(alone, 2)} times as much" if alone else ""
    if (rho_eq > 2 * rho).all():
        return f"There it is mostly rho_eq that moves, around a slow rho ({rest})."
    if (rho > 2 * rho_eq).all():
        return f"There it is mostly rho that moves ({rest})."
    return f"There both move ({rest})."


def _sampling(contrast: Contrast, names: dict[str, str]) -> str:
    said = (
        f"Shuffled epochs ({names[contrast.run]}) against draws with replacement ({names[contrast.base]}): log(rho/rho_eq) fluctuates "
        f"{_with(contrast.ratio)} times as much, log rho alone {_with(contrast.rho)}, and its autocorrelation time is {_with(contrast.tau)} times as long"
    )
    spared = (
        "; an epoch's noise sums to zero, so motion slower than an epoch is hardly disturbed"
        if contrast.tau.high < 1
        else ""
    )
    return f"{said}{spared}."


def _exponent(exponent: Exponent, *, several: bool) -> str:
    """The power of eta/b; with the start where exponents from several starts are given."""
    p = exponent.joint
    kind = exponent.sampling.replace("-", " ") + (f", {exponent.start}" if several else "")
    over = f"over eta/b from {written(exponent.scales[0], 2)} to {written(exponent.scales[-1], 2)}"
    others = {"sgd": "SGD", "weight-norm": "minibatch weight normalisation"}
    who = others.get(exponent.optimizer, f"minibatch {exponent.optimizer}")
    if not np.isfinite(p.low):
        return f"Under {who}, {kind}, the fluctuation goes as (eta/b)^{p.value:.2f} {over}; too few points for an interval."
    holds = p.low <= LAW <= p.high
    law = "within" if holds else "outside"
    why = "" if holds else " (the curvature differs from run to run: see sharpness under --predict)"
    apart = [
        f"{symbol}^{power[0]:.2f} [{power[1]:.2f}, {power[2]:.2f}]"
        for symbol, power in (
            ("eta", (exponent.lr.value, exponent.lr.low, exponent.lr.high)),
            ("b", (-exponent.batch.value, -exponent.batch.high, -exponent.batch.low)),
        )
        if np.isfinite(exponent.lr.low + exponent.batch.low)
    ]
    split = f"; apart, {' and '.join(apart)}" if apart else ""
    return (
        f"Under {who}, {kind}, the fluctuation goes as (eta/b)^{p.value:.2f} [{p.low:.2f}, {p.high:.2f}] {over}; "
        f"in a fixed landscape it would be 1/2, {law} the interval{why}{split}."
    )


def dies(side: Side) -> bool:
    """Whether the fluctuation of a run goes away after T: it falls, and its rate is surely negative."""
    return side.decay is not None and side.decay.fall < _DIES and side.decay.rate.high < 0


def _decay(side: Side, name: str, align: str) -> Iterator[str]:
    if side.decay is None or not side.batch or not dies(side):
        return
    rate, power, loss = side.decay.rate, side.decay.power, side.decay.against_loss
    unit = "steps" if align == "step" else "units of time"
    halves = f"halving every {written(np.log(2) / -rate.value)} {unit} [{written(np.log(2) / -rate.low)}, {written(np.log(2) / -rate.high)}]"
    law = f"as {'step' if align == 'step' else 't'}^{power.value:.2f} [{power.low:.2f}, {power.high:.2f}]"
    first, second = (halves, law) if side.decay.straighter == "exponential" else (law, halves)
    with_loss = f"; it goes as loss^{loss.value:.2f} [{loss.low:.2f}, {loss.high:.2f}]" if np.isfinite(loss.low) else ""
    yield (
        f"Under {name} the fluctuation dies: it ends at {written(side.decay.fall, 2)} of its size after T, {first} "
        f"({second} is the worse fit){with_loss} (1/2 in a fixed landscape)."
    )


def _theory(sides: Sequence[Side]) -> Iterator[str]:
    """What theory predicts for the minibatch runs, in one sentence each for V at rest and for the linearised network."""
    over = [side.over_frozen.value for side in sides if np.isfinite(side.over_frozen.value)]
    if over:
        yield f"The memo's equation with V at rest predicts {_span([1 / o for o in over])} times the measured fluctuation."
    found = [side for side in sides if np.isfinite(side.predicted_over.value)]
    if found:
        ratios = [side.predicted_over.value for side in found]
        each = [m.prediction for side in found for m in side.each if m.prediction]
        within = sum(0.5 <= r <= 2 for r in ratios)
        how = "all within" if within == len(ratios) else f"{within} of {len(ratios)} runs within"
        correlations = [p.correlation for p in each if np.isfinite(p.correlation)]
        yield (
            f"The network linearised at its snapshots, in which V moves, predicts {_span(ratios)} times the "
            f"measured fluctuation ({how} a factor 2); under the run's own batches it follows the run step by step with a correlation "
            f"of {np.median(correlations):.2f} (median over members). It starts anew from the run's weights at each snapshot, so it "
            f"is tested over stretches of at most {REACH} evaluations."
        )
        held, of = sum(p.held for p in each), sum(len(p.stretches) for p in each)
        largest = max(s.reached for p in each for s in p.stretches if s.holds)
        where = "in all its stretches" if held == of else f"in {held} of {of} stretches"
        yield (
            f"The linearisation holds {where}: lr x sharpness reaches {written(largest, 2)} along the predicted motion, below the "
            f"limit of {each[0].limit:g}."
        )


def _span(values: Sequence[float] | Floats, digits: int | None = None) -> str:
    """The smallest and the largest; to two decimals unless the digits are given."""

    def plain(value: float) -> str:
        return f"{value:.2f}" if abs(value) < 1000 else written(value)

    return " to ".join(dict.fromkeys(written(value, digits) if digits else plain(value) for value in _ends(values)))


def _ends(values: Sequence[float] | Floats) -> list[float]:
    return [min(values), max(values)] if len(values) > 1 else list(values)


def _with(interval: Interval) -> str:
    if not np.isfinite(interval.low):
        return f"{written(interval.value)}"
    return f"{written(interval.value)} [{written(interval.low)}, {written(interval.high)}]"


# --- cautions ----------------------------------------------------------------------------------------------


def _about_recipes(result: Comparison) -> Iterator[str]:
    network = [key for key in result.differs if key.startswith(("network", "init"))]
    if network:
        yield f"the networks differ ({', '.join(network)}): the ratio is not due to the optimizer alone"
    rates = {m.lr for side in result.sides for m in side.each}
    if len(rates) > 1 and result.align == "step":
        yield "the learning rates differ: at one step the runs are at different times; --align time counts in lr x steps"
    ends = [[[edge * m.unit for edge in m.fluctuation.window] for m in side.each] for side in result.sides if side.each]
    windows = [(min(first for first, _ in each), max(last for _, last in each)) for each in ends]
    if windows and max(first for first, _ in windows) >= min(last for _, last in windows):
        yield f"the windows do not overlap in {result.align}: the runs are compared at different ages; see --window"


def _about_run(side: Side, name: str) -> Iterator[str]:
    each, n = [m.fluctuation for m in side.each], len(side.each)
    if side.left_out and not _inapplicable(side):
        who = {why: [str(m) for m, own in side.left_out.items() if own == why] for why in side.left_out.values()}
        why = "; ".join(
            f"member{'s' if len(those) > 1 else ''} {', '.join(those)}: {why}" for why, those in who.items()
        )
        yield f"{name}: {len(side.left_out)} of {n + len(side.left_out)} members are left out ({why})"
    if len({m.seed for m in side.each}) < n:
        yield (
            f"{name}: {n} members have {len({m.seed for m in side.each})} distinct seeds; members that share a seed "
            "are not independent, so the intervals count each seed once"
        )
    drifting = sum(not f.stationary for f in each)
    if drifting:
        yield f"{name}: delta still drifts in {drifting} of {n} members; its fluctuation is about a line through the window"
    short = sum(not f.long_enough for f in each)
    if short:
        yield (
            f"{name}: the window is under {LONG_ENOUGH} autocorrelation times in {short} of {n} members; tau and the "
            "intervals are too optimistic there"
        )
    yield from _oscillates(side, name)
    swelling = sum(not 0.5 < f.swell < 2 for f in each)
    if swelling:
        yield (
            f"{name}: the fluctuation changes by more than a factor 2 from the first to the second half of the window "
            f"in {swelling} of {n} members: its size depends on when the run ends"
        )


def _oscillates(side: Side, name: str) -> Iterator[str]:
    stepping = [m for m in side.each if m.fluctuation.period_two > _ALTERNATES]
    if stepping:
        sizes = [m.fluctuation.std.value for m in stepping]
        sharp = [m.prediction.sharpness for m in stepping if m.prediction]
        measured = in_words([m.stability for m in stepping if m.stability])
        if not measured:
            kernel = f"; lr times the largest curvature of the linearised network is {_span(sharp)}" if sharp else ""
            measured = f"the cause was not measured: record.every.sharpness and activation_flips would tell{kernel}"
        yield (
            f"{name}: delta alternates from step to step in {len(stepping)} of {len(side.each)} members, by "
            f"{written(min(sizes), 1)} to {written(max(sizes), 1)}: an oscillation and not noise ({measured})"
        )
