"""Run files of format 2, which do not describe themselves: the tables of the version that wrote them.

Format 2 knew one network (a chain of matrices ``W1`` ... ``WL``), one loss (the square loss) and three optimizers.
The description that a file of format 3 contains is supplied here. A live file of format 2 stays one when resumed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

_CADENCES = {"free": "step", "forward": "full", "test": "test"}
_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95)
_MEMBER, _LAYER = ("member",), ("member", "layer")

# Name, symbol, axes, units, equation, cadence and description, in the order of the checksums.
# fmt: off
_QUANTITIES = (
    ("rho_k", "rho_k", _LAYER, "1", "eq3", "step", "Frobenius norm of each layer's weights"),
    ("grad_norm", "||G_k||", _LAYER, "1", "eq1", "step", "Frobenius norm of each layer's batch gradient"),
    ("v_norm", "||v_k||", _LAYER, "1", "weightnorm", "step", "norm of v_k (weight normalisation only)"),
    ("batch_a", "a_b", _MEMBER, "output", "eq3", "step", "mean(y g) over the step's batch"),
    ("batch_q", "q_b", _MEMBER, "output^2", "eq3", "step", "mean(g^2) over the step's batch"),
    ("log_rho", "log rho", _MEMBER, "1", "eq5", "step", "logarithm of the product of the layer norms"),
    ("a", "a", _MEMBER, "output", "eq3", "full", "mean(y g) = rho A over the training set"),
    ("q", "q", _MEMBER, "output^2", "eq3", "full", "mean(g^2) = rho^2 B over the training set"),
    ("log_rho_eq", "log rho_eq", _MEMBER, "1", "eq6", "full", "log rho + log(a/q); NaN where a <= 0"),
    ("rho_eq_over_rho", "rho_eq/rho", _MEMBER, "1", "eq6", "full",
     "a/q: 1 at equilibrium, large in the transient, negative where a < 0"),
    ("loss", "L", _MEMBER, "output^2", "eq1", "full", "mean((g - y)^2) over the training set"),
    ("error", "err", _MEMBER, "1", None, "full", "fraction of the training set misclassified"),
    ("margin_min", "min y g", _MEMBER, "output", None, "full", "smallest margin: y g, or g_true - max g_other"),
    ("margin_quantile", "y g", ("member", "quantile"), "output", None, "full", "order statistics of the margins"),
    ("test_loss", "L_test", _MEMBER, "output^2", None, "test", "mean((g - y)^2) over the test set"),
    ("test_error", "err_test", _MEMBER, "1", None, "test", "fraction of the test set misclassified"),
)
# fmt: on
_FIELDS = ("name", "symbol", "axes", "units", "equation", "cadence", "says")
_LAWS = {"gd": "descent", "sgd": "descent", "weight-norm": "weight-norm"}


def content(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The content of the attribute ``layout`` that a file of format 3 would have.

    Args:
        attributes: of the root group.

    Raises:
        KeyError: an attribute is missing.
        ValueError: one is not JSON, or not that of a run of format 2.
    """
    strides, snapshots, shapes, state = (
        json.loads(attributes[name]) for name in ("strides", "planned_snapshots", "layer_shapes", "state_shapes")
    )
    if set(strides) != set(_CADENCES):
        raise ValueError(f"attribute strides: got {str(attributes['strides'])[:60]!r}, which no run has")
    if any(len(tensors) != len(shapes) for tensors in state.values()):
        raise ValueError(f"attribute state_shapes: got {str(attributes['state_shapes'])[:60]!r}, which no run has")
    if any(out != into for (out, _), (_, into) in pairwise(shapes)):
        raise ValueError(f"attribute layer_shapes: got {str(attributes['layer_shapes'])[:60]!r}, which no run has")
    try:
        recipe = json.loads(attributes["recipe_json"])
        optimizer, start = recipe["optimizer"], "scale" if recipe["init"]["kind"] == "he" else "rho_k"
        kind, minibatches = str(optimizer["kind"]), optimizer.get("batch_size") is not None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # the recipe is damaged, not the layout
        kind, minibatches, start = "weight-norm" if "v" in state else "gd", False, "rho_k"
    symbol = {"rho_k": "rho_k(0)", "scale": "He scale"}[start]
    rows = [dict(zip(_FIELDS, row, strict=True)) for row in _QUANTITIES if row[0] != "v_norm" or "v" in state]
    return {
        "steps": int(attributes["planned_steps"]),
        "blocks": [
            {"name": f"W{k}", "shape": shape, "role": "weight", "degree": 1, "start": 0.0}
            for k, shape in enumerate(shapes, 1)
        ],
        "strides": {_CADENCES[name]: stride for name, stride in strides.items()},
        "snapshots": snapshots,
        "quantities": rows,
        "axes": {"quantile": _QUANTILES},
        "state": state,
        "per_member": {"lr": "lr", f"init_{start}": symbol},
        "facts": {
            "loss": "square",
            "equilibrium": True,
            "optimizer": kind,
            "law": _LAWS.get(kind),
            "minibatches": minibatches,
        },
    }


def attributes(
    *,
    steps: int,
    dtype: str,
    strides: Mapping[str, int],
    snapshots: Sequence[int],
    shapes: Sequence[tuple[int, int]],
    state: Mapping[str, Sequence[tuple[int, ...]]],
) -> dict[str, str]:
    """The attributes of format 2 that hold a layout; the arguments are those of ``Layout``."""
    old = {new: name for name, new in _CADENCES.items()}
    return {
        "dtype": dtype,
        "strides": json.dumps({old[name]: stride for name, stride in strides.items()}),
        "planned_steps": str(steps),
        "planned_snapshots": json.dumps(list(snapshots)),
        "layer_shapes": json.dumps(shapes),
        "state_shapes": json.dumps(dict(state)),
    }


def block_dims(number: int) -> tuple[str, str]:
    """Names of the dimensions of a layer's matrix: adjacent layers share one."""
    return f"units_{number + 1}", f"units_{number}"


def block_attributes(number: int) -> dict[str, str]:
    """HDF5 attributes of a layer's snapshots."""
    return {"units": "1", "long_name": f"weights of layer {number + 1}", "symbol": f"W_{number + 1}"}
