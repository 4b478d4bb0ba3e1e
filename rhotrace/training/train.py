"""The training loop: one for every optimizer, network and device, recording every step.

Read top down: ``train`` is the experiment, ``_steps`` the loop, ``Recorder`` the only bookkeeping.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rhotrace.config.recipe import Recipe, options
from rhotrace.errors import RecipeError
from rhotrace.models.datasets import Dataset
from rhotrace.models.datasets import load as load_dataset
from rhotrace.models.device import find_device
from rhotrace.models.networks import INITS, NETWORKS, Network
from rhotrace.models.optimizers import OPTIMIZERS, Optimizer, batch_indices
from rhotrace.recording.quantities import Cost, Evaluation, Moment, traced
from rhotrace.runfile import provenance
from rhotrace.runfile.layout import Layout, snapshot_steps
from rhotrace.runfile.run_lock import RunLock
from rhotrace.runfile.sealing import seal
from rhotrace.training.distributed import Team
from rhotrace.training.recorder import BLOCK_STEPS, Block, Recorder
from rhotrace.training.resume import Continuation, open_run, refuse_to_overwrite
from rhotrace.training.stop_signal import StopRequest

if TYPE_CHECKING:
    import torch

    from rhotrace.models.optimizers import State

BLOCK_SECONDS = 1.0
SMALL_PASS = 2e7  # multiplications in a forward pass over the training set


@dataclass(frozen=True)
class Progress:
    """What a block tells the watcher of a run: the steps done and the block's rows of every quantity."""

    first: int
    last: int
    steps: int
    seconds: float
    block: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Outcome:
    """How training ended: ``finished``, ``interrupted`` by the user, or ``diverged`` in every member."""

    ended: str
    steps: int
    seconds: float  # of all sessions
    share_full: float  # of this session's time: full-set passes that training itself did not need


def train(
    recipe: Recipe,
    path: Path,
    *,
    device: str = "auto",
    force: bool = False,
    extend_run: bool = False,
    despite_changes: bool = False,
    recipe_file: Path | None = None,
    begin: Callable[[int], None] = lambda _: None,
    watch: Callable[[Progress], None] = lambda _: None,
    team: Team | None = None,
) -> Outcome:
    """Trains a recipe's networks and records every step in a run file; goes on where an interrupted run stopped.

    The file of a run that was interrupted and continued holds the same bits as that of one that was not.

    Args:
        recipe: what to train.
        path: of the run file.
        device: ``auto``, ``cpu`` or ``cuda``.
        force: replace a run that is there already.
        extend_run: take a run of the same recipe with fewer steps, finished or not, on to this recipe's steps.
        despite_changes: go on with a run under another version, device or number of threads or processes; the file tells.
        recipe_file: where the recipe was read, for the record.
        begin: called once with the first step's number, when everything is checked and that step is next.
        watch: called after each block of steps (at least once a second where steps are quicker than that).
        team: of processes that train together, this one among them; only process 0 calls ``begin`` and ``watch``.

    Raises:
        TraceError: a finished run is there and ``force`` is not set, another process trains into the file, or
            it cannot be written, or is damaged.
        RecipeError: the batch is larger than the training set, an interrupted run of another recipe is there, or
            the run cannot be divided among the processes of a team.
        ProcessError: another process of the team was lost, or was given something else to train.
        DataError: the data is absent or does not hold what the recipe asks.
        DeviceError: the device is not there, or is not that on which the run was begun.
    """
    if team and team.rank:
        return _assist(recipe, device, team)
    how = Continuation(force=force, extend_run=extend_run, despite_changes=despite_changes)
    refuse_to_overwrite(path, recipe.steps, how)
    run = _prepare(recipe, find_device(device), team)
    with RunLock(path), _threads(run), StopRequest() as stop:
        refuse_to_overwrite(path, recipe.steps, how)  # again: another process may have finished meanwhile
        run.begin(path, how, recipe_file)
        try:
            if team:
                team.start(run.state, recipe.steps, stop, recipe.steps if run.diverged else run.writer.committed)
            begin(run.writer.committed)
            before = run.writer.seconds
            ended = run.go(watch, team or stop)
            seconds = run.writer.seconds
            outcome = Outcome(ended, run.writer.committed, seconds, run.seconds_full / max(seconds - before, 1e-9))
        finally:
            run.writer.close()
        if team:
            team.conclude(ended)
        if ended != "interrupted":
            end = {"ended": ended, "finished": provenance.now()}
            seal(path, {**end, "wall_seconds": outcome.seconds}, keep_state=ended == "finished")
    return outcome


def _assist(recipe: Recipe, device: str, team: Team) -> Outcome:
    """The part of a process that records nothing: the same steps from the same numbers."""
    run = _prepare(recipe, find_device(device), team)
    with _threads(run), StopRequest() as stop:
        first = team.start(run.state, recipe.steps, stop)
        began = time.perf_counter()
        run.follow(first, team)
        return Outcome(team.conclude(), recipe.steps, time.perf_counter() - began, 0.0)


