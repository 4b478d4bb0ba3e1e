"""A callback for Lightning: the norms of any ``LightningModule``, in a run file.

::

    from rhotrace.own_loop.lightning import Record

    trainer = lightning.Trainer(callbacks=[Record("run.h5", data=(x, y), loss="square")], ...)

A row is one optimizer step. It begins after the backward pass and the clipping of gradients, because Lightning computes
gradients in a closure within ``optimizer.step()``. The number of rows is part of Lightning's checkpoints:
``trainer.fit(model, ckpt_path=...)`` resumes the recording there, and replaces the rows after the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rhotrace.errors import RhoTraceError
from rhotrace.own_loop.record import Recording, record

if TYPE_CHECKING:
    import torch

try:
    from lightning import Callback
except ImportError:
    raise RhoTraceError(
        "the Lightning callback: Lightning is not installed; python -m pip install 'rhotrace[lightning]'"
    ) from None


class Record(Callback):  # type: ignore[misc]
    """Records the training of a ``LightningModule``; only the process of global rank 0 does.

    ``training_step`` may return ``{"loss": ..., "outputs": ..., "targets": ...}``: then the sums over each batch are recorded
    too. Without outputs, the rows have norms, gradients and the sums over ``data``.

    Args:
        path: of the run file.
        **options: of ``rhotrace.record``, such as ``data``, ``test``, ``loss``, ``snapshots``.
    """

    def __init__(self, path: str | Path, **options: Any) -> None:  # noqa: ANN401 - as ``record`` has them
        self._path, self._options = path, options
        self._checkpoint: dict[str, int] | None = None
        self._restore: Callable[[], object] = lambda: None
        self.trace: Recording | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401 - of Lightning, here and below
        """Begins the recording, at the step of the checkpoint where there is one."""
        if trainer.is_global_zero:
            resume, self._checkpoint = self._checkpoint, None
            trace = record(self._path, pl_module, trainer.optimizers, **{"resume": resume, **self._options})
            trace.follows = False
            self.trace = trace.start()
            if pl_module.automatic_optimization:
                self._after_clipping(pl_module)

    def _after_clipping(self, module: Any) -> None:  # noqa: ANN401
        """Lightning has no hook after its clipping of gradients, so the module's own method gets one."""
        clip = module.configure_gradient_clipping

        def clip_and_begin(optimizer: Any, *words: Any, **named: Any) -> None:  # noqa: ANN401
            clip(optimizer, *words, **named)
            if self.trace:
                self.trace.before_step(getattr(optimizer, "optimizer", optimizer))

        module.configure_gradient_clipping = clip_and_begin
        self._restore = lambda: delattr(module, "configure_gradient_clipping")

    def on_before_optimizer_step(
        self,
        trainer: Any,  # noqa: ANN401, ARG002
        pl_module: Any,  # noqa: ANN401
        optimizer: Any,  # noqa: ANN401
    ) -> None:
        """Under manual optimization the gradients are what they will be: a row begins."""
        if self.trace and not pl_module.automatic_optimization:
            self.trace.before_step(getattr(optimizer, "optimizer", optimizer))

    def on_train_batch_end(self, trainer: Any, pl_module: torch.nn.Module, outputs: Any, *_: object) -> None:  # noqa: ANN401, ARG002
        """The row is complete where a step was taken; else this was a part of its batch."""
        if self.trace is None:
            return
        found = outputs if isinstance(outputs, dict) else {}
        g, y = found.get("outputs"), found.get("targets")
        if self.trace.in_step:
            self.trace.step(g, y)
        elif g is not None and y is not None:
            self.trace.batch(g, y)

    def on_train_end(self, *_: object) -> None:
        """Ends and compresses the file."""
        self._close(finished=True)

    def on_exception(self, *_: object) -> None:
        """Leaves a file that can be resumed from a checkpoint."""
        self._close(finished=False)

    def _close(self, *, finished: bool) -> None:
        trace, self.trace = self.trace, None
        self._restore()
        self._restore = lambda: None
        if trace:
            trace.close(finished=finished)

    def state_dict(self) -> dict[str, int]:
        """The number of rows, for Lightning's checkpoint."""
        return self.trace.state_dict() if self.trace else {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """From Lightning's checkpoint."""
        self._checkpoint = dict(state_dict) or None
