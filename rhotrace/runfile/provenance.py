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
MAX_DIFF = 200_000  # characters
GIT_SECONDS = 10.0


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def collect(recipe_file: Path | None = None) -> dict[str, str]:
    """Attributes for a run file: versions, git state of RhoTrace's code and of the recipe's folder, command, start."""
    code = Path(__file__).resolve()
    # An installed copy may be inside another project's repository, in a virtual environment that git ignores.
    package = code.parents[1]
    tracked = _git(package, "ls-files", "--", str(code))
    found = {**session(), **(_git_state("git", package) if tracked else {"git_revision": "", "git_diff": ""})}
    if recipe_file:
        found |= {"recipe_file": str(recipe_file), **_git_state("recipe_git", recipe_file.resolve().parent)}
    return {name: _storable(text) for name, text in found.items()}


def _storable(text: str) -> str:
    """The text as HDF5 can store it: NULs, and the bytes of names that are not UTF-8, are escaped."""
    return text.replace("\0", "\\0").encode(errors="backslashreplace").decode()


def session() -> dict[str, str]:
    """Attributes that may differ between the processes that train one run."""
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
    revision = _git(folder, "rev-parse", "HEAD")
    # --no-ext-diff and the like: plain text, regardless of the user's git settings.
    plain = ("--no-ext-diff", "--no-textconv", "--no-color")
    diff = _git(folder, "diff", *plain, "HEAD", "--", ".") if revision else ""
    if diff is None:
        diff = "(git diff took too long)"
    if len(diff) > MAX_DIFF:
        diff = f"{diff[:MAX_DIFF]}\n(cut here: {MAX_DIFF} of {len(diff)} characters)"
    return {f"{name}_revision": revision or "", f"{name}_diff": diff}


def _git(folder: Path, *words: str) -> str | None:
    """The output of git: empty without git or a repository (an installed wheel has neither), None if git is too slow."""
    # Git sets these for its hooks; they would name another repository than the folder's.
    elsewhere = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
    environment = {name: value for name, value in os.environ.items() if name not in elsewhere}
    try:
        answer = subprocess.run(  # noqa: S603 - fixed words
            ["git", "-C", str(folder), *words],  # noqa: S607 - the user's git
            capture_output=True,
            timeout=GIT_SECONDS,
            check=False,
            env={**environment, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except subprocess.TimeoutExpired:
        return None
    except OSError:
        return ""
    return answer.stdout.decode(errors="replace").rstrip("\n") if answer.returncode == 0 else ""
