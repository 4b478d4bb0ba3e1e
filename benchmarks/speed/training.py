"""RhoTrace beside the loop that records nothing."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rhotrace.config import recipe

from .limits import least
from .loops import bare_apart, traced
from .measure import Effort, Row, paired
from .step_parts import in_words, step_parts
from .workloads import DEEP8, workloads

WIDE = 1024


def training(folder: Path, effort: Effort) -> Iterator[Row]:
    """A row for each workload, beside a bare loop in another process; where its goal is missed, with the parts of its step.

    Without minibatches a side takes about a second, in which a training on a quiet machine writes its state once, and six
    seconds from width 1024 on, where it writes less often; with minibatches a block ends sooner. Convolutional networks take
    longer, as the sums over the full set and the test set at the first step count in them. A busy machine has it write its
    state more often for each step, as that goes by the clock.
    """
    for workload in workloads(folder, quick=effort.quick):
        content = recipe.parse(DEEP8, list(workload.overrides))
        own = effort
        if not effort.quick and not (content.optimizer.minibatches and content.network.kind == "mlp"):
            own = replace(effort, seconds=_seconds(content), rounds=3)
        row = {"what": workload.name, "beside": "bare loop", **paired(traced(content), bare_apart(content), own)}
        row |= least(content, effort.limits)
        if workload.goal is not None:
            row["goal"] = workload.goal
            if row["ratio"] > workload.goal:
                row["parts"] = step_parts(content, effort)
                row["commit_us"] = 1e6 * statistics.median(traced(content)(1) for _ in range(3)) - row["us"]
                row["why"] = in_words(row)
                if row["low"] <= workload.goal:
                    row["why"] += " The goal lies within the range of the pairs."
        yield row


def _seconds(content: recipe.Recipe) -> float:
    """Of one side of a pair."""
    if content.network.kind != "mlp":
        return 1.5
    width = content.network.width
    return 6.0 if (max(width) if isinstance(width, list) else width) >= WIDE else 0.8