@contextlib.contextmanager
def _threads(run: _Run) -> Iterator[None]:
    """One thread for small networks, which gain nothing from more and lose much to them on a busy machine.

    Decided by the run's size alone, so that the same recipe gives the same bits; ``OMP_NUM_THREADS`` overrules it.
    """
    import torch

    before = torch.get_num_threads()
    products = len(run.recipe.seeds) * len(run.x) * sum(o * i for o, i in run.layout.shapes)
    if products < SMALL_PASS and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _prepare(recipe: Recipe, device: str, team: Team | None) -> _Run:
    with team.one_first() if team else contextlib.nullcontext():
        dataset = load_dataset(**options(recipe.data), dtype=recipe.network.dtype)
    batch = getattr(recipe.optimizer, "batch_size", None)
    if batch is not None and batch > len(dataset.x):
        raise RecipeError(f"optimizer.batch_size: got {batch}, expected at most the {len(dataset.x)} training samples")
    shape = dataset.x.shape[1], dataset.y.shape[1]
    network = NETWORKS[recipe.network.kind](*shape, **options(recipe.network, without=("dtype",)))
    optimizer = OPTIMIZERS[recipe.optimizer.kind](**options(recipe.optimizer, without=("lr",)))
    if team:
        team.refuse(optimizer.batch_size, len(dataset.x))
        team.take_device(device)
        same = {"recipe": recipe.digest, "data": dataset.digest, "device": device, "versions": provenance.versions()}
        team.agree(same)
        network = team.shared(network, len(dataset.x))
    return _Run(recipe, dataset, network, optimizer, device, team)


def initial_weights(recipe: Recipe, network: Network) -> list[NDArray[np.float64]]:
    """The weights before the first step, one (M, out, in) array per layer, in float64."""
    each = [
        INITS[recipe.init.kind](network.shapes, seed, **how)
        for seed, how in zip(recipe.seeds, recipe.init_options, strict=True)
    ]
    return [np.stack(layer) for layer in zip(*each, strict=True)]


