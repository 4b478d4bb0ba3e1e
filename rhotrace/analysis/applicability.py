"""What of the memo applies to a run: whether it has an equilibrium norm, and which law its steps obey.

Each function says why something does not apply, and says nothing where it does.
"""

from __future__ import annotations

from rhotrace.runfile.reader import Trace
from rhotrace.theory.step_identity import LAWS, StepLaw


def no_sums(trace: Trace) -> str:
    """Why a run has no a and q."""
    facts = trace.facts
    return "" if facts.equilibrium else f"does not apply: the loss {facts.loss} has no a, q and rho_eq"


def no_degrees(trace: Trace) -> str:
    """Why a network is not homogeneous in each of its layers."""
    odd = [block.name for block in trace.layout.layers if block.degree is None]
    shifts = [block.name for block in trace.layout.blocks if block.role == "shift"]
    if odd:
        return f"does not apply: the outputs are not homogeneous in {_some(odd)}"
    return f"does not apply: the outputs are shifted by {_some(shifts)}" if shifts else ""


def no_norm(trace: Trace) -> str:
    """Why the product of the layer norms is not the scale of the outputs: f = g/rho needs degree 1 in each layer."""
    other = [block.name for block in trace.layout.layers if block.degree != 1]
    why = f"does not apply: the outputs are not homogeneous of degree 1 in {_some(other)}" if other else ""
    return no_degrees(trace) or why


def no_equilibrium(trace: Trace) -> str:
    """Why a run has no rho_eq, and so no transient time and no fluctuation around it."""
    return no_sums(trace) or no_norm(trace)


def law_of(trace: Trace) -> StepLaw | None:
    """What one step of the optimizer does to the layer norms, exactly; None where no law is known."""
    return LAWS.get(trace.facts.law or "")


def no_step_law(trace: Trace) -> str:
    """Why the steps of a run cannot be checked."""
    if law_of(trace) is None:
        return f"the optimizer {trace.facts.optimizer} has no known step law"
    if all(block.degree is None for block in trace.layout.layers):
        return no_sums(trace) or "does not apply: the outputs are homogeneous in no layer"
    return no_sums(trace)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
