"""``watch`` in a terminal: the state of a run in words and its curves in braille dots."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from rich.live import Live
from rich.text import Text

from rhotrace.analysis.transient.live_follower import TRAINING, Follower, Glimpse, as_plain
from rhotrace.display.as_json import to_json
from rhotrace.display.pages.watch import words
from rhotrace.display.printable import printable
from rhotrace.display.terminal.renderer import say
from rhotrace.training.stop_signal import StopRequest

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from rhotrace.statistics.extremes import Curve, Floats, Rows

_AXIS = 8  # columns of the numbers beside a plot
_BAR = 20
_PER_DECADE = float(np.log(10))


def watch(console: Console, follower: Follower, *, every: float, once: bool, as_json: bool) -> Glimpse:
    """Shows a run until it ends or Ctrl-C; in a pipe, prints a line whenever there are new steps.

    Args:
        console: where to.
        follower: of the run.
        every: seconds between updates.
        once: show the current state only.
        as_json: print each update as a line of JSON.

    Returns:
        The last state.

    Raises:
        KeyboardInterrupt: Ctrl-C.
        TraceError: the run cannot be read.
    """
    live = console.is_terminal and not console.is_dumb_terminal and not once and not as_json
    shown = "", -1
    with Live(console=console, auto_refresh=False) if live else contextlib.nullcontext() as display:
        while True:
            # Ctrl-C counts when the look is drawn: inside the callbacks of h5py's objects, Python drops a KeyboardInterrupt.
            with StopRequest() as stop:
                glimpse = follower.look()
                if display:
                    display.update(view(console, glimpse), refresh=True)
                elif (glimpse.run, glimpse.steps) != shown or glimpse.state != TRAINING:
                    _print(console, glimpse, once=once, as_json=as_json)
                    shown = glimpse.run, glimpse.steps
            if stop.requested:
                raise KeyboardInterrupt
            if once or glimpse.state != TRAINING:
                return glimpse
            time.sleep(every)


def _print(console: Console, glimpse: Glimpse, *, once: bool, as_json: bool) -> None:
    if as_json:
        console.out(to_json(as_plain(glimpse), indent=None), highlight=False)
    elif once:
        console.print(view(console, glimpse))
    else:
        say(console, _writable(console, "  ".join(words(glimpse))))


def wait_for(console: Console, path: Path, patience: float = 30.0) -> None:
    """Waits at most ``patience`` seconds for the file of a training that is about to begin."""
    if path.exists() or not console.is_terminal:
        return
    ends = time.monotonic() + patience
    spinner = "line" if console.options.ascii_only else "dots"
    with console.status(Text(_writable(console, f"waiting for {path}")), spinner=spinner):
        while not path.exists() and time.monotonic() < ends:
            time.sleep(0.2)


def view(console: Console, glimpse: Glimpse) -> Text:
    """The state of a run on one screen."""
    plain, share = console.options.ascii_only, glimpse.steps / max(1, glimpse.planned_steps or glimpse.steps)
    bar = min(_BAR, console.width - len(" 100 %"))
    done = int(bar * share)
    first, *rest = (_writable(console, line) for line in words(glimpse))
    text = Text.assemble((_writable(console, glimpse.path.name), "bold"), f"  {first}\n")
    text.append(("#" if plain else "━") * done, "blue").append(("." if plain else "─") * (bar - done), "bright_black")
    text.append("\n".join([f" {int(100 * share)} %", *rest]))
    norms = Text.assemble("log10 rho ", ("━", "blue"), "  log10 rho_eq ", ("┅", "yellow"))
    taken = sum(len(part.wrap(console, console.width)) for part in (text, norms)) + 2  # "log10 loss" and the axis
    room = min(console.height - 1, 40) - taken
    width = min(console.width, 100) - _AXIS
    if glimpse.steps < 2 or room < 4 or width < 10 or plain:
        return text
    curves = {name: (steps, values / _PER_DECADE) for name, (steps, values) in glimpse.curves.items() if name != "loss"}
    with np.errstate(divide="ignore", invalid="ignore"):
        loss = glimpse.curves["loss"][0], np.log10(glimpse.curves["loss"][1])
    tall, last = room * 3 // 5, glimpse.steps - 1
    text.append("\n").append(norms).append("\n")
    text.append(_plot([(curves["log_rho"], "blue"), (curves["log_rho_eq"], "yellow")], last, width, tall, console))
    text.append("log10 loss\n")
    text.append(_plot([(loss, "blue")], last, width, room - tall, console))
    return text.append(f"{'':{_AXIS}}0{last:>{width - 1}}")


def _plot(curves: list[tuple[Curve, str]], last: int, width: int, height: int, console: Console) -> Text:
    """Curves up to a last step in braille dots, the first as a line, others as dashes; the ends of their range beside."""
    from plotille import Canvas

    values = np.concatenate([values[np.isfinite(values)] for (_, values), _ in curves])
    if not len(values):
        return Text(f"{'':{_AXIS}}no finite value\n")
    low, high = float(values.min()), float(values.max())
    flat = high - low <= 1e-12 * max(1.0, abs(low), abs(high))
    bottom, top = (low - 0.5, high + 0.5) if flat else (low, high)
    dot = last / (2 * width - 1)  # the canvas leaves out what lies at its very ends
    canvas = Canvas(width, height, 0, bottom, last + dot, top + (top - bottom) / (4 * height - 1), mode="names")
    for order, ((steps, at), colour) in enumerate(curves):
        for x0, y0, x1, y1 in _pieces(steps, at, 4 * dot if order else 0.0):
            canvas.line(x0, y0, x1, y1, color=None if console.no_color else colour)
    text = Text()
    lines = canvas.plot(linesep="\n").split("\n")
    beside = dict(zip((0, len(lines) - 1), _range(high, low), strict=True))
    for n, drawn in enumerate(lines):
        text.append(f"{beside.get(n, ''):>{_AXIS - 1}} ").append(Text.from_ansi(drawn)).append("\n")
    return text


def _pieces(steps: Rows, values: Floats, dash: float) -> Iterator[tuple[float, float, float, float]]:
    """Lines between finite neighbours, and dots for points without one; cut into dashes if ``dash`` is a length."""
    finite = np.append(np.isfinite(values), np.False_)
    for n in np.flatnonzero(finite):
        alone = not finite[n + 1]
        x0, y0 = float(steps[n]), float(values[n])
        x1, y1 = (x0, y0) if alone else (float(steps[n + 1]), float(values[n + 1]))
        if alone or not dash:
            yield x0, y0, x1, y1
            continue
        for cell in range(int(x0 / dash), int(x1 / dash) + 1):
            begin, end = max(x0, cell * dash), min(x1, (cell + 0.5) * dash)
            if begin <= end:
                yield begin, y0 + (y1 - y0) * (begin - x0) / (x1 - x0), end, y0 + (y1 - y0) * (end - x0) / (x1 - x0)


def _range(*ends: float) -> list[str]:
    """The ends of an axis, with the fewest digits that distinguish them, if there is room."""
    found = [[format(end, form) for end in ends] for form in ("z.2f", "z.3f", "z.4f", "z.1f", "z.0f", ".0e")]
    short = [texts for texts in found if max(map(len, texts)) < _AXIS]
    return next((texts for texts in short if len({*texts}) == len(texts)), short[0])


def _writable(console: Console, text: str) -> str:
    """A text without the characters that the terminal or file behind a console cannot show, or would obey."""
    text = printable(text)
    if not console.options.ascii_only:
        return text
    return text.replace("–", "-").replace("∞", "inf").encode("ascii", "replace").decode()
