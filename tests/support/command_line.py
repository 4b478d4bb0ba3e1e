"""The command line, run inside the process of a test."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


def run_inside(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    folder: Path,
    words: tuple[object, ...],
    columns: int,
) -> tuple[int, str, str]:
    """Runs a command from a folder, without colours, in a terminal of so many columns: (exit code, stdout, stderr)."""
    from rhotrace.cli import app as cli

    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "argv", ["rhotrace", *map(str, words)])
    capsys.readouterr()
    try:
        cli.main()
    except SystemExit as left:
        return int(left.code or 0), *capsys.readouterr()
    return 0, *capsys.readouterr()
