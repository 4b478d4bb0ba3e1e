"""What of the memo applies to a run: whether it has an equilibrium norm, and which law its steps obey.

Each function says why something does not apply, and says nothing where it does.
"""

from __future__ import annotations

from collections.abc import Iterator

from rhotrace.runfile.reader import Trace
from rhotrace.statistics.numbers import written
from rhotrace.theory.step_identity import Audit
from rhotrace.theory.step_laws import LAWS, StepLaw


def no_sums(trace: Trace) -> str:
    """Why a run has no a and q."""
    facts = trace.facts
    if not facts.equilibrium:
        return f"does not apply: the loss {facts.loss} has no a, q and rho_eq"
    return "" if "a" in trace else "does not apply: the outputs on the training set were not recorded"


def no_degrees(trace: Trace) -> str:
    """Why a network is not homogeneous in each of its layers."""
    odd = [block.name for block in trace.layout.layers if block.degree is None]
    shifts = [block.name for block in trace.layout.blocks if block.role == "shift"]
    if unknown := _unmeasured(trace):
        return f"does not apply: {unknown}"
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


def no_balance(trace: Trace) -> str:
    """Why Lemma 1, by which all squared layer norms move alike, says nothing of a run."""
    return no_norm(trace) or own_norms(trace)


def no_flow(trace: Trace) -> str:
    """Why the memo's flow, at the run's learning rate, does not describe a recording: another optimizer made its steps."""
    own = trace.own_loop
    return f"does not apply: {own.get('not_descent')}" if own and own.get("not_descent") else ""


def law_of(trace: Trace) -> StepLaw | None:
    """What one step of the optimizer does to the layer norms, exactly; None where no law is known."""
    return LAWS.get(trace.facts.law or "")


def no_step_law(trace: Trace) -> str:
    """Why the steps of a run cannot be checked."""
    law = law_of(trace)
    if law is None and (why := trace.own_loop.get("no_law")):
        return f"does not apply: {why}"
    if law is None:
        return f"the optimizer {trace.facts.optimizer} has no known step law"
    if not all(name in trace for name in law.quantities):
        return f"does not apply: {trace.facts.optimizer} recorded no {' and '.join(law.quantities)}"
    if "batch_a" not in trace and "batch_c" not in trace:
        return no_sums(trace) or "does not apply: the outputs of the batches were not recorded"
    if unknown := _unmeasured(trace):
        return f"does not apply: {unknown}"
    odd = [block.degree is None for block in trace.layout.layers]
    together = f"{no_degrees(trace)}, and the norms of all layers are set together" if law.whole and any(odd) else ""
    return "does not apply: the outputs are homogeneous in no layer" if all(odd) else together


def not_plain(trace: Trace) -> str:
    """Why steps of size lr along the batch's gradient do not describe a run; a formula for such steps does not apply."""
    found = [*inertia_and_decay(trace), *(["schedule"] if is_scheduled(trace) else [])]
    found += ["learning rate for each layer"] if "lr_layer" in trace else []
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
    if is_scheduled(trace):
        yield "a learning-rate schedule (the traced lr_step is used, and time is its sum)"
    if trace.recipe["data"].get("augment"):
        yield "augmentation (a step's sums are those of its own batch; the full sums are of the unchanged training set)"


def is_scheduled(trace: Trace) -> bool:
    """Whether the learning rate changes from step to step; a recording has it at every step in any case."""
    if "lr_step" not in trace:
        return False
    return not trace.own_loop or bool((trace["lr_step"] != trace["lr"]).any())


def off_law(audit: Audit) -> str:
    """By how much the steps of a recording miss the law of its optimizer, and what may be the reason."""
    return (
        f"off by {written(audit.residual, 2)} of rho_k^2, rounding explains {audit.rounding:g}; clipping, mixed precision, a loss "
        "other than the one that was named, or something else acts on the gradients or the weights"
    )


def _unmeasured(trace: Trace) -> str:
    """Why the degrees of a recording are not known."""
    own = trace.own_loop
    return f"homogeneity was not tested: {own.get('homogeneity')}" if own and not own.get("measured") else ""


def _of_the_loop(trace: Trace) -> Iterator[str]:
    """What a training loop of the user's own contains."""
    own = trace.own_loop
    law, blocks = own.get("no_law"), own.get("blocks", {})
    if law:
        yield f"no exact law of the steps: {law}"
    if "lr_layer" in trace:
        yield "learning rates of their own for some layers (the flow of the norms has one for all)"
    there, weights = own.get("output_dtype"), own.get("parameter_dtype")
    if there and there != weights:
        yield f"mixed precision, outputs in {there} and weights in {weights} (identities hold to that precision)"
    if unknown := _unmeasured(trace):
        yield unknown
        return
    for role, effect in (("scale", "they scale the outputs beside rho"), ("shift", "the outputs are not homogeneous")):
        if found := [block.name for block in trace.layout.blocks if block.role == role]:
            yield f"{'trained scales' if role == 'scale' else 'biases or shifts'}, {_some(found)} ({effect})"
    for kind in sorted({str(blocks[name].get("kind")) for name in blocks}):
        if "Norm" in kind:
            yield f"normalisation by {kind} (the outputs do not grow with the norms of the layers in front of it)"
    odd = [block.name for block in trace.layout.layers if block.degree is None]
    if odd:
        measured = blocks.get(odd[0], {})
        how = (
            f"in {odd[0]} they miss degree {measured.get('nearest', 0):g} by {written(measured.get('residual', 1), 1)}"
        )
        yield f"outputs that are not homogeneous in {_some(odd)}, as measured ({how})"


def _of_the_network(trace: Trace) -> Iterator[str]:
    if trace.own_loop:
        yield from _of_the_loop(trace)
        return
    blocks = trace.layout.blocks
    kept = {role: [block.name for block in blocks if block.role == role] for role in ("buffer", "scale", "shift")}
    running = [name for name in kept["buffer"] if "mean" in name or "var" in name]  # others are not trained
    if running or any(block.degree == 0 for block in trace.layout.layers):
        yield "batch normalisation (the outputs do not grow with the norms of the layers in front of it)"
    if kept["scale"]:
        yield f"trained scales, {_some(kept['scale'])} (they scale the outputs beside rho)"
    if kept["shift"]:
        yield f"biases or shifts, {_some(kept['shift'])} (the outputs are not homogeneous)"
    odd = [block.name for block in trace.layout.layers if block.degree is None]
    if odd:
        epsilon = trace.recipe["network"].get("batch_norm_epsilon")
        what = f"an epsilon of {epsilon:g} beside the variances" if epsilon else "skips or other paths around layers"
        found = str(trace.attributes.get("network_departs", what))
        cause = found.removeprefix("biases or shifts").removeprefix(" and ")  # which are said above
        yield f"{cause} (the outputs are not homogeneous in {_some(odd)})" if cause else ""


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
