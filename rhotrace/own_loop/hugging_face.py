"""A callback for Hugging Face's ``Trainer``: the norms of any model that it trains, in a run file.

::

    from rhotrace.own_loop.hugging_face import Record

    trainer = transformers.Trainer(model, args, train_dataset=..., callbacks=[Record("run.h5")])

A row is one optimizer step. ``trainer.train(resume_from_checkpoint=True)`` resumes the recording at the checkpoint's
``global_step``, and replaces the rows after it. The trainer does not show its callbacks the outputs on a batch, so a row has
norms, gradients, updates and the learning rate; with ``data``, the sums over the training set too.

After an error in the training, which the trainer does not report to callbacks, ``callback.close()`` releases the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rhotrace.errors import RhoTraceError
from rhotrace.own_loop.record import Recording, record

try:
    from transformers import TrainerCallback
except ImportError:
    raise RhoTraceError(
        "the Hugging Face callback: transformers is not installed; python -m pip install 'rhotrace[transformers]'"
    ) from None


class Record(TrainerCallback):  # type: ignore[misc]
    """Records what ``Trainer`` trains; only the process of rank 0 does.

    Args:
        path: of the run file.
        **options: of ``rhotrace.record``, such as ``data``, ``test``, ``loss``, ``snapshots``.
    """

    def __init__(self, path: str | Path, **options: Any) -> None:  # noqa: ANN401 - as ``record`` has them
        self._path, self._options = path, options
        self.trace: Recording | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:  # noqa: ANN401, ARG002 - the trainer's signature, here and below
        """Begins the recording, at the step of the checkpoint where there is one."""
        self.close()  # of a training that failed
        if state.is_world_process_zero:
            resume = {"resume": state.global_step} if state.global_step else {}
            self.trace = record(self._path, given["model"], **{**resume, **self._options}).start()

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:  # noqa: ANN401, ARG002
        """The row of this optimizer step is complete."""
        if self.trace:
            self.trace.step()

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:  # noqa: ANN401, ARG002
        """A checkpoint needs the rows up to it."""
        if self.trace:
            self.trace.flush()

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:  # noqa: ANN401, ARG002
        """Ends the file: finished where the trainer took all its steps, else one that can be resumed."""
        self.close(finished=state.global_step >= state.max_steps)

    def close(self, *, finished: bool = False) -> None:
        """Ends the recording; also after an error, which the trainer does not report and which leaves the file locked."""
        trace, self.trace = self.trace, None
        if trace:
            trace.close(finished=finished)
