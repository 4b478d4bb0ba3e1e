"""The command line: its commands, and the only place where errors become exit codes."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rhotrace.cli.analyze import analyze
from rhotrace.cli.audit import audit
from rhotrace.cli.benchmark import benchmark
from rhotrace.cli.compare import compare
from rhotrace.cli.exit_codes import CLOSED_PIPE, HELP, USER_ERROR
from rhotrace.cli.export import export
from rhotrace.cli.output import say
from rhotrace.cli.plot import plot
from rhotrace.cli.quantities import quantities
from rhotrace.cli.recipe import recipe_app
from rhotrace.cli.report import report
from rhotrace.cli.run_files import info, repair, verify
from rhotrace.cli.scaling import scaling
from rhotrace.cli.simulate import simulate
from rhotrace.cli.study import study_app
from rhotrace.cli.sweep import sweep
from rhotrace.cli.train import train
from rhotrace.cli.watch import watch
from rhotrace.errors import AlreadySaid, RhoTraceError, out_of_memory


class _Commands(TyperGroup):
    """The commands; what a message about their arguments repeats of them is printable."""

    def make_context(self, *words: Any, **options: Any) -> Any:  # noqa: ANN401 - as the base class has it
        with _printable_messages():
            return super().make_context(*words, **options)

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - as the base class has it
        with _printable_messages():
            return super().invoke(ctx)


@contextmanager
def _printable_messages() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # typer does not export the class of its messages
        if isinstance(said := getattr(error, "message", None), str):
            from rhotrace.display.printable import printable

            error.message = printable(said)  # type: ignore[attr-defined]
        raise


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Train deep ReLU networks with the square loss, record the norms of every layer at every step, and compare the "
    "record with the theory of their dynamics (Poggio and Liao, CBMM Memo 112).",
    epilog=f"Example: rhotrace train recipes/deep8.yaml && rhotrace analyze runs/deep8.h5 --fit-transient\n\n{HELP}",
)
for panel, command, example in (
    ("Train", train, "train recipes/deep8.yaml --set members.seeds=2 -o runs/two.h5"),
    ("Train", watch, "watch runs/deep8.h5"),
    ("Train", sweep, "sweep recipes/sweeps/phase-diagram.yaml --workers 2 --plot phase.png"),
    ("Analyze", analyze, "analyze runs/deep8.h5 --fit-transient"),
    ("Analyze", audit, "audit runs/deep8.h5"),
    ("Analyze", compare, "compare runs/deep8.h5 runs/deep8-sgd.h5 --plot compare.png"),
    ("Analyze", scaling, "scaling runs/scaling-L*.h5 --plot scaling.png"),
    ("Analyze", simulate, "simulate --depth 4 --start 0.1,0.15,0.2,0.3 --plot figure1.png"),
    ("Show", plot, "plot runs/deep8.h5 --what rho -o rho.png"),
    ("Show", report, "report runs/deep8.h5 runs/deep8-sgd.h5 -o report.html"),
    ("Run files", info, "info runs/deep8.h5"),
    ("Run files", verify, "verify runs/deep8.h5"),
    ("Run files", repair, "repair runs/deep8.h5 -o runs/deep8.repaired.h5"),
    ("Run files", export, "export runs/deep8.h5 --to csv --every 10"),
    ("Reference", quantities, "quantities --json"),
    ("Reference", benchmark, "benchmark recipes/deep8.yaml --members 1,4,16"),
):
    app.command(epilog=f"Example: rhotrace {example}", rich_help_panel=panel)(command)
app.add_typer(recipe_app, name="recipe", rich_help_panel="Reference")
app.add_typer(study_app, name="study", rich_help_panel="Analyze")


@cache
def _commands() -> Any:  # noqa: ANN401 - typer does not export the class
    """The commands with their options, built once: a program that calls ``main`` often would spend its time on it."""
    return typer.main.get_command(app)


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # for a terminal or pipe that cannot show a character
    try:
        _commands()()
    except AlreadySaid:
        sys.exit(USER_ERROR)
    except RhoTraceError as error:
        _fail(str(error))
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone: end as quietly as other programs do
        sys.exit(CLOSED_PIPE)
    except OSError as error:
        _fail(f"input or output failed: {error.strerror or error}")
    except (MemoryError, RuntimeError) as error:
        where = out_of_memory(error)
        if not where:
            raise
        _fail(f"out of memory{where}; lower members.seeds, network.width, data.train or optimizer.batch_size")


def _fail(why: str) -> None:
    say(f"error: {why}")
    sys.exit(USER_ERROR)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"rhotrace {version('rhotrace')}")
        raise typer.Exit


@app.callback()
def _top(
    _show: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass
