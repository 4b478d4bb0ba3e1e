"""What an export must contain, computed the slow way."""

from __future__ import annotations

import datetime

import numpy as np

from rhotrace.recording.quantities import QUANTILES


def expected(trace, every, joint="_"):
    """The table the slow way: a dictionary for each step and member."""
    rows = []
    for step in range(0, trace.steps, every):
        for member in range(trace.members):
            row = {"step": step, "member": member, "seed": int(trace["seed"][member]), "lr": float(trace["lr"][member])}
            for quantity in trace.quantities:
                at = np.flatnonzero(trace.step_of(quantity.name) == step)
                value = trace[quantity.name][at[0], member] if len(at) else None
                if quantity.axes == ("member",):
                    row[quantity.name] = value
                labels = range(1, trace.depth + 1) if "layer" in quantity.axes else QUANTILES
                if quantity.axes != ("member",):
                    for number, label in enumerate(labels):
                        row[f"{quantity.name}{joint}{label:g}"] = None if value is None else value[number]
            rows.append(row)
    return rows


def series(trace, every):
    """What a log must contain of each member: name of a series -> [(step, value)], without missing values."""
    members = [{} for _ in range(trace.members)]
    for row in expected(trace, every, "/"):
        for name, value in row.items():
            if name not in {"step", "member", "seed", "lr"} and value is not None and not np.isnan(value):
                members[row["member"]].setdefault(name, []).append((row["step"], float(value)))
    return members


def span_of(trace):
    start = datetime.datetime.fromisoformat(trace.attributes["started"]).timestamp()
    return start, start + trace.wall_seconds
