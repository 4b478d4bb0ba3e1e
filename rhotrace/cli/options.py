"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rhotrace.errors import RhoTraceError

RunFile = Annotated[Path, typer.Argument(help="Run file made by `rhotrace train`.", show_default=False)]
RecipeFile = Annotated[Path, typer.Argument(help="Recipe, a YAML file.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a key, such as optimizer.lr=0.05; repeatable.", show_default=False),
]
Plot = Annotated[
    Path | None, typer.Option("--plot", help="Draw the result: NAME.png, .svg or .pdf.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON to standard output and nothing else there.")]

Theta = Annotated[float, typer.Option(help="The transient ends at rho = theta rho_eq.", metavar="0..1")]


def check_theta(theta: float) -> None:
    """Raises RhoTraceError for a theta that no transient can end at."""
    if not 0 < theta < 1:
        raise RhoTraceError(f"--theta: got {theta:g}, expected a number between 0 and 1")
