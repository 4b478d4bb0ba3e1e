"""Members whose T is planted, for the tests of ``scaling``."""

from __future__ import annotations

import numpy as np

from rhotrace.analysis.scaling.members import DEFINITIONS, Members


def members_of(seed, start, T, *, lr=0.05, times=None) -> Members:
    """Members with these T by the asked theta, and by the other definitions those of ``times``, by place."""
    every = np.full((len(DEFINITIONS), len(T)), np.nan)
    every[0] = T
    for place, own in (times or {}).items():
        every[place] = own
    nothing = np.full(len(T), np.nan)
    return Members(
        seed=np.asarray(seed),
        start=np.asarray(start, dtype=float),
        lr=np.broadcast_to(np.asarray(lr, dtype=float), (len(T),)),
        times=every,
        late=np.full(every.shape, np.nan),
        half=nothing,
        falls=np.ones(len(T), dtype=int),
        grown=nothing,
        distance=np.full(len(T), 1e4),
        clock=np.full(len(T), None, dtype=object),
    )


def planted(
    exponent: float, *, seeds: int = 8, starts=(1.0, 0.7, 0.5, 0.35), wobble: float = 0.02, seed: int = 0
) -> Members:
    """T = c_seed rho_k(0)^exponent, with a scatter of its own in each seed's exponent and a large one in c."""
    rng = np.random.default_rng(seed)
    level = rng.standard_normal(seeds)
    slope = exponent + wobble * rng.standard_normal(seeds)
    s, r = (grid.reshape(-1) for grid in np.meshgrid(np.arange(seeds), np.array(starts)))
    return members_of(s, r, np.exp(3 + level[s] + slope[s] * np.log(r)))
