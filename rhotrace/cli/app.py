"""The command line: thin commands, heavy imports inside them, and the only place where errors become exit codes."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated

import typer

from rhotrace.cli.export import export
from rhotrace.cli.options import AsJson, Overrides, Plot, RecipeFile, RunFile, Theta, check_theta
from rhotrace.cli.plot import plot as draw
from rhotrace.cli.recipe import recipe_app
from rhotrace.cli.report import report as write_report
from rhotrace.cli.simulate import simulate
from rhotrace.cli.sweep import sweep
from rhotrace.cli.watch import watch
from rhotrace.errors import RhoTraceError
from rhotrace.training.distributed import AlreadySaid

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Train deep ReLU networks with the square loss, record the norms of every layer at every step, and hold the "
    "theory of their dynamics (Poggio and Liao, CBMM Memo 112) against the record.",
    epilog="Example: rhotrace train recipes/deep8.yaml && rhotrace analyze runs/deep8.h5 --fit-transient\n\n"
    "Exit codes: 0 done; 1 a bug in RhoTrace; 2 something for you to mend; 130 training stopped by Ctrl-C.",
)
app.add_typer(recipe_app, name="recipe")

INTERRUPTED = 130


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal or pipe that cannot show a sign gets another for it
    try:
        app()
    except AlreadySaid:
        sys.exit(2)
    except RhoTraceError as error:
        _say(f"error: {error}")
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()  # nobody reads on; the usual silence of a pipe that was closed
        sys.exit(141)
    except OSError as error:
        _say(f"error: input or output failed: {error.strerror or error}")
        sys.exit(2)
    except MemoryError as error:
        _say(f"error: out of memory ({error}); lower network.width, data.train or the number of members")
        sys.exit(2)


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"rhotrace {version('rhotrace')}")
        raise typer.Exit


@app.callback()
def _top(
    _show: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: rhotrace train recipes/deep8.yaml --set members.seeds=2 -o runs/two.h5")
def train(
    recipe: RecipeFile,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Run file; runs/NAME.h5 by default.", show_default=False),
    ] = None,
    overrides: Overrides = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, help="Number of steps; takes a run that is there further.", show_default=False),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.", metavar="auto|cpu|cuda")] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace a run file that is there already.")] = False,
    despite_changes: Annotated[
        bool,
        typer.Option("--despite-changes", help="Go on with a run under other versions, device, threads or processes."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a recipe's networks and record every step; go on with a run that was interrupted."""
    from rhotrace.training import distributed

    path = output or Path("runs") / f"{recipe.stem}.h5"
    with distributed.team() as team:
        if device not in {"auto", "cpu", "cuda"}:
            raise RhoTraceError(f"--device: got {device!r}, expected auto, cpu or cuda")
        from rhotrace.config import recipe as recipes

        content = recipes.load(recipe, [*(overrides or []), *([f"steps={steps}"] if steps else [])])
        from rich.console import Console

        from rhotrace.display.terminal.runs import outcome_json, training_end, training_start
        from rhotrace.display.terminal.training import TrainingView
        from rhotrace.training.train import train as run

        helps = team is not None and team.rank > 0
        console = Console(stderr=True)
        try:
            with TrainingView(console, path, lambda first: training_start(console, content, path, first)) as view:
                outcome = run(
                    content,
                    path,
                    device=device,
                    force=force,
                    extend_run=steps is not None,
                    despite_changes=despite_changes,
                    recipe_file=recipe,
                    begin=view.begin,
                    watch=view,
                    team=team,
                )
        except KeyboardInterrupt:
            if not helps:
                _say(f"stopped; what was recorded is in {path}" if path.exists() else "stopped before the first step")
            raise typer.Exit(INTERRUPTED) from None
    if helps:  # process 0 tells how it ended, and its exit code is that of the run
        return
    training_end(console, outcome, path, view.transient.words())
    if as_json:
        typer.echo(outcome_json(path, outcome, view.transient.T))
    if outcome.ended == "interrupted":
        raise typer.Exit(INTERRUPTED)


