"""Carries a sweep out: plans it to fit the memory, trains it with an engine, and resumes it after an interruption.

The folder of a sweep contains the run files and one index, ``sweep.json``. Only the run files, whose checksums must be
right, decide which runs are done; no list of them is kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rhotrace.config.recipe import Recipe
from rhotrace.errors import TraceError
from rhotrace.runfile.integrity import is_whole
from rhotrace.runfile.reader import open_trace
from rhotrace.sweeps import resources
from rhotrace.sweeps.index import FORMAT, INDEX, index_of
from rhotrace.sweeps.job import End, Engine, Job
from rhotrace.sweeps.sweep_file import Run, Sweep, runs

_FEWEST = 16  # members of a run on a processor, of any size; fewer gain nothing

Found = Literal["finished", "diverged", "begun", "new", "damaged", "other"]


@dataclass(frozen=True)
class Plan:
    """What a sweep will train.

    Attributes:
        sweep: what was asked for.
        folder: of the index and the run files, absolute.
        runs: the trainings.
        device: auto, cpu or cuda.
        memory: of the largest run, in bytes, estimated.
        free: memory that was free, in bytes.
        disk: space that all runs take during training, in bytes.
    """

    sweep: Sweep
    folder: Path
    runs: tuple[Run, ...]
    device: str
    memory: float
    free: float
    disk: float

    @property
    def members(self) -> int:
        """Number of networks, in all runs."""
        return sum(len(run.points) for run in self.runs)

    def path(self, run: Run) -> Path:
        """Path of a run's file."""
        return self.folder / run.name


@dataclass(frozen=True)
class State:
    """The state of one run of a sweep."""

    run: Run
    state: str
    steps: int = 0
    seconds: float = 0.0
    host: str = ""
    why: str = ""
    notes: tuple[str, ...] = ()


def plan(
    sweep: Sweep, folder: Path, *, device: str = "cpu", workers: int = 1, members_per_run: int | None = None
) -> Plan:
    """Groups a sweep's points into runs that fit the memory.

    In a folder that already has runs of this sweep, or of one that it extends, these keep their sizes, so that no run is
    trained again because less memory is free now.

    Raises:
        RecipeError: a point's recipe is not valid.
        DataError: the data is absent, or has too few samples for the recipe.
        TraceError: the folder is a file, or its index is damaged.
    """
    folder = folder.absolute()
    if any(place.exists() and not place.is_dir() for place in (folder, *folder.parents)):
        raise TraceError(
            f"{folder}: part of this path is a file, expected a folder for the sweep's runs; choose another -o"
        )
    known = index_of(folder) if members_per_run is None else None
    free = resources.free_bytes(device)
    sizes: dict[str, tuple[float, float, float, float]] = {}

    def size(recipe: Recipe) -> tuple[float, float, float, float]:
        key = json.dumps(recipe.model_dump(include={"data", "network", "optimizer", "record"}), sort_keys=True)
        if key not in sizes:
            loaded = recipe.load_data()
            (samples, outputs), shape = loaded.y.shape, loaded.shape
            sizes[key] = (
                resources.shared_bytes(recipe, samples, len(loaded.x_test), shape),
                resources.member_bytes(recipe, samples, shape, outputs),
                resources.step_bytes(recipe, samples, shape, outputs),
                resources.copies_bytes(recipe, samples, shape, outputs)
                + resources.row_bytes(recipe, samples, shape, outputs),
            )
        return sizes[key]

    def most(recipe: Recipe) -> int:
        if members_per_run is not None:
            return members_per_run
        shared, each, step, _ = size(recipe)
        fits = int((resources.SHARE * free / workers - shared) / each)
        quick = fits if device == "cuda" else max(_FEWEST, int(resources.CACHE / step))
        return max(1, min(fits, quick))

    found = tuple(runs(sweep, most, known["group_sizes"] if known else None))
    needs = [size(run.recipe)[0] + len(run.points) * size(run.recipe)[1] for run in found]
    disk = sum(len(run.points) * (size(run.recipe)[3]) for run in found)
    return Plan(sweep, folder, found, device, max(needs), free, disk)


