"""Small run files whose every byte has a known owner, and ways to spoil them."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import inside
import numpy as np
import pytest
from small import SMALL

from rhotrace.config import recipe
from rhotrace.errors import TraceError
from rhotrace.runfile.layout import attributes_digest, time_axis
from rhotrace.runfile.reader import open_trace, whole_commits
from rhotrace.runfile.untrusted import plain
from rhotrace.training.train import train

STEPS, STOPPED, BLOCK, CHUNK_ROWS = 40, 27, 9, 8
KINDS = ["sealed", "live"]
OVERRIDES = (
    "data={dataset: mnist, classes: [0, 1], train: 12, test: 6}",
    "network={kind: mlp, depth: 2, width: 2, dtype: float64}",
    "optimizer={kind: sgd, lr: 0.05, batch_size: 7}",
    "members.seeds=2",
    f"steps={STEPS}",
    "record={full_every: 4, test_every: 10, snapshots: 5}",
)


def plan(*overrides: str) -> recipe.Recipe:
    """A recipe whose run file takes milliseconds to write, read and check."""
    return recipe.parse(SMALL, [*OVERRIDES, *overrides])


def train_plain(content: recipe.Recipe, path: Path, until: int | None = None, **how: Any) -> None:
    """Trains in blocks of 9 steps into chunks of 8 rows, to the end or as if stopped by Ctrl-C after ``until`` steps.

    What differs between machines and moments and is of no matter here stays out of the file.
    """

    def watch(block: Any) -> None:
        if until is not None and block.last >= until:
            signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        inside.small_blocks(patch.setattr, BLOCK)
        inside.small_chunks(patch.setattr, CHUNK_ROWS)
        inside.without_git(patch)
        train(content, path, device="cpu", watch=watch, **how)


def make_files(folder: Path) -> dict[str, Undamaged]:
    """A finished run and one that was stopped twice."""
    train_plain(plan(), folder / "sealed.h5")
    for until in (STOPPED // 2, STOPPED - 1):
        train_plain(plan(), folder / "live.h5", until)
    return {kind: Undamaged(folder / f"{kind}.h5") for kind in KINDS}


@dataclass(frozen=True)
class Undamaged:
    """A sound run file."""

    path: Path

    @cached_property
    def whole(self) -> bytes:
        """All bytes of it."""
        return self.path.read_bytes()

    @cached_property
    def places(self) -> dict[str, list[range]]:
        """Where each dataset keeps its values."""
        with h5py.File(self.path, "r", locking=False) as file:
            return {name: stored(file[name]) for name in names(file) if isinstance(file[name], h5py.Dataset)}

    @cached_property
    def between(self) -> np.ndarray:
        """Numbers of the bytes that are no dataset's value: HDF5's own, and text."""
        free = np.ones(len(self.whole), bool)
        for place in (place for places in self.places.values() for place in places):
            free[place.start : place.stop] = False
        return np.flatnonzero(free)

    @cached_property
    def values(self) -> np.ndarray:
        """Numbers of the bytes of the quantities."""
        return np.concatenate([np.arange(p.start, p.stop) for q in self.layout.quantities for p in self.places[q.name]])

    @cached_property
    def fixed(self) -> np.ndarray:
        """Numbers of the bytes of what does not grow with time: members' options, indices of samples, axes."""
        layout = self.layout
        names = ["seed", "batch_seed", *layout.per_member, *layout.lists, "member", "layer", *layout.axes]
        return np.concatenate([np.arange(p.start, p.stop) for name in names for p in self.places[name]])

    @cached_property
    def layout(self) -> Any:
        with open_trace(self.path) as trace:
            return trace.layout

    @cached_property
    def steps(self) -> int:
        with open_trace(self.path) as trace:
            return trace.steps

    @cached_property
    def rows(self) -> dict[str, np.ndarray]:
        """Every quantity, cut to the committed steps."""
        with open_trace(self.path) as trace:
            return {q.name: trace[q.name] for q in trace.quantities}

    @cached_property
    def snapshots(self) -> dict[int, list[np.ndarray]]:
        with open_trace(self.path) as trace:
            return dict(trace.snapshots())

    @cached_property
    def blocks(self) -> np.ndarray | None:
        """The list of blocks of a live file."""
        with open_trace(self.path) as trace:
            return None if trace.complete else trace.checkpoint("blocks")[: whole_commits(trace)[0].blocks]

    @cached_property
    def content(self) -> dict[str, Any]:
        return self.cut(everything(self.path))

    def cut(self, found: dict[str, Any]) -> dict[str, Any]:
        """What ``everything`` found, but for what does not count (yet) in a live file."""
        if self.blocks is None:
            return found
        layout, taken = self.layout, len(self.snapshots)
        with open_trace(self.path) as trace:
            slot = whole_commits(trace)[0].slot
            noted = len(bytes(trace.checkpoint("sessions")).rstrip(b"\0"))
        rows = {q.name: slice(layout.rows(q.cadence, self.steps)) for q in layout.quantities}
        rows |= {time_axis(cadence, layout.strides): slice(0) for cadence in layout.strides}  # readers know them unread
        rows |= {f"weights/W{k}": slice(taken) for k in range(1, len(layout.shapes) + 1)}
        rows |= {"weights/snapshot_step": slice(taken), "checkpoint/snapshot_crc": slice(taken)}
        rows |= {
            f"checkpoint/{key}{k + 1}": slice(slot, slot + 1) for key, s in layout.state.items() for k in range(len(s))
        }
        rows |= {"checkpoint/commit": slice(0), "checkpoint/blocks": slice(len(self.blocks))}
        rows["checkpoint/sessions"] = slice(noted, None)  # HDF5 keeps no checksum of their text
        return {name: value[rows[name]] if name in rows else value for name, value in found.items()}


