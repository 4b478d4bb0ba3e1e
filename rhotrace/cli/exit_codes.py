"""The exit codes of the command line."""

from __future__ import annotations

BUG = 1
USER_ERROR = 2
DIVERGED = 3
INTERRUPTED = 130  # as a shell has it for Ctrl-C
CLOSED_PIPE = 141  # as a shell has it for a process that a closed pipe has stopped

HELP = (
    f"Exit codes: 0 done; {BUG} a bug in RhoTrace; {USER_ERROR} a user error, or a damaged run file under verify; "
    f"{DIVERGED} train: every network diverged; {INTERRUPTED} interrupted by Ctrl-C or SIGTERM, with every step kept."
)
