"""The command ``train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rhotrace.cli.exit_codes import DIVERGED, INTERRUPTED
from rhotrace.cli.options import AsJson, Overrides, RecipeFile, TrustCode
from rhotrace.cli.output import answer, say
from rhotrace.errors import BusyError

if TYPE_CHECKING:
    from rich.console import Console

    from rhotrace.analysis.transient.live_follower import TransientWatch
    from rhotrace.config.recipe import Recipe
    from rhotrace.training.distributed import Team
    from rhotrace.training.train import Outcome


def train(
    recipe: RecipeFile,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Run file; runs/NAME.h5 by default.", show_default=False),
    ] = None,
    overrides: Overrides = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, help="Number of steps; extends a run of fewer steps.", show_default=False),
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="auto takes a GPU if there is one.")] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing run file.")] = False,
    despite_changes: Annotated[
        bool,
        typer.Option("--despite-changes", help="Resume even if versions, device, threads or processes changed."),
    ] = False,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Train a recipe's networks and record every step; resume a run that was interrupted.

    Exit code 3: every network diverged ("ended" in the JSON). Exit code 130: interrupted; the same command resumes the run.
    """
    from rich.console import Console

    from rhotrace.config import recipe as recipes
    from rhotrace.display.pages.training import training_end
    from rhotrace.display.terminal.renderer import show
    from rhotrace.training import distributed

    path, console = output or Path("runs") / f"{recipe.stem}.h5", Console(stderr=True)
    with distributed.team() as team:
        overrides = [*(overrides or []), *([f"steps={steps}"] if steps else [])]
        content = recipes.load(recipe, overrides, trust_code=trust_code)
        how: dict[str, Any] = {
            "extend_run": steps is not None,
            "despite_changes": despite_changes,
            "recipe_file": recipe,
        }
        outcome, transient = watched(console, content, path, team, device=device, force=force, **how)
    if team and team.rank:  # process 0 reports how training ended, and its exit code is that of the run
        return
    page = training_end(outcome, path, transient)
    show(console, page)
    if as_json:
        answer(page, as_json=True)
    if outcome.ended != "finished":
        raise typer.Exit(INTERRUPTED if outcome.ended == "interrupted" else DIVERGED)


def watched(
    console: Console,
    recipe: Recipe,
    path: Path,
    team: Team | None,
    *,
    elsewhere: str = "use -o FILE",
    **how: Any,  # noqa: ANN401 - as ``train`` has them
) -> tuple[Outcome, TransientWatch]:
    """Trains, and shows the progress; returns how the training ended, and T.

    ``elsewhere`` is what the user can do where another process trains into the file.
    """
    from rhotrace.display.pages.training import training_start
    from rhotrace.display.terminal.renderer import show
    from rhotrace.display.terminal.training import TrainingView
    from rhotrace.runfile.reader import open_trace
    from rhotrace.training.train import train as run

    def found() -> str:
        if recipe.network.kind != "module":
            return ""
        with open_trace(path) as trace:
            return str(trace.attributes.get("network_says", ""))

    try:
        with TrainingView(
            console, path, lambda first: show(console, training_start(recipe, path, first, found()))
        ) as view:
            return run(recipe, path, begin=view.begin, watch=view, team=team, **how), view.transient
    except BusyError as busy:
        raise busy.or_else(elsewhere) from None
    except KeyboardInterrupt:
        if not (team and team.rank):
            say(f"interrupted; {path} keeps every step" if path.exists() else "interrupted before the first step")
        raise typer.Exit(INTERRUPTED) from None
