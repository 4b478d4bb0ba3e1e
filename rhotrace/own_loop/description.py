"""What the file of a recording says of the training: its layout, and a description in the sections of a recipe."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rhotrace.config import strict_yaml
from rhotrace.config.recipe import digest_of
from rhotrace.models.losses import Loss
from rhotrace.models.module_parts import ModulePart
from rhotrace.models.network import Block
from rhotrace.own_loop import weight_quantities
from rhotrace.own_loop.homogeneity import Homogeneity, processes
from rhotrace.own_loop.measures import DERIVED
from rhotrace.own_loop.optimizers import Rule
from rhotrace.own_loop.own_quantity import BATCH_LOSS, LR_LAYER, LR_STEP, UPDATE_NORM
from rhotrace.own_loop.rows import follows
from rhotrace.own_loop.settings import Settings
from rhotrace.recording.quantities import QUANTITIES
from rhotrace.recording.quantity import Description
from rhotrace.runfile import provenance
from rhotrace.runfile.layout import Facts, Layout
from rhotrace.runfile.writer import AttributeValue

if TYPE_CHECKING:
    import torch

_SPECIAL = {each.name: each for each in (UPDATE_NORM, LR_STEP, LR_LAYER, BATCH_LOSS)}


@dataclass(frozen=True)
class Training:
    """What is known of a training once its first step is done.

    Attributes:
        model: a plain module.
        blocks: of it, without their degrees.
        homogeneity: their degrees.
        rule: of the optimizer.
        settings: of the recording.
        measured: names of the measured quantities other than the user's.
        batch: samples of the first step's batch; None where no outputs were given.
        outputs: C; 0 where it is not known.
        output_dtype: of the outputs in the loop; empty where it is not known.
        compiled: the module was given compiled.
    """

    model: torch.nn.Module
    blocks: tuple[ModulePart, ...]
    homogeneity: Homogeneity
    rule: Rule
    settings: Settings
    measured: tuple[str, ...]
    batch: int | None
    outputs: int
    output_dtype: str
    compiled: bool

    @property
    def parameter_dtype(self) -> str:
        """Floating-point type of the weights."""
        return str(next(self.model.parameters()).dtype).removeprefix("torch.")

    @property
    def dtype(self) -> str:
        """Floating-point type of the weights in the file, which has no 16-bit one."""
        return "float64" if self.parameter_dtype == "float64" else "float32"

    @property
    def law(self) -> tuple[str | None, str]:
        """Name of the exact law of the steps, and why there is none."""
        sums = "batch_a" in self.measured or "batch_c" in self.measured
        if self.rule.law and (others := processes()) > 1:
            return None, f"the outputs of each step are those of one of {others} processes"
        if self.rule.law and not sums:
            return None, "the outputs of each step's batch were not given to trace.step(outputs, targets)"
        if self.rule.law and "grad_norm" not in self.measured:
            return None, "the gradients were not recorded"
        if self.rule.law and self.parameter_dtype not in ("float32", "float64"):
            return None, f"the weights are {self.parameter_dtype}"
        return self.rule.law, self.rule.why_not


def layout_of(training: Training) -> Layout:
    """What the file holds; its number of steps and its snapshots are set by ``growing_file``."""
    quantities = tuple(_described(training))
    loss = training.settings.loss
    law, _ = training.law
    return Layout(
        steps=1,
        members=1,
        blocks=described_blocks(training.blocks, training.homogeneity),
        dtype=training.dtype,
        strides=training.settings.strides,
        snapshots=[],
        quantities=quantities,
        axes=_axes(training, quantities),
        state={},
        per_member={name: name.replace("_", " ") for name in per_member(training) if "seed" not in name},
        facts=Facts(
            loss=loss.kind if loss else "not stated",
            equilibrium=bool(loss and loss.equilibrium),
            optimizer=training.rule.name,
            law=law,
            minibatches=not training.settings.full_batch,
        ),
    )


def described_blocks(blocks: Sequence[ModulePart], found: Homogeneity) -> tuple[Block, ...]:
    """The blocks with their measured degrees."""
    degrees = {name: measured.degree for name, measured in found.degrees.items()}
    return tuple(replace(each.block, degree=degrees.get(each.block.name)) for each in blocks)


def _described(training: Training) -> list[Description]:
    names = set(training.measured)
    names |= {name for name in DERIVED if follows(name, names)}
    names |= {quantity.name for quantity in weight_quantities.quantities(training.settings.strides)}
    loss = training.settings.loss or Loss(kind="not stated")
    found = [quantity.describe(loss) for name, quantity in QUANTITIES.items() if name in names and name != "lr_step"]
    found += [special for name, special in _SPECIAL.items() if name in names]
    return [*found, *(one.describe() for one in training.settings.own)]


def _axes(training: Training, quantities: Sequence[Description]) -> dict[str, tuple[float, ...]]:
    known = {
        axis.name: axis.values
        for quantity in QUANTITIES.values()
        for axis in quantity.own_axes
        if not callable(axis.values)
    }
    layers = [each.block for each in training.blocks if each.block.role == "weight"]
    known |= weight_quantities.axes(training.settings.strides, layers)
    used = {axis for quantity in quantities for axis in quantity.axes}
    found = {name: tuple(map(float, values)) for name, values in known.items() if name in used}
    return found | {one.axis: tuple(map(float, one.values)) for one in training.settings.own if one.axis}


def per_member(training: Training) -> dict[str, NDArray[Any]]:
    """The arrays of one value for each member: seeds, learning rate, and the options that a law reads."""
    found = {
        "seed": np.array([training.settings.seed], np.int64),
        "batch_seed": np.array([training.settings.seed], np.int64),
    }
    found["lr"] = np.array([training.rule.lr[0] if training.rule.lr else 0.0])
    for name in ("weight_decay", "momentum"):
        value = training.rule.options.get(name)
        if isinstance(value, float) and value:
            found[name] = np.array([value])
    return found


def attributes_of(training: Training, device: torch.device) -> dict[str, AttributeValue]:
    """Root attributes: the description, the facts that were measured, and where the run comes from."""
    import torch

    content = _content(training)
    data, test = training.settings.data, training.settings.test
    script = Path(sys.argv[0]) if sys.argv and sys.argv[0] and Path(sys.argv[0]).is_file() else None
    size = data.size if data else training.batch if training.settings.full_batch else None
    return {
        "recipe": strict_yaml.write(content),
        "recipe_json": json.dumps(content),
        "recipe_digest": digest_of(content),
        "own_loop": json.dumps(_facts(training)),
        "data_digest": content["data"]["digest"],
        "data_classes": "",
        "samples": size or 0,
        "samples_test": (test.size or 0) if test else 0,
        "outputs": training.outputs,
        "data_md5": "",
        "device": "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "processes": processes(),
        **provenance.collect(script),
    }


def _content(training: Training) -> dict[str, Any]:
    """The description, in the sections of a recipe."""
    data, rule = training.settings.data, training.rule
    digest = data.digest if data else hashlib.sha256(b"not given").hexdigest()
    return {
        "claim": training.settings.about,
        "data": {
            "dataset": "own data",
            "digest": digest,
            "train": data.size if data else None,
            "test": training.settings.test.size if training.settings.test else None,
            "label_noise": 0.0,
            "seed": 0,
        },
        "network": {
            "kind": type(training.model).__name__,
            "dtype": training.parameter_dtype,
            "parameters": sum(p.numel() for p in training.model.parameters()),
        },
        "loss": {"kind": training.settings.loss.kind if training.settings.loss else "not stated"},
        "init": {"kind": "own"},
        "optimizer": {
            "kind": rule.name,
            "lr": rule.lr[0] if rule.lr else 0.0,
            **rule.options,
            "batch_size": None if training.settings.full_batch else training.batch,
        },
        "members": {"seeds": [training.settings.seed], "batch_seeds": None},
        "steps": None,
        "record": {
            "full_every": training.settings.strides["full"],
            "test_every": training.settings.strides["test"],
            "snapshots": len(training.settings.snapshots),
        },
    }


def _facts(training: Training) -> dict[str, Any]:
    """What was found out about the training, for the commands and for the reader."""
    degrees = training.homogeneity.degrees
    _, why_not = training.law
    return {
        "model": type(training.model).__name__,
        "blocks": {
            each.block.name: {
                "parameters": list(each.names),
                "kind": each.kind,
                **(asdict(degrees[each.block.name]) if each.block.name in degrees else {}),
            }
            for each in training.blocks
        },
        "homogeneity": training.homogeneity.why_not or f"measured in {training.homogeneity.dtype}",
        "measured": not training.homogeneity.why_not,
        "no_law": why_not,
        "not_descent": training.rule.why_not,
        "learning_rates": sorted(set(training.rule.lr)),
        "parameter_dtype": training.parameter_dtype,
        "output_dtype": training.output_dtype,
        "compiled": training.compiled,
    }
