"""The command ``sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rhotrace.cli.options import AsJson, Overrides, Plot, Theta, check_theta
from rhotrace.errors import RhoTraceError


def sweep(
    file: Annotated[Path, typer.Argument(help="Sweep, a YAML file.", metavar="SWEEP", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder of the run files; sweeps/NAME by default.", show_default=False),
    ] = None,
    overrides: Overrides = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
    ray: Annotated[
        str | None,
        typer.Option("--ray", help="Train on a Ray cluster.", metavar="auto|local|ADDRESS", show_default=False),
    ] = None,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs of each Ray task; 0.25 lets four share one.")] = 0.0,
    device: Annotated[str, typer.Option(help="cpu or cuda.", metavar="cpu|cuda")] = "cpu",
    members_per_run: Annotated[
        int | None,
        typer.Option("--members-per-run", min=1, help="At most; by default what fits the memory.", show_default=False),
    ] = None,
    plan_only: Annotated[bool, typer.Option("--plan", help="Say what would be trained, and leave.")] = False,
    theta: Theta = 0.5,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Train a recipe over axes of its keys and seeds, go on with what was interrupted, and show T of every point."""
    from rhotrace.cli.sweep_session import Options, run_sweep

    check_theta(theta)
    if device not in {"cpu", "cuda"}:
        raise RhoTraceError(f"--device: got {device!r}, expected cpu or cuda")
    chosen = Options(file, output or Path("sweeps") / file.stem, tuple(overrides or ()), workers, ray, gpus, device)
    if not run_sweep(chosen, members_per_run, plan_only=plan_only, theta=theta, plot=plot, as_json=as_json):
        raise typer.Exit(2)
