"""The memory that a step frees is kept for the next one, and not given back to the system.

By default glibc gives large freed tensors back, and the next step pays for every page of them again: up to a quarter of the
time of a full-batch step of a convolutional network. Peak memory is the same.
"""

from __future__ import annotations

import contextlib

_TRIM, _MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_SIZES = 1 << 25, 1 << 30  # bytes below which a tensor may be kept; older versions of glibc refuse the larger


def keep_freed_memory() -> None:
    """Asks glibc to keep what is freed, for the rest of the process; does nothing under another C library."""
    import ctypes

    with contextlib.suppress(AttributeError, OSError, TypeError):  # macOS has no mallopt, and Windows no library None
        mallopt = ctypes.CDLL(None).mallopt
        for size in _SIZES:
            mallopt(_MMAP, size)
        mallopt(_TRIM, (1 << 31) - 1)
