"""What a live file's checksums say: which of its blocks of rows, snapshots and sessions are as they were written.

A finished file needs none of this: each chunk of its datasets has a checksum of its own.
"""

from __future__ import annotations

import zlib

from rhotrace.runfile.layout import WrittenBlock, checksum
from rhotrace.runfile.reader import Trace, whole_commits


def written_blocks(live: Trace) -> list[WrittenBlock]:
    """The blocks of a live file in order, committed or not, as far as the list makes sense."""
    found: list[WrittenBlock] = []
    first = 0
    for last, crc in live.checkpoint("blocks"):
        if not first < last <= live.layout.steps:
            break
        found.append(WrittenBlock(first, int(last), int(crc)))
        first = int(last)
    return found


def blocks_are_whole(live: Trace) -> bool:
    """Whether the list of blocks ends where the newest commit says."""
    newest = next(iter(whole_commits(live)), None)
    ends = {0: 0, **{block.last: number for number, block in enumerate(written_blocks(live), 1)}}
    return newest is None or ends.get(newest.steps) == newest.blocks


def block_is_whole(live: Trace, block: WrittenBlock) -> bool:
    """Whether the rows of a block match the checksum they were written with."""
    layout = live.layout
    rows = (live.rows(q.name, layout.span(q.cadence, block.first, block.last)) for q in layout.quantities)
    return checksum(rows) == block.crc


def damaged_block(live: Trace) -> WrittenBlock | None:
    """The first committed block that is not as it was written."""
    return next((b for b in written_blocks(live) if b.last <= live.steps and not block_is_whole(live, b)), None)


def snapshot_is_whole(live: Trace, step: int) -> bool:
    """Whether a snapshot matches the checksum it was written with."""
    slot, crc = live.snapshot_slot(step), live.checkpoint("snapshot_crc")
    return slot < len(crc) and bool(checksum(live.snapshot(step)) == crc[slot])


def damaged_snapshots(live: Trace) -> list[int]:
    """Steps of the snapshots that are not as they were written."""
    return [step for step in live.snapshot_steps() if not snapshot_is_whole(live, step)]


def sessions_are_whole(live: Trace) -> bool:
    """Whether the list of sessions is that of the newest commit, perhaps with more lines."""
    content = bytes(live.checkpoint("sessions"))
    known = next((commit.sessions for commit in whole_commits(live)), None)
    if known and zlib.crc32(content[: known[0]]) != known[1]:
        return False
    text = content.rstrip(b"\0").decode("latin-1")
    return all(line.startswith("{") and line.isascii() and line.isprintable() for line in text.split("\n") if line)
