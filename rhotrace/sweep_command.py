"""What ``rhotrace sweep`` does, from the file to the table; apart from the command line, because it is a page long."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rhotrace import plot_style, report
from rhotrace.engines import on_ray, processes
from rhotrace.report_sweep import SweepView, print_end, print_plan, print_sweep
from rhotrace.sweep import carry_out, plan
from rhotrace.sweep_plan import read
from rhotrace.sweep_result import collect


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
    """
    from rich.console import Console

    plot_style.check_format(plot)
    sweep = read(options.file, options.overrides)
    planned = plan(
        sweep,
        options.folder,
        device=options.device,
        workers=options.workers,
        members_per_run=members_per_run,
    )
    console = Console(stderr=True)
    print_plan(console, planned)
    if plan_only:
        return True
    engine = on_ray(options.ray, gpus=options.gpus) if options.ray else processes(options.workers)
    with SweepView(console) as view:
        states = carry_out(planned, engine, watch=view)
    print_end(console, states)
    result = collect(planned.folder, theta=theta)
    if plot:
        from rhotrace.plots_sweep import sweep_figure

        sweep_figure(result, plot)
    if as_json:
        runs = {name: {"state": state.state, "why": state.why} for name, state in states.items()}
        print(report.to_json({**report.plain(result), "runs": runs}))
    else:
        print_sweep(report.output(), result, plot)
    return all(state.state in {"finished", "diverged"} for state in states.values())
