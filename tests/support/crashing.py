"""Processes that train and are killed, and what must be true of the files that they leave."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import mmap
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import h5py
import inside
import numpy as np
import pytest

from rhotrace.config import recipe
from rhotrace.errors import RhoTraceError, TraceError
from rhotrace.models.datasets import Dataset
from rhotrace.runfile.live_checksums import damaged_block, damaged_snapshots, written_blocks
from rhotrace.runfile.reader import Trace, open_trace
from rhotrace.theory.step_identity import audit
from rhotrace.theory.step_laws import LAWS
from rhotrace.training import train as training

# Children are forked from a server that has imported everything: each costs milliseconds, not the seconds of torch.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "torch",
        "h5py",
        "scipy.stats",
        "rhotrace.training.train",
        "rhotrace.cli.app",
        "rhotrace.display.terminal.training",
    ]
)

BLOCK = 16  # steps, in every child
RECIPE = """\
data: {dataset: mnist, classes: [0, 1], train: 20, test: 10}
network: {kind: mlp, depth: 2, width: 4, dtype: float64}
init: {kind: equal-norms, rho_k: 1.0}
optimizer: {kind: gd, lr: 0.05}
members: {seeds: 2}
steps: 64
record: {full_every: 4, test_every: 10, snapshots: 5}
"""
OPTIMIZERS = {
    "gd": "optimizer={kind: gd, lr: 0.05}",
    "shuffled": "optimizer={kind: sgd, lr: 0.05, batch_size: 7}",
    "replaced": "optimizer={kind: sgd, lr: 0.05, batch_size: 7, sampling: with-replacement}",
    "weight norm": "optimizer={kind: weight-norm, lr: 0.05, batch_size: 7}",
}
BORN, OPENING, TRAINING, SEALING, DONE = range(5)  # what a child is at

UNDISTURBED: dict[str, tuple[training.Outcome, bytes]] = {}  # how each recipe ends, and its file

Hook = Callable[[Callable[[], object]], object]


def contents(path: Path) -> dict[str, bytes]:
    """The raw bytes of every dataset of a file."""
    found: dict[str, bytes] = {}
    with h5py.File(path, "r") as file:
        file.visititems(
            lambda name, item: found.update({name: item[()].tobytes()}) if isinstance(item, h5py.Dataset) else None
        )
    return found


class Board(ctypes.Structure):
    """What a child reports about itself, in memory that outlives it: a pipe would lose the last words of a killed one."""

    _fields_ = [
        ("phase", ctypes.c_int64),
        ("trained", ctypes.c_int64),
        ("committed", ctypes.c_int64),
        ("calls", ctypes.c_int64),
        ("since", ctypes.c_int64 * 5),  # when each phase began, in ns
    ]

    @classmethod
    def at(cls, path: Path, *, new: bool = False) -> Board:
        if new:
            path.write_bytes(bytes(ctypes.sizeof(cls)))
        with path.open("r+b") as file:
            return cls.from_buffer(mmap.mmap(file.fileno(), 0))

    def enter(self, phase: int) -> None:
        self.since[phase] = time.monotonic_ns()
        self.phase = phase


class Bench:
    """A recipe, its undisturbed run, and a folder for the disturbed one.

    Args:
        folder: for all of it.
        patch: undone when the test ends.
        overrides: of the recipe.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, overrides: Sequence[str] = ()) -> None:
        self.folder, self.overrides = folder, overrides
        self.content = recipe.parse(RECIPE, list(overrides))
        self.text = self.content.to_yaml()
        self.data = self.content.load_data()
        inside.data_at_hand(patch.setattr, self.data)
        inside.without_waiting_for_the_disk(patch.setattr)
        inside.without_git(patch)
        self.run, self.whole = folder / "run" / "run.h5", folder / "whole.h5"
        self.run.parent.mkdir()
        if self.text not in UNDISTURBED:
            outcome = self.finish(self.whole)
            UNDISTURBED[self.text] = outcome, self.whole.read_bytes()
        self.outcome, whole = UNDISTURBED[self.text]
        self.whole.write_bytes(whole)
        self.expected = contents(self.whole)
        self._workers = itertools.count()

    def worker(self, **how: Any) -> Worker:
        """A process that trains the recipe, or its ``text`` with other steps, into the run file, or into ``path``."""
        aside = self.folder / f"worker{next(self._workers)}"
        aside.mkdir()
        return Worker(Job(how.pop("text", self.text), how.pop("path", self.run), self.data, aside, **how))

    def longer(self, steps: int) -> str:
        """The recipe with another number of steps."""
        return recipe.parse(RECIPE, [*self.overrides, f"steps={steps}"]).to_yaml()

    def finish(self, path: Path | None = None, **options: Any) -> training.Outcome:
        """Trains to the end in this process."""
        return training.train(self.content, path or self.run, device="cpu", **options)

    def spoilt(self, path: Path | None = None) -> list[str]:
        """Datasets of a finished run whose bits are not those of the undisturbed one."""
        found = contents(path or self.run)
        return sorted(name for name in {*found, *self.expected} if found.get(name) != self.expected.get(name))

    def complete(self) -> bool:
        with h5py.File(self.run) as file:
            return file.attrs["status"] == "complete"

    def faults_when_finished(self) -> list[str]:
        """What is wrong when this process resumes a copy of what a killed one left, lock and leftovers included."""
        if not self.run.exists():
            return []
        folder = self.run.parent.with_name("copy")
        shutil.copytree(self.run.parent, folder)
        copy, found = folder / self.run.name, []
        try:
            if not self.complete():
                self.finish(copy)
                found += [f"left: {path.name}" for path in folder.iterdir() if path != copy]
            found += [f"differing: {name}" for name in self.spoilt(copy)]
        except RhoTraceError as problem:
            found.append(f"unreadable: {problem}")
        shutil.rmtree(folder)
        return found


