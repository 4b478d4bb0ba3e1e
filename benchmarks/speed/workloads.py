"""The trainings that are measured, each with what its time should be at most, over that of the bare loop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

DEEP8 = """\
data: {dataset: mnist, classes: [0, 1], train: 400, test: 400}
network: {kind: mlp, depth: 8, width: 64}
init: {kind: equal-norms, rho_k: 3.5}
optimizer: {kind: gd, lr: 0.01}
steps: 1000
record: {snapshots: 0, test_every: 1000}
"""
SGD = "optimizer={kind: sgd, lr: 0.01, batch_size: 32}"
BATCH_128 = "optimizer={kind: sgd, lr: 0.001, batch_size: 128}"
FOLLOWED = "record.every.first_layer=64"
RARE = "record.full_every=1000000"
TENTH = "record.full_every=10"
WIDTHS = (16, 64, 256, 1024, 2048)
GD_GOAL, SGD_GOAL, FULL_GOAL = 1.02, 0.7, 2.5  # of issue 17


@dataclass(frozen=True)
class Workload:
    """A training.

    Attributes:
        name: in the table.
        overrides: of ``DEEP8``.
        goal: most time over that of the bare loop; None where none is set.
    """

    name: str
    overrides: tuple[str, ...] = ()
    goal: float | None = None


def images(folder: Path) -> tuple[str]:
    """Overrides for data of the shape of CIFAR-10: random, since the archives are not in the repository."""
    rng, y = np.random.default_rng(0), np.arange(600) % 2
    x = rng.standard_normal((600, 3, 32, 32)).astype(np.float32)
    np.savez(folder / "images.npz", x=x[:500], y=y[:500], x_test=x[500:], y_test=y[500:])
    return (f"data={{dataset: npz, file: images.npz, root: {folder}, train: 400, test: 100}}",)


def workloads(folder: Path, *, quick: bool) -> list[Workload]:
    """All of them; or, quickly, one of each kind."""
    if quick:
        return [
            Workload("GD, width 16", ("network.width=16",), GD_GOAL),
            Workload("SGD, followed", (SGD, FOLLOWED), 0.0),
        ]
    cifar, wide = images(folder), ("network={kind: mlp, depth: 4, width: 128}",)
    conv = (*cifar, "network={kind: conv, channels: [32, 64, 128]}", "init.rho_k=3")
    return [
        *(
            Workload(f"GD, L = 8, width {width}, N = 400", (f"network.width={width}",), GD_GOAL)
            for width in WIDTHS
        ),
        Workload("GD, L = 8, width 64, N = 1000", ("data.train=1000",), GD_GOAL),
        Workload("GD, L = 4, width 1024", ("network={kind: mlp, depth: 4, width: 1024}",), GD_GOAL),
        Workload("weight norm, L = 8, width 64", ("optimizer={kind: weight-norm, lr: 0.01}",), GD_GOAL),
        Workload("SGD, no full-set sums", (SGD, RARE), SGD_GOAL),
        Workload("SGD, full-set sums every 10 steps", (SGD, TENTH)),
        Workload("SGD, full-set sums every 10 steps, first layer followed", (SGD, TENTH, FOLLOWED)),
        Workload("SGD, full-set sums every step", (SGD,), FULL_GOAL),
        Workload("SGD, full-set sums every step, first layer followed", (SGD, FOLLOWED), FULL_GOAL),
        Workload("SGD, full-set sums every step, N = 1000", (SGD, "data.train=1000"), FULL_GOAL),
        Workload("SGD, every step, first layer followed, N = 1000", (SGD, "data.train=1000", FOLLOWED), FULL_GOAL),
        Workload("GD, 3072 inputs, L = 4, width 128", (*cifar, *wide), GD_GOAL),
        Workload("SGD, 3072 inputs, no full-set sums", (*cifar, *wide, SGD, RARE), SGD_GOAL),
        Workload("SGD, 3072 inputs, full-set sums every step", (*cifar, *wide, SGD), FULL_GOAL),
        Workload("SGD, 3072 inputs, every step, first layer followed", (*cifar, *wide, SGD, FOLLOWED), FULL_GOAL),
        Workload("GD, conv 32, 64, 128", conv, GD_GOAL),
        Workload("SGD, conv, batch 128, no full-set sums", (*conv, BATCH_128, RARE), SGD_GOAL),
        Workload("SGD, conv, batch 128, full-set sums every step", (*conv, BATCH_128), FULL_GOAL),
        Workload("SGD, conv, batch norm, batch 128, no full-set sums", (*conv, "network.batch_norm=true", BATCH_128, RARE), SGD_GOAL),
    ]  # fmt: skip
