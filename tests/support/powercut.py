"""What a disk may hold after a power cut: all that was written before the last sync, and any part of what came later."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import inside
import numpy as np
import pytest

SECTOR = 512  # what a disk writes whole or not at all


@dataclass
class History:
    """A file's life since its last sync before it took its name.

    Attributes:
        image: its bytes then.
        events: ``(place, bytes)`` of each write since, or None for a sync that has ended.
        named: how many events there were when it took its name; it is invisible before.
    """

    image: bytes
    events: list[tuple[int, bytes] | None] = field(default_factory=list)
    named: int | None = None

    def cuts(self, count: int, rng: np.random.Generator) -> list[tuple[int, bytearray]]:
        """(number of events so far, what the disk may hold) of some power cuts, in order of time."""
        base, done = bytearray(self.image), 0  # after the last sync
        found = []
        for at in sorted(rng.integers(self.named, len(self.events) + 1, count)):
            last = max((n for n in range(done, at) if self.events[n] is None), default=None)
            if last is not None:
                for event in filter(None, self.events[done:last]):
                    place, data = event
                    base[place : place + len(data)] = data
                done = last + 1
            found.append((int(at), torn(bytearray(base), [e for e in self.events[done:at] if e], rng)))
        return found

    def written_at(self, places: set[int], at: int) -> tuple[bytes | None, bytes | None]:
        """The last of the writes to some places that is certainly on the disk, and the one that may be, or None."""
        synced = max((n for n, event in enumerate(self.events[:at]) if event is None), default=0)
        writes = [(n, event[1]) for n, event in enumerate(self.events[:at]) if event and event[0] in places]
        return (
            next((data for n, data in reversed(writes) if n < synced), None),
            next((data for n, data in writes if n > synced), None),
        )


def torn(kept: bytearray, writes: list[tuple[int, bytes]], rng: np.random.Generator) -> bytearray:
    """The bytes with any of the sectors of the writes, in any order."""
    sectors = []
    for place, data in writes:
        ends = [place, *range(place // SECTOR * SECTOR + SECTOR, place + len(data), SECTOR), place + len(data)]
        sectors += [(a, data[a - place : b - place]) for a, b in itertools.pairwise(ends)]
    share = rng.choice([0, 0.1, 0.5, 0.9, 1])
    for number in rng.permutation(len(sectors)):
        if rng.random() < share:
            place, data = sectors[number]
            kept[place : place + len(data)] = data
    return kept


class Disk:
    """Records the histories of all files that are written while it is patched in, by inode."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.histories: dict[int, History] = {}
        self.unsynced: set[int] = set()
        self.log: list[str] = []  # of names given and folders synced
        real = {name: getattr(where, name) for where, name in inside.DISK_CALLS}

        def pwrite(descriptor: int, data: Any, place: int) -> int:
            self.write(descriptor, place, bytes(data))
            return real["pwrite"](descriptor, data, place)

        def write(raw: Any, data: Any) -> int:
            self.unsynced.add(os.fstat(raw.fileno()).st_ino)
            return real["write"](raw, data)

        def replace(path: Path, target: Path) -> Path:
            inode = path.stat().st_ino
            self.log.append(f"{target.name} named, {'not ' * (inode in self.unsynced)}on the disk")
            if inode in self.histories:
                self.histories[inode].named = len(self.histories[inode].events)
            return real["replace"](path, target)

        def fsync(descriptor: int) -> None:
            self.log.append("folder synced")
            real["fsync"](descriptor)

        def sync(descriptor: int) -> None:
            real["sync"](descriptor)
            self.sync(descriptor)

        instead = {"pwrite": pwrite, "write": write, "sync": sync, "fsync": fsync, "replace": replace}
        for where, name in inside.DISK_CALLS:
            if name in instead:
                patch.setattr(where, name, instead[name])

    def write(self, descriptor: int, place: int, data: bytes) -> None:
        inode = os.fstat(descriptor).st_ino
        self.unsynced.add(inode)
        if inode in self.histories:
            self.histories[inode].events.append((place, data))

    def sync(self, descriptor: int) -> None:
        about = os.fstat(descriptor)
        self.unsynced.discard(about.st_ino)
        known = self.histories.get(about.st_ino)
        if known is None or known.named is None:
            self.histories[about.st_ino] = History(os.pread(descriptor, about.st_size, 0))
        else:
            known.events.append(None)