@dataclass(frozen=True)
class Job:
    """What a child is to train, and what happens to it meanwhile.

    Attributes:
        text: of the recipe.
        path: of the run file.
        data: of the recipe; a child would read all of MNIST for it.
        aside: a folder for what the child reports.
        block_seconds: longest time between two commits.
        dies: the number of the call that changes the disk at which the child kills itself, and whether half of
            the bytes are written before, where it writes any.
        logs: the names of the calls that change the disk, into a file.
        hooks: called before the run file is opened (``open``), where the first step is next (``begin``), after each
            commit (``commit``) and before sealing (``seal``), with what would open or seal it.
        words: of the command line that trains, instead of a call of ``train``.
        options: of ``train``.
    """

    text: str
    path: Path
    data: Dataset
    aside: Path
    block_seconds: float = 1e9
    dies: tuple[int, bool] | None = None
    logs: bool = False
    hooks: Mapping[str, Hook] = field(default_factory=dict)
    words: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


class Worker:
    """A process at a job."""

    def __init__(self, job: Job) -> None:
        self.job, self.board = job, Board.at(job.aside / "board", new=True)
        self.process = CONTEXT.Process(target=work, args=(job,))
        self.process.start()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()
        self.process.close()

    def reach(self, phase: int, condition: Callable[[Board], bool] = lambda _: True) -> None:
        """Waits until the process is at that phase, and the condition holds, or ended."""
        ends = time.monotonic() + 60
        while not (self.board.phase >= phase and condition(self.board)) and self.process.exitcode is None:
            assert time.monotonic() < ends, "nothing happened within a minute"
            time.sleep(2e-4)

    def kill(self) -> bool:
        """Kills the process; False where it had ended before."""
        self.process.kill()
        return self.code() == -signal.SIGKILL

    def code(self) -> int:
        """Waits for the end. A process may be killed, or end well, or refuse (2), but nothing else."""
        self.process.join(120)
        code = self.process.exitcode
        assert code in {0, 2, 130, -signal.SIGKILL, -signal.SIGTERM}, f"exit code {code}: {self.said()}"
        return code

    def said(self) -> str:
        return (self.job.aside / "said").read_text()


