"""Series with known properties."""

from __future__ import annotations

import numpy as np
from scipy.signal import lfilter


def ar1(n: int, phi: float, std: float, rng: np.random.Generator) -> np.ndarray:
    """A stationary first-order autoregression; its integrated time is (1 + phi)/(1 - phi)."""
    noise = rng.standard_normal(n) * std * np.sqrt(1 - phi**2)
    noise[0] = rng.standard_normal() * std
    return lfilter([1.0], [1.0, -phi], noise)
