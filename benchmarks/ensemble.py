"""What members side by side, processes and Ray workers gain: python benchmarks/ensemble.py.

Everything is a ratio of trainings in this one run of the script: member-steps per second of M members side by side over
those of one member alone (which is what training them one after another gives), and the wall time of the same runs
in one process over that in two, and on one Ray worker over that on two.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from rhotrace.config import recipe
from rhotrace.config.recipe import Recipe
from rhotrace.sweeps.index import INDEX
from rhotrace.sweeps.job import Engine, Job
from rhotrace.sweeps.local_processes import processes
from rhotrace.sweeps.ray_cluster import on_ray
from rhotrace.training.train import train

BASE = {
    "data": {"dataset": "mnist", "classes": [0, 1], "train": 200, "test": 100},
    "init": {"kind": "equal-norms", "rho_k": 2.0},
    "optimizer": {"kind": "gd", "lr": 0.01},
    "record": {"test_every": 1000, "snapshots": 0},
}
SIZES = {"L = 3, width 16": (3, 16), "L = 4, width 64": (4, 64), "L = 8, width 128": (8, 128)}
MEMBERS = (1, 4, 16, 64, 256)
SECONDS = 4.0  # of each training, about


def resolved(depth: int, width: int, members: int, steps: int) -> Recipe:
    network = {"kind": "mlp", "depth": depth, "width": width}
    return recipe.parse(json.dumps({**BASE, "network": network, "members": {"seeds": members}, "steps": steps}))


def rate(folder: Path, depth: int, width: int, members: int) -> float:
    """Member-steps per second, of a training that lasts a few seconds."""
    steps = 20
    while True:
        began = time.perf_counter()
        outcome = train(resolved(depth, width, members, steps), folder / "rate.h5", device="cpu", force=True)
        if time.perf_counter() - began > SECONDS / 2 or outcome.seconds > SECONDS / 2:
            return members * steps / outcome.seconds
        steps = int(steps * min(10.0, 1.2 * SECONDS / max(outcome.seconds, 0.05))) + 1


def wall(engine: Engine, folder: Path, runs: int) -> float:
    """Seconds for a number of equal runs, without the start of the workers: a first round is not counted."""
    for number, steps in enumerate((5, 600)):
        text = resolved(4, 64, 8, steps).to_yaml()
        jobs = [Job(text, str(folder / f"{number}-{n}.h5"), "cpu", "benchmark") for n in range(runs)]
        began = time.perf_counter()
        ends = [end for end in engine(jobs) if end]
        assert all(end.ended == "finished" for end in ends), ends
        seconds = time.perf_counter() - began
        for job in jobs:
            Path(job.path).unlink()
    return seconds


def on_so_many(cpus: int) -> Callable[[], Engine]:
    def make() -> Engine:
        import ray

        ray.shutdown()
        ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="error")
        return on_ray("local")

    return make


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / INDEX).touch()  # by which a worker knows the folder of its sweep
        rate(folder, 3, 16, 1)  # the first training in a process pays for what torch does once
        print("| network | M = 1, member-steps/s | " + " | ".join(f"M = {m}" for m in MEMBERS[1:]) + " |")
        print("|---" * (len(MEMBERS) + 1) + "|")
        for size, (depth, width) in SIZES.items():
            alone = rate(folder, depth, width, 1)
            cells = [f"{rate(folder, depth, width, members) / alone:.1f} x" for members in MEMBERS[1:]]
            print(f"| {size} | {alone:.0f} | {' | '.join(cells)} |", flush=True)
        print("\n| the same four runs of 8 members | wall time over that with two |\n|---|---|")
        one, two = wall(processes(1), folder, 4), wall(processes(2), folder, 4)
        print(f"| one process | {one / two:.2f} |", flush=True)
        one = wall(on_so_many(1)(), folder, 4)
        two = wall(on_so_many(2)(), folder, 4)
        print(f"| one Ray worker | {one / two:.2f} |", flush=True)


if __name__ == "__main__":
    began = time.perf_counter()
    main()
    print(f"\n{time.perf_counter() - began:.0f} s")