def work(job: Job) -> None:
    """What a child does."""
    with (job.aside / "said").open("w") as said:
        os.dup2(said.fileno(), 2)
    board = Board.at(job.aside / "board")
    patch_child(job, board)
    try:
        if job.words:
            from rhotrace.cli.app import main

            sys.argv = ["rhotrace", *job.words]
            os.chdir(job.path.parent)
            main()
        else:
            training.train(recipe.parse(job.text), job.path, device="cpu", **job.options)
            board.enter(DONE)
    except RhoTraceError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
    except Exception:  # multiprocessing would print it after its own buffers, and the test would not see it
        traceback.print_exc()
        sys.stderr.flush()
        sys.exit(1)


def patch_child(job: Job, board: Board) -> None:
    """Small blocks, and a note of what is done on the board."""
    patch = pytest.MonkeyPatch()  # never undone: the process ends with it
    inside.without_git(patch)
    inside.data_at_hand(setattr, job.data)
    inside.small_blocks(setattr, BLOCK, job.block_seconds)
    open_run, record, commit, seal = (getattr(*inside.PARTS[part]) for part in ("open", "record", "commit", "seal"))

    def hook(name: str, call: Callable[[], object] = lambda: None) -> None:
        if name in job.hooks:
            job.hooks[name](call)

    def opening(*words: Any) -> Any:
        board.enter(OPENING)
        hook("open", lambda: open_run(*words))
        begun = open_run(*words)
        board.committed = begun.writer.committed
        board.enter(TRAINING)
        hook("begin")
        return begun

    def sealing(*words: Any, **options: Any) -> None:
        board.enter(SEALING)
        hook("seal", lambda: seal(*words, **options))
        seal(*words, **options)

    def recording(self: Any, step: int, moment: Any) -> None:
        board.trained = step + 1
        record(self, step, moment)

    def committing(self: Any, steps: int, state: Any) -> None:
        commit(self, steps, state)
        board.committed = steps
        hook("commit")

    for part, call in {"open": opening, "record": recording, "commit": committing, "seal": sealing}.items():
        setattr(*inside.PARTS[part], call)
    if job.dies:
        count_calls(partial(die_at, board, *job.dies), setattr)
    if job.logs:
        log = (job.aside / "calls").open("w", buffering=1)
        count_calls(lambda name, _: print(name, file=log), setattr)


# --- calls that change the disk ----------------------------------------------------------------------------


def count_calls(at: Callable[[str, Callable[[], object]], None], put: Callable[[Any, str, Any], None]) -> None:
    """Calls ``at`` before each call that changes the disk, with its name and a function that does half of it."""

    def before(where: Any, name: str) -> None:
        real = getattr(where, name)

        def half(target: Any, data: Any, *place: int) -> None:
            real(target, bytes(data)[: len(data) // 2], *place)

        def call(*words: Any, **options: Any) -> Any:
            at(name, partial(half, *words) if name in {"pwrite", "write"} else lambda: None)
            return real(*words, **options)

        put(where, name, call)

    for where, name in inside.DISK_CALLS:
        before(where, name)


def die_at(board: Board, number: int, half: bool, _name: str, do_half: Callable[[], object]) -> None:
    if board.calls == number:
        if half:
            do_half()
        kill_self()
    board.calls += 1


# --- what can be done to a child; functions of a module, so that they can be sent to it -------------------------


def kill_self(*_: object) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def limit_file_size(size: int, *_: object) -> None:
    """From now on no file of this process grows past ``size`` bytes; -1 lifts the limit."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def try_within(sizes: Sequence[int], folder: Path, call: Callable[[], object]) -> None:
    """Calls under each limit of a file's size, and says what came of it and which files there were then."""
    said = []
    for size in sizes:
        limit_file_size(size)
        try:
            call()
        except TraceError as problem:
            said.append(f"{problem} {sorted(path.name for path in folder.iterdir())}")
    limit_file_size(-1)  # or else what is said could not be written
    print(*said, sep="\n", file=sys.stderr)


def fill_disk(filler: Path, *_: object) -> None:
    """Leaves not a byte on the disk of ``filler``."""
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1 << 16)):
            pass


