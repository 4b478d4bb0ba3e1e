"""How often the stated 95 % intervals contain a true value that is known: python benchmarks/coverage.py [trials] [--seed N].

``--crossing FILE`` measures only the interval of the crossing, and writes a table and FILE, in JSON.
Each trial is a synthetic run that obeys equation (5) with constant A and B, with noise on log rho that is white, is
autocorrelated (first order, phi), alternates from step to step, is a random walk or has spikes. Some runs end soon after T.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.signal import lfilter
from scipy.stats import binomtest

from rhotrace.analysis.fluctuation import one_series
from rhotrace.analysis.transient.closed_form_fit import Series
from rhotrace.analysis.transient.transient_time import Outcome, Passage, measure, passage
from rhotrace.statistics.intervals import bootstrapped_geometric_mean, geometric_mean
from rhotrace.theory import norm_dynamics

LR = 0.001


@dataclass(frozen=True)
class Condition:
    """One kind of synthetic run."""

    depth: int = 4
    start: float = 0.45
    noise: float = 0.02
    phi: float = 0.0
    alternating: float = 0.0
    walk: float = 0.0  # standard deviation of a step of a random walk
    spikes: float = 0.0  # how many in a step
    length: float = 3.0  # in units of T


BASE = Condition()
DEPTHS = {1: 0.01, 2: 0.1, 3: 0.3, 4: 0.45, 5: 0.5, 6: 0.6, 8: 0.7, 10: 0.75, 12: 0.8}
CONDITIONS = {
    **{f"L = {depth}": replace(BASE, depth=depth, start=start) for depth, start in DEPTHS.items()},
    "noise 0.005": replace(BASE, noise=0.005),
    "noise 0.05": replace(BASE, noise=0.05),
    "autocorrelation phi = 0.5": replace(BASE, phi=0.5),
    "autocorrelation phi = 0.9": replace(BASE, phi=0.9),
    "autocorrelation phi = 0.95": replace(BASE, phi=0.95),
    "autocorrelation phi = 0.98": replace(BASE, phi=0.98),
    "autocorrelation phi = 0.99": replace(BASE, phi=0.99),
    "random walk, 0.001 in a step": replace(BASE, noise=0.0, walk=0.001),
    "random walk, 0.001, and white noise": replace(BASE, walk=0.001),
    "spikes of 0.5 every 200 steps": replace(BASE, spikes=1 / 200),
    "no noise": replace(BASE, noise=0.0),
    "run ends at 1.5 T": replace(BASE, length=1.5),
    "run ends at 1.25 T": replace(BASE, length=1.25),
    "alternating by 0.02": replace(BASE, alternating=0.02),
}


def synthetic(condition: Condition, rng: np.random.Generator) -> tuple[Series, float]:
    T = float(norm_dynamics.transient_time(condition.start, depth=condition.depth)) / LR
    steps = np.arange(int(condition.length * T))
    r = norm_dynamics.norm_trajectory(steps * LR, condition.start, A=1.0, B=1.0, depth=condition.depth)
    draws = rng.standard_normal(len(steps) + 500)
    noise = condition.noise * lfilter([np.sqrt(1 - condition.phi**2)], [1, -condition.phi], draws)[500:]
    noise += condition.alternating * (-1.0) ** steps
    if condition.walk:
        noise += condition.walk * np.cumsum(rng.standard_normal(len(steps)))
    if condition.spikes:  # which fade within some steps, as after an instability
        noise -= 0.5 * lfilter([1.0], [1, -0.8], rng.random(len(steps)) < condition.spikes)
    log_rho = condition.depth * np.log(r) + noise
    a, q = np.exp(log_rho), np.exp(2 * log_rho)
    return Series(steps, log_rho, np.exp(-log_rho), a, q, condition.depth, LR), T


def passed_of(series: Series, condition: Condition) -> Passage:
    """A run without noise is taken for a full-batch run, in which the interval is that of the steps around the crossing."""
    noisy = bool(condition.noise or condition.walk)
    return passage(series.steps, series.rho_eq_over_rho, series.q, series.log_rho, noisy=noisy)


def crossings(condition: Condition, trials: int, seed: int) -> dict[str, Any]:
    """What became of the interval of the crossing in each trial: it covers T, it does not, or there is none."""
    rng = np.random.default_rng(seed)
    left, covers, widths, off = 0, 0, [], []
    for _ in range(trials):
        series, T = synthetic(condition, rng)
        passed = passed_of(series, condition)
        left += passed.outcome is Outcome.LEFT
        if passed.outcome is Outcome.LEFT and np.isfinite(passed.crossing.low):
            covers += bool(passed.crossing.low <= T <= passed.crossing.high)
            widths.append(passed.crossing.high - passed.crossing.low)
            off.append(passed.crossing.value / T - 1)
    if not widths:
        return {"trials": trials, "with_T": left, "with_interval": 0}
    exact = binomtest(covers, len(widths)).proportion_ci(method="exact")
    return {
        "trials": trials,
        "with_T": left,
        "with_interval": len(widths),
        "covers": covers,
        "share": covers / len(widths),
        "share_95": [float(exact.low), float(exact.high)],
        "median_width_in_steps": float(np.median(widths)),
        "median_error_over_T": float(np.median(off)),
        "T": T,
    }


def only_crossings(trials: int, seed: int, path: Path) -> None:
    """The table of the crossing's interval, and its figures as JSON."""
    found: dict[str, Any] = {}
    print("| synthetic runs | with an interval | crossing covers T | 95 % of that | median width, steps | T off by |")
    print("|---|---|---|---|---|---|")
    for name, condition in CONDITIONS.items():
        one = found[name] = crossings(condition, trials, seed)
        cells = ["–"] * 4
        if one["with_interval"]:
            low, high = (100 * end for end in one["share_95"])
            cells = [f"{100 * one['share']:.0f} %", f"{low:.0f} to {high:.0f} %"]
            cells += [f"{one['median_width_in_steps']:.2g}", f"{100 * one['median_error_over_T']:+.2f} %"]
        print(f"| {name} | {one['with_interval']} of {trials} | {' | '.join(cells)} |", flush=True)
        path.write_text(json.dumps({"seed": seed, "crossing": found}, indent=1) + "\n", encoding="utf-8")


