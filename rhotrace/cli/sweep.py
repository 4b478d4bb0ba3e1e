"""The command ``sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rhotrace.cli.exit_codes import INTERRUPTED, USER_ERROR
from rhotrace.cli.options import AsJson, Overrides, Plot, Theta, TrustCode
from rhotrace.cli.output import answer, say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from rhotrace.sweeps.job import Engine
    from rhotrace.sweeps.runner import Plan, State

_DONE = {"finished", "diverged"}  # a run that diverged is a result of the sweep, and not an error


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
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Device of every run.")] = "cpu",
    members_per_run: Annotated[
        int | None,
        typer.Option(
            "--members-per-run",
            min=1,
            help="Most members in a run; by default as many as fit in memory.",
            show_default=False,
        ),
    ] = None,
    plan_only: Annotated[bool, typer.Option("--plan", help="Only show what would be trained.")] = False,
    trust_code: TrustCode = False,
    theta: Theta = 0.5,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Train a recipe over axes of its keys and seeds, resume interrupted runs, and show T of every point.

    Exit code 2: a run failed (one that diverged is counted, not failed). Exit code 130: interrupted; the same command resumes it.
    """
    from rich.console import Console

    from rhotrace.display.figures.sweep import sweep_figure
    from rhotrace.display.pages.sweep import plan_page, sweep_page
    from rhotrace.display.terminal.renderer import show
    from rhotrace.sweeps.results import collect
    from rhotrace.sweeps.runner import plan
    from rhotrace.sweeps.sweep_file import read

    folder, console = output or Path("sweeps") / file.stem, Console(stderr=True)
    # The GPU's memory is divided among the tasks that share it.
    sharing = int(1 / gpus) if ray and 0 < gpus < 1 else workers
    wanted = read(file, overrides or (), trust_code=trust_code)
    planned = plan(wanted, folder, device=device, workers=sharing, members_per_run=members_per_run)
    page = list(plan_page(planned))
    show(console, page)
    if plan_only:
        if as_json:
            answer(page, as_json=True)
        return
    states = _trained(console, planned, _engine(planned, workers, ray, gpus, on_gpu=device == "cuda"))
    result = collect(planned.folder, theta=theta)
    if plot:
        sweep_figure(result, plot)
    answer(sweep_page(result, states), as_json=as_json, plot=plot)
    if any(state.state not in _DONE for state in states.values()):
        raise typer.Exit(USER_ERROR)


def _engine(planned: Plan, workers: int, ray: str | None, gpus: float, *, on_gpu: bool) -> Engine:
    from rhotrace.sweeps import local_processes, ray_cluster

    if not ray:
        return local_processes.processes(workers)
    # Ray hides every GPU from a task that asks for none.
    return ray_cluster.on_ray(ray, gpus=gpus or float(on_gpu), memory=0.0 if on_gpu else planned.memory)


def _trained(console: Console, planned: Plan, engine: Engine) -> Mapping[str, State]:
    """Carries the plan out; exits if that was interrupted."""
    from rhotrace.display.pages.sweep import end_page
    from rhotrace.display.terminal.renderer import show
    from rhotrace.display.terminal.sweep import SweepView
    from rhotrace.sweeps.runner import carry_out

    try:
        with SweepView(console) as view:
            states = carry_out(planned, engine, watch=view)
    except KeyboardInterrupt:  # before the training, or a second Ctrl-C
        states = {}
    else:
        show(console, end_page(states))
        if all(state.state in _DONE or state.state == "failed" for state in states.values()):
            return states
    say("interrupted; the same command resumes the sweep")
    raise typer.Exit(INTERRUPTED)
