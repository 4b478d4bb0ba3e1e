"""``train``, ``info``, ``quantities``, ``verify`` and ``repair`` as a person reads them."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from rhotrace.display.formatting import headline, plain, row, say, table, title, to_json
from rhotrace.models.losses import Square
from rhotrace.recording.quantities import QUANTITIES
from rhotrace.theory import paper

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console
    from rich.table import Table

    from rhotrace.config.recipe import Recipe
    from rhotrace.runfile.integrity import Verification
    from rhotrace.runfile.reader import Trace
    from rhotrace.runfile.repair import Repair
    from rhotrace.training.train import Outcome


def training_start(console: Console, recipe: Recipe, path: Path, first: int) -> None:
    """What is about to be trained, from which step, and where it goes."""
    members = len(recipe.seeds)
    depth = getattr(recipe.network, "depth", None)  # not every network is a chain of layers
    what = f"depth {depth}" if depth else f"kind {recipe.network.kind}"
    say(
        console,
        f"{'training' if first == 0 else f'going on at step {first} with'} {members} network{'s' if members > 1 else ''} of {what} {'for' if first == 0 else 'to'} {recipe.steps} steps "
        f"({recipe.optimizer.kind}, {recipe.data.dataset}) into {path}, {path.stat().st_size / 1e6:.0f} MB reserved",
    )


def training_end(console: Console, outcome: Outcome, path: Path, transient: str) -> None:
    """How it ended, what it cost, and what to do next."""
    took = f"{outcome.steps} steps in {outcome.seconds:.1f} s"
    if outcome.share_full:
        took += f", {100 * outcome.share_full:.0f} % of it for full-set sums (record.full_every spaces them out)"
    words = {
        "finished": f"done: {took}; {transient}",
        "interrupted": f"stopped: {took} are recorded, and the same command goes on from there; {transient}",
        "diverged": f"diverged: rho is finite in no member after {took}; the learning rate or the initial scale does not suit",
    }[outcome.ended]
    say(console, words)
    size = f"{path}, {path.stat().st_size / 1e6:.1f} MB"
    say(
        console,
        size
        if outcome.ended == "diverged"
        else f"{size}; next: rhotrace analyze {shlex.quote(str(path))} --fit-transient",
    )


def outcome_json(path: Path, outcome: Outcome, T: NDArray[np.float64] | None) -> str:
    """The same as JSON; T is that of each member, where it has one."""
    return to_json({"path": str(path), **plain(outcome), "T": T})


_PROVENANCE = (
    *(
        "started",
        "finished",
        "command",
        "folder",
        "host",
        "versions",
        "python",
        "platform",
        "device",
        "dtype",
        "threads",
    ),
    *("git_revision", "recipe_file", "recipe_git_revision", "recipe_digest", "data_digest", "data_md5"),
    *("repaired_from", "repaired", "repaired_text"),
)
_PER_MEMBER = ("seed", "batch_seed", "lr", "init_rho_k", "init_scale")
_DIFFS = ("git_diff", "recipe_git_diff")


def print_info(console: Console, trace: Trace, summary: dict[str, Any]) -> None:
    """What a run file holds and where it came from."""
    title(console, f"{trace.path}, {summary['bytes'] / 1e6:.2f} MB", headline(summary))
    console.print(provenance_table(trace))
    say(console, "Recipe", "bold")
    say(console, trace.attributes["recipe"])


def provenance_table(trace: Trace) -> Table:
    """Where a run came from: versions, machine, code, data, sessions, members."""
    snapshots = trace.snapshot_steps()
    grid = table("<key | <value")
    for key in _PROVENANCE:
        if trace.attributes.get(key) not in (None, ""):
            row(grid, key.replace("_", " "), str(trace.attributes[key]))
    for key in _DIFFS:
        diff = str(trace.attributes.get(key, ""))
        if diff or trace.attributes.get(key.replace("diff", "revision")):
            says = f"{len(diff.splitlines())} lines, kept in the attribute {key}" if diff else "none"
            row(grid, key.replace("_", " "), says)
    for number, session in enumerate(trace.sessions, 2):
        where = f"from step {session.get('from_step')}, {session.get('started')} on {session.get('host')}"
        differs = [
            str(session[key])
            for key in ("versions", "device", "threads", "git_revision")
            if key in session and session[key] != trace.attributes.get(key)
        ]
        row(grid, f"session {number}", "; ".join([where, *differs]))
    for name in (n for n in _PER_MEMBER if n in trace):
        row(grid, name.replace("_", " "), _listed(trace[name].tolist()))
    row(grid, "snapshots", "at steps " + ", ".join(map(str, snapshots)) if snapshots else "none")
    row(grid, "quantities", ", ".join(q.name for q in trace.quantities))
    return grid


def _listed(values: list[Any]) -> str:
    shown = ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values[:12])
    return shown if len(values) <= 12 else f"{shown}, … ({len(values)} in all)"


def print_verification(console: Console, result: Verification) -> None:
    """Every check with what it found, and the verdict."""
    grid = table("<check | <outcome | <found")
    for check in result.checks:
        row(grid, check.name, check.outcome, check.says)
    console.print(grid)
    left = sum(check.outcome == "not checked" for check in result.checks)
    unchecked = f"; {left} of {len(result.checks)} checks could not be made" if left else ""
    kind = "finished" if result.complete else "live"
    if result.sound:
        say(console, f"{result.path}: sound: a {kind} run file of {result.steps} steps{unchecked}", "bold")
    else:
        wrong = ", ".join(check.name for check in result.checks if check.outcome == "wrong")
        remedy = (
            "each byte is as it was written, so there is nothing to repair"
            if result.whole
            else f"`rhotrace repair {result.path}` saves what is sound"
        )
        say(console, f"{result.path}: {'WRONG' if result.whole else 'DAMAGED'} ({wrong}){unchecked}; {remedy}", "bold")


def print_repair(console: Console, result: Repair) -> None:
    """What was saved, and what to do with it."""
    copies = len(result.snapshots)
    kept = f"{copies} cop{'y' if copies == 1 else 'ies'} of the weights"
    lost = f" ({result.snapshots_lost} lost)" if result.snapshots_lost else ""
    say(
        console,
        f"{result.target}: {result.steps} of {result.steps_before} steps and {kept}{lost} saved; {result.path} is as it was",
    )
    if result.text_lost:
        say(console, "caution: some text attributes (recipe, provenance) were damaged and stand as they were found")
    say(
        console,
        f"training can go on: rhotrace train RECIPE --steps N -o {result.target}"
        if result.resumable
        else "the state of the optimizer after the last of them is lost, so training cannot go on from there",
    )


def quantity_rows() -> list[dict[str, str]]:
    """The quantities table as plain rows."""
    return [
        {
            "quantity": q.name,
            "symbol": q.symbol,
            "axes": ", ".join(("time", *q.axes)),
            "units": q.units,
            "memo": paper.STATEMENTS[q.equation].place if q.equation else "",
            "cadence": q.cadence,
            "says": q.says,
        }
        for q in (quantity.describe(Square()) for quantity in QUANTITIES.values())
    ]


def print_quantities(console: Console) -> None:
    """The table of everything that a run records."""
    rows = quantity_rows()
    grid = table(" | ".join(f"<{name}" for name in rows[0]))
    for cells in rows:
        row(grid, *cells.values())
    console.print(grid)
    say(console, f"memo: {paper.CITATION}.")
    say(
        console,
        "cadence: step = at every step; full = every record.full_every steps (every step under full batch); test = every record.test_every steps.",
    )


def quantities_markdown() -> str:
    """The same table for the README."""
    rows = quantity_rows()
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    lines += [
        "| " + " | ".join(f"`{v}`" if k == "quantity" else v.replace("|", "\\|") for k, v in row.items()) + " |"
        for row in rows
    ]
    return "\n".join(lines)
