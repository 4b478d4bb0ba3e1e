"""How accurate the predicted fluctuation of rho around rho_eq is: python benchmarks/prediction.py.

Each condition is a separate training of four seeds. The table has ratios of prediction to measurement over the stretches
that follow the snapshots in the window after T. No parameter is fitted.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from rhotrace.analysis.fluctuation.one_run import examine
from rhotrace.analysis.run_series import RunSeries
from rhotrace.config import recipe
from rhotrace.display.numbers import number, ranged
from rhotrace.runfile.reader import open_trace
from rhotrace.training.train import train

BASE = """\
data: {dataset: mnist, classes: [4, 9], train: 1000, test: 100, label_noise: 0.1}
network: {kind: mlp, depth: 4, width: 32}
init: {kind: equal-norms, rho_k: 2.5}
optimizer: {kind: sgd, lr: 0.0125, batch_size: 32, sampling: with-replacement}
members: {seeds: 4}
steps: 4000
record: {snapshots: 40, test_every: 4000}
"""
CONDITIONS = {
    "base: lr 0.0125, b 32, L = 4, label noise 0.1": [],
    "lr 0.00625": ["optimizer.lr=0.00625", "steps=8000"],
    "lr 0.025": ["optimizer.lr=0.025", "steps=2000"],
    "lr 0.05": ["optimizer.lr=0.05", "steps=2000"],
    "b 8": ["optimizer.batch_size=8"],
    "b 128": ["optimizer.batch_size=128"],
    "lr 0.05, b 128, for longer": [
        "optimizer.lr=0.05",
        "optimizer.batch_size=128",
        "steps=6000",
    ],
    "L = 2": ["network.depth=2", "init.rho_k=1.0"],
    "L = 3": ["network.depth=3", "init.rho_k=1.5"],
    "L = 6": ["network.depth=6", "init.rho_k=3.5"],
    "clean labels": ["data.label_noise=0.0", "steps=6000"],
    "label noise 0.2": ["data.label_noise=0.2"],
    "label noise 0.4": ["data.label_noise=0.4", "steps=6000"],
    "width 8": ["network.width=8", "steps=6000"],
    "N = 2000": ["data.train=2000"],
    "shuffled epochs": ["optimizer.sampling=shuffled"],
    "weight normalisation": ["optimizer={kind: weight-norm, lr: 0.0125, batch_size: 32, sampling: with-replacement}"],
    "ten classes, N = 300": ["data={dataset: mnist, train: 300, test: 100, label_noise: 0.1}", "optimizer.lr=0.05"],
}


def main(names: list[str]) -> None:
    """One row of the table in benchmarks/README.md for each condition, the named ones or all."""
    print("| condition | fluctuation | V at rest / measured | linearised / measured | follows | sharpness | members |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for number_, name in enumerate(names or CONDITIONS):
            path = Path(folder) / f"{number_}.h5"
            train(recipe.parse(BASE, CONDITIONS[name]), path, device="cpu")
            with open_trace(path) as trace:
                side = examine(RunSeries(trace), predicting=True)
            path.unlink()
            found = [m.prediction for m in side.each if m.prediction]
            frozen, follows, sharpness = (
                number(sum(values) / max(len(found), 1), 2)
                for values in (
                    [p.frozen / p.measured for p in found],
                    [p.correlation for p in found],
                    [p.sharpness for p in found],
                )
            )
            cells = number(side.std.value), frozen, ranged(side.predicted_over, 2), follows, sharpness, str(len(found))
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    began = time.perf_counter()
    main(sys.argv[1:])
    print(f"\n{time.perf_counter() - began:.0f} s", file=sys.stderr)
