"""``rhotrace.record``: the norms, gradients and outputs of any PyTorch training, recorded from the user's own loop.

::

    with rhotrace.record("run.h5", model, optimizer, data=(x, y), loss="square") as trace:
        for x_batch, y_batch in loader:
            outputs = model(x_batch)
            ...                                # loss and backward
            optimizer.step()
            trace.step(outputs, y_batch)       # or trace.step() for the norms alone

A row is one optimizer step. What is true before the update (weights, gradients, learning rate, full-set sums) is measured
by a hook that runs when ``optimizer.step()`` begins, after clipping, accumulation and unscaling. ``trace.step`` completes
the row. A step that a ``GradScaler`` leaves out makes no row. Values stay on the device and are copied in blocks.

The interface, all of it:

- ``record(path, model, optimizer=None, *, data, test, loss, ...)`` is a context manager; its value is a ``Recording``.
- ``Recording.step(outputs, targets, **own)``: the outputs that the step's gradient comes from, and own quantities.
- ``Recording.batch(outputs, targets)``: under gradient accumulation, each part of the batch, before ``step()``.
- ``Recording.state_dict()``: belongs into each checkpoint. It writes all rows so far, and returns their number.
  ``record(..., resume=checkpoint["rhotrace"])`` resumes there; rows after it are replaced.
- ``Recording.before_update(lr)``: before each update, only where no ``torch.optim`` optimizer makes it.
- ``Recording.flush()``: writes all rows so far; it happens by itself once a second.
- ``Recording.close(finished=True)``: what the end of the ``with`` does, for callbacks, together with ``start()``.
- ``Recording.steps``: number of rows so far. ``Own(name, unit, says, axis, values, every)``: a quantity of one's own.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from rhotrace.errors import BusyError, RhoTraceError, TraceError
from rhotrace.own_loop.description import Training, attributes_of, layout_of, per_member
from rhotrace.own_loop.growing_file import GrowingFile, refuse_to_resume
from rhotrace.own_loop.homogeneity import Homogeneity, measured_degrees
from rhotrace.own_loop.measures import loss_of
from rhotrace.own_loop.module_blocks import module_blocks, plain_module
from rhotrace.own_loop.optimizers import Rule, groups_of, rule_of
from rhotrace.own_loop.own_quantity import Own
from rhotrace.own_loop.probe import Probe
from rhotrace.own_loop.rows import Rows
from rhotrace.own_loop.samples import Samples
from rhotrace.own_loop.settings import Settings, resumed_step
from rhotrace.own_loop.weight_quantities import refuse_unoffered, with_start
from rhotrace.runfile.reader import open_trace
from rhotrace.runfile.run_lock import RunLock

if TYPE_CHECKING:
    import torch

    from rhotrace.own_loop.layer_norms import Numbers

    Optimizers = torch.optim.Optimizer | Sequence[torch.optim.Optimizer]
    Loss = str | Callable[..., torch.Tensor]

__all__ = ["Own", "Recording", "record"]

BLOCK_SECONDS = 1.0
_PATIENCE = 100  # calls of ``step`` before the first optimizer step


def record(
    path: str | Path,
    model: torch.nn.Module,
    optimizer: Optimizers | None = None,
    *,
    data: Any = None,  # noqa: ANN401 - checked by ``Samples.of``
    test: Any = None,  # noqa: ANN401 - likewise
    loss: Loss | None = "square",
    full_batch: bool = False,
    full_every: int | None = None,
    test_every: int = 100,
    gradients: bool = True,
    updates: bool = True,
    snapshots: Sequence[int] = (),
    blocks: Mapping[str, str] | None = None,
    own: Sequence[Own] = (),
    every: Mapping[str, int] | None = None,
    steps: int | None = None,
    seed: int = 0,
    about: str = "",
    resume: int | Mapping[str, Any] | None = None,
) -> Recording:
    """Records a training loop of one's own; a context manager whose value is the ``Recording``.

    Args:
        path: of the run file. An existing file is never replaced; ``resume`` continues it.
        model: any module, compiled or not, on any device.
        optimizer: one of ``torch.optim``, or several. Without it, those that train the model's parameters are found.
        data: the training set, as (inputs, targets) tensors or a loader of such batches: for the full-set sums, taken in
            mode ``eval``, and for the test of homogeneity on its first samples.
        test: the test set, likewise.
        loss: what the loop minimises: ``square`` (the sum over outputs, the mean over samples), ``cross-entropy``,
            ``logistic``, ``exponential``, a function of outputs and targets, or None for no sums of outputs.
        full_batch: every step sees the whole training set, so the outputs given to ``step`` have the full-set sums.
        full_every: steps between full-set sums; 100 by default, 1 under ``full_batch``.
        test_every: steps between evaluations on the test set.
        gradients: record the gradient norms.
        updates: record the norms of the changes of the weights, which takes a copy of them.
        snapshots: steps at which the weights are saved, such as ``[0, 1000]`` or ``range(0, 10**6, 1000)``.
        blocks: several parameters as one block: its name, and a pattern of theirs, ``{"encoder": "encoder.*"}``.
        own: quantities of your own; see ``Own``.
        every: steps between quantities of the weights, ``rank``, ``stable_rank``, ``alignment``, ``distance``: ``{"rank": 100}``.
        steps: number of steps, if it is known; the file then never needs to grow.
        seed: of the training, by which ``compare`` pairs runs, and takes recordings of one description as members of one run.
        about: what the run is for, for the report.
        resume: step of a checkpoint, or what ``Recording.state_dict`` returned for it.

    Raises:
        RhoTraceError: an argument is not what it should be.
    """
    often, every = (1 if full_batch else 100) if full_every is None else full_every, dict(every or {})
    refuse_unoffered(every)
    sets, snapshots = (Samples.of("data", data), Samples.of("test", test)), with_start(snapshots, every)
    strides = {"step": 1, "full": often, "test": test_every, **{one.cadence: one.every for one in own}, **every}
    settings = Settings(
        *sets, loss_of(loss), full_batch, strides, gradients, updates, snapshots, tuple(own), steps, seed, about
    )
    return Recording(Path(path), model, optimizer, settings, blocks, resumed_step(resume))


class Recording:
    """A training that is being recorded; made by ``record``.

    Attributes:
        path: of the run file, which appears with its first rows.
        steps: number of rows so far, those of a resumed file included.
        follows: whether rows begin by themselves when an optimizer's step begins; see ``before_step``.
        skipped: calls of ``step`` since which no optimizer step was taken, as a ``GradScaler`` leaves some out.
    """

    def __init__(
        self,
        path: Path,
        model: torch.nn.Module,
        optimizers: Optimizers | None,
        settings: Settings,
        groups: Mapping[str, str] | None,
        resume: int | None,
    ) -> None:
        self.path, self.steps, self.skipped = path, resume or 0, 0
        self._resume, self._settings, self._given = resume, settings, optimizers is not None
        self._optimizers = _listed(optimizers)
        self._model, self._compiled = plain_module(model), hasattr(model, "_orig_mod")
        self._blocks = module_blocks(self._model, groups)
        self._probe = Probe(self._model, self._blocks, settings)
        if self._given and not any(groups_of(self._optimizers, self._probe.layers)):
            raise RhoTraceError(
                "rhotrace.record: optimizer: got one that trains none of this model's weights, expected the one that does; "
                "make it after the model is on its device"
            )
        self._rows = Rows(settings, self._probe.device, self._probe.due)
        self._batch: list[tuple[Any, torch.Tensor]] = []
        self._pieces: Mapping[str, Numbers] = {}
        self._rates: list[float] = []
        self._stepped: list[torch.optim.Optimizer] = []
        self._open = False
        self._file: GrowingFile | None = None
        self._held: list[tuple[int, list[NDArray[Any]]]] = []
        self._planned = settings.planned
        self.follows = True
        self._stack = contextlib.ExitStack()
        self._trains: dict[int, tuple[object, bool]] = {}
        self._homogeneity = Homogeneity({})
        self._rule: Rule
        self._deadline = 0.0

    # --- beginning and end --------------------------------------------------------------------------------------

    def __enter__(self) -> Recording:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
            return
        with contextlib.suppress(TraceError):  # the first error says more
            self.close(finished=False)

    def start(self) -> Recording:
        """Locks the file, tests homogeneity, and begins to follow the optimizer.

        Raises:
            TraceError: the file exists already (or, to resume, does not), or another process writes it.
        """
        try:
            self._stack.enter_context(RunLock(self.path))
        except BusyError as busy:
            raise busy.or_else("give rhotrace.record another path") from None
        try:
            self._refuse()
            data = self._settings.data
            self._homogeneity = measured_degrees(
                self._model, self._blocks, data.few(self._probe.device) if data else None
            )
            self._follow()
        except BaseException:
            self._stack.close()
            raise
        self._deadline = time.monotonic() + BLOCK_SECONDS
        return self

    def _refuse(self) -> None:
        exists = self.path.exists()
        if exists and self._resume is None:
            raise TraceError(
                f"{self.path}: rhotrace.record: a file exists already, which is never replaced; resume=STEP continues it "
                "from a checkpoint, another path records into another file"
            )
        if self._resume is not None:
            with open_trace(self.path) as trace:
                refuse_to_resume(trace, self._resume)
                self._probe.of_weights.resume(trace)

    def _follow(self) -> None:
        from torch.optim.optimizer import register_optimizer_step_pre_hook

        if not self.follows:
            return
        if self._given:
            hooks = [one.register_step_pre_hook(self.before_step) for one in self._optimizers]
        else:
            hooks = [register_optimizer_step_pre_hook(self.before_step)]
        for hook in hooks:
            self._stack.callback(hook.remove)

    def close(self, *, finished: bool = True) -> None:
        """Writes what is left and ends the recording; a finished file is compressed, another can be resumed.

        Raises:
            TraceError: the file cannot be written.
            RhoTraceError: ``step`` was called, but no optimizer step was seen.
        """
        with self._stack:
            if self._open and finished:  # the loop did not call ``step``
                self._complete({})
            self._open = False
            self.flush()
            if finished and not self._file and self.skipped:
                raise RhoTraceError(_nothing_seen(self.path))
            if self._file is None:
                return
            if finished and self.steps in self._planned:
                self._file.snapshot(self.steps, self._probe.blocks())
            if finished:
                self._file.finish()
            else:
                self._file.close()
            self._file = None

    # --- each step ----------------------------------------------------------------------------------------------

    @property
    def in_step(self) -> bool:
        """Whether a row has begun and ``step`` is to complete it."""
        return self._open

    def before_step(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        """Begins a row with what is true before the update: the hook of ``optimizer.step``.

        Where the optimizer computes its gradients itself, in a closure, they are not there yet when its step begins. Then
        set ``follows`` to False before ``start()``, and call this within the closure, behind the backward pass.
        """
        if not self._given and not self._is_of_model(optimizer):
            return
        if self._open and optimizer not in self._stepped:  # another optimizer of the same step
            self._stepped.append(optimizer)
            if not self._rows.begun:  # it may have been unknown when the row began
                self._find_rule()
                self._rates = self._probe.rates(self._optimizers)
            return
        if self._open:  # the loop did not call ``step``
            self._complete({})
        self._stepped.append(optimizer)
        self._begin(None)

    def _is_of_model(self, optimizer: torch.optim.Optimizer) -> bool:
        known = self._trains.get(id(optimizer))
        if known is None or known[0] is not optimizer:
            own = {id(p) for p in self._model.parameters()}
            trains = any(id(p) in own for group in optimizer.param_groups for p in group["params"])
            self._trains[id(optimizer)] = known = (optimizer, trains)
            if trains:
                self._optimizers.append(optimizer)
        return known[1]

    def before_update(self, lr: float = float("nan")) -> None:
        """Begins the row of an update that no ``torch.optim`` optimizer makes.

        Args:
            lr: learning rate of the update.
        """
        if self._open:
            self._complete({})
        self._begin(lr)

    def _begin(self, lr: float | None) -> None:
        probe, settings, step = self._probe, self._settings, self.steps
        if not self._rows.begun:
            self._find_rule()
        self._pieces = probe.before(self._optimizers)
        self._rates = probe.rates(self._optimizers) if lr is None else [lr] * len(probe.layers)
        if probe.evaluates and step % settings.strides["full"] == 0:
            self._rows.add_due("full", probe.full())
        if settings.test is not None and step % settings.strides["test"] == 0:
            self._rows.add_due("test", probe.test())
        if probe.of_weights.strides:
            for cadence, found in probe.of_weights.measured(step, probe.layers).items():
                self._rows.add_due(cadence, found)
        if step in self._planned:
            self._snapshot(step)
        self._open = True

    def _find_rule(self) -> None:
        self._rule = rule_of(self._optimizers, self._probe.layers)
        self._probe.heavy_ball = self._settings.gradients and self._rule.law == "heavy-ball"

    def _snapshot(self, step: int) -> None:
        blocks = self._probe.blocks()
        self.flush()
        if self._file is None:
            self._held.append((step, blocks))
        else:
            self._file.snapshot(step, blocks)

    def batch(self, outputs: Any, targets: torch.Tensor) -> None:  # noqa: ANN401 - what the module returned
        """Adds a part of the next step's batch, under gradient accumulation.

        Args:
            outputs: of the module on this part: a tensor, the first of several, or an object with ``.logits``.
            targets: class numbers, or values.
        """
        self._batch.append((outputs, targets))

    def step(self, outputs: Any = None, targets: torch.Tensor | None = None, **own: Any) -> None:  # noqa: ANN401
        """Completes the row of the optimizer step that was just taken.

        Args:
            outputs: of the module on the step's batch (or on its last part; see ``batch``), from which the gradient comes.
            targets: of the same samples.
            own: values of quantities of your own, by name.

        Raises:
            RhoTraceError: an argument is not what it should be, or 100 calls were made and no optimizer step was seen.
            TraceError: the file cannot be written.
        """
        if outputs is not None and targets is not None:
            self._batch.append((outputs, targets))
        if not self._open:  # nothing was updated
            self._batch.clear()
            self.skipped += 1
            if self.skipped >= _PATIENCE and not self._rows.begun:
                raise RhoTraceError(_nothing_seen(self.path))
            return
        self._complete(own)

    def _complete(self, own: Mapping[str, Any]) -> None:
        batch, self._batch, self._open = self._batch, [], False
        self._stepped.clear()
        pieces = self._probe.after(batch)
        if not self._rows.begun:
            self._rows.batch_size = _size(batch)
        self._rows.add({**self._pieces, **pieces} if pieces else self._pieces, self._rates, own)
        self.steps += 1
        if self._rows.full or time.monotonic() > self._deadline:
            self.flush()

    # --- the file -----------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Writes all rows so far to the file and to the disk.

        Raises:
            TraceError: the file cannot be written, or, at first, is not the one to resume.
        """
        if count := self._rows.count:
            if self._file is None:
                self._file = self._new_file()
            first = self.steps - count
            self._file.append(first, self.steps, self._rows.take(first))
            for step, blocks in self._held:
                self._file.snapshot(step, blocks)
            self._held = []
        self._deadline = time.monotonic() + BLOCK_SECONDS

    def state_dict(self) -> dict[str, int]:
        """The number of rows so far, all of them written: what a checkpoint needs, to be resumed with its rows.

        Raises:
            RhoTraceError: an update was made whose row is not complete.
            TraceError: the file cannot be written.
        """
        if self._open:
            raise RhoTraceError(
                f"{self.path}: trace.state_dict(): got an update whose row is not complete, expected a call after "
                "trace.step(); call trace.step() first"
            )
        self.flush()
        return {"steps": self.steps}

    def _new_file(self) -> GrowingFile:
        training, settings = self._training(), self._settings
        layout, fixed = layout_of(training), per_member(training)
        if self._resume is not None:
            return GrowingFile.resume(self.path, layout, settings.snapshots, self._resume)
        attributes = attributes_of(training, self._probe.device)
        return GrowingFile.create(self.path, layout, attributes, fixed, settings.snapshots, settings.room)

    def _training(self) -> Training:
        probe, rows = self._probe, self._rows
        rule = self._rule
        return Training(
            model=self._model,
            blocks=self._blocks,
            homogeneity=self._homogeneity,
            rule=rule,
            settings=self._settings,
            measured=(*rows.names, *(("lr_step", "lr_layer") if rule.several else ("lr_step",))),
            batch=rows.batch_size,
            outputs=probe.outputs,
            output_dtype=probe.output_dtype,
            compiled=self._compiled,
        )


def _listed(optimizers: Optimizers | None) -> list[torch.optim.Optimizer]:
    if optimizers is None:
        return []
    found: list[Any] = list(optimizers) if isinstance(optimizers, Sequence) else [optimizers]
    for one in found:
        if not hasattr(one, "register_step_pre_hook"):
            raise RhoTraceError(
                f"rhotrace.record: optimizer: got {type(one).__name__}, expected an optimizer of torch.optim (for updates "
                "of your own, leave it out and call trace.before_update(lr) before each)"
            )
    return found


def _size(batch: Sequence[tuple[Any, torch.Tensor]]) -> int | None:
    return sum(len(targets) for _, targets in batch) or None


def _nothing_seen(path: Path) -> str:
    return (
        f"{path}: rhotrace.record: trace.step() was called, but no optimizer took a step of this model's parameters; "
        "expected optimizer.step() before it, or trace.before_update(lr) before an update of your own"
    )
