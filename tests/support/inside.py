"""The places where tests reach into RhoTrace, in one module, each with the reason why nothing public would do.

``put`` is ``monkeypatch.setattr`` in a test, and ``setattr`` in a process that ends with its test.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rhotrace.config.recipe import Recipe
from rhotrace.models.datasets import Dataset
from rhotrace.models.datasets.torchvision_images import Cifar10
from rhotrace.runfile import hdf5_io, sealing, writer
from rhotrace.training import copy_out, distributed, recorder
from rhotrace.training import train as training

Put = Callable[[Any, str, Any], None]


class Killed(BaseException):
    """Stands for a SIGKILL within this process: nothing catches it, and nothing is written after it."""


# --- what would take long, or depend on the machine ------------------------------------------------------------


def small_blocks(put: Put, steps: int, seconds: float = 1e9) -> None:
    """Commits after a number of steps or seconds: users cannot set them, and otherwise the clock would decide."""
    put(recorder, "BLOCK_STEPS", steps)
    put(training, "BLOCK_SECONDS", seconds)


def always_behind(put: Put) -> None:
    """Blocks are written one behind the steps on a processor too: the command line leaves that to the device."""
    put(training.train, "__kwdefaults__", {**(training.train.__kwdefaults__ or {}), "write_behind": True})


def small_chunks(put: Put, rows: int) -> None:
    """Sealed files in chunks of a few rows: a file of many chunks of the normal size would take minutes to damage and read."""
    put(sealing, "_CHUNK_ROWS", rows)


def data_at_hand(put: Put, data: Dataset) -> None:
    """Training starts with this data: otherwise hundreds of processes would each unpack all of MNIST for 20 samples."""
    put(Recipe, "load_data", lambda *_: data)


def pixels_at_hand(put: Put, parts: Any) -> None:
    """CIFAR-10 as if its archives held these pixels: real ones are not in the repository."""
    put(Cifar10, "_read", lambda _: parts)


def without_git(patch: pytest.MonkeyPatch) -> None:
    """As on a machine without git, which every new run would start otherwise. No other program is found by name either."""
    patch.setenv("PATH", os.devnull)


def without_waiting_for_the_disk(put: Put) -> None:
    """No power cut comes in these tests, and waiting for the disk itself would slow them all down."""
    for name in {"fsync", "fdatasync"} & {*dir(os)}:
        put(os, name, lambda _: None)


def patience_with_others(put: Put, seconds: float) -> None:
    """How long a process waits at a step for one that fell silent; normally two minutes, too long for a test."""
    put(distributed, "_AT_A_STEP", datetime.timedelta(seconds=seconds))


def steps_without_numbers(content: Recipe) -> Iterator[int]:
    """The training loop on torch's device ``meta``, where ``train`` does not go; a step for each block. Gives the steps done.

    Tensors there have no numbers, so that whatever a GPU would be waited for raises an error; and code that treats a
    processor in another way treats them as it would a GPU's.
    """
    data = content.load_data()
    network = content.network.build(data.shape, data.y.shape[1])
    run: Any = training._Run(content, data, network, "meta", None)
    run.writer = SimpleNamespace(committed=0)
    made = recorder.Recorder(run._quantities(), run.layout, "meta")
    made.clear(0)
    stop: Any = SimpleNamespace(requested=False)
    with torch.no_grad():
        for block in copy_out.one_behind(run._filled(made, stop)):
            yield block.done


# --- where faults are planted -------------------------------------------------------------------------------------

# Every call of this process that changes the disk: a process is killed before each, and in the middle of a write.
# HDF5 itself writes through a class of ours, since it dies of a disk that is full; there is no other place to stand.
DISK_CALLS: list[tuple[Any, str]] = [
    (os, "pwrite"),
    (hdf5_io._Forgiving, "write"),
    (writer, "sync"),
    (hdf5_io, "sync"),
    (os, "fsync"),
    *([(os, "posix_fallocate")] if hasattr(os, "posix_fallocate") else []),  # macOS has none
    (Path, "replace"),
    (Path, "unlink"),
]

# The parts of a training, in their order. What a user can see of it (the callbacks ``begin`` and ``watch``) lies
# between them, and kills come anywhere.
PARTS: dict[str, tuple[Any, str]] = {
    "open": (training, "open_run"),
    "record": (recorder.Recorder, "record"),
    "append": (writer.TraceWriter, "append"),
    "commit": (writer.TraceWriter, "commit"),
    "take the place": (Path, "replace"),
    "sync the folder": (writer, "sync_folder"),
    "note the session": (writer.TraceWriter, "note_session"),
    "seal": (training, "seal"),
}


def kill_before(put: Put, part: str, call: int = 1) -> None:
    """Raises ``Killed`` where a part of the training would begin for the ``call``-th time."""
    where, name = PARTS[part]
    real, calls = getattr(where, name), 0

    def dying(*words: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Killed
        return real(*words, **options)

    put(where, name, dying)


def before_each_reduction(put: Put, strike: Callable[[int], object]) -> None:
    """Calls ``strike`` with the step before processes that train together sum its gradients, in each of them.

    Only process 0 calls ``begin`` and ``watch``, and only between blocks; faults come to any, at any step.
    """
    reduce = distributed.Team._reduce

    def reducing(team: distributed.Team, flat: Any) -> None:
        strike(team._reductions)
        reduce(team, flat)

    put(distributed.Team, "_reduce", reducing)


def train_killed_and_resumed(put: Put, content: Recipe, path: Path) -> None:
    """Trains a recipe in blocks of 8 steps, is killed once 24 steps are done, and resumes the run to its end."""
    small_blocks(put, 8)

    def kill(progress: training.Progress) -> None:
        if progress.last >= 24:
            raise Killed

    with pytest.raises(Killed):
        training.train(content, path, device="cpu", watch=kill)
    training.train(content, path, device="cpu")
