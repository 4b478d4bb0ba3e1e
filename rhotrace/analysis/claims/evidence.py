"""What the claims about a run share: its series and transient, and its network at the last snapshot."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rhotrace.analysis.claims.final_network import FinalNetwork, final_network
from rhotrace.analysis.run_series import RunSeries
from rhotrace.theory.step_identity import Audit

Floats = NDArray[np.float64]


class Evidence:
    """What several claims about a run share, computed when first asked for.

    Args:
        run: the run's series, with its theta.
    """

    def __init__(self, run: RunSeries) -> None:
        self.run, self.trace = run, run.trace
        self.stride, self.minibatches = run.trace.strides["full"], run.trace.facts.minibatches

    @cached_property
    def left(self) -> list[int]:
        """The members that have a T and neither diverged nor died after it."""
        return [m for m in self.sound if self.run.passages[m].T > 0]

    @cached_property
    def sound(self) -> list[int]:
        """The members that neither diverged nor died."""
        return [m for m in range(self.trace.members) if m not in self.run.broken]

    @cached_property
    def audit(self) -> Audit | None:
        """The step identity of the members that neither diverged nor died; of all where there is none of these."""
        if len(self.sound) in (0, self.trace.members):
            return self.run.audit
        return self.run.audit_of(self.sound)

    @cached_property
    def across(self) -> Floats | None:
        """Norm of the part of dL/dW_k across W_k at each step, (n, M, L); None without the full gradient at every step."""
        if self.stride != 1 or self.minibatches or self.run.no_equilibrium:
            return None
        along = 2 * (self.run.q - self.run.a)[..., None] / self.run.rho_k
        return np.sqrt(np.maximum(self.trace["grad_norm"] ** 2 - along**2, 0.0))

    @cached_property
    def end(self) -> FinalNetwork | str:
        """The network at its last snapshot, or why it is not available."""
        return final_network(self.trace)