def stored(dataset: h5py.Dataset) -> list[range]:
    """The bytes of the file in which a dataset's values lie, chunk by chunk."""
    if dataset.chunks is None:
        offset = dataset.id.get_offset()
        return [] if offset is None else [range(offset, offset + dataset.nbytes)]
    chunks = [dataset.id.get_chunk_info(number) for number in range(dataset.id.get_num_chunks())]
    return [range(chunk.byte_offset, chunk.byte_offset + chunk.size) for chunk in chunks]


def names(file: h5py.File) -> list[str]:
    """Paths of all groups and datasets."""
    return [
        *file,
        *(f"{group}/{name}" for group in file if isinstance(file[group], h5py.Group) for name in file[group]),
    ]


def everything(path: Path) -> dict[str, Any]:
    """All datasets and all attributes of a file, read with h5py alone."""
    own = {"DIMENSION_LIST", "REFERENCE_LIST"}
    found: dict[str, Any] = {}
    with h5py.File(path, "r", locking=False) as file:
        for name in ["/", *names(file)]:
            item = file[name]
            found |= {f"{name}@{key}": plain(value) for key, value in item.attrs.items() if key not in own}
            if isinstance(item, h5py.Dataset):
                dims = tuple(dim[0].name if len(dim) else "" for dim in item.dims)
                found |= {f"{name}#": (item.shape, item.dtype.str, dims), name: item[()]}
    return found


