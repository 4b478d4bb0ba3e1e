"""How accurate the predicted fluctuation of rho around rho_eq is: python benchmarks/prediction.py [--json FILE] [CONDITION ...].

Each condition is a separate training of four seeds. The table has ratios of prediction to measurement over the stretches
that follow the snapshots in the window after T, and says in how many the prediction is given. No parameter of the
prediction is fitted. The limit from which on it is not given was chosen on ``CONDITIONS`` and ``FURTHER``, and then
tested on ``TESTED``: other settings and other seeds. ``--json`` also writes every stretch to a file.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rhotrace.analysis.fluctuation.linearised_prediction import LIMIT
from rhotrace.analysis.fluctuation.one_run import Side, examine
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
FURTHER = {
    "clean labels, seeds 20 to 23": ["data.label_noise=0.0", "steps=6000"],
    "label noise 0.2, seeds 20 to 23": ["data.label_noise=0.2"],
    "label noise 0.4, seeds 20 to 23": ["data.label_noise=0.4", "steps=6000"],
    "label noise 0.4, lr 0.00625, seeds 20 to 23": ["data.label_noise=0.4", "optimizer.lr=0.00625", "steps=9000"],
    "label noise 0.4, lr 0.003125, seeds 20 to 23": ["data.label_noise=0.4", "optimizer.lr=0.003125", "steps=14000"],
    "label noise 0.2, lr 0.003125, seeds 20 to 23": ["data.label_noise=0.2", "optimizer.lr=0.003125", "steps=12000"],
    "label noise 0.2, b 16, seeds 20 to 23": ["data.label_noise=0.2", "optimizer.batch_size=16"],
    "label noise 0.2, b 64, seeds 20 to 23": ["data.label_noise=0.2", "optimizer.batch_size=64"],
    "label noise 0.4, b 64, seeds 20 to 23": ["data.label_noise=0.4", "optimizer.batch_size=64", "steps=6000"],
    "lr 0.04, b 64, seeds 20 to 23": ["optimizer.lr=0.04", "optimizer.batch_size=64", "steps=6000"],
    "L = 6, lr 0.025, seeds 20 to 23": ["network.depth=6", "init.rho_k=3.5", "optimizer.lr=0.025"],
    "3 against 8, label noise 0.3, width 64, seeds 20 to 23": [
        "data.classes=[3, 8]",
        "data.label_noise=0.3",
        "network.width=64",
    ],
    "label noise 0.4, N = 500, seeds 20 to 23": ["data.label_noise=0.4", "data.train=500", "steps=7000"],
    "ten classes, N = 300, label noise 0.2, lr 0.1, seeds 20 to 23": [
        "data={dataset: mnist, train: 300, test: 100, label_noise: 0.2}",
        "optimizer.lr=0.1",
    ],
    "label noise 0.3, shuffled epochs, lr 0.00625, seeds 20 to 23": [
        "data.label_noise=0.3",
        "optimizer.sampling=shuffled",
        "optimizer.lr=0.00625",
        "steps=8000",
    ],
    "clean labels, lr 0.05, seeds 20 to 23": ["data.label_noise=0.0", "optimizer.lr=0.05", "steps=4000"],
}
TESTED = {
    "label noise 0.4, b 64, seeds 40 to 43": ["data.label_noise=0.4", "optimizer.batch_size=64", "steps=5000"],
    "label noise 0.3, b 128, seeds 40 to 43": ["data.label_noise=0.3", "optimizer.batch_size=128", "steps=5000"],
    "lr 0.03, b 64, seeds 40 to 43": ["optimizer.lr=0.03", "optimizer.batch_size=64", "steps=4000"],
    "label noise 0.2, lr 0.00625, seeds 40 to 43": ["data.label_noise=0.2", "optimizer.lr=0.00625", "steps=6000"],
    "clean labels, b 16, seeds 40 to 43": ["data.label_noise=0.0", "optimizer.batch_size=16"],
    "label noise 0.3, N = 500, seeds 40 to 43": ["data.label_noise=0.3", "data.train=500", "steps=5000"],
    "L = 5, lr 0.025, seeds 40 to 43": ["network.depth=5", "init.rho_k=3.0", "optimizer.lr=0.025"],
    "label noise 0.4, lr 0.003125, b 16, seeds 40 to 43": [
        "data.label_noise=0.4",
        "optimizer.lr=0.003125",
        "optimizer.batch_size=16",
        "steps=12000",
    ],
    "3 against 8, label noise 0.2, width 16, seeds 40 to 43": [
        "data.classes=[3, 8]",
        "network.width=16",
        "data.label_noise=0.2",
    ],
    "label noise 0.4, lr 0.00625, seeds 40 to 43": ["data.label_noise=0.4", "optimizer.lr=0.00625", "steps=9000"],
}
SEEDS = {"FURTHER": ["members.seeds=[20, 21, 22, 23]"], "TESTED": ["members.seeds=[40, 41, 42, 43]"]}
KEYS = ("first", "last", "measured", "predicted", "correlation", "sharpness", "reached")


def main(names: list[str], written: Path | None = None) -> None:
    """One row of the table in benchmarks/README.md for each condition, the named ones or all."""
    print(
        "| condition | fluctuation | V at rest / measured | linearised / measured | follows | reached | given | not given |"
    )
    print("|---|---|---|---|---|---|---|---|")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (group, changes) in conditions(names).items():
            path = Path(folder) / "run.h5"
            train(recipe.parse(BASE, changes), path, device="cpu")
            side = predicted(path)
            path.unlink()
            print(row(name, side), flush=True)
            found.append({"condition": name, "group": group, "changes": changes, **stretches(side)})
    if written:
        write(found, written)


def conditions(names: list[str]) -> dict[str, tuple[str, list[str]]]:
    """By name: the group and the changes to ``BASE``, of the named conditions or of all."""
    groups = {"CONDITIONS": CONDITIONS, "FURTHER": FURTHER, "TESTED": TESTED}
    every = {name: (group, own + SEEDS.get(group, [])) for group, of in groups.items() for name, own in of.items()}
    return {name: every[name] for name in names or every}


def predicted(path: Path) -> Side:
    """A run with its predictions."""
    with open_trace(path) as trace:
        return examine(RunSeries(trace), predicting=True)


def row(name: str, side: Side) -> str:
    """A run's row of the table. Where no stretch has a prediction, only the last two columns say something."""
    found = [m.prediction for m in side.each if m.prediction]
    held = [p for p in found if p.held]
    frozen, follows = (
        number(sum(values) / len(held) if held else math.nan, 2)
        for values in ([p.frozen / p.measured for p in held], [p.correlation for p in held])
    )
    reached = number(max((p.reached for p in found), default=math.nan), 2)
    every = [s for p in found for s in p.stretches]
    ends = _ends([s.predicted / s.measured for s in every if not s.holds])
    given = f"{sum(s.holds for s in every)}/{len(every)}"
    return (
        f"| {name} | {number(side.std.value)} | {frozen} | {ranged(side.predicted_over, 2)} | {follows} | {reached} "
        f"| {given} | {ends} |"
    )


