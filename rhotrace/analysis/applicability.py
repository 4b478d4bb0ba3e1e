"""What of the memo applies to a run: whether it has an equilibrium norm, and which law its steps obey.

Each function says why something does not apply, and says nothing where it does.
"""

from __future__ import annotations

from collections.abc import Iterator

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
    layers = trace.layout.layers
    if why := no_degrees(trace):
        return why
    free = [block.name for block in layers if block.degree == 0]
    several = [f"{block.name} ({block.degree:g})" for block in layers if block.degree not in (0, 1)]
    if free:
        rest = [block.name for block in layers if block.degree != 0]
        scale = f"; only {_some(rest)} scales them" if len(rest) == 1 else ""
        return f"does not apply: a normalisation takes the norms of {_some(free)} out of the outputs, so rho is not their scale{scale}"
    return (
        f"does not apply: rho is not the scale of the outputs, whose degree is not 1 in {_some(several)}"
        if several
        else ""
    )


def no_equilibrium(trace: Trace) -> str:
    """Why a run has no rho_eq, and so no transient time and no fluctuation around it."""
    return no_sums(trace) or no_norm(trace)


def own_norms(trace: Trace) -> str:
    """Why a run says nothing of how the norms move by themselves."""
    controlled = trace.facts.optimizer == "norm-control"
    return "does not apply: the norms follow a schedule and not the gradient" if controlled else ""


def law_of(trace: Trace) -> StepLaw | None:
    """What one step of the optimizer does to the layer norms, exactly; None where no law is known."""
    return LAWS.get(trace.facts.law or "")


def no_step_law(trace: Trace) -> str:
    """Why the steps of a run cannot be checked."""
    law = law_of(trace)
    if law is None:
        return f"the optimizer {trace.facts.optimizer} has no known step law"
    if not all(name in trace for name in law.quantities):
        return f"does not apply: {trace.facts.optimizer} recorded no {' and '.join(law.quantities)}"
    if (why := no_sums(trace)) and "batch_c" not in trace:
        return why
    odd = all(block.degree is None for block in trace.layout.layers)
    return "does not apply: the outputs are homogeneous in no layer" if odd else ""


def not_plain(trace: Trace) -> str:
    """Why steps of size lr along the batch's gradient do not describe a run; a formula for such steps does not apply."""
    found = [*inertia_and_decay(trace), *(["schedule"] if "lr_step" in trace else [])]
    found += ["controlled norms"] if own_norms(trace) else []
    found += ["augmentation"] if trace.recipe["data"].get("augment") else []
    return f"does not apply: the run has {_some(found)}" if found else ""


def inertia_and_decay(trace: Trace) -> tuple[str, ...]:
    """What a run has that equation (5), driven or closed, leaves out of the motion of rho."""
    return tuple(name.replace("_", " ") for name in ("momentum", "weight_decay") if name in trace.layout.per_member)


def broken_assumptions(trace: Trace) -> tuple[str, ...]:
    """What a run contains that the memo's equations leave out, one phrase for each."""
    return tuple(phrase for phrase in (*_of_the_training(trace), *_of_the_network(trace)) if phrase)


def _of_the_training(trace: Trace) -> Iterator[str]:
    if trace.facts.loss != "square":
        yield f"the loss {trace.facts.loss} (the memo's is the square loss)"
    for name, effect in (
        ("momentum", "the flow has inertia"),
        ("weight_decay", "the norms come to rest below rho_eq, where a - q = weight_decay rho_k^2 / 2"),
    ):
        if name in trace.layout.per_member:
            values = sorted(set(trace[name].tolist()))
            words = " to ".join(f"{value:g}" for value in dict.fromkeys((values[0], values[-1])))
            yield f"{name.replace('_', ' ')} {words} ({effect})"
    if own_norms(trace):
        yield f"controlled norms, {trace.recipe['optimizer']['norms']['kind']} (equation (3) is set aside; the directions follow (4))"
    if "lr_step" in trace:
        yield "a learning-rate schedule (the traced lr_step is used, and time is its sum)"
    if trace.recipe["data"].get("augment"):
        yield "augmentation (a step's sums are those of its own batch; the full sums are of the unchanged training set)"


def _of_the_network(trace: Trace) -> Iterator[str]:
    blocks = trace.layout.blocks
    kept = {role: [block.name for block in blocks if block.role == role] for role in ("buffer", "scale", "shift")}
    if kept["buffer"] or any(block.degree == 0 for block in trace.layout.layers):
        yield "batch normalisation (the outputs do not grow with the norms of the layers in front of it)"
    if kept["scale"]:
        yield f"trained scales, {_some(kept['scale'])} (they scale the outputs beside rho)"
    if kept["shift"]:
        yield f"biases or shifts, {_some(kept['shift'])} (the outputs are not homogeneous)"
    odd = [block.name for block in trace.layout.layers if block.degree is None]
    if odd:
        epsilon = trace.recipe["network"].get("batch_norm_epsilon")
        what = f"an epsilon of {epsilon:g} beside the variances" if epsilon else "skips or other paths around layers"
        yield f"{what} (the outputs are not homogeneous in {_some(odd)})"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
