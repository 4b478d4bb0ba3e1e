"""What the claims about a run share: its series and transient, and its network at the last snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rhotrace.analysis.applicability import no_step_law
from rhotrace.analysis.claims.final_network import FinalNetwork, final_network
from rhotrace.analysis.run_series import RunSeries
from rhotrace.theory.step_identity import Audit, balance_drift

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Course:
    """The largest over members and layers at each step; -inf where none is finite.

    Attributes:
        residual: of the step identity, (steps - 1,); NaN where none is finite. None without an audit.
        drift: of the balance of the layers, (steps,).
        share: |1 - rho/rho_eq|, (rows,).
        turning: gradient across V_k over its largest value, (steps,); None where it is not known.
    """

    residual: Floats | None
    drift: Floats
    share: Floats
    turning: Floats | None


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

    @property
    def has_across(self) -> bool:
        """Whether ``across`` is known: it needs the full gradient at every step."""
        return self.stride == 1 and not self.minibatches and not self.run.no_equilibrium

    def across(self, which: slice) -> Floats:
        """Norm of the part of dL/dW_k across W_k at some steps, (n, M, L)."""
        run = self.run
        along = 2 * (run.q[which] - run.a[which])[..., None] / run.every_step("rho_k", which)
        return np.sqrt(np.maximum(run.every_step("grad_norm", which) ** 2 - along**2, 0.0))

    @cached_property
    def largest_across(self) -> tuple[Floats, Floats]:
        """Largest of ``across`` over the steps, (M, L), NaN where one is; and the largest that is a number."""
        with np.errstate(all="ignore"):
            each = [(v.max(axis=0), np.fmax.reduce(v, axis=0)) for v in map(self.across, self.pieces())]
        whole, numbers = zip(*each, strict=True)
        return np.max(whole, axis=0), np.fmax.reduce(numbers)

    @cached_property
    def course(self) -> Course:
        """What the claims rest on along the run, step by step."""
        run, drift, turning, residual = self.run, [], [], []
        for which in run.pieces():
            new = slice(1 if which.start else 0, None)  # a piece begins with the last step of the one before
            drift.append(_worst(balance_drift(run.every_step("rho_k", which)[new], run.start**2)))
            if self.has_across:
                with np.errstate(all="ignore"):
                    turning.append(_worst(self.across(which)[new] / self.largest_across[1]))
            if not no_step_law(self.trace):
                residual.append(run.step_residuals(which))
        ratio = run.rho_eq_over_rho
        with np.errstate(all="ignore"):
            share = _worst(np.abs(1 - 1 / np.where(ratio > 0, ratio, np.nan)))
        missed, turned = (np.concatenate(each) if each else None for each in (residual, turning))
        return Course(missed, np.concatenate(drift), share, turned)

    def pieces(self) -> Iterator[slice]:
        """The run's steps in pieces, each step once."""
        for n, which in enumerate(self.run.pieces()):
            yield slice(which.start + (n > 0), which.stop)

    @cached_property
    def end(self) -> FinalNetwork | str:
        """The network at its last snapshot, or why it is not available."""
        return final_network(self.trace)


def _worst(values: Floats) -> Floats:
    """The largest finite number of each row over all other axes, (n,); -inf where there is none."""
    flat = values.reshape(len(values), -1)
    return np.asarray(np.max(np.where(np.isfinite(flat), flat, -np.inf), axis=1))