class _Run:
    """The tensors of one training run on its device."""

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        network: Network,
        optimizer: Optimizer,
        device: str,
        team: Team | None,
    ) -> None:
        import torch

        self.recipe, self.dataset, self.network, self.optimizer, self.device = (
            recipe,
            dataset,
            network,
            optimizer,
            device,
        )
        dtype = getattr(torch, recipe.network.dtype)

        def send(values: NDArray[Any]) -> torch.Tensor:
            return torch.as_tensor(values, device=device, dtype=dtype)

        mine = team.shard(len(dataset.x)) if team else slice(None)
        self.processes = team.size if team else 1
        self.x, self.y, self.x_test, y_test = map(
            send, (dataset.x[mine], dataset.y[mine], dataset.x_test, dataset.y_test)
        )
        self.targets, self.targets_test = send(dataset.y).T.double(), y_test.T.double()  # (C, N)
        self.lr = send(np.array(recipe.lr)).view(-1, 1, 1)
        self.state: State = optimizer.init(tuple(send(W) for W in initial_weights(recipe, network)))
        self.full_batch = optimizer.batch_size is None
        self.quantities = traced(self.state)
        record = recipe.record
        self.strides: dict[Cost, int] = {
            "free": 1,
            "forward": 1 if self.full_batch else min(record.full_every, recipe.steps),
            "test": min(record.test_every, recipe.steps),
        }
        self.layout = Layout(
            steps=recipe.steps,
            members=len(recipe.seeds),
            shapes=network.shapes,
            dtype=recipe.network.dtype,
            strides=self.strides,
            snapshots=snapshot_steps(recipe.steps, record.snapshots),
            quantities=self.quantities,
            state={key: [tuple(t.shape[1:]) for t in tensors] for key, tensors in self.state.items()},
        )
        self.seconds_full = 0.0

    def begin(self, path: Path, how: Continuation, recipe_file: Path | None) -> None:
        """Makes the run file, or takes an unfinished run's state and goes on."""
        import torch

        attributes = {**self.attributes(), **provenance.collect(recipe_file)}
        begun = open_run(path, self.recipe, self.layout, attributes, self.recipe.per_member, how)
        self.writer, self.diverged = begun.writer, begun.diverged
        self.layout = begun.writer.layout  # an extended run has the snapshots of both plans
        for key, tensors in begun.state.items():
            for tensor, values in zip(self.state[key], tensors, strict=True):
                tensor.copy_(torch.as_tensor(values))

    def attributes(self) -> dict[str, str | int | float]:
        import torch

        recipe = self.recipe
        return {
            "recipe": recipe.to_yaml(),
            "recipe_json": json.dumps(recipe.model_dump()),
            "recipe_digest": recipe.digest,
            "data_digest": self.dataset.digest,
            "data_classes": ", ".join(self.dataset.classes),
            "samples": len(self.dataset.x),
            "samples_test": len(self.dataset.x_test),
            "outputs": self.dataset.y.shape[1],
            "data_md5": ", ".join(f"{file} {md5}" for file, md5 in self.dataset.files.items()),
            "device": self.device if self.device == "cpu" else torch.cuda.get_device_name(),
            "threads": torch.get_num_threads(),
            "processes": self.processes,
        }

    def go(self, watch: Callable[[Progress], None], stop: StopRequest | Team) -> str:
        """Trains to the end, to an interruption, or until no member is finite; returns which."""
        import torch

        writer = self.writer
        if self.diverged:  # killed after the last step was committed and before the file was sealed
            return "diverged"
        recorder = Recorder(self.quantities, self.strides, self.layout, self.device)
        recorder.clear(writer.committed)
        ended, began = "finished", time.perf_counter()
        with torch.no_grad():
            for done in self._steps(recorder, stop):
                block = recorder.block()
                kept = _until_diverged(block, recorder.first, done)
                self._flush(recorder, kept, block)
                watch(Progress(recorder.first, kept, self.recipe.steps, time.perf_counter() - began, block))
                recorder.clear(done)
                if kept < done or not np.isfinite(block["log_rho"][-1]).any():
                    ended = "diverged"
                    break
                if stop.requested and done < self.recipe.steps:
                    ended = "interrupted"
                    break
        return ended

    def _steps(self, recorder: Recorder, stop: StopRequest | Team) -> Iterator[int]:
        """The loop. Yields the number of steps done each time a block is full."""
        network, optimizer, state, writer = self.network, self.optimizer, self.state, self.writer
        planned = set(self.layout.snapshots)
        batches = self._batches(writer.committed)
        if writer.committed in planned:
            writer.snapshot(writer.committed, _numpy(state["weights"]))
        block_ends = time.monotonic() + BLOCK_SECONDS
        for step in range(writer.committed, self.recipe.steps):
            x, y, targets = next(batches)
            outputs, gradients = network.gradients(state["weights"], x, y)
            batch = Evaluation(outputs, targets)
            full = batch if self.full_batch else self._evaluate_full(step)
            recorder.record(step, Moment(state, gradients, batch, full, self._evaluate_test(step)))
            optimizer.step(state, gradients, self.lr)
            if step + 1 in planned:
                writer.snapshot(step + 1, _numpy(state["weights"]))
            full_block = recorder.count() == recorder.size or time.monotonic() > block_ends
            if full_block or stop.requested or step + 1 == self.recipe.steps:
                yield step + 1
                block_ends = time.monotonic() + BLOCK_SECONDS

    def follow(self, first: int, team: Team) -> None:
        """As ``go``, in a process that records nothing."""
        import torch

        with torch.no_grad():
            for _ in range(first, self.recipe.steps):
                _, gradients = self.network.gradients(self.state["weights"], self.x, self.y)
                if team.requested:
                    break
                self.optimizer.step(self.state, gradients, self.lr)

    def _batches(self, start: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Inputs, targets, and targets as an Evaluation wants them, of each step from ``start`` on."""
        import torch

        size = self.optimizer.batch_size
        if size is None:
            while True:
                yield self.x, self.y, self.targets
        for first in range(start, self.recipe.steps, BLOCK_STEPS):
            last = min(first + BLOCK_STEPS, self.recipe.steps)
            drawn = batch_indices(
                self.recipe.batch_seeds,
                first,
                last,
                samples=len(self.x),
                batch_size=size,
                sampling=self.optimizer.sampling,
            )
            for index in torch.as_tensor(drawn, device=self.device):  # (M, batch)
                y = self.y[index]
                yield self.x[index], y, y.mT.double()

    def _evaluate_full(self, step: int) -> Evaluation | None:
        if step % self.strides["forward"]:
            return None
        began = time.perf_counter()
        full = Evaluation(self.network.forward(self.state["weights"], self.x), self.targets)
        if self.device == "cpu":  # on a GPU the call returns before the work is done
            self.seconds_full += time.perf_counter() - began
        return full

    def _evaluate_test(self, step: int) -> Evaluation | None:
        if step % self.strides["test"]:
            return None
        return Evaluation(self.network.forward(self.state["weights"], self.x_test), self.targets_test)

    def _flush(self, recorder: Recorder, done: int, block: Block) -> None:
        writer, layout = self.writer, self.layout
        counts = {cost: layout.span(cost, recorder.first, done) for cost in layout.strides}
        kept = {q.name: block[q.name][: counts[q.cost].stop - counts[q.cost].start] for q in self.quantities}
        writer.append(recorder.first, done, kept)
        writer.commit(done, {key: _numpy(tensors) for key, tensors in self.state.items()})


def _until_diverged(block: Block, first: int, done: int) -> int:
    """``done``, or one past the first step at which no member is finite: a block's end depends on the clock."""
    lost = np.flatnonzero(~np.isfinite(block["log_rho"]).any(axis=1))
    return first + int(lost[0]) + 1 if len(lost) else done


def _numpy(tensors: tuple[torch.Tensor, ...]) -> list[NDArray[Any]]:
    return [t.detach().cpu().numpy() for t in tensors]
