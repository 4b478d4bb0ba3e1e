"""Where a run came from: code, packages, machine and command, so that a file explains itself years later."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

PACKAGES = ("rhotrace", "torch", "torchvision", "numpy", "h5py", "scipy")
MAX_DIFF = 200_000


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def collect() -> dict[str, str]:
    """Attributes for a run file: versions, git state of RhoTrace's own code, host, command line and start."""
    folder = Path(__file__).resolve().parent
    return {
        "versions": ", ".join(f"{package} {_version(package)}" for package in PACKAGES),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "git_revision": _git(folder, "rev-parse", "HEAD"),
        "git_diff": _git(folder, "diff", "HEAD", "--", str(folder))[:MAX_DIFF],
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "folder": str(Path.cwd()),
        "started": now(),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _git(folder: Path, *words: str) -> str:
    """What git answers, or nothing where there is no git or no repository: an installed wheel has neither."""
    try:
        answer = subprocess.run(  # noqa: S603 - fixed words
            ["git", "-C", str(folder), *words],  # noqa: S607 - the user's git
            capture_output=True,
            text=True,
            errors="replace",
            timeout=10,
            check=False,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""
