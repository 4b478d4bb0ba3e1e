"""The small recipe that most tests train."""

SMALL = """\
data: {dataset: mnist, classes: [0, 1], train: 40, test: 20}
network: {kind: mlp, depth: 3, width: 8, dtype: float64}
init: {kind: equal-norms, rho_k: 1.0}
optimizer: {kind: gd, lr: 0.05}
members: {seeds: 3}
steps: 60
record: {test_every: 10, snapshots: 6}
"""
