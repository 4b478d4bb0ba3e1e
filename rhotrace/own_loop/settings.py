"""The arguments of ``rhotrace.record``, checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from rhotrace.errors import RhoTraceError
from rhotrace.models.losses import Loss
from rhotrace.own_loop.own_quantity import Own, refuse_odd
from rhotrace.own_loop.samples import Samples
from rhotrace.recording.quantities import QUANTITIES

_OTHERS = {"update_norm", "lr_layer", "batch_loss", "outputs", "targets", "quantile", "layer", "member", "step"}
_OF_MEMBERS = {
    "seed",
    "batch_seed",
    "lr",
    "weight_decay",
    "momentum",
    "weights",
    "checkpoint",
    "full_step",
    "test_step",
}


@dataclass(frozen=True)
class Settings:
    """What a recording records, and how often.

    Attributes:
        data: the training set; None where it is not given.
        test: the test set; likewise.
        loss: that the loop minimises; None where its sums are not wanted.
        full_batch: every step sees the whole training set.
        strides: steps between evaluations, by cadence.
        gradients: record the gradient norms.
        updates: record the norms of the changes of the weights.
        snapshots: steps at which the weights are saved, ascending.
        own: quantities of the user's own.
        room: number of steps, where it is known.
        seed: of the training.
        about: what the user says of it.
    """

    data: Samples | None
    test: Samples | None
    loss: Loss | None
    full_batch: bool
    strides: Mapping[str, int]
    gradients: bool
    updates: bool
    snapshots: Sequence[int]
    own: tuple[Own, ...]
    room: int | None
    seed: int
    about: str

    def __post_init__(self) -> None:
        for name, value in {**self.strides, "steps": self.room}.items():
            if value is not None and value < 1:
                raise _fault(f"{name}_every" if name in ("full", "test") else name, f"got {value}, expected 1 or more")
        if self.full_batch and self.strides["full"] != 1:
            raise _fault(
                "full_every", f"got {self.strides['full']} with full_batch, whose sums cost nothing; leave it out"
            )
        steps = self.snapshots
        if any(b <= a for a, b in pairwise(steps)) or (len(steps) and steps[0] < 0):
            raise _fault("snapshots", "got steps that do not ascend from 0 on, expected such as [0, 100, 1000]")
        if not 0 <= self.seed < 2**63:
            raise _fault("seed", f"got {self.seed}, expected 0 to 2^63 - 1")
        refuse_odd(self.own, {*QUANTITIES, *_OTHERS, *_OF_MEMBERS})

    @property
    def planned(self) -> Collection[int]:
        """The steps of the snapshots, to look a step up in."""
        return self.snapshots if isinstance(self.snapshots, range) else frozenset(self.snapshots)


def resumed_step(resume: int | Mapping[str, Any] | None) -> int | None:
    """The step of the argument ``resume``: a number, or what ``Recording.state_dict`` returned.

    Raises:
        RhoTraceError: it is neither.
    """
    step = resume.get("steps") if isinstance(resume, Mapping) else resume
    if (step is None and resume is None) or (isinstance(step, int) and step >= 0):
        return step
    raise _fault(
        "resume", f"got {resume!r}, expected the step of a checkpoint, or what trace.state_dict() returned for it"
    )


def _fault(argument: str, message: str) -> RhoTraceError:
    return RhoTraceError(f"rhotrace.record: {argument}: {message}")
