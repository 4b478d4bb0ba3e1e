"""``rhotrace analyze``: what a run was, its transient time by every definition, and the audit of its steps."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from rhotrace.analysis.applicability import inertia_and_decay, no_norm
from rhotrace.analysis.plateaus import Plateau
from rhotrace.analysis.run_series import RunSeries, require_steps
from rhotrace.analysis.run_summary import summary
from rhotrace.analysis.stability import Stability, stability
from rhotrace.analysis.transient.transient_time import TransientFit
from rhotrace.runfile.reader import Trace
from rhotrace.theory.step_identity import Audit


@dataclass(frozen=True)
class Final:
    """A member's last recorded values."""

    member: int
    seed: int
    log_rho: float
    log_rho_eq: float
    rho_eq_over_rho: float
    loss: float
    error: float
    test_error: float


@dataclass(frozen=True)
class Analysis:
    """All of ``rhotrace analyze``'s answer.

    Attributes:
        path: of the run file.
        summary: what was run.
        final: each member's last recorded values.
        transient: T of each member and over members.
        plateaus: of each member's loss.
        stability: sharpness and flips of each member; empty where the run recorded neither.
        audit: of the steps; None where ``no_audit`` says why.
        no_audit: why the steps were not audited.
        left_out: what the run has and equation (5) has not: momentum, weight decay.
        no_balance: why Lemma 1 says nothing of the network.
    """

    path: str
    summary: dict[str, Any]
    final: tuple[Final, ...]
    transient: TransientFit
    plateaus: tuple[tuple[Plateau, ...], ...]
    stability: tuple[Stability, ...]
    audit: Audit | None
    no_audit: str = ""
    left_out: tuple[str, ...] = ()
    no_balance: str = ""


def analyze(run: Trace | RunSeries, *, fit: bool = False, theta: float | None = None) -> Analysis:
    """Examines one run.

    Args:
        run: the run; a ``RunSeries`` has a theta of its own.
        fit: also fit the closed form to each member.
        theta: the transient ends at rho = theta rho_eq; 1/2 by default.

    Raises:
        AnalysisError: the run has no committed steps.
    """
    run = RunSeries.of(run, theta)
    require_steps(run.trace)
    from scipy import optimize  # noqa: F401 - now, as an import beside the audit would hold it up

    with ThreadPoolExecutor(1) as beside:  # HDF5 and numpy do most of the work without Python's lock
        audited = beside.submit(lambda: run.audit)
        plateaus = run.plateaus
        if not run.no_equilibrium:
            _ = run.loss_times
        run.forget("loss")  # what follows needs the memory
        if not run.no_equilibrium:
            _ = run.left
        found = audited.result()  # read the layer norms, for the transient too
    transient = run.fitted if fit else run.transient
    return Analysis(
        path=str(run.trace.path),
        summary=summary(run.trace),
        final=_final(run),
        transient=transient,
        plateaus=plateaus,
        stability=stability(run),
        audit=found,
        no_audit=run.no_audit,
        left_out=inertia_and_decay(run.trace),
        no_balance=no_norm(run.trace),
    )


def fit_transient(run: Trace | RunSeries, *, fit: bool = True, theta: float | None = None) -> TransientFit:
    """T of every member and over members; see ``transient.transient_time`` for the definitions.

    Args:
        run: the run; a ``RunSeries`` has a theta of its own.
        fit: also fit the closed form to each member.
        theta: the transient ends at rho = theta rho_eq; 1/2 by default.
    """
    run = RunSeries.of(run, theta)
    return run.fitted if fit else run.transient


def _final(run: RunSeries) -> tuple[Final, ...]:
    names = ("log_rho", "log_rho_eq", "rho_eq_over_rho", "loss", "error", "test_error")
    rows = {name: len(run.trace.step_of(name)) for name in names if name in run.trace}
    last = {name: np.full(run.trace.members, np.nan) for name in names}  # of what the run's loss has no sums for
    last |= {name: run.trace.rows(name, slice(n - 1, n))[0] for name, n in rows.items()}
    return tuple(
        Final(member=m, seed=seed, **{name: float(values[m]) for name, values in last.items()})
        for m, seed in enumerate(run.seeds)
    )
