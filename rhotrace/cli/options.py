"""Arguments and options that several commands share, each with its check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rhotrace.errors import RhoTraceError


def _between_0_and_1(theta: float) -> float:
    if not 0 < theta < 1:
        raise RhoTraceError(f"--theta: got {theta:g}, expected a number between 0 and 1")
    return theta


def _figure(path: Path | None) -> Path | None:
    if path is not None:
        from rhotrace.display.figures.style import check_format

        check_format(path)
    return path


RunFile = Annotated[Path, typer.Argument(help="Run file of `rhotrace train` or `rhotrace.record`.", show_default=False)]
RecipeFile = Annotated[Path, typer.Argument(help="Recipe, a YAML file.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a key, such as optimizer.lr=0.05; repeatable.", show_default=False),
]
TrustCode = Annotated[
    bool,
    typer.Option("--trust-code", help="Run the Python files that the recipe names, with all your rights."),
]
TrustStored = Annotated[
    bool,
    typer.Option("--trust-code", help="Run the Python code that a run file stores, for what needs the network."),
]
Plot = Annotated[
    Path | None,
    typer.Option("--plot", help="Also draw the result: NAME.png, .svg or .pdf.", show_default=False, callback=_figure),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print only JSON on standard output.")]
Theta = Annotated[
    float,
    typer.Option(help="The transient ends at rho = theta rho_eq.", metavar="0..1", callback=_between_0_and_1),
]
