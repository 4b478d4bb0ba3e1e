"""``watch`` in a terminal: the state of a run in words and its curves in braille dots."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
from rich.live import Live
from rich.text import Text

from rhotrace.report import number, say, to_json
from rhotrace.watch import TRAINING, Follower, Glimpse, as_plain

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from rhotrace.bands import Curve

_AXIS = 8  # columns of the numbers beside a plot
_BAR = 20
_WORDS_LINES = 9  # of the view, besides the plots
_PATIENCE = 30.0  # seconds
_PER_DECADE = float(np.log(10))


def watch(console: Console, follower: Follower, *, every: float, once: bool, as_json: bool) -> Glimpse:
    """Shows a run until it ends or somebody has seen enough; in a pipe, a line whenever it has moved.

    Args:
        console: where to.
        follower: of the run.
        every: seconds from one look to the next.
        once: look once.
        as_json: print each look as a line of JSON.

    Returns:
        The last look.

    Raises:
        KeyboardInterrupt: Ctrl-C.
        TraceError: the run cannot be read.
    """
    glimpse, shown = follower.look(), -1
    live = console.is_terminal and not once and not as_json
    with Live(console=console, auto_refresh=False) as display:
        if not live:
            display.stop()
        while True:
            if live:
                display.update(view(console, glimpse), refresh=True)
            elif glimpse.steps != shown or glimpse.state != TRAINING:
                if as_json:
                    console.out(to_json(as_plain(glimpse), indent=None), highlight=False)
                elif once:
                    console.print(view(console, glimpse))
                else:
                    say(console, "  ".join(words(glimpse)))
                shown = glimpse.steps
            if once or glimpse.state != TRAINING:
                return glimpse
            time.sleep(every)
            glimpse = follower.look()


def wait_for(console: Console, path: Path) -> None:
    """Waits a while for the file of a training that is about to begin."""
    if path.exists() or not console.is_terminal:
        return
    ends = time.monotonic() + _PATIENCE
    with console.status(f"waiting for {path}"):
        while not path.exists() and time.monotonic() < ends:
            time.sleep(0.2)


def words(glimpse: Glimpse) -> list[str]:
    """Progress, speed, transient and the last values, each a few words."""
    left = f", {_duration(glimpse.seconds_left)} left" if np.isfinite(glimpse.seconds_left) else ""
    rate = f"{glimpse.steps_per_second:.0f} steps/s{left}" if np.isfinite(glimpse.steps_per_second) else ""
    last = glimpse.last
    values = []
    if last:
        medians = "medians: " if glimpse.members > 1 else ""
        values = [
            f"{medians}loss {number(last['loss'])}  error {number(last['error'])}  "
            f"rho 10^{last['log_rho'] / _PER_DECADE:.2f}  rho_eq/rho {number(last['rho_eq_over_rho'])}"
        ]
    return [
        f"{glimpse.state}: step {glimpse.steps} of {glimpse.planned_steps}",
        *([rate] if rate else []),
        glimpse.transient,
        *values,
    ]


def view(console: Console, glimpse: Glimpse) -> Text:
    """The state of a run on one screen."""
    done = int(_BAR * glimpse.steps / max(1, glimpse.planned_steps))
    first, *rest = words(glimpse)
    text = Text.assemble((glimpse.path.name, "bold"), f"  {first}\n")
    text.append("━" * done, "blue").append("━" * (_BAR - done), "bright_black")
    text.append(f" {100 * glimpse.steps / max(1, glimpse.planned_steps):.0f} %\n" + "\n".join(rest) + "\n")
    room = min(console.height, 40) - _WORDS_LINES
    width = min(console.width, 100) - _AXIS
    if glimpse.steps < 2 or room < 4 or width < 10 or console.options.ascii_only:
        return text
    curves = {name: (steps, values / _PER_DECADE) for name, (steps, values) in glimpse.curves.items() if name != "loss"}
    with np.errstate(divide="ignore", invalid="ignore"):
        loss = glimpse.curves["loss"][0], np.log10(glimpse.curves["loss"][1])
    tall = room * 3 // 5
    text.append("log10 rho ").append("━", "blue").append("  log10 rho_eq ").append("┅\n", "yellow")
    text.append(_plot([(curves["log_rho"], "blue"), (curves["log_rho_eq"], "yellow")], width, tall, console))
    text.append("log10 loss\n")
    text.append(_plot([(loss, "blue")], width, max(2, room - tall), console))
    return text.append(f"{'':{_AXIS}}0{glimpse.steps - 1:>{width - 1}}")


def _plot(curves: list[tuple[Curve, str]], width: int, height: int, console: Console) -> Text:
    """Curves in braille dots, the first as a line, others as dashes; the smallest and largest value beside them."""
    from plotille import Canvas

    finite = [(s[np.isfinite(v)], v[np.isfinite(v)], colour) for (s, v), colour in curves]
    values = np.concatenate([v for _, v, _ in finite])
    if not len(values):
        return Text(f"{'':{_AXIS}}no finite value yet\n")
    low, high = float(values.min()), float(values.max())
    right = max(float(s[-1]) for s, _, _ in finite if len(s))
    margin = 0.02 * (high - low) or 0.5
    canvas = Canvas(width, height, 0, low - margin, max(right, 1), high + margin, mode="names")
    for order, (steps, at, colour) in enumerate(finite):
        own = colour if console.color_system else None
        gap = max(right, 1) / width
        for n in range(len(steps) - 1):
            if order and int(steps[n] / gap) % 2:  # dashes
                continue
            canvas.line(float(steps[n]), float(at[n]), float(steps[n + 1]), float(at[n + 1]), color=own)
    text = Text()
    lines = canvas.plot().splitlines()
    for n, drawn in enumerate(lines):
        end = high if n == 0 else low
        name = (f"{end:.2f}" if high - low >= 0.05 else f"{end:.0e}") if n in {0, len(lines) - 1} else ""
        text.append(f"{name:>{_AXIS - 1}} ").append(Text.from_ansi(drawn)).append("\n")
    return text


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
