"""T of other runs over T of the members with the same depth, start, seed and learning rate: what another optimizer changes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rhotrace.analysis.run_series import RunSeries
from rhotrace.analysis.scaling.members import Members
from rhotrace.errors import AnalysisError
from rhotrace.statistics.intervals import Interval, geometric_mean


@dataclass(frozen=True)
class Against:
    """T of another run's members over T of their partners.

    Attributes:
        path: of the other run.
        optimizer: of the other run.
        depth: L.
        label: what sets these members of the other run apart from its others, such as ``v(0)/W 0.5``; empty where nothing does.
        start: rho_k(0).
        T: of the other run's members, geometric mean over seeds, learning rate x steps.
        partners: the same of their partners.
        ratio: of the two, over seeds.
        seeds: with a T in both.
        of: with a T among the partners.
    """

    path: str
    optimizer: str
    depth: int
    label: str
    start: float
    T: Interval
    partners: Interval
    ratio: Interval
    seeds: int
    of: int


def compared(run: RunSeries, other: Members, members: Members | None) -> list[Against]:
    """The members of a run against their partners, for each of its settings and starts.

    Args:
        run: the other run.
        other: its members.
        members: at its depth; None where there is none.

    Raises:
        AnalysisError: no member has a partner.
    """
    partner = {} if members is None else {key: m for m, key in enumerate(_keys(members))}
    pairs = [(m, partner[key]) for m, key in enumerate(_keys(other)) if key in partner]
    if members is None or not pairs:
        raise AnalysisError(
            f"{run.trace.path}: none of its members has a partner of the same depth, rho_k(0), seed and learning rate "
            "among the runs; give runs that share these"
        )
    found = []
    labels = _labels(run)
    for label in dict.fromkeys(labels):
        for start in sorted({float(other.start[m]) for m, _ in pairs}, reverse=True):
            both = [(other.T[m], members.T[p]) for m, p in pairs if labels[m] == label and other.start[m] == start]
            if not both:
                continue
            T, partners = np.array([pair for pair in both if min(pair) > 0]).reshape(-1, 2).T
            means = (geometric_mean(T), geometric_mean(partners), geometric_mean(T / partners))
            counts = (len(T), sum(bool(partner > 0) for _, partner in both))
            kind = run.trace.facts.optimizer
            found.append(Against(str(run.trace.path), kind, run.trace.depth, label, start, *means, *counts))
    return found


def _keys(members: Members) -> list[tuple[int, float, float]]:
    return list(zip(members.seed.tolist(), members.start.tolist(), members.lr.tolist(), strict=True))


def _labels(run: RunSeries) -> list[str]:
    """What a run's members differ in beside seed, start and learning rate."""
    shown = [(name, symbol) for name, symbol in run.trace.layout.per_member.items() if name not in ("init_rho_k", "lr")]
    return [", ".join(f"{symbol} {run.trace[name][m]:g}" for name, symbol in shown) for m in range(run.trace.members)]
