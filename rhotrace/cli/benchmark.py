"""The command ``benchmark``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rhotrace.cli.exit_codes import INTERRUPTED
from rhotrace.cli.options import AsJson, Overrides, TrustCode
from rhotrace.cli.output import answer, say
from rhotrace.errors import RhoTraceError
from rhotrace.statistics.numbers import written

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rhotrace.config.recipe import Recipe
    from rhotrace.sweeps.benchmark import Benchmark, Setting

_MOST_MEMBERS = 100_000


def _numbers(text: str) -> str:
    words = [word.strip() for word in text.split(",")] if text else []
    if not all(word.isdecimal() and 1 <= int(word) <= _MOST_MEMBERS for word in words):
        raise RhoTraceError(
            f"--members: got {text!r}, expected whole numbers from 1 to {_MOST_MEMBERS}, such as 1,4,16"
        )
    return text


def benchmark(
    recipe: Annotated[Path | None, typer.Argument(help="Recipe; deep8 by default.", show_default=False)] = None,
    overrides: Overrides = None,
    device: Annotated[
        Literal["all", "cpu", "cuda"], typer.Option(help="all: the processor, and a GPU if there is one.")
    ] = "all",
    members: Annotated[
        str,
        typer.Option(
            help="Numbers of members side by side; 1,4,16,64 by default, and 256 on a GPU.",
            metavar="M,...",
            callback=_numbers,
        ),
    ] = "",
    seconds: Annotated[
        float,
        typer.Option(min=0.1, max=86400, help="Time for all measurements, about; a recipe with few steps needs less."),
    ] = 60.0,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Measure how fast this machine trains a recipe, and say which device, threads and number of members are best.

    Nothing is kept of these short trainings. Close other programs first: they slow down what is measured.
    """
    from rhotrace.config import recipe as recipes
    from rhotrace.config import shipped_recipes
    from rhotrace.display.pages.benchmark import benchmark_page
    from rhotrace.sweeps.benchmark import settings

    path = recipe or shipped_recipes.folder() / "deep8.yaml"
    content = recipes.load(path, overrides, trust_code=trust_code)
    asked = [int(word) for word in members.split(",")] if members else []
    chosen = settings(len(content.seeds), device=device, members=asked)
    found = _measured(path.stem, content, chosen, seconds)
    answer(benchmark_page(found, str(recipe) if recipe else "RECIPE"), as_json=as_json)


def _measured(name: str, recipe: Recipe, chosen: Sequence[Setting], seconds: float) -> Benchmark:
    """Measures with progress on standard error: a line that moves in a terminal, a line for each setting elsewhere."""
    from rich.console import Console

    from rhotrace.display.pages.benchmark import in_words
    from rhotrace.sweeps.benchmark import measure

    console = Console(stderr=True)
    say(f"{name}: {len(chosen)} settings, up to about {seconds:.0f} s")
    try:
        with console.status("") as status:
            return measure(
                name,
                recipe,
                chosen,
                seconds=seconds,
                begin=lambda number, setting: status.update(f"{number} of {len(chosen)}: {in_words(setting)}"),
                watch=lambda reading: say(f"{in_words(reading.setting)}: {written(reading.steps_per_second)} steps/s"),
            )
    except KeyboardInterrupt:
        say("interrupted; nothing is kept")
        raise typer.Exit(INTERRUPTED) from None
