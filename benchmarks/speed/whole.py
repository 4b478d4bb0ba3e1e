"""One training from the start of its process to the end, by RhoTrace or by what a user would do otherwise."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

from .measure import Effort, Row, process, rhotrace
from .workloads import DEEP8, FOLLOWED, SGD

KINDS = {  # overrides, and steps
    "GD, L = 8, width 64, N = 400": ((), 300),
    "SGD, full-set sums every step, first layer followed": ((SGD, FOLLOWED), 1000),
    "GD, L = 8, width 64, N = 400, 16 members": (("members.seeds=16",), 30),
}


def other() -> None:
    """The process of an alternative: ``LOOP STEPS FOLDER OVERRIDE...``."""
    import torch

    from rhotrace.config import recipe

    from . import loops
    from .recorders import TOOLS, logging_with

    torch.set_num_threads(1)
    name, steps, folder, *overrides = sys.argv[1:]
    content = recipe.parse(DEEP8, overrides)
    if name in TOOLS:
        with TOOLS[name](Path(folder)) as write:
            loops.bare(content, logging_with(write))(int(steps))
    else:
        {"bare loop": loops.bare, "bare loop, one after another": loops.one_by_one}[name](content)(int(steps))


def whole(folder: Path, effort: Effort) -> Iterator[Row]:
    """RhoTrace and each alternative, a row each; ``beside`` says which."""
    from .recorders import TOOLS

    own = folder / "own.yaml"
    own.write_text(DEEP8)
    for number, (what, (overrides, steps)) in enumerate(KINDS.items()):
        count = 5 if effort.quick else steps
        sets = [word for override in (*overrides, f"steps={count}") for word in ("--set", override)]
        label = f"{what}, {count} steps"
        if not effort.quick:
            yield {"what": label, "beside": "RhoTrace", **rhotrace("train", own, "-o", folder / f"{number}.h5", *sets)}
        loops = ["bare loop, one after another" if "members.seeds=16" in overrides else "bare loop"]
        if number == 0 and not effort.quick:
            loops += list(TOOLS)
        for loop in loops:
            with tempfile.TemporaryDirectory() as place:
                try:
                    found = process("speed.whole:other", loop, count, place, *overrides)
                except RuntimeError as failed:
                    if "ModuleNotFoundError" not in str(failed):
                        raise
                    found = {"missing": "not installed"}
            yield {"what": label, "beside": loop, **found}
        if effort.quick:
            return


def memory(folder: Path, effort: Effort) -> Iterator[Row]:
    """Peak memory of a training of some length, and of one four times as long."""
    own = folder / "own.yaml"
    own.write_text(DEEP8)
    small = ("--set", "network.width=8", "--set", "data.train=100")
    lengths = (5, 20) if effort.quick else (4000, 16_000)
    peaks = [
        rhotrace("train", own, "-o", folder / f"{n}.h5", "--set", f"steps={n}", *small)["peak_MB"] for n in lengths
    ]
    found = {"what": f"peak memory of {lengths[1]:,} steps", "beside": f"{lengths[0]:,} steps", "goal": 1.02}
    found |= {"ratio": peaks[1] / peaks[0], "MB": peaks[1]}
    if found["ratio"] > found["goal"]:
        found["why"] = (
            f"{peaks[0]:.0f} MB grow by {1e3 * (peaks[1] - peaks[0]) / (lengths[1] - lengths[0]):.2f} kB a step."
        )
    yield found


def starts(_: Path, effort: Effort) -> Iterator[Row]:
    """The help of every command, beside a Python that does nothing and one that imports typer and rich."""
    from typer.main import get_command

    from rhotrace.cli.app import app

    def quickest(called: str, *words: str) -> Row:
        return min((process(called, *words) for _ in range(1 if effort.quick else 2)), key=lambda r: r["seconds"])

    nothing = quickest("")
    yield {"what": "python, doing nothing", **nothing}
    typer = quickest("speed.whole:only_typer")
    yield {"what": "python, importing typer and rich", **typer}
    for name in ["", *get_command(app).commands][: 2 if effort.quick else None]:
        words = (name, "--help") if name else ("--help",)
        found = {"what": " ".join(("rhotrace", *words)), "goal": {"seconds": 0.3}, "limit_seconds": nothing["seconds"]}
        found |= quickest("rhotrace.cli.app:main", *words)
        if found["seconds"] > 0.3:
            found["why"] = (
                f"of {found['seconds']:.2f} s ({found['processor_seconds']:.2f} s of the processor), a Python that does nothing takes "
                f"{nothing['seconds']:.2f} s, and one that imports typer and rich {typer['seconds']:.2f} s."
            )
        yield found


def only_typer() -> None:
    """What every command needs."""
    import rich.console
    import typer

    assert rich.console
    assert typer
