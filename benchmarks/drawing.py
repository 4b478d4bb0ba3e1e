"""How long pictures of long runs take: ``python benchmarks/drawing.py [STEPS] [MEMBERS]``, whole processes.

A run of that length is made from the stretched rows of a short one, with noise of one in a thousand on every number, so
that it compresses no better than a real one. Then a fresh process draws each picture of ``rhotrace plot``.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from long_runs import begin

from rhotrace.config import recipe
from rhotrace.runfile.sealing import seal
from rhotrace.training.train import train

RECIPE = """\
data: {dataset: mnist, classes: [0, 1], train: 100, test: 20}
network: {kind: mlp, depth: 3, width: 16}
init: {kind: equal-norms, rho_k: 0.5}
optimizer: {kind: gd, lr: 0.1}
members: {seeds: %d}
steps: 2000
record: {test_every: 1}
"""
KINDS = ("rho", "layers", "margins", "loss", "fluctuation", "transient")
BLOCK = 10_000
# ru_maxrss of a child counts what its parent had; the kernel's own high-water mark of the address space does not.
CHILD = """\
import re
from rhotrace.cli import app as cli
try:
    cli.main()
except SystemExit as left:
    assert not left.code
print(re.search(r"VmHWM:.*", open("/proc/self/status").read())[0])
"""


def long_run(path: Path, steps: int, members: int) -> None:
    """A sealed run of ``steps`` steps."""
    short = path.with_name("short.h5")
    train(recipe.parse(RECIPE % members), short, device="cpu")
    (writer, rows), rng = begin(short, path, steps), np.random.default_rng(0)
    for first in range(0, steps, BLOCK):
        at = np.arange(first, min(first + BLOCK, steps)) * len(rows["log_rho"]) // steps
        writer.append(
            first, first + len(at), {n: v[at] * (1 + 1e-3 * rng.standard_normal(v[at].shape)) for n, v in rows.items()}
        )
    writer.commit(steps, {})
    writer.close()
    seal(path, {"ended": "finished"}, keep_state=False)


def main(steps: int, members: int) -> None:
    """Prints a row for each picture."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "long.h5"
        long_run(run, steps, members)
        print(f"{steps:,} steps, {members} member{'s' * (members > 1)}, {run.stat().st_size / 1e6:.0f} MB\n")
        print("| picture | seconds | peak memory, MB |\n|---|---|---|")
        for kind in KINDS:
            began = time.perf_counter()
            words = ["plot", str(run), "--what", kind, "-o", str(Path(folder) / f"{kind}.png")]
            done = subprocess.run([sys.executable, "-c", CHILD, *words], capture_output=True, check=True, text=True)
            print(
                f"| {kind} | {time.perf_counter() - began:.1f} | {int(done.stdout.split()[-2]) / 1e3:.0f} |", flush=True
            )


if __name__ == "__main__":
    main(int(float((sys.argv[1:] or ["1e7"])[0])), int((sys.argv[2:] or ["1"])[0]))