def differing(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Names of what two files do not have in common, to the last bit."""

    def same(a: Any, b: Any) -> bool:
        return type(a) is type(b) and (a.tobytes() == b.tobytes() if isinstance(a, np.ndarray) else a == b)

    return [name for name in first.keys() | second.keys() if not same(first.get(name), second.get(name))]


def longest_beginning(original: Undamaged, damaged: bytes, scratch: Path) -> int:
    """Steps in whose rows every quantity reads and is as it was, row by row; of a live file, in whole blocks."""
    scratch.write_bytes(damaged.ljust(len(original.whole), b"\0"))
    try:
        file = h5py.File(scratch, "r", locking=False)
    except OSError:
        return 0
    with file:
        steps = min(_steps_alike(file, original, q) for q in original.layout.quantities)
        if original.blocks is None:
            return steps
        try:
            found = file["checkpoint/blocks"][: len(original.blocks)]
        except (KeyError, OSError, RuntimeError):
            return 0
        sound = (found == original.blocks).all(axis=1) & (original.blocks[:, 0] <= steps)
        return int(max([0, *original.blocks[: np.cumprod(sound).sum(), 0]]))


def _steps_alike(file: h5py.File, original: Undamaged, quantity: Any) -> int:
    expected = original.rows[quantity.name]
    with contextlib.suppress(KeyError, OSError, RuntimeError):
        if file[quantity.name][: len(expected)].tobytes() == expected.tobytes():
            return original.steps
    for row in range(len(expected)):
        try:
            alike = file[quantity.name][row].tobytes() == expected[row].tobytes()
        except (KeyError, OSError, RuntimeError):
            alike = False
        if not alike:
            return row * original.layout.strides[quantity.cadence]
    return original.steps


def turned(whole: bytes, places: Sequence[tuple[int, int]]) -> bytes:
    """The bytes with some bits turned: (byte, bit) each."""
    damaged = bytearray(whole)
    for place, bit in places:
        damaged[place] ^= 1 << bit
    return bytes(damaged)


def restamp(file: h5py.File) -> None:
    """Makes the digest of the attributes that of those a file has now."""
    file.attrs["attributes_digest"] = attributes_digest({name: plain(value) for name, value in file.attrs.items()})


# --- faults ------------------------------------------------------------------------------------------------


def refusal(act, path: Path) -> str | None:
    """The message with which a file is refused, or None; whatever else is raised escapes."""
    try:
        act()
    except TraceError as error:
        message = str(error)
        assert len(message.splitlines()) == 1, message
        assert message.startswith(f"{path}: "), message
        return message
    return None


def edit(change):
    """A fault planted with h5py, which gives what it writes sound checksums."""

    def plant(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return plant


def attribute(name: str, value: object, *, restamped: bool = True):
    def change(file: h5py.File) -> None:
        file.attrs[name] = value
        if restamped:
            restamp(file)

    return edit(change)


def entry(name: str, at: object, change):
    """A fault in some numbers of a dataset."""

    def write(file: h5py.File) -> None:
        file[name][at] = change(file[name][at])

    return edit(write)


def instead(name: str, make, **storage: object):
    """A fault in how a dataset is kept: another one in its place, with its attributes and dimensions."""

    def replace(file: h5py.File) -> None:
        old = file[name]
        described = {key: value for key, value in old.attrs.items() if isinstance(value, str)}
        scales = [dim[0] if len(dim) else None for dim in old.dims]
        values = make(old[()])
        del file[name]
        new = file.create_dataset(name, data=values, **{"chunks": True, "fletcher32": True, **storage})
        new.attrs.update(described)
        for dim, scale in zip(new.dims, scales, strict=True):
            if scale is not None:
                dim.attach_scale(scale)

    return edit(replace)


def flipped(name: str, part: float):
    """A bit turned in the file itself, a part of the way into a dataset's first piece."""

    def plant(path: Path) -> None:
        place = Undamaged(path).places[name][0]
        path.write_bytes(turned(path.read_bytes(), [(int(place.start + part * len(place)), 4)]))

    return plant


def header(name: str):
    """A bit turned in what HDF5 keeps of a dataset apart from its values."""

    def plant(path: Path) -> None:
        with h5py.File(path, "r") as file:
            place = h5py.h5o.get_info(file[name].id).addr
        path.write_bytes(turned(path.read_bytes(), [(place + 9, 2)]))

    return plant


def text(name: str):
    """A bit turned in a text attribute."""

    def plant(path: Path) -> None:
        with h5py.File(path, "r") as file:
            words = file.attrs[name].encode()
        whole = path.read_bytes()
        path.write_bytes(turned(whole, [(whole.index(words) + len(words) // 2, 3)]))

    return plant


def unnamed(file: h5py.File) -> None:
    """A fault in the names of a dataset's dimensions."""
    file["loss"].dims[1].detach_scale(file["member"])


# --- processes ---------------------------------------------------------------------------------------------

MEMORY = 200e6  # bytes
SECONDS = 120  # until a command that does not end counts as hanging; nothing else depends on it
# Between this process and the command, whose memory would else count as what this one had when it was forked.
MEASURE = f"""
import resource, subprocess, sys
done = subprocess.run([sys.executable, "-m", "rhotrace", *sys.argv[1:]], timeout={SECONDS})
used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
open("memory", "w").write(str(used))
sys.exit(done.returncode)
"""


def measured(*words: str, folder: Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command in a process of its own, which must end, and need little memory."""
    command = [sys.executable, "-c", MEASURE, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=2 * SECONDS, check=False)
    memory = int((folder / "memory").read_text())
    print(f"{words}: {memory / 1e6:.0f} MB")
    assert memory < MEMORY
    return done.returncode, done.stdout, done.stderr
