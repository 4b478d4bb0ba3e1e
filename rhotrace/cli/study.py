"""The commands ``study NAME``, ``study list`` and ``study copy``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from rhotrace.cli.exit_codes import INTERRUPTED
from rhotrace.cli.options import AsJson, TrustCode
from rhotrace.cli.output import answer, say

if TYPE_CHECKING:
    from rhotrace.config.recipe import Recipe


class _NameIsRun(TyperGroup):
    """A group in which the name of a study stands for ``run`` and that name."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401 - as the class it extends has them
        known = args and (args[0] in self.commands or args[0].startswith("-"))
        return super().resolve_command(ctx, args if known else ["run", *args])


study_app = typer.Typer(
    cls=_NameIsRun,
    no_args_is_help=True,
    help="Answer a question about the dynamics: train its runs, analyze them, and say what they show.",
    epilog="Example: rhotrace study list && rhotrace study early-stopping -o early-stopping.html",
)


@study_app.command("list", epilog="Example: rhotrace study list")
def study_list(as_json: AsJson = False) -> None:
    """List the studies that come with RhoTrace."""
    from rhotrace.display.blocks import Data, table
    from rhotrace.studies.catalogue import shipped

    found = shipped().values()
    data = [{"name": s.name, "question": s.question, "source": s.source, "scales": list(s.trainings)} for s in found]
    grid = table("<study | <question | <asked in", [(s.name, s.question, s.source) for s in found])
    answer([Data(data), grid], as_json=as_json)


@study_app.command("copy", epilog="Example: rhotrace study copy early-stopping -o my-studies")
def study_copy(
    name: Annotated[str, typer.Argument(help="Name as in `rhotrace study list`.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to copy into.")] = Path("studies"),
    as_json: AsJson = False,
) -> None:
    """Copy a study, its recipes and the Python files that these name into a folder; `rhotrace study FOLDER/FILE.py` runs the copy."""
    from rhotrace.display.blocks import Data, Paragraph
    from rhotrace.studies.run import copy

    written = [str(path) for path in copy(name, output)]
    words = [Paragraph(path) for path in written] or [Paragraph("exists already")]
    answer([Data(written), *words], as_json=as_json)


@study_app.command("run", epilog="Example: rhotrace study run early-stopping clock --scale small -o studies.html")
def study_run(
    names: Annotated[
        list[str],
        typer.Argument(help="Studies, or the Python files of your own.", metavar="STUDY...", show_default=False),
    ],
    scale: Annotated[Literal["small", "gpu"], typer.Option(help="small: minutes on two processor cores.")] = "small",
    runs: Annotated[Path, typer.Option("--runs", help="Folder of the run files; finished ones are used again.")] = Path(
        "runs"
    ),
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="HTML page; studies.html by default.", show_default=False)
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="auto takes a GPU if there is one.")] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace a page that is not a report.")] = False,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Answer studies; `rhotrace study NAME` is short for it. The file of your own study is Python code, and is executed.

    Python files that its recipes name are executed only with --trust-code, as by `rhotrace train`.

    Exit code 130: interrupted; the same command resumes.
    """
    from contextlib import ExitStack

    from rhotrace.display.html.report import refuse_to_replace
    from rhotrace.studies import run as studies
    from rhotrace.studies.catalogue import find

    page = output or Path("studies.html")
    refuse_to_replace(page, force=force)
    chosen = [find(name) for name in names]
    with ExitStack() as open_runs:
        found = []
        for study, file in chosen:
            one = studies.answered(
                study,
                file,
                scale=scale,
                folder=runs,
                train=lambda *what: _finished(*what, device=device),
                open_runs=open_runs,
                trust_code=trust_code,
            )
            if one is None:
                raise typer.Exit(INTERRUPTED)
            found.append(one)
        studies.write_page(found, page)
    answer(studies.page(found), as_json=as_json)
    say(f"written to {page}")


def _finished(recipe: Recipe, path: Path, source: Path, *, device: str) -> bool:
    """Trains one run of a study with the view of ``train``; whether it came to its end."""
    from rich.console import Console

    from rhotrace.cli.train import watched

    remedy = "use --runs FOLDER"
    outcome, _ = watched(Console(stderr=True), recipe, path, None, elsewhere=remedy, device=device, recipe_file=source)
    return outcome.ended != "interrupted"
