"""``rhotrace verify``: everything that a run file records, checked against everything else that it records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rhotrace.analysis import applicability
from rhotrace.analysis.rebuild_network import data_and_network, parameters_and_buffers
from rhotrace.analysis.run_series import RunSeries
from rhotrace.config.strict_yaml import read_file
from rhotrace.config.trusted_code import named
from rhotrace.errors import RecipeError, TraceError
from rhotrace.models.own_code import Source, texts
from rhotrace.recording.first_layer import FIRST_LAYER
from rhotrace.recording.quantities import QUANTITIES
from rhotrace.runfile.integrity import STRUCTURE, NotChecked, Verification, Wrong, examine
from rhotrace.runfile.layout import SLAB_BYTES
from rhotrace.runfile.own_loop_facts import NO_RECIPE
from rhotrace.runfile.reader import Trace
from rhotrace.statistics.numbers import written
from rhotrace.theory.step_laws import lost_directions

# Relative differences that other machines' summation orders explain.
_NORMS = 1e-12
_DERIVED = 1e-12
_OUTPUTS = {"float32": 1e-4, "float64": 1e-10}
_PRODUCT = 16  # units of rounding of a product of weights and inputs, at most


def verify(trace: Trace) -> Verification:
    """Checks a run file against itself, the quantities table, the laws of its training and its data."""
    own: dict[str, Callable[[Trace], str]] = {"code of its own": _own_code} if "code" in trace.attributes else {}
    return Verification(str(trace.path), trace.steps, trace.complete, tuple(examine(trace, {**CHECKS, **own})))


def _own_code(trace: Trace) -> str:
    """The copies of the recipe's Python files, and whether the files have changed since."""
    stored, found = texts(trace.attributes), []
    origin = Path(str(trace.attributes.get("folder", ""))) / str(trace.attributes.get("recipe_file", ""))
    for file, stated in named(trace.recipe).items():
        if file not in stored or Source(file, stored[file], "").sha256 != stated:
            raise Wrong(f"the copy of {file} is missing or has another SHA-256 than the recipe states")
        path = origin.parent / file
        try:
            now = Source(file, read_file(path, "Python file"), "").sha256 if path.is_file() else None
        except RecipeError:
            now = None
        found.append(
            f"{file} {'is not here' if now is None else 'is unchanged' if now == stated else 'has changed since'}"
        )
    return f"each copy has its SHA-256; {', '.join(found)}"


def _derived(trace: Trace) -> str:
    layout, checked = trace.layout, 0
    slab = layout.steps_within(SLAB_BYTES)
    derived = [QUANTITIES[q.name] for q in layout.quantities if q.name in QUANTITIES and QUANTITIES[q.name].derive]
    for first in range(0, trace.steps, slab):
        last = min(first + slab, trace.steps)
        for quantity in derived:
            at = np.arange(last)[:: trace.strides[quantity.cadence]]
            at = at[at >= first]
            rows = {
                q.name: _rows_at(trace, q.name, at)
                for q in layout.quantities
                if q.cadence in ("step", quantity.cadence)
            }
            with np.errstate(all="ignore"):
                expected = quantity.derive(rows) if quantity.derive else rows[quantity.name]
            near = np.isclose(rows[quantity.name], expected, rtol=_DERIVED, atol=_DERIVED, equal_nan=True)
            if not near.all():
                step, member = (int(i) for i in np.argwhere(~near)[0][:2])
                raise Wrong(
                    f"dataset {quantity.name}: step {at[step]}, member {member} does not follow from the others"
                )
            checked += near.size
    return f"{', '.join(q.name for q in derived)} recomputed at {checked} places"


def _rows_at(trace: Trace, name: str, steps: NDArray[np.int64]) -> NDArray[Any]:
    """Rows of a quantity at steps that are all multiples of its stride."""
    if not len(steps):
        return trace.rows(name, slice(0, 0))
    stride = trace.strides[trace.quantity(name).cadence]
    rows = steps // stride
    return np.asarray(trace.rows(name, slice(int(rows[0]), int(rows[-1]) + 1))[rows - rows[0]])


def _audit(trace: Trace) -> str:
    run = RunSeries(trace)
    found = run.audit
    if found is None:
        raise NotChecked(run.no_audit)
    step, member, layer = found.where
    if not found.holds:
        if trace.own_loop:
            raise NotChecked(f"the steps are not those of the recorded law: {applicability.off_law(found)}")
        raise Wrong(
            f"the norms do not follow from the gradients at step {step}, member {member}, layer {layer}: off by "
            f"{written(found.residual, 2)} of rho_k^2, rounding explains {found.rounding:g}"
        )
    rho_k, law = run.every_step("rho_k"), applicability.law_of(trace)
    finite = np.isfinite(rho_k).min(axis=2)
    if law and "v_norm" in law.quantities:
        finite &= ~lost_directions(rho_k, run.every_step("v_norm"), trace.attributes["dtype"]).any(axis=2)
    sums = trace["batch_a"] + trace["batch_q"] if "batch_a" in trace else trace["batch_c"]
    given = np.isfinite(trace["grad_norm"]).min(axis=2) & np.isfinite(sums)
    lost = np.argwhere(finite[:-1] & finite[1:] & ~given[:-1])
    if len(lost):
        step, member = (int(i) for i in lost[0])
        raise Wrong(f"step {step}, member {member} leads to finite norms from numbers that are not finite")
    return f"the step identity holds at {found.checked} places, to {written(found.residual, 2)} of rho_k^2"


def _norms(trace: Trace) -> str:
    steps = trace.snapshot_steps()
    if not steps:
        raise NotChecked("the file has no snapshots")
    for step in steps:
        pairs = zip(trace.layout.blocks, trace.snapshot(step), strict=True)
        weights = [W for block, W in pairs if block.role == "weight"]
        norms = np.stack([np.sqrt(np.square(W, dtype=np.float64).sum(axis=(1, 2))) for W in weights], 1)
        if step == trace.steps:
            _same_end(trace, step)
            continue
        recorded = trace.rows("rho_k", slice(step, step + 1))[0]
        near = np.isclose(norms, recorded, rtol=_NORMS, atol=0, equal_nan=True)
        near |= ~np.isfinite(recorded) & ~np.isfinite(norms)
        if not near.all():
            member, layer = (int(i) for i in np.argwhere(~near)[0])
            raise Wrong(
                f"weights at step {step}, member {member}, layer {layer + 1}: their norm is {norms[member, layer]:.13g}, "
                f"rho_k says {recorded[member, layer]:.13g}"
            )
    return f"rho_k recomputed from the weights at {len(steps)} steps"


def _same_end(trace: Trace, step: int) -> None:
    """The last snapshot and the state after the last step are the same weights, kept twice."""
    state, blocks = trace.state(), list(zip(trace.layout.blocks, trace.snapshot(step), strict=True))
    kept = {
        "weights": [values for block, values in blocks if block.role != "buffer"],
        "buffers": [values for block, values in blocks if block.role == "buffer"],
    }
    ends = ((state[name], values) for name, values in kept.items() if name in state)
    if not all(np.array_equal(a, b, equal_nan=True) for end, own in ends for a, b in zip(end, own, strict=True)):
        raise Wrong(f"weights at step {step} differ from the optimizer's state after it")


def _refuse_drift(trace: Trace) -> None:
    """Raises Wrong where a first layer that was followed is off by more than a unit of rounding for each step."""
    if FIRST_LAYER not in trace.strides:
        return
    drift, unit = trace["first_layer_drift"], float(np.finfo(trace.attributes["dtype"]).eps)
    bound = (trace.strides[FIRST_LAYER] + _PRODUCT) * unit
    lost = np.argwhere(drift > bound)
    if len(lost):
        row, member = (int(i) for i in lost[0])
        raise Wrong(
            f"the followed first layer at step {trace.step_of('first_layer_drift')[row]}, member {member}, is off by "
            f"{written(drift[row, member], 2)}; rounding explains {written(bound, 2)}"
        )


def _outputs(trace: Trace) -> str:
    _refuse_drift(trace)
    if trace.own_loop:
        raise NotChecked(NO_RECIPE)
    try:
        recipe = trace.validated_recipe()
    except TraceError as unknown:
        raise NotChecked(str(unknown)) from None
    steps = [s for s in trace.snapshot_steps() if s < trace.steps and s % trace.strides["full"] == 0]
    if not steps:
        raise NotChecked("the file has no snapshots at steps with full-set sums")
    again = data_and_network(trace, recipe, recipe.network.dtype)
    if isinstance(again, str):
        raise NotChecked(again)
    import torch

    loaded, network = again
    x, targets = torch.as_tensor(loaded.x), torch.as_tensor(loaded.y.T).double()
    for step in steps:
        with torch.no_grad():
            parameters, buffers = parameters_and_buffers(network, trace.snapshot(step))
            g = network.forward(parameters, x, buffers).double()
        sums = {"a": (g * targets).sum(dim=(1, 2)) / len(x), "q": g.square().sum(dim=(1, 2)) / len(x)}
        scale = {"a": sums["q"].sqrt(), "q": sums["q"]}
        if not trace.facts.equilibrium:  # the loss, which an error of g changes by its slope
            slopes = recipe.loss.slope(g, targets).abs().sum(dim=(1, 2))
            sums, scale = {"loss": recipe.loss.value(g, targets)}, {"loss": slopes * g.abs().amax(dim=(1, 2))}
        for name, expected in sums.items():
            row = step // trace.strides["full"]
            recorded = trace.rows(name, slice(row, row + 1))[0]
            near = np.abs(recorded - expected.numpy()) <= _OUTPUTS[recipe.network.dtype] * scale[name].numpy()
            near |= ~np.isfinite(recorded) & ~np.isfinite(expected.numpy())
            if not near.all():
                member = int(np.argmin(near))
                raise Wrong(
                    f"{name} at step {step}, member {member}: the weights give {expected[member]:.9g} on the data, "
                    f"the file says {recorded[member]:.9g}"
                )
    what = "a and q" if trace.facts.equilibrium else "the loss"
    return f"{what} recomputed from the weights and the data at {len(steps)} steps"


CHECKS: dict[str, Callable[[Trace], str]] = {
    **STRUCTURE,
    "derived quantities": _derived,
    "audit of the steps": _audit,
    "weights and rho_k": _norms,
    "weights, a and q": _outputs,
}
