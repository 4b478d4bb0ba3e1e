"""What ``train`` says before and after the training."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from rhotrace.display.as_json import plain
from rhotrace.display.blocks import Block, Data, Paragraph
from rhotrace.display.numbers import count
from rhotrace.runfile.layout import snapshot_steps

if TYPE_CHECKING:
    from pathlib import Path

    from rhotrace.analysis.transient.live_follower import TransientWatch
    from rhotrace.config.recipe import Recipe
    from rhotrace.training.train import Outcome

_AFTER = 50  # evaluations that a prediction needs after its snapshot
_LONG = 1000  # steps; shorter runs are trials
_NO_LATE_SNAPSHOT = (
    "no snapshot is planned in the last quarter of the run, so `rhotrace compare --predict` may have none in its window; "
    "a larger record.snapshots gives some"
)


def training_start(recipe: Recipe, path: Path, first: int, says: str = "") -> list[Block]:
    """What is about to be trained, from which step, and where it goes.

    Args:
        recipe: of the run.
        path: of the run file.
        first: step.
        says: what was found out about a network of the user's own.
    """
    depth = getattr(recipe.network, "depth", None)  # not every network is a chain of layers
    what = f"depth {depth}" if depth else f"kind {recipe.network.kind}"
    networks = f"{count(len(recipe.seeds), 'network')} of {what}"
    begun = f"training {networks} for" if first == 0 else f"resuming {networks} at step {first}, to"
    return [
        Paragraph(
            f"{begun} {recipe.steps} steps ({recipe.optimizer.kind}, {recipe.data.dataset}) into {path}, "
            f"{path.stat().st_size / 1e6:.0f} MB reserved"
        ),
        *([Paragraph(f"the network: {says}")] if says else []),
        *([Paragraph(_NO_LATE_SNAPSHOT)] if _without_late_snapshot(recipe) else []),
    ]


def _without_late_snapshot(recipe: Recipe) -> bool:
    """Whether a run under minibatches has no snapshot from which the fluctuation of its last quarter could be predicted."""
    if not recipe.optimizer.minibatches or not recipe.loss.equilibrium or recipe.steps < _LONG:
        return False
    first, last = 0.75 * recipe.steps, recipe.steps - _AFTER
    return not any(first <= step <= last for step in snapshot_steps(recipe.steps, recipe.record.snapshots))


def training_end(outcome: Outcome, path: Path, transient: TransientWatch) -> list[Block]:
    """How the training ended, what it cost, and what to do next.

    Args:
        outcome: of the training.
        path: of the run file.
        transient: T of the members.
    """
    took = f"{outcome.steps} steps in {outcome.seconds:.1f} s"
    if outcome.share_full:
        took += f", {100 * outcome.share_full:.0f} % of it for full-set sums (a larger record.full_every takes less)"
    T = transient.words()
    words = {
        "finished": f"done: {took}; {T}",
        "interrupted": f"interrupted: {took} are recorded, and the same command resumes the run; {T}",
        "diverged": f"diverged: rho is not finite in any member after {took}; try a smaller learning rate or initial scale",
    }[outcome.ended]
    size = f"{path}, {path.stat().st_size / 1e6:.1f} MB"
    command = (
        f"analyze {shlex.quote(str(path))} --fit-transient"
        if not transient.inapplicable
        else f"info {shlex.quote(str(path))}"
    )
    after = "" if outcome.ended == "diverged" else f"; next: rhotrace {command}"
    data = {"path": str(path), **plain(outcome), "T": transient.T}
    return [Data(data), Paragraph(words), Paragraph(size + after)]
