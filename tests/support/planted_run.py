"""A run whose series are given: what an analysis says of it is known beforehand, and nothing is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from rhotrace.analysis.run_series import RunSeries
from rhotrace.models.network import Block
from rhotrace.runfile.layout import Facts

AT_TEST = {"test_error", "test_loss"}


@dataclass
class PlantedTrace:
    """What a ``Trace`` gives to a ``RunSeries``, from arrays."""

    at: np.ndarray
    values: dict[str, np.ndarray]
    test_steps: np.ndarray
    symbols: dict[str, str]
    blocks: tuple[Block, ...]
    facts: Facts
    recipe: dict[str, Any] = field(default_factory=dict)
    own_loop: None = None

    @property
    def members(self) -> int:
        return len(self.values["seed"])

    @property
    def steps(self) -> int:
        return int(self.at[-1]) + 1

    @property
    def strides(self) -> dict[str, int]:
        return {"full": int(self.at[1] - self.at[0])}

    @property
    def layout(self) -> SimpleNamespace:
        return SimpleNamespace(
            per_member=self.symbols, layers=self.blocks, blocks=self.blocks, rows=lambda *_: len(self.at)
        )

    def step_of(self, name: str) -> np.ndarray:
        return self.test_steps if name in AT_TEST else self.at

    @property
    def depth(self) -> int:
        return len(self.blocks)

    def rows(self, name: str, which: slice) -> np.ndarray:
        return self.values[name][which]

    def aligned(self, name: str) -> np.ndarray:
        return self.values[name]

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def __getitem__(self, name: str) -> np.ndarray:
        return self.values[name]


def planted(
    steps: np.ndarray,
    values: dict[str, np.ndarray],
    *,
    seeds: list[int],
    test_steps: np.ndarray | None = None,
    blocks: tuple[Block, ...] = (Block("W1", (4, 3)), Block("W2", (1, 4))),
    optimizer: str = "gd",
    **per_member: np.ndarray,
) -> RunSeries:
    """A run of the square loss with these series.

    Args:
        steps: of the rows of full-set quantities.
        values: of the quantities, (n, M) or (n, M, ...), by name; ``a`` and ``q`` bring ``rho_eq_over_rho`` with them.
        seeds: of the members.
        test_steps: of the rows of quantities on the test set; ``steps`` by default.
        blocks: of the network.
        optimizer: its kind.
        per_member: what differs between members, such as ``init_rho_k``.
    """
    known = dict(values)
    if "a" in known:
        known["rho_eq_over_rho"] = known["a"] / known["q"]
    known |= {"seed": np.array(seeds), "lr": np.full(len(seeds), 0.1), **per_member}
    facts = Facts("square", equilibrium=True, optimizer=optimizer, law="descent", minibatches=optimizer == "sgd")
    symbols = {name: "rho_k(0)" if name == "init_rho_k" else name for name in per_member} | {"lr": "lr"}
    own = PlantedTrace(steps, known, steps if test_steps is None else test_steps, symbols, blocks, facts)
    return RunSeries(own)  # type: ignore[arg-type]
