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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rhotrace.config.recipe import Recipe
from rhotrace.config.trusted_code import stored_code
from rhotrace.errors import RecipeError
from rhotrace.models.datasets import Dataset
from rhotrace.models.device import find_device
from rhotrace.models.network import Network
from rhotrace.models.networks.mlp import MLP, Backpropagation
from rhotrace.models.schedules import Constant
from rhotrace.models.side_by_side import copied
from rhotrace.recording.first_layer import FIRST_LAYER
from rhotrace.recording.moment import Evaluation, Moment
from rhotrace.recording.quantity import CADENCES, QUANTITIES, Quantity
from rhotrace.runfile import provenance
from rhotrace.runfile.reader import open_trace
from rhotrace.runfile.run_lock import RunLock
from rhotrace.runfile.sealing import seal
from rhotrace.training import first_layer
from rhotrace.training.batches import Batches
from rhotrace.training.copy_out import Filled, one_behind
from rhotrace.training.distributed import Team
from rhotrace.training.memory import keep_freed_memory
from rhotrace.training.plan import initial_buffers, initial_parameters, plan_layout, refuse_asked, sample_lists
from rhotrace.training.recorder import Block as Rows
from rhotrace.training.recorder import Recorder
from rhotrace.training.resume import Continuation, open_run, refuse_to_overwrite
from rhotrace.training.stop_signal import StopRequest

if TYPE_CHECKING:
    import torch

    from rhotrace.models.optimizers import State

BLOCK_SECONDS = 1.0
SMALL_PASS = 2e7  # multiplications in a forward pass over the training set; see ``_threads``