def out_of_quota(*_: object) -> None:
    """From now on no space can be taken, as where a user has a quota."""

    def refuse(*_: object) -> NoReturn:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    os.posix_fallocate = refuse


def remove(path: Path, *_: object) -> None:
    """Removes a file, or a folder with its contents."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def move(path: Path, target: Path, *_: object) -> None:
    """Moves a file, once, over the one that is there."""
    if path.exists():
        path.rename(target)


def pause(seconds: float, *_: object) -> None:
    """Leaves the processor to others for a while."""
    time.sleep(seconds)


def send_signal(number: int, *_: object) -> None:
    """Sends this process a signal."""
    signal.raise_signal(number)


# --- what must be true of a file ---------------------------------------------------------------------------


def faults(path: Path, at_least: int, trained: int, *, calm: bool = True) -> list[str]:
    """What is wrong with the file that a killed process left; nothing, where there need not be one.

    Args:
        path: of the run file.
        at_least: steps whose commit is known to have been done.
        trained: steps that were done in the process's memory.
        calm: no member diverges.
    """
    if not path.exists():
        return ["unreadable: gone"] if at_least else []
    try:
        with h5py.File(path, "r") as file:
            file.visititems(lambda _, item: item[()] if isinstance(item, h5py.Dataset) else None)
            axes = {name: file[name][()] for name in ("step", "full_step", "test_step") if name in file}
        with open_trace(path) as trace:
            found = (
                [] if trace.steps >= at_least else [f"lost: {at_least} steps were committed, {trace.steps} are there"]
            )
            if trained - trace.steps > BLOCK:
                found.append(f"lost: {trained} steps were done, {trace.steps} are there")
            for axis, steps in axes.items():  # for those who read without RhoTrace
                shown = np.flatnonzero(steps >= 0)
                if not np.isin(shown, np.arange(len(trace[axis]))).all() or (steps[shown] != trace[axis][shown]).any():
                    found.append(f"torn: {axis} shows {steps[shown]}, {trace.steps} steps are committed")
            return found + [f"torn: {what}" for what in torn(trace, calm=calm)]
    except (OSError, TraceError) as problem:
        return [f"unreadable: {problem}"]


def torn(trace: Trace, *, calm: bool) -> list[str]:
    """What of the committed steps of a run is not whole."""
    found = []
    for quantity in trace.quantities:
        rows = trace[quantity.name]
        if calm and quantity.name != "log_rho_eq" and not np.isfinite(rows).all():  # that is NaN where a <= 0
            found.append(f"{quantity.name} is not finite")
        if len(rows) != len(trace.step_of(quantity.name)):
            found.append(f"{quantity.name} has {len(rows)} rows")
    if calm and trace.steps > 1:
        law = LAWS["weight-norm" if "v_norm" in trace else "descent"]
        checked = audit(
            *(trace[name] for name in ("rho_k", "grad_norm", "batch_a", "batch_q", "lr")),
            dtype=trace.attributes["dtype"],
            law=law,
            read={name: trace[name] for name in law.quantities},
        )
        if not checked or not checked.holds:
            found.append(f"the step identity is violated: {checked}")
    if not trace.complete:
        found += [f"{block}" for block in [damaged_block(trace)] if block]
        if trace.steps not in {0, *(block.last for block in written_blocks(trace))}:
            found.append(f"no block ends at step {trace.steps}")
        found += [f"the weights at step {step}" for step in damaged_snapshots(trace)]
    return found
