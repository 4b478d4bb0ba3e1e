"""One run examined: what it was, its transient, and the audit of its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rhotrace.analysis.transient import transient_time
from rhotrace.analysis.transient.closed_form_fit import Series
from rhotrace.analysis.transient.transient_time import Passage, TransientFit
from rhotrace.errors import AnalysisError
from rhotrace.runfile.reader import Trace
from rhotrace.runfile.run_lock import is_locked
from rhotrace.theory.norm_dynamics import THETA
from rhotrace.theory.step_identity import Audit, Floats, audit, identity


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
    """All of ``rhotrace analyze``'s answer."""

    path: str
    summary: dict[str, Any]
    final: tuple[Final, ...]
    transient: TransientFit
    audit: Audit | None


def analyze(
    trace: Trace, *, fit: bool = False, theta: float = THETA, series: Sequence[Series] | None = None
) -> Analysis:
    """Examines one run.

    Args:
        trace: the run.
        fit: also fit the closed form to each member.
        theta: the transient ends at rho = theta rho_eq.
        series: each member's, where the caller has them.

    Raises:
        AnalysisError: the run has no committed steps.
    """
    require_steps(trace)
    transients = fit_transient(trace, fit=fit, theta=theta, series=series)
    return Analysis(str(trace.path), summary(trace), _final(trace), transients, audit_run(trace))


def audit_run(trace: Trace) -> Audit | None:
    """The discrete step identity at every step of a run; see ``audit.audit``."""
    return audit(**_steps(trace))


def step_residuals(trace: Trace) -> Floats:
    """By how much each step misses the identity, relative, (steps - 1, M, L); see ``audit.identity``."""
    return identity(**_steps(trace))[0]


def _steps(trace: Trace) -> dict[str, Any]:
    """What the identity is made of, by the names of the arguments."""
    return {
        **{name: trace[name] for name in ("rho_k", "grad_norm", "batch_a", "batch_q", "lr")},
        "dtype": trace.attributes["dtype"],
        "weight_norm": trace.recipe["optimizer"]["kind"] == "weight-norm",
    }


def series_of(trace: Trace) -> list[Series]:
    """Each member's series, at the steps that have full-set sums."""
    steps, every = trace.step_of("a"), trace.strides["full"]
    log_rho, rho_k = trace["log_rho"][::every], trace["rho_k"][::every]
    series = {name: trace[name] for name in ("rho_eq_over_rho", "a", "q", "loss")}
    return [
        Series(
            steps=steps,
            log_rho=log_rho[:, m],
            rho_k=rho_k[:, m],
            lr=float(lr),
            **{name: values[:, m] for name, values in series.items()},
        )
        for m, lr in enumerate(trace["lr"])
    ]


def fit_transient(
    trace: Trace, *, fit: bool = True, theta: float = THETA, series: Sequence[Series] | None = None
) -> TransientFit:
    """T of every member and over members; see ``transient`` for the definitions.

    Args:
        trace: the run.
        fit: also fit the closed form to each member.
        theta: the transient ends at rho = theta rho_eq.
        series: each member's, where the caller has them.
    """
    members = enumerate(series_of(trace) if series is None else series)
    each = [transient_time.measure(m, one, theta=theta, fit=fit) for m, one in members]
    return TransientFit(theta, tuple(each), transient_time.pool(each, member_labels(trace)))


def passages(trace: Trace, *, theta: float = THETA) -> list[Passage]:
    """Whether and when each member left its transient: ``fit_transient`` without anything that takes longer to find."""
    steps, log_rho = trace.step_of("a"), trace["log_rho"][:: trace.strides["full"]]
    ratio, q = trace["rho_eq_over_rho"], trace["q"]
    return [
        transient_time.passage(steps, ratio[:, m], q[:, m], log_rho[:, m], theta=theta) for m in range(trace.members)
    ]


def member_labels(trace: Trace) -> list[str]:
    """What distinguishes a member apart from its seeds: initial scale and learning rate."""
    name = next(n for n in ("init_rho_k", "init_scale") if n in trace)
    shown = {"init_rho_k": "rho_k(0)", "init_scale": "He scale"}[name]
    return [f"{shown} {start:g}, lr {lr:g}" for start, lr in zip(trace[name], trace["lr"], strict=True)]


def require_steps(trace: Trace) -> None:
    """Raises AnalysisError where nothing has been committed yet."""
    if trace.steps < 2:
        raise AnalysisError(
            f"{trace.path}: got {trace.steps} committed steps, expected at least 2; let the run train for longer"
        )


def summary(trace: Trace) -> dict[str, Any]:
    """What was run, in the words of ``rhotrace info``."""
    recipe, attributes = trace.recipe, trace.attributes
    planned = int(recipe["steps"])
    state = str(attributes.get("ended", "finished"))
    if not trace.complete:
        state = "training now" if is_locked(trace.path) else "interrupted"
    optimizer = dict(recipe["optimizer"])
    return {
        "state": state,
        "steps": trace.steps,
        "planned_steps": planned,
        "members": trace.members,
        "depth": trace.depth,
        "width": recipe["network"].get("width"),
        "dtype": attributes["dtype"],
        "optimizer": optimizer.pop("kind"),
        "optimizer_options": optimizer,
        "per_member": {name: trace[name].tolist() for name in trace.layout.per_member},  # overrules the options
        "dataset": recipe["data"]["dataset"],
        "classes": attributes["data_classes"],
        "samples": int(attributes["samples"]),
        "label_noise": recipe["data"]["label_noise"],
        "device": attributes["device"],
        "wall_seconds": trace.wall_seconds,
        "bytes": trace.path.stat().st_size,
    }


def _final(trace: Trace) -> tuple[Final, ...]:
    last = {
        name: trace[name][-1] for name in ("log_rho", "log_rho_eq", "rho_eq_over_rho", "loss", "error", "test_error")
    }
    seeds = trace["seed"]
    return tuple(
        Final(member=m, seed=int(seeds[m]), **{name: float(values[m]) for name, values in last.items()})
        for m in range(trace.members)
    )


def delta(trace: Trace) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(steps, log(rho/rho_eq) of each member, NaN where a <= 0, and log rho at the same steps)."""
    ratio = trace["rho_eq_over_rho"]
    log_rho = trace["log_rho"][:: trace.strides["full"]]
    with np.errstate(all="ignore"):
        return trace.step_of("rho_eq_over_rho"), -np.log(np.where(ratio > 0, ratio, np.nan)), log_rho