@app.command(epilog="Example: rhotrace analyze runs/deep8.h5 --fit-transient")
def analyze(
    run: RunFile,
    fit_transient: Annotated[
        bool, typer.Option("--fit-transient", help="Also fit the memo's closed form to each member.")
    ] = False,
    theta: Theta = 0.5,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Measure the transient time T of a run and audit its steps."""
    check_theta(theta)
    from rhotrace.analysis.analyze import analyze as examine
    from rhotrace.analysis.run_series import RunSeries, require_steps
    from rhotrace.display import formatting
    from rhotrace.display.figures import style as plot_style
    from rhotrace.display.figures import transient as plots
    from rhotrace.runfile.reader import open_trace

    plot_style.check_format(plot)
    with open_trace(run) as trace:
        require_steps(trace)
        series = RunSeries(trace, theta)
        result = examine(series, fit=fit_transient)
        if plot:
            plots.transient_figure({"": (series.members, result.transient)}, plot)
    from rhotrace.display.terminal.analysis import print_analysis

    if as_json:
        typer.echo(formatting.to_json(result))
    else:
        print_analysis(formatting.output(), result, fits=fit_transient, plot=plot)


@app.command(epilog="Example: rhotrace compare runs/deep8.h5 runs/deep8-sgd.h5 --plot compare.png")
def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="2 to 20 run files; the first is held against the others.", show_default=False)
    ],
    predict: Annotated[
        bool, typer.Option("--predict", help="Also predict each fluctuation from the copies of the weights.")
    ] = False,
    align: Annotated[str, typer.Option(help="Count in steps, or in time, lr x steps.", metavar="step|time")] = "step",
    window: Annotated[
        str | None,
        typer.Option(
            help="First and last step (or time) to look at; found by default.", metavar="A:B", show_default=False
        ),
    ] = None,
    theta: Theta = 0.5,
    members: Annotated[bool, typer.Option("--members", help="Also print a row for each network.")] = False,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Compare the fluctuation of rho around rho_eq in runs on the same data."""
    from contextlib import ExitStack

    from rhotrace.analysis.fluctuation.comparison import chosen_window
    from rhotrace.analysis.fluctuation.comparison import compare as side_by_side
    from rhotrace.analysis.run_series import RunSeries
    from rhotrace.display import formatting
    from rhotrace.display.figures import style as plot_style
    from rhotrace.display.terminal.comparison import as_plain, print_comparison
    from rhotrace.runfile.reader import open_trace
    from rhotrace.sweeps.index import run_files

    check_theta(theta)
    if align not in {"step", "time"}:
        raise RhoTraceError(f"--align: got {align!r}, expected step or time")
    plot_style.check_format(plot)
    with ExitStack() as stack:
        series = [RunSeries(stack.enter_context(open_trace(run)), theta) for run in run_files(runs)]
        result = side_by_side(
            series,
            align="time" if align == "time" else "step",
            window=chosen_window(window),
            predicting=predict,
        )
        if plot:
            from rhotrace.display.figures.comparison import comparison_figure

            comparison_figure(result, series, plot)
    if as_json:
        typer.echo(formatting.to_json(as_plain(result)))
    else:
        print_comparison(formatting.output(), result, members=members, plot=plot)


app.command(epilog="Example: rhotrace simulate --depth 4 --start 0.1,0.15,0.2,0.3 --plot figure1.png")(simulate)


@app.command(epilog="Example: rhotrace audit runs/deep8.h5")
def audit(run: RunFile, theta: Theta = 0.5, plot: Plot = None, as_json: AsJson = False) -> None:
    """Go through the memo statement by statement, and say what holds in this run."""
    from rhotrace.analysis.claims.evidence import Evidence
    from rhotrace.analysis.claims.findings import audit_claims, cautions
    from rhotrace.analysis.run_series import RunSeries
    from rhotrace.analysis.run_summary import summary
    from rhotrace.display import formatting
    from rhotrace.display.figures import style as plot_style
    from rhotrace.display.terminal.claims import print_claims
    from rhotrace.runfile.reader import open_trace
    from rhotrace.theory import paper

    check_theta(theta)
    plot_style.check_format(plot)
    with open_trace(run) as trace:
        evidence = Evidence(RunSeries(trace, theta))
        claims, about, first = audit_claims(evidence), summary(trace), cautions(evidence)
        if plot:
            from rhotrace.display.figures.claims import audit_figure

            audit_figure(evidence, claims, plot)
    if as_json:
        errata = [formatting.plain(erratum) for erratum in paper.ERRATA]
        typer.echo(
            formatting.to_json(
                {
                    "path": str(run),
                    "cautions": first,
                    "claims": [formatting.plain(c) for c in claims],
                    "errata": errata,
                }
            )
        )
    else:
        print_claims(formatting.output(), run, about, claims, plot, first)


@app.command(epilog="Example: rhotrace scaling runs/scaling-L*.h5 --plot scaling.png")
def scaling(
    runs: Annotated[list[Path], typer.Argument(help="Run files made by `rhotrace train`.", show_default=False)],
    theta: Theta = 0.5,
    target: Annotated[
        float, typer.Option(help="Half-width of the exponent's interval to plan seeds for.", min=1e-3)
    ] = 0.1,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Fit T against rho_k(0) at each depth, and hold the exponent against the memo's law."""
    from contextlib import ExitStack

    from rhotrace.analysis.scaling_with_start import scaling as fit
    from rhotrace.display import formatting
    from rhotrace.display.figures import style as plot_style
    from rhotrace.display.figures import transient as plots
    from rhotrace.display.terminal.scaling import print_scaling
    from rhotrace.runfile.reader import open_trace
    from rhotrace.sweeps.index import run_files

    check_theta(theta)
    plot_style.check_format(plot)
    with ExitStack() as stack:
        result = fit([stack.enter_context(open_trace(run)) for run in run_files(runs)], theta=theta, target=target)
    if plot:
        plots.scaling_figure(result, plot)
    if as_json:
        verdicts = [each.verdict for each in result.each]
        typer.echo(formatting.to_json({**formatting.plain(result), "verdicts": verdicts}))
    else:
        print_scaling(formatting.output(), result, plot)


app.command(epilog="Example: rhotrace sweep recipes/sweeps/phase-diagram.yaml --workers 2 --plot phase.png")(sweep)


app.command("plot", epilog="Example: rhotrace plot runs/deep8.h5 --what rho -o rho.png")(draw)


app.command(epilog="Example: rhotrace watch runs/deep8.h5")(watch)


app.command("report", epilog="Example: rhotrace report runs/deep8.h5 runs/deep8-sgd.h5 -o report.html")(write_report)


app.command(epilog="Example: rhotrace export runs/deep8.h5 --to csv --every 10")(export)


@app.command(epilog="Example: rhotrace info runs/deep8.h5")
def info(run: RunFile, as_json: AsJson = False) -> None:
    """Show what a run file holds and where it came from."""
    from rhotrace.analysis.run_summary import summary
    from rhotrace.display import formatting
    from rhotrace.display.terminal.runs import print_info
    from rhotrace.runfile.reader import open_trace

    with open_trace(run) as trace:
        if as_json:
            typer.echo(
                formatting.to_json({**summary(trace), "attributes": trace.attributes, "sessions": trace.sessions})
            )
        else:
            print_info(formatting.output(), trace, summary(trace))


@app.command(epilog="Example: rhotrace quantities --json")
def quantities(as_json: AsJson = False) -> None:
    """List everything that a run records, with symbols, units and equations."""
    from rhotrace.display import formatting
    from rhotrace.display.terminal.runs import print_quantities, quantity_rows

    if as_json:
        typer.echo(formatting.to_json(quantity_rows()))
    else:
        print_quantities(formatting.output())


@app.command(epilog="Example: rhotrace verify runs/deep8.h5")
def verify(run: RunFile, as_json: AsJson = False) -> None:
    """Check a run file: checksums, commit counter, shapes, the laws of its training, weights against trace and data."""
    from rhotrace.analysis.verification import verify as examine
    from rhotrace.display import formatting
    from rhotrace.display.terminal.runs import print_verification
    from rhotrace.runfile.reader import open_trace

    with open_trace(run) as trace:
        result = examine(trace)
    if as_json:
        typer.echo(formatting.to_json({**formatting.plain(result), "sound": result.sound}))
    else:
        print_verification(formatting.output(), result)
    if not result.sound:
        raise typer.Exit(2)


@app.command(epilog="Example: rhotrace repair runs/deep8.h5 -o runs/deep8.repaired.h5")
def repair(
    run: RunFile,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="New run file; NAME.repaired.h5 by default.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Save the longest sound beginning of a damaged run file in a new one; the old one is only read."""
    from rhotrace.display import formatting
    from rhotrace.display.terminal.runs import print_repair
    from rhotrace.runfile.repair import repair as save

    result = save(run, output or run.with_suffix(".repaired.h5"))
    if as_json:
        typer.echo(formatting.to_json(result))
    else:
        print_repair(formatting.output(), result)
