"""What ``rhotrace sweep`` does, from the file to the table; apart from the command line, because it is a page long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rhotrace.display import formatting
from rhotrace.display.figures import style as plot_style
from rhotrace.display.terminal.sweep import SweepView, print_end, print_plan, print_sweep
from rhotrace.sweeps.job import Engine
from rhotrace.sweeps.local_processes import processes
from rhotrace.sweeps.ray_cluster import on_ray
from rhotrace.sweeps.results import collect
from rhotrace.sweeps.runner import Plan, State, carry_out, plan
from rhotrace.sweeps.sweep_file import read

if TYPE_CHECKING:
    from rich.console import Console

INTERRUPTED = 130
_DONE = {"finished", "diverged"}


@dataclass(frozen=True)
class Options:
    """Where from, where to and on what a sweep is trained; see the command's help."""

    file: Path
    folder: Path
    overrides: tuple[str, ...]
    workers: int
    ray: str | None
    gpus: float
    device: str


def run_sweep(
    options: Options, members_per_run: int | None, *, plan_only: bool, theta: float, plot: Path | None, as_json: bool
) -> bool:
    """Plans, trains, and shows what came out; returns whether every run is done.

    Raises:
        RhoTraceError: what the user has to mend.
        SystemExit: 130, the training was stopped by Ctrl-C or SIGTERM.
    """
    from rich.console import Console

    plot_style.check_format(plot)
    sweep = read(options.file, options.overrides)
    # The GPU's memory is divided among the tasks that share it.
    sharing = int(1 / options.gpus) if options.ray and 0 < options.gpus < 1 else options.workers
    planned = plan(sweep, options.folder, device=options.device, workers=sharing, members_per_run=members_per_run)
    console = Console(stderr=True)
    print_plan(console, planned)
    if plan_only:
        if as_json:
            sizes = {"members": planned.members, "memory": planned.memory, "free": planned.free, "disk": planned.disk}
            each = [{"name": run.name, "members": len(run.points), "steps": run.recipe.steps} for run in planned.runs]
            print(
                formatting.to_json({"folder": str(planned.folder), "points": len(sweep.points), **sizes, "runs": each})
            )
        return True
    states = _trained(console, planned, _engine(options, planned))
    result = collect(planned.folder, theta=theta)
    if plot:
        from rhotrace.display.figures.sweep import sweep_figure

        sweep_figure(result, plot)
    if as_json:
        runs = {name: {"state": state.state, "why": state.why} for name, state in states.items()}
        print(formatting.to_json({**formatting.plain(result), "runs": runs}))
    else:
        print_sweep(formatting.output(), result, plot)
    return all(state.state in _DONE for state in states.values())


def _engine(options: Options, planned: Plan) -> Engine:
    if not options.ray:
        return processes(options.workers)
    on_gpu = options.device == "cuda"
    # Ray hides every GPU from a task that asks for none.
    return on_ray(options.ray, gpus=options.gpus or float(on_gpu), memory=0.0 if on_gpu else planned.memory)


def _trained(console: Console, planned: Plan, engine: Engine) -> Mapping[str, State]:
    """Carries the plan out; leaves where that was stopped."""
    try:
        with SweepView(console) as view:
            states = carry_out(planned, engine, watch=view)
    except KeyboardInterrupt:  # before the training, or a second Ctrl-C
        states = {}
    else:
        print_end(console, states)
        if all(state.state in _DONE or state.state == "failed" for state in states.values()):
            return states
    formatting.say(console, "stopped; the same command goes on from what is in the run files")
    raise SystemExit(INTERRUPTED)