def cover(condition: Condition, trials: int, seed: int = 1) -> tuple[int, int, int]:
    """How many trials have a T, and in how many the crossing's and the fit's interval contain the true value."""
    rng = np.random.default_rng(seed)
    found = crossing = fit = 0
    for _ in range(trials):
        series, T = synthetic(condition, rng)
        passed = passed_of(series, condition)
        one = measure(0, series, passed=passed)
        if one.outcome is not Outcome.LEFT or one.fit is None:
            continue
        found += 1
        crossing += one.crossing.low <= T <= one.crossing.high
        fit += one.fit.T.low <= T <= one.fit.T.high
    return found, crossing, fit


def pooled(members: int, trials: int) -> tuple[float, float]:
    rng = np.random.default_rng(2)
    covered = np.zeros(2)
    for _ in range(trials):
        T = np.exp(np.log(500) + 0.4 * rng.standard_normal(members))
        for number, interval in enumerate((geometric_mean(T), bootstrapped_geometric_mean(T))):
            covered[number] += interval.low <= 500 <= interval.high
    return float(covered[0] / trials), float(covered[1] / trials)


def fluctuating(times: float, phi: float, trials: int) -> tuple[float, float, float]:
    """How often the intervals of fluctuation, offset and tau contain those of a first-order series of a given number of tau."""
    rng = np.random.default_rng(3)
    tau = (1 + phi) / (1 - phi)
    rows = int(times * tau)
    covered = np.zeros(3)
    for _ in range(trials):
        delta = 0.02 + 0.05 * lfilter([np.sqrt(1 - phi**2)], [1, -phi], rng.standard_normal(rows + 500))[500:]
        found = one_series.measure(0, np.arange(rows), delta, 0, find_window=False)
        assert not isinstance(found, str)
        truths = (found.std, 0.05), (found.offset, 0.02), (found.tau, tau)
        covered += [interval.low <= truth <= interval.high for interval, truth in truths]
    return tuple((covered / trials).tolist())


def main() -> None:
    parser = argparse.ArgumentParser(
        description="How often the stated 95 %% intervals contain a true value that is known."
    )
    parser.add_argument("trials", nargs="?", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1, help="of the synthetic runs' noise")
    parser.add_argument(
        "--crossing", type=Path, metavar="FILE", help="only the interval of the crossing; figures to FILE"
    )
    asked = parser.parse_args()
    if asked.crossing:
        only_crossings(asked.trials, asked.seed, asked.crossing)
        return
    trials = asked.trials
    began = time.perf_counter()
    print(
        f"{trials} trials each; a true coverage of 95 % appears as 95 ± {196 * (0.95 * 0.05 / trials) ** 0.5:.1f} %\n"
    )
    print("| synthetic runs | with a fit | crossing covers T | fit covers T |\n|---|---|---|---|")
    for name, condition in CONDITIONS.items():
        found, crossing, fit = cover(condition, trials, asked.seed)
        shares = [f"{100 * n / found:.1f} %" if found else "–" for n in (crossing, fit)]
        print(f"| {name} | {found} of {trials} | {shares[0]} | {shares[1]} |", flush=True)
    print("\n| members | Student's t on log T covers | bootstrap over members covers |\n|---|---|---|")
    for members in (2, 4, 8, 16):
        student, bootstrap = pooled(members, 1000)
        print(
            f"| {members} | {100 * student:.1f} % | {f'{100 * bootstrap:.1f} %' if members >= 8 else '–'} |", flush=True
        )
    print("\n| window / tau | phi | fluctuation | offset | tau |\n|---|---|---|---|---|")
    for times in (25, 50, 100, 400):
        for phi in (0.5, 0.95):
            shares = " | ".join(f"{100 * share:.1f} %" for share in fluctuating(times, phi, trials))
            print(f"| {times} | {phi} | {shares} |", flush=True)
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
