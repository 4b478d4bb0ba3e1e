"""How a loop, a pair of loops, a call and a whole process are timed."""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MOST = 4000  # steps of one side of a pair
HERE = Path(__file__).resolve().parents[1]
Row = dict[str, Any]
Loop = Callable[[int], float]  # processor seconds of some steps


@dataclass(frozen=True)
class Effort:
    """How thoroughly to measure.

    Attributes:
        seconds: of one side of a pair, about. A training writes its state once a second, so that a shorter one writes it more
            often for each step than a long one does.
        rounds: pairs.
        quick: only what shows that everything still runs.
        long: steps of the run that is analyzed.
        longest: steps of the run that is drawn.
        jax: a Python that may have JAX.
        limits: of the machine; see ``limits``.
    """

    seconds: float = 0.3
    rounds: int = 5
    quick: bool = False
    long: int = 1_000_000
    longest: int = 10_000_000
    jax: str = sys.executable
    limits: Row = field(default_factory=dict)


QUICK = {"seconds": 0.01, "rounds": 1, "quick": True, "long": 3000, "longest": 3000}


def paired(ours: Loop, theirs: Loop, effort: Effort, rounds: int | None = None) -> Row:
    """Median and range of the ratio of two loops that take turns, and microseconds per step of each."""
    steps, took = 2, 0.0
    while (
        took < effort.seconds / 4 and steps < MOST
    ):  # of the bare loop, as a training also writes its blocks and state
        took = theirs(steps)
        steps = max(2, min(MOST, math.ceil(effort.seconds * steps / max(took, 1e-3))))
    ours(2)
    pairs = [(ours(steps), theirs(steps)) for _ in range(min(rounds or effort.rounds, effort.rounds))]
    ratios = sorted(a / b for a, b in pairs)
    mine, other = (1e6 * statistics.median(p[k] for p in pairs) / steps for k in (0, 1))
    return {
        "ratio": statistics.median(ratios),
        "low": ratios[0],
        "high": ratios[-1],
        "us": mine,
        "us_other": other,
        "steps": steps,
    }


def calls(go: Callable[[], object], seconds: float) -> list[float]:
    """Processor seconds of each of many calls, after one that is not counted."""
    go()
    took: list[float] = []
    until = time.perf_counter() + seconds
    while not took or time.perf_counter() < until:
        began = time.process_time()
        go()
        took.append(time.process_time() - began)
    return took


# ru_maxrss of a child counts what its parent had; the kernel's own high-water mark of the address space does not.
CHILD = """\
import importlib, re, resource, sys
module, _, name = sys.argv.pop(1).partition(":")
if module:
    try:
        getattr(importlib.import_module(module), name)()
    except SystemExit as left:
        assert not left.code, left.code
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
peak = re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]
print("\\nUSED", sum(u.ru_utime + u.ru_stime for u in used), peak, file=sys.stderr)
"""


def process(called: str, *words: object) -> Row:
    """Seconds by the clock and of the processor, and peak memory, of ``module:function`` in a process of its own."""
    began = time.perf_counter()
    command = [sys.executable, "-c", CHILD, called, *map(str, words)]
    done = subprocess.run(command, capture_output=True, check=False, text=True, cwd=HERE)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"{called} {' '.join(map(str, words))}: {done.stderr}")
    used = done.stderr.rpartition("USED ")[2].split()
    return {"seconds": seconds, "processor_seconds": float(used[0]), "peak_MB": float(used[1]) / 1024}


def rhotrace(*words: object) -> Row:
    """A command of RhoTrace in a process of its own."""
    return process("rhotrace.cli.app:main", *words)