def _ends(ratios: list[float]) -> str:
    """The least and the largest, and how many have no value because the linearised network diverges."""
    finite = sorted(ratio for ratio in ratios if math.isfinite(ratio))
    said = " to ".join(dict.fromkeys(number(x, 2) for x in (finite[0], finite[-1]))) if finite else "–"
    lost = len(ratios) - len(finite)
    return said + (f" ({lost} diverges)" if lost == 1 else f" ({lost} diverge)" if lost else "")


def stretches(side: Side) -> dict[str, Any]:
    """Every stretch of a run as a row of numbers, ``KEYS`` after the member; None is not finite."""
    each = [
        (p.member, *(getattr(s, key) for key in KEYS)) for m in side.each if (p := m.prediction) for s in p.stretches
    ]
    return {
        "stretches": [
            [(x if isinstance(x, int) else float(f"{x:.4g}")) if math.isfinite(x) else None for x in numbers]
            for numbers in each
        ],
    }


def write(found: list[dict[str, Any]], path: Path) -> None:
    """All runs to a file, a line for each."""
    lines = ",\n".join(json.dumps(one) for one in found)
    head = json.dumps({"limit": LIMIT, "columns": ["member", *KEYS]})[1:-1]
    path.write_text(f'{{{head}, "runs": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    began = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("conditions", nargs="*", help="of the three groups; all by default")
    parser.add_argument("--json", type=Path, help="file for every stretch")
    chosen = parser.parse_args()
    main(chosen.conditions, chosen.json)
    print(f"\n{time.perf_counter() - began:.0f} s", file=sys.stderr)
