"""The command ``plot``."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated

import typer

from rhotrace.cli.options import AsJson, Theta
from rhotrace.cli.output import answer
from rhotrace.errors import RhoTraceError

_WHAT = "rho|layers|transient|margins|loss|fluctuation|phase|scaling|quantity:NAME"
_LEAST, _MOST = 1.0, 40.0  # inches


def plot(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run files, or the folder of a sweep.", metavar="RUN...", show_default=False),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Figure: NAME.png, .svg or .pdf.", show_default=False)],
    what: Annotated[str, typer.Option("--what", help="What to draw.", metavar=_WHAT)] = "rho",
    members: Annotated[
        str | None,
        typer.Option("--members", help="Networks to show, such as 0,2 or 0:3.", metavar="N,...", show_default=False),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            "--steps", help="First and last step to show; either may be left out.", metavar="A:B", show_default=False
        ),
    ] = None,
    smooth: Annotated[int, typer.Option(min=1, help="Show running means over so many steps.", metavar="N")] = 1,
    width: Annotated[
        float | None,
        typer.Option("--width", help="Inches; by default 3.5, a column of a paper.", show_default=False),
    ] = None,
    height: Annotated[float | None, typer.Option("--height", help="Inches.", show_default=False)] = None,
    style: Annotated[
        list[str] | None,
        typer.Option("--style", help="A matplotlib style, such as ggplot; repeatable.", show_default=False),
    ] = None,
    title: Annotated[
        str | None, typer.Option("--title", help='Title of the figure; "" leaves it out.', show_default=False)
    ] = None,
    theta: Theta = 0.5,
    as_json: AsJson = False,
) -> None:
    """Draw runs: norms, margins, loss, the transient, the fluctuation, T over a sweep."""
    from contextlib import ExitStack

    from rhotrace.analysis.member_bands import View
    from rhotrace.display.blocks import Data, Paragraph
    from rhotrace.display.figures.kinds import PHASE, SAYS, draw_phase, kind_of, require_heeded
    from rhotrace.display.figures.style import COLUMN, Look, check_format, look
    from rhotrace.runfile.reader import open_trace
    from rhotrace.sweeps.index import run_files

    check_format(output, "-o")
    says = SAYS[PHASE]
    view = View(_members(members), _steps(steps), smooth)
    require_heeded(what, view)
    size = _inches("--width", width) or COLUMN, _inches("--height", height)
    with ExitStack() as stack:
        stack.enter_context(look(Look(*size, tuple(style or ()), title)))
        if what == PHASE:
            draw_phase(runs, output, theta)
        else:
            traces = [stack.enter_context(open_trace(run)) for run in run_files(runs)]
            says = kind_of(what).shows(traces)
            kind_of(what).draw(traces, output, theta, view)
    data = Data({"path": str(output), "what": what, "says": says})
    answer([data, Paragraph(f"{output}: {says}")], as_json=as_json)


def _inches(option: str, value: float | None) -> float | None:
    if value is not None and not (math.isfinite(value) and _LEAST <= value <= _MOST):
        raise RhoTraceError(f"{option}: got {value:g}, expected {_LEAST:g} to {_MOST:g} inches")
    return value


def _members(text: str | None) -> tuple[int, ...]:
    """The numbers in ``0,2`` or ``0:3``, both ends included; none for all."""
    if text is None:
        return ()
    found: list[int] = []
    for part in text.split(","):
        ends = re.fullmatch(r"\s*(\d{1,6})\s*(?::\s*(\d{1,6})\s*)?", part)
        if not ends or int(ends[2] or ends[1]) < int(ends[1]):
            raise RhoTraceError(f"--members: got {text!r}, expected numbers such as 0,2 or a range such as 0:3")
        found += range(int(ends[1]), int(ends[2] or ends[1]) + 1)
    return tuple(dict.fromkeys(found))


def _steps(text: str | None) -> tuple[int, int | None]:
    """The ends of ``A:B``, of which either may be left out."""
    if text is None:
        return 0, None
    ends = re.fullmatch(r"\s*(\d{0,12})\s*:\s*(\d{0,12})\s*", text)
    if not ends or (ends[2] and int(ends[2]) <= int(ends[1] or 0)):
        raise RhoTraceError(f"--steps: got {text!r}, expected A:B with whole numbers A < B, such as 100:5000")
    return int(ends[1] or 0), int(ends[2]) if ends[2] else None