def write_index(plan: Plan) -> Path:
    """Writes the index of a sweep: its points, and which member of which file each is."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    members: list[list[list[int]]] = [[] for _ in plan.sweep.points]
    for number, run in enumerate(plan.runs):
        for member, point in enumerate(run.points):
            members[point].append([number, member])
    content = {
        "format": FORMAT,
        "sweep": str(plan.sweep.path),
        "recipe": str(plan.sweep.recipe),
        "digest": plan.sweep.digest,
        "group_sizes": {run.group: len(run.points) for run in reversed(plan.runs)},
        "axes": plan.sweep.axes,
        "seeds": plan.sweep.seeds,
        "runs": [{"file": run.name, "recipe_digest": run.recipe.digest} for run in plan.runs],
        "points": [
            {"values": values, "members": where} for values, where in zip(plan.sweep.points, members, strict=True)
        ],
    }
    path, fresh = plan.folder / INDEX, plan.folder / f".{INDEX}.new"
    with fresh.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    return path


# --- what is there -----------------------------------------------------------------------------------------


def look(path: Path, recipe: Recipe) -> tuple[Found, int]:
    """The state of a run's file, and its committed steps; a finished run must also be undamaged."""
    if not path.exists():
        return "new", 0
    try:
        with open_trace(path) as trace:
            if trace.attributes["recipe_digest"] != recipe.digest:
                return "other", trace.steps
            if not trace.complete:
                return "begun", trace.steps
            if not is_whole(trace):
                return "damaged", trace.steps
            return ("diverged" if trace.attributes.get("ended") == "diverged" else "finished"), trace.steps
    except TraceError:
        return "damaged", 0


def carry_out(
    plan: Plan, engine: Engine, *, watch: Callable[[Mapping[str, State]], None] = lambda _: None
) -> dict[str, State]:
    """Trains the runs that are not finished; returns the state of each, by the name of its file.

    A damaged file is renamed, and its run is trained again. A run that fails does not stop the others.

    Args:
        plan: what to train.
        engine: where.
        watch: called about twice a second with the state of each run.

    Raises:
        RhoTraceError: the engine is not available.
        OSError: the folder cannot be written.
    """
    write_index(plan)
    states = {run.name: _first_look(plan, run) for run in plan.runs}
    todo = [state for state in states.values() if state.state not in {"finished", "diverged"}]
    # The longest first, so that no long run trains alone at the end.
    todo.sort(key=lambda state: -len(state.run.points) * state.run.recipe.steps)
    origin, trust = str(plan.sweep.recipe), plan.sweep.trust_code
    jobs = [Job(s.run.recipe.to_yaml(), str(plan.path(s.run)), plan.device, origin, trust) for s in todo]
    watch(states)
    for end in engine(jobs) if jobs else ():
        if end is None:
            _update(plan, states)
        else:
            name = Path(end.path).name
            states[name] = _ended(states[name], end)
        watch(states)
    return states


def _first_look(plan: Plan, run: Run) -> State:
    path = plan.path(run)
    found, steps = look(path, run.recipe)
    if found in {"finished", "diverged", "begun"}:
        return State(run, found, steps)
    if found == "new":
        return State(run, "waiting")
    names = (path.with_suffix(f".{found}{number}.h5") for number in range(1, 10_000))
    aside = next(name for name in names if not name.exists())
    path.replace(aside)
    return State(run, "waiting", notes=(f"{path.name} was {found}: kept as {aside.name}, trained again",))


def _update(plan: Plan, states: dict[str, State]) -> None:
    """Reads the progress of the runs that are not done from their files."""
    for name, state in states.items():
        path = plan.path(state.run)
        if state.state in {"waiting", "begun", "training"} and path.exists():
            try:
                with open_trace(path) as trace:
                    steps, seconds = trace.steps, trace.wall_seconds
            except (TraceError, OSError):
                continue  # it is being created or sealed
            moving = "training" if steps > state.steps else state.state
            states[name] = replace(state, state=moving, steps=steps, seconds=seconds)


def _ended(state: State, end: End) -> State:
    steps = state.run.recipe.steps if end.ended == "finished" else state.steps
    seconds = end.seconds or state.seconds
    return replace(state, state=end.ended, steps=steps, seconds=seconds, host=end.host, why=end.why)
