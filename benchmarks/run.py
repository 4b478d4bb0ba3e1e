"""Everything about speed in one command: ``python benchmarks/run.py [--only PART,PART] [-o FOLDER]``.

First the limits of the machine, then RhoTrace beside what a user would do otherwise, alternately and in one process, then
whole processes, and how the cost grows. Writes ``speed.json``, ``speed.md`` and ``speed.png``; about nine minutes on a quiet
machine. ``--quick`` shows in half a minute that everything runs, and measures nothing that counts.

One thread. Ratios are of processor time, which other work on the machine disturbs less than the clock; whole processes are
timed by the clock too. A ratio above 1 means that RhoTrace takes longer.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import datetime
import json
import platform
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from speed.growth import growth
from speed.limits import limits
from speed.measure import HERE, QUICK, Effort, Row
from speed.members import members
from speed.page import markdown, met
from speed.picture import picture
from speed.reading import pictures, reading, size
from speed.recorders import recorders
from speed.training import training
from speed.whole import memory, starts, whole

from rhotrace.sweeps.benchmark import processor

PARTS = {
    part.__name__: part
    for part in (training, recorders, members, starts, whole, size, memory, reading, pictures, growth)
}


def machine() -> Row:
    """What was measured on, and with which versions."""
    found = {}
    for name in ("rhotrace", "torch", "numpy", "h5py", "tensorboard", "lightning", "wandb"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "processor": processor(),
        "cores": os.cpu_count(),
        "load_at_start": os.getloadavg()[0],
        "python": platform.python_version(),
        "packages": found,
    }


def asked() -> argparse.Namespace:
    """The words of the command."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--only", default=",".join(PARTS), help="parts, with commas: " + ", ".join(PARTS))
    words.add_argument("--quick", action="store_true", help="show that everything runs")
    words.add_argument("--minutes", type=float, default=15.0, help="after which no further row is begun")
    words.add_argument("--jax", default=sys.executable, help="a Python that has JAX; by default this one, if it has it")
    words.add_argument("-o", "--output", type=Path, default=HERE, help="folder of speed.json, speed.md and speed.png")
    found = words.parse_args()
    if unknown := set(found.only.split(",")) - set(PARTS):
        words.error(f"--only: got {', '.join(sorted(unknown))}, expected some of {', '.join(PARTS)}")
    return found


def show(row: Row, part: str, seconds: float) -> None:
    """A line for each row as it comes."""
    figure = row.get("ratio", row.get("exponent", row.get("seconds")))
    words = row.get("missing") or f"{figure:.2f}"
    goal = {None: "", True: " (goal reached)", False: " (goal missed)"}[met(row)]
    print(f"{seconds:4.0f} s  {part}: {row['what']}, {row.get('beside', '')} {words}{goal}", flush=True)


def main() -> None:
    words = asked()
    torch.set_num_threads(1)
    began = time.perf_counter()
    result: Row = {"machine": machine(), "quick": words.quick}
    settings = QUICK if words.quick else {}
    result["limits"] = limits(Effort(**settings))
    effort = Effort(**settings, jax=words.jax, limits=result["limits"])
    words.output.mkdir(parents=True, exist_ok=True)
    for name in words.only.split(","):
        rows = result[name] = []
        with tempfile.TemporaryDirectory() as folder:
            each = PARTS[name](Path(folder), effort)
            while time.perf_counter() - began < 60 * words.minutes and (row := next(each, None)):
                rows.append(row)
                show(row, name, time.perf_counter() - began)
            if time.perf_counter() - began > 60 * words.minutes:
                result.setdefault("cut_short", []).append(name)
            each.close()
        minutes = {"minutes": (time.perf_counter() - began) / 60, "processor_minutes": sum(os.times()[:4]) / 60}
        result["machine"] |= {"load_at_end": os.getloadavg()[0], **minutes}
        print(
            f"{60 * minutes['minutes']:4.0f} s  {name}: done, {60 * minutes['processor_minutes']:.0f} s of the processor so far"
        )
        (words.output / "speed.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        (words.output / "speed.md").write_text(markdown(result), encoding="utf-8")
    picture(result, words.output / "speed.png")


if __name__ == "__main__":
    main()