@dataclass(frozen=True)
class Progress:
    """What ``watch`` receives after each block of steps.

    Attributes:
        first: first step of the block.
        last: number of steps done; one past the last step of the block.
        steps: number of steps of the recipe.
        seconds: since this session began training.
        block: rows of every quantity in the block, (rows, M, ...).
    """

    first: int
    last: int
    steps: int
    seconds: float
    block: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Outcome:
    """How training ended.

    Attributes:
        ended: ``finished``, ``interrupted`` by the user, or ``diverged`` in every member.
        steps: number of committed steps.
        seconds: training time of all sessions.
        share_full: share of this session's time spent on full-set passes that training itself did not need.
    """

    ended: str
    steps: int
    seconds: float
    share_full: float


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
    write_behind: bool | None = None,
) -> Outcome:
    """Trains a recipe's networks and records every step in a run file; resumes a run that was interrupted.

    A run that was interrupted and resumed records the same bits as one that was not.

    Args:
        recipe: what to train.
        path: of the run file.
        device: ``auto``, ``cpu`` or ``cuda``.
        force: replace an existing run.
        extend_run: extend a run of the same recipe with fewer steps, finished or not, to this recipe's steps.
        despite_changes: resume under another version, device, or number of threads or processes; the file records it.
        recipe_file: the file that the recipe was read from, for the provenance.
        begin: called once with the number of the first step, after all checks and before that step.
        watch: called after each block of steps: about once a second, for large networks once in five.
        team: of processes that train together, this one among them; only process 0 calls ``begin`` and ``watch``.
        write_behind: write a block when the next one is full; see ``copy_out``. By default on a GPU. It changes no bit.

    Raises:
        TraceError: a finished run exists and ``force`` is not set, the conditions changed and ``despite_changes`` is not
            set, another process is training into the file, or the file is damaged or cannot be written.
        RecipeError: the recipe does not fit the data or the team, or an interrupted run of another recipe exists.
        ProcessError: another process of the team was lost, or was started with something else to train.
        DataError: the data is missing or does not contain what the recipe asks for.
        DeviceError: the device is not available.
    """
    if team and team.rank:
        return _assist(recipe, device, team)
    how = Continuation(force=force, extend_run=extend_run, despite_changes=despite_changes)
    refuse_to_overwrite(path, recipe.steps, how)
    run = _prepare(recipe, find_device(device), team, None if force else path)
    with RunLock(path), _threads(run), StopRequest() as stop:
        refuse_to_overwrite(path, recipe.steps, how)  # again: another process may have finished meanwhile
        run.begin(path, how, recipe_file)
        try:
            if team:
                team.start(run.state, recipe.steps, stop, recipe.steps if run.diverged else run.writer.committed)
            begin(run.writer.committed)
            before = run.writer.seconds
            ended = run.go(watch, team or stop, write_behind)
            outcome = run.outcome(ended, before)
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
    """Uses one thread for small networks: more would not help, and would slow training down on a busy machine.

    The run's size alone decides, so that the same recipe produces the same bits; ``OMP_NUM_THREADS`` overrides it.
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


def _prepare(recipe: Recipe, device: str, team: Team | None, path: Path | None = None) -> _Run:
    keep_freed_memory()
    with team.one_first() if team else contextlib.nullcontext():
        dataset = recipe.load_data()
    samples, outputs = dataset.y.shape
    batches, loss = recipe.optimizer.minibatches, recipe.loss
    if batches is not None and batches.size > samples:
        raise RecipeError(f"optimizer.batch_size: got {batches.size}, expected at most the {samples} training samples")
    if why := loss.refuses(dataset.y):
        raise RecipeError(f"loss.kind: got {loss.kind} and {why}")
    network = recipe.network.build(dataset.shape, outputs)
    if path and path.exists():
        with open_trace(path) as trace:
            network = network.recorded_as(trace.layout.blocks)
    if why := recipe.optimizer.refuses(network.parameters):
        raise RecipeError(f"optimizer.kind: got {recipe.optimizer.kind}, which cannot train this network: {why}")
    if team:
        team.refuse(batches.size if batches else None, samples)
        team.take_device(device)
        same = {"recipe": recipe.digest, "data": dataset.digest, "device": device, "versions": provenance.versions()}
        team.agree({**same, "products": network.products(recipe.network.dtype, device)})
        network = team.shared(network, samples)
    return _Run(recipe, dataset, network, device, team)


class _Run:
    """The tensors of one training run on its device."""

    def __init__(self, recipe: Recipe, dataset: Dataset, network: Network, device: str, team: Team | None) -> None:
        import torch

        self.recipe, self.dataset, self.network, self.device = recipe, dataset, network, device
        self.loss, self.optimizer, self.minibatches = recipe.loss, recipe.trained_by, recipe.optimizer.minibatches
        dtype = getattr(torch, recipe.network.dtype)

        def send(values: NDArray[Any]) -> torch.Tensor:
            return torch.as_tensor(values, device=device, dtype=dtype)

        mine = team.shard(len(dataset.x)) if team else slice(None)
        self.processes = team.size if team else 1
        self.x, self.y, self.x_test, y_test = map(
            send, (dataset.x[mine], dataset.y[mine], dataset.x_test, dataset.y_test)
        )
        self.targets, self.targets_test = send(dataset.y).T.double(), y_test.T.double()  # (C, N)
        self.batches = Batches(recipe, dataset, self.x, self.y, self.targets)
        # What may differ between members, as the optimizer takes it: (M, 1, 1).
        self._options = {
            name: send(np.array(values)).view(-1, 1, 1) for name, values in recipe.switched_on(recipe.optimizer).items()
        }
        self._rates = torch.as_tensor(np.array(recipe.lr), device=device).view(-1, 1, 1)  # float64
        start = copied([send(W) for W in initial_parameters(recipe, network)])
        self.state: State = self.optimizer.begin(start, self._options)
        if network.buffers:
            self.state["buffers"] = tuple(send(values) for values in initial_buffers(recipe, network))
        self._gradients = network.repeated_gradients(self.state["weights"], self.loss)
        self.first_layer = self._followed(recipe.stride(CADENCES[FIRST_LAYER]))
        self.lists = sample_lists(dataset.chosen)
        self.layout = plan_layout(recipe, network, dataset.y.shape[1], self.state, self.lists)
        if team:
            team.refuse_needs(self._quantities())
        refuse_asked(recipe, network, dataset, self.state)
        # A resumed run has its own weights by the first step, and its start from here.
        kept = any("start" in quantity.needs for quantity in self._quantities())
        self.start = tuple(W.clone() for W in self.state["weights"]) if kept else ()
        self.seconds_full = 0.0

    def _followed(self, every: int | None) -> first_layer.FirstLayer | None:
        """What follows the first layer from step to step, where the recipe asks for it.

        Raises:
            RecipeError: it cannot be followed in this run.
        """
        if every is None:
            return None
        why = first_layer.refuses(self.recipe, self.network)
        if why or not isinstance(self.network, MLP) or not isinstance(self._gradients, Backpropagation):
            raise RecipeError(f"record.every.{FIRST_LAYER}: got {every}, but {why}; remove it")
        followed = first_layer.FirstLayer(self.network, self._gradients, self.x, every)
        followed.begin(self.state)
        return followed

    def begin(self, path: Path, how: Continuation, recipe_file: Path | None) -> None:
        """Creates the run file, or resumes an existing run from its saved state."""
        import torch

        attributes = {**self.attributes(), **provenance.collect(recipe_file)}
        begun = open_run(path, self.recipe, self.layout, attributes, {**self.recipe.per_member, **self.lists}, how)
        self.writer, self.diverged = begun.writer, begun.diverged
        self.layout = begun.writer.layout  # of an existing file: its quantities, and the snapshots of both plans
        for key, tensors in begun.state.items():
            for tensor, values in zip(self.state[key], tensors, strict=True):
                tensor.copy_(torch.as_tensor(values))

    def attributes(self) -> dict[str, str | int | float]:
        """Root attributes of the run file, without the provenance."""
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
            **({} if self.device == "cpu" else {"tf32": "off"}),
            "threads": torch.get_num_threads(),
            "products": self.network.products(recipe.network.dtype, self.device),
            "processes": self.processes,
            **stored_code(recipe.model_dump()),
            **({"network_says": "; ".join(self.network.says)} if self.network.says else {}),
            **({"network_departs": self.network.departs} if self.network.departs else {}),
        }

    def go(self, watch: Callable[[Progress], None], stop: StopRequest | Team, write_behind: bool | None) -> str:
        """Trains to the end, to an interruption, or until no member is finite; returns which."""
        import torch

        writer = self.writer
        if self.diverged:  # the last process was killed between its last commit and the sealing
            return "diverged"
        recorder = Recorder(self._quantities(), self.layout, self.device)
        recorder.clear(writer.committed)
        began = time.perf_counter()
        with torch.no_grad():
            blocks = self._filled(recorder, stop)
            if write_behind or (write_behind is None and self.device != "cpu"):
                blocks = one_behind(blocks)
            for filled in blocks:
                block = recorder.block(filled)
                kept = _until_diverged(block, filled.first, filled.done)
                self._flush(filled, kept, block)
                watch(Progress(filled.first, kept, self.recipe.steps, time.perf_counter() - began, block))
                if kept < filled.done or not np.isfinite(block["log_rho"][-1]).any():
                    return "diverged"
        return "finished" if writer.committed == self.recipe.steps else "interrupted"

    def outcome(self, ended: str, before: float) -> Outcome:
        """How training ended, if ``before`` seconds of it were spent before this session."""
        seconds = self.writer.seconds
        return Outcome(ended, self.writer.committed, seconds, self.seconds_full / max(seconds - before, 1e-9))

    def _filled(self, recorder: Recorder, stop: StopRequest | Team) -> Iterator[Filled]:
        """The blocks of steps on the device, to the end or to an interruption."""
        for done in self._steps(recorder, stop):
            yield recorder.filled(self.state)
            recorder.clear(done)
            if stop.requested:
                return

    def _quantities(self) -> tuple[Quantity, ...]:
        return tuple(QUANTITIES[described.name] for described in self.layout.quantities)

    def _steps(self, recorder: Recorder, stop: StopRequest | Team) -> Iterator[int]:
        """The loop. Yields the number of steps done each time a block is full."""
        optimizer, state, writer = self.optimizer, self.state, self.writer
        planned = set(self.layout.snapshots)
        batches = self.batches.since(writer.committed)
        if writer.committed in planned:
            writer.snapshot(writer.committed, self._blocks())
        block_ends = time.monotonic() + BLOCK_SECONDS
        for step in range(writer.committed, self.recipe.steps):
            x, y, targets, index = next(batches)
            if self.first_layer:
                self.first_layer.refresh(step, state)
            outputs, gradients, buffers = self._gradients(x, y, self._buffers)
            batch = Evaluation(outputs, targets, self.loss, partial(self._features, x))
            options = self._options_at(step)
            recorder.record(step, self._moment(gradients, batch, options))
            optimizer.step(state, gradients, **options)
            if self.first_layer:
                self.first_layer.follow(state, index, **options)
            if buffers:
                state["buffers"] = buffers
            if step + 1 in planned:
                writer.snapshot(step + 1, self._blocks())
            full_block = recorder.count() == recorder.size or time.monotonic() > block_ends
            if full_block or stop.requested or step + 1 == self.recipe.steps:
                written = time.monotonic()
                yield step + 1
                now = time.monotonic()
                block_ends = now + BLOCK_SECONDS * spacing(now - written)

    def follow(self, first: int, team: Team) -> None:
        """As ``go``, in a process that records nothing."""
        import torch

        with torch.no_grad():
            for step in range(first, self.recipe.steps):
                gradients = self._gradients(self.x, self.y, ()).gradients
                if team.requested:
                    break
                self.optimizer.step(self.state, gradients, **self._options_at(step))

    def _options_at(self, step: int) -> dict[str, torch.Tensor]:
        """The optimizer's options of each member at a step, (M, 1, 1): the learning rate follows its schedule."""
        schedule, options = self.optimizer.schedule, self._options
        if isinstance(schedule, Constant):
            return options
        return {**options, "lr": (self._rates * schedule.at(step)).to(options["lr"].dtype)}

    @property
    def _buffers(self) -> tuple[torch.Tensor, ...]:
        return self.state.get("buffers", ())

    def _blocks(self) -> list[NDArray[Any]]:
        """Parameters and buffers in the order of the network's blocks."""
        parameters, buffers = iter(_numpy(self.state["weights"])), iter(_numpy(self._buffers))
        return [next(buffers if block.role == "buffer" else parameters) for block in self.network.blocks]

    def _moment(
        self, gradients: tuple[torch.Tensor, ...], batch: Evaluation, options: dict[str, torch.Tensor]
    ) -> Moment:
        # The outputs on a full batch are those on the training set, unless modes ``train`` and ``eval`` differ.
        same = self.minibatches is None and not self.network.buffers
        return Moment(
            network=self.network,
            state=self.state,
            all_gradients=gradients,
            batch=batch,
            evaluate_full=(lambda: batch) if same else self._evaluate_full,
            evaluate_test=self._evaluate_test,
            evaluate_after=partial(self._evaluate_after, gradients, options),
            hessian_product=self._hessian_product,
            lr=options["lr"],
            x=self.x,
            y=self.y,
            loss=self.loss,
            start=self.start,
        )

    def _evaluate_full(self) -> Evaluation:
        began = time.perf_counter()
        outputs = self.first_layer.outputs(self.state) if self.first_layer else None
        full = self._evaluate(self.x, self.targets, outputs)
        if self.device == "cpu":  # on a GPU the call returns before the work is done
            self.seconds_full += time.perf_counter() - began
        return full

    def _evaluate_test(self) -> Evaluation:
        return self._evaluate(self.x_test, self.targets_test)

    def _evaluate_after(self, gradients: tuple[torch.Tensor, ...], options: dict[str, torch.Tensor]) -> Evaluation:
        """Takes the step on copies, so that the run itself does not notice."""
        ahead = {key: tuple(tensor.clone() for tensor in tensors) for key, tensors in self.state.items()}
        self.optimizer.step(ahead, tuple(G.clone() for G in gradients), **options)
        weights = ahead["weights"]
        outputs = self.network.forward(weights, self.x, self._buffers)
        return Evaluation(outputs, self.targets, self.loss, partial(self._features, self.x, weights))

    def _evaluate(self, x: torch.Tensor, targets: torch.Tensor, outputs: torch.Tensor | None = None) -> Evaluation:
        """On any samples, from their outputs where these are known."""
        if outputs is None:
            outputs = self.network.forward(self.state["weights"], x, self._buffers)
        return Evaluation(outputs, targets, self.loss, partial(self._features, x))

    def _features(self, x: torch.Tensor, weights: tuple[torch.Tensor, ...] | None = None) -> Mapping[str, torch.Tensor]:
        """At the run's weights, unless others are given."""
        return self.network.evaluate(weights or self.state["weights"], x, self._buffers).features

    def _hessian_product(self, vectors: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return self.network.hessian_product(self.state["weights"], self.x, self.y, self.loss, vectors, self._buffers)

    def _flush(self, filled: Filled, done: int, block: Rows) -> None:
        writer, layout = self.writer, self.layout
        kept = {}
        for quantity in layout.quantities:
            rows = layout.span(quantity.cadence, filled.first, done)
            kept[quantity.name] = block[quantity.name][: rows.stop - rows.start]
        writer.append(filled.first, done, kept)
        writer.commit(done, {key: _numpy(tensors) for key, tensors in filled.state.items()})


def spacing(seconds: float) -> float:
    """How many times ``BLOCK_SECONDS`` the next block lasts if the last took some seconds to write.

    Writing takes about 2 % of the time, also for networks whose state takes long to write; a block lasts at most five times
    as long as usual.
    """
    return min(max(50 * seconds, 1.0), 5.0)


def _until_diverged(block: Rows, first: int, done: int) -> int:
    """``done``, or one past the first step at which no member is finite, as the end of a block depends on the clock."""
    lost = np.flatnonzero(~np.isfinite(block["log_rho"]).any(axis=1))
    return first + int(lost[0]) + 1 if len(lost) else done


def _numpy(tensors: tuple[torch.Tensor, ...]) -> list[NDArray[Any]]:
    return [t.detach().cpu().numpy() for t in tensors]
