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


def collect(recipe_file: Path | None = None) -> dict[str, str]:
    """Attributes for a run file: versions, git state of RhoTrace's code and of the recipe's folder, command, start."""
    found = {**session(), **_git_state("git", Path(__file__).resolve().parent)}
    if recipe_file:
        found |= {"recipe_file": str(recipe_file), **_git_state("recipe_git", recipe_file.resolve().parent)}
    return found


def session() -> dict[str, str]:
    """What may differ between the processes that train one run."""
    return {
        "versions": versions(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "host": platform.node(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "folder": str(Path.cwd()),
        "started": now(),
    }


def versions() -> str:
    """Versions of the packages that decide a run's numbers and its file."""
    return ", ".join(f"{package} {version(package) or '(not installed)'}" for package in PACKAGES)


def version(package: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_state(name: str, folder: Path) -> dict[str, str]:
    return {
        f"{name}_revision": _git(folder, "rev-parse", "HEAD"),
        f"{name}_diff": _git(folder, "diff", "HEAD", "--", str(folder))[:MAX_DIFF],
    }


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
