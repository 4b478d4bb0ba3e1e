"""What ``train`` does with an existing run: resume it, extend it, or refuse."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import h5py
import inside
import numpy as np
import pytest
import torch
from crashing import OPTIMIZERS
from damaging import attribute, edit, restamp
from inside import Killed
from small import SMALL

from rhotrace.analysis.verification import verify
from rhotrace.config import recipe
from rhotrace.errors import RecipeError, TraceError
from rhotrace.models import products
from rhotrace.runfile import provenance
from rhotrace.runfile.layout import snapshot_steps
from rhotrace.runfile.reader import open_trace, whole_commits
from rhotrace.runfile.repair import repair
from rhotrace.training import train as training

FIRST, STOPPED, LAST = 45, 27, 110  # steps of a run, where it is interrupted, and to which it is extended
STRIDES = {
    "no divisors": ["record.full_every=7", "record.test_every=13"],
    "longer than the first run": ["record.full_every=70", "record.test_every=100"],
}
WILD = ["network.depth=1", "optimizer.lr=1e9"]


def in_blocks_of_nine(patch: pytest.MonkeyPatch) -> None:
    """So that an interruption always comes at the same step; and without waiting for git or the disk."""
    inside.small_blocks(patch.setattr, 9)
    inside.without_git(patch)
    inside.without_waiting_for_the_disk(patch.setattr)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    in_blocks_of_nine(monkeypatch)


def plan(*overrides: str, steps: int = FIRST) -> recipe.Recipe:
    return recipe.parse(SMALL, [*overrides, f"steps={steps}"])


def go(content: recipe.Recipe, path: Path, **how: bool) -> training.Outcome:
    return training.train(content, path, device="cpu", **how)


def interrupt(content: recipe.Recipe, path: Path, step: int, **how: bool) -> None:
    """Trains to the end of the block that reaches ``step``, then stops as Ctrl-C would."""

    def watch(block):
        if block.last >= step:
            signal.raise_signal(signal.SIGINT)

    assert training.train(content, path, device="cpu", watch=watch, **how).ended == "interrupted"


def contents(path: Path, leave_out: str = "weights/") -> dict[str, bytes]:
    """The raw bytes, shape and type of every dataset; those whose name begins with ``leave_out`` are left out."""
    found: dict[str, bytes] = {}

    def keep(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and not (leave_out and name.startswith(leave_out)):
            found[name] = repr((item.shape, item.dtype)).encode() + item[()].tobytes()

    with h5py.File(path, "r") as file:
        file.visititems(keep)
    return found


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, Path]:
    """Runs of the plain plan, one finished and one interrupted."""
    folder = tmp_path_factory.mktemp("bases")
    with pytest.MonkeyPatch.context() as patch:
        in_blocks_of_nine(patch)
        go(plan(), folder / "finished.h5")
        interrupt(plan(), folder / "interrupted.h5", STOPPED)
    return {path.stem: path for path in folder.iterdir()}


@pytest.fixture
def finished(bases, tmp_path) -> Path:
    """A finished run of ``FIRST`` steps."""
    return Path(shutil.copy(bases["finished"], tmp_path / "run.h5"))


@pytest.fixture
def interrupted(bases, tmp_path) -> Path:
    """A run of ``FIRST`` planned steps that was interrupted after ``STOPPED``."""
    return Path(shutil.copy(bases["interrupted"], tmp_path / "run.h5"))


@dataclasses.dataclass(frozen=True)
class Whole:
    """A run of ``LAST`` steps that was never stopped: its file, and the weights after each number of steps."""

    path: Path
    weights: list[list[np.ndarray]]


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory):
    """Runs that were never stopped, by their overrides; trained once each."""
    folder = tmp_path_factory.mktemp("whole")

    @functools.lru_cache
    def train(*overrides: str) -> Whole:
        path, weights = folder / f"{abs(hash(overrides))}.h5", {}

        def keep(block) -> None:
            if block.last == LAST:
                with open_trace(path) as trace:
                    weights.update(trace.snapshots())
                raise Killed  # to compress them all would take a while

        every_step = plan(*overrides, "record.snapshots=1000", steps=LAST)
        with pytest.raises(Killed):
            training.train(every_step, path, device="cpu", watch=keep)
        go(plan(*overrides, steps=LAST), path, force=True)
        assert sorted(weights) == list(range(LAST + 1))
        return Whole(path, [weights[step] for step in sorted(weights)])

    return train


def check_extended(path: Path, whole: Whole, snapshots: list[int]) -> None:
    """The file of an extended run is sound, and has the bits of one that was never stopped."""
    check_bits(path, whole, snapshots)
    with open_trace(path) as trace:
        check_sound(trace)


def check_bits(path: Path, whole: Whole, snapshots: list[int]) -> None:
    """Compares the file of an extended run with that of one that was never stopped."""
    assert contents(path) == contents(whole.path)
    with open_trace(path) as trace, open_trace(whole.path) as reference:
        assert trace.complete
        assert trace.attributes["ended"] == "finished"
        assert trace.recipe["steps"] == trace.layout.steps == trace.steps == LAST
        assert trace.strides == reference.strides
        assert trace.snapshot_steps() == trace.layout.snapshots == sorted(set(snapshots))
        for step in snapshots:
            for found, expected in zip(trace.snapshot(step), whole.weights[step], strict=True):
                assert found.tobytes() == expected.tobytes(), step


def check_sound(trace) -> None:
    result = verify(trace)
    assert result.sound, [check for check in result.checks if check.outcome == "wrong"]
    assert sum(check.outcome == "sound" for check in result.checks) >= 8


def planned(first: int, steps: int, last: int = LAST, count: int = 6) -> list[int]:
    """Snapshots of a plan for ``first`` steps up to ``steps``, and those of the plan for ``last`` from there on."""
    before = [s for s in snapshot_steps(first, count) if s <= steps]
    return sorted({*before, *(s for s in snapshot_steps(last, count) if s >= steps)})


# --- resumed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_run_stopped_twice_and_resumed_has_the_bits_of_one_never_stopped(tmp_path, optimizer, dtype):
    content = plan(optimizer, f"network.dtype={dtype}", "record.full_every=4", steps=100)
    whole, parts, began = tmp_path / "whole.h5", tmp_path / "parts.h5", []
    go(content, whole)
    interrupt(content, parts, 20)
    with open_trace(parts) as trace:
        assert trace.steps == 27  # the end of the block of nine steps
    interrupt(content, parts, 60)
    assert training.train(content, parts, device="cpu", begin=began.append).ended == "finished"
    assert began == [63]
    assert contents(parts, "") == contents(whole, "")


def test_a_reworded_claim_is_no_other_recipe(interrupted):
    assert go(plan("claim=other words"), interrupted).ended == "finished"


def test_force_starts_an_interrupted_run_again(interrupted):
    began = []
    training.train(plan(), interrupted, device="cpu", force=True, begin=began.append)
    assert began == [0]


# --- extended -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "strides"), [("float32", "no divisors"), ("float64", "longer than the first run")])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_finished_run_that_is_extended_has_the_bits_of_one_never_stopped(
    tmp_path, never_stopped, optimizer, dtype, strides
):
    overrides, path = [optimizer, f"network.dtype={dtype}", *STRIDES[strides]], tmp_path / "run.h5"
    go(plan(*overrides), path)
    assert go(plan(*overrides, steps=LAST), path, extend_run=True).ended == "finished"
    check_extended(path, never_stopped(*overrides), planned(FIRST, FIRST))


@pytest.mark.parametrize(
    ("optimizer", "dtype", "strides"),
    list(zip(OPTIMIZERS, ["float32", "float64"] * 2, [*STRIDES] * 2, strict=True)),
)
def test_an_interrupted_run_that_is_extended_has_the_bits_of_one_never_stopped(
    tmp_path, never_stopped, optimizer, dtype, strides
):
    overrides, path = [OPTIMIZERS[optimizer], f"network.dtype={dtype}", *STRIDES[strides]], tmp_path / "run.h5"
    interrupt(plan(*overrides), path, STOPPED)
    with open_trace(path) as trace:
        assert trace.steps == STOPPED
    go(plan(*overrides, steps=LAST), path, extend_run=True)
    check_extended(path, never_stopped(*overrides), planned(FIRST, STOPPED))


@pytest.mark.parametrize("optimizer", ["shuffled", "weight norm"])
def test_a_run_extended_twice_with_interruptions_has_the_bits_of_one_never_stopped(tmp_path, never_stopped, optimizer):
    overrides, path = [OPTIMIZERS[optimizer], "network.dtype=float32", *STRIDES["no divisors"]], tmp_path / "run.h5"
    go(plan(*overrides, steps=20), path)
    interrupt(plan(*overrides, steps=60), path, 30, extend_run=True)
    with open_trace(path) as trace:
        assert (trace.complete, trace.steps, trace.layout.steps) == (False, 38, 60)
        assert trace.snapshot_steps() == [s for s in planned(20, 20, 60) if s <= 38]
        check_sound(trace)
    go(plan(*overrides, steps=60), path)  # no --steps needed: the plan is that of the file
    with open_trace(path) as trace:
        before = trace.snapshot_steps()
        assert before == planned(20, 20, 60)
        check_sound(trace)
    interrupt(plan(*overrides, steps=LAST), path, 70, extend_run=True)
    interrupt(plan(*overrides, steps=LAST), path, 90, extend_run=True)
    go(plan(*overrides, steps=LAST), path, extend_run=True)
    check_extended(path, never_stopped(*overrides), [*before, *(s for s in snapshot_steps(LAST, 6) if s > 60)])
    with open_trace(path) as trace:
        assert [session["from_step"] for session in trace.sessions] == [20, 38, 60, 78, 96]


@pytest.mark.parametrize(("count", "stopped"), [(0, FIRST), (0, STOPPED), (1, STOPPED), (2, STOPPED), (2, FIRST)])
def test_runs_with_few_or_no_snapshots_are_extended(tmp_path, never_stopped, count, stopped):
    path, few = tmp_path / "run.h5", f"record.snapshots={count}"
    if stopped == FIRST:
        go(plan(few), path)
    else:
        interrupt(plan(few), path, stopped)
    go(plan(few, steps=LAST), path, extend_run=True)
    with open_trace(path) as trace:
        assert ("weights" in trace) == bool(count)
    check_extended(path, never_stopped(), planned(FIRST, stopped, count=count))


def test_a_run_of_a_single_step_is_extended(tmp_path, never_stopped):
    """At one step every stride is one, and the time axes have other names than later."""
    overrides = [OPTIMIZERS["shuffled"], "network.dtype=float32", *STRIDES["no divisors"]]
    go(plan(*overrides, steps=1), tmp_path / "run.h5")
    go(plan(*overrides, steps=LAST), tmp_path / "run.h5", extend_run=True)
    check_extended(tmp_path / "run.h5", never_stopped(*overrides), planned(1, 1))


def test_a_snapshot_due_at_the_very_step_of_the_interruption_is_taken(tmp_path, never_stopped):
    assert 18 in snapshot_steps(LAST, 15)
    assert 18 not in snapshot_steps(FIRST, 15)
    path = tmp_path / "run.h5"
    interrupt(plan("record.snapshots=15"), path, 18)
    go(plan("record.snapshots=15", steps=LAST), path, extend_run=True)
    check_extended(path, never_stopped(), planned(FIRST, 18, count=15))


def test_a_run_without_a_committed_step_begins_anew_with_the_longer_plan(tmp_path, never_stopped):
    path = tmp_path / "run.h5"

    def die(_: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        training.train(plan(), path, device="cpu", begin=die)
    go(plan(steps=LAST), path, extend_run=True)
    check_extended(path, never_stopped(), snapshot_steps(LAST, 6))


def test_steps_of_a_new_run_are_just_its_steps(tmp_path):
    assert go(plan(steps=12), tmp_path / "run.h5", extend_run=True).steps == 12


def test_the_record_of_the_beginning_stays_with_an_extended_run(tmp_path, monkeypatch):
    path = tmp_path / "run.h5"
    monkeypatch.setattr(sys, "argv", ["rhotrace", "train", "first"])
    go(plan(), path)
    with open_trace(path) as trace:
        began = trace.attributes
    monkeypatch.setattr(sys, "argv", ["rhotrace", "train", "second"])
    go(plan("claim=longer", steps=LAST), path, extend_run=True)
    with open_trace(path) as trace:
        assert trace.attributes["command"] == began["command"] == "rhotrace train first"
        assert trace.attributes["started"] == began["started"]
        assert trace.attributes["finished"] >= began["finished"]
        assert trace.wall_seconds > float(began["wall_seconds"])
        assert (trace.recipe["claim"], trace.recipe["steps"]) == ("longer", LAST)
        assert [(s["from_step"], s["command"]) for s in trace.sessions] == [(FIRST, "rhotrace train second")]


def test_a_repaired_file_is_extended_to_the_steps_it_should_have_had(tmp_path, never_stopped):
    path, saved = tmp_path / "run.h5", tmp_path / "saved.h5"
    interrupt(plan(steps=LAST), path, STOPPED)
    with open_trace(path) as trace:
        snapshot = trace.snapshot_steps()[1]
    damage(path, "weights/W1", 1)
    assert repair(path, saved).resumable
    with open_trace(saved) as trace:
        taken = trace.snapshot_steps()
        assert snapshot not in taken
    with pytest.raises(TraceError, match=rf"a repaired run of {STOPPED} steps .* --steps N \(above {STOPPED}\)"):
        go(plan(steps=LAST), saved)
    go(plan(steps=LAST), saved, extend_run=True)
    check_extended(saved, never_stopped(), [*taken, *(s for s in snapshot_steps(LAST, 6) if s >= STOPPED)])


# --- killed or refused on the way ----------------------------------------------------------------------------


KILLS = {  # before what, at which call, and what is there then: the old file, or the new one with steps more
    "while it copies": ("append", 1, "old", 0),
    "before the copy is committed": ("commit", 1, "old", 0),
    "before the copy takes the place": ("take the place", 1, "old", 0),
    "just after that": ("sync the folder", 1, "new", 0),
    "before the session is noted": ("note the session", 1, "new", 0),
    "in the first new step": ("record", 1, "new", 0),
    "before the first new commit": ("commit", 2, "new", 0),
    "before the second": ("commit", 3, "new", 9),
    "before the sealed file takes the place": ("take the place", 2, "new", LAST),
}


@pytest.mark.parametrize(
    ("base", "kill"),
    [*(("finished", kill) for kill in KILLS), *(("interrupted", kill) for kill in list(KILLS)[::3])],
)
def test_an_extension_killed_on_the_way_leaves_a_sound_file_with_all_steps(
    tmp_path, never_stopped, monkeypatch, request, base, kill
):
    path, steps = request.getfixturevalue(base), FIRST if base == "finished" else STOPPED
    before, unlink = path.read_bytes(), Path.unlink
    part, call, there, more = KILLS[kill]

    def stays(file, **how):
        if file.suffix in (".new", ".seal"):
            raise OSError("a process that is killed tidies nothing up")
        unlink(file, **how)

    with monkeypatch.context() as patch:
        inside.kill_before(patch.setattr, part, call)
        patch.setattr(Path, "unlink", stays)
        with pytest.raises(Killed):
            go(plan(steps=LAST), path, extend_run=True)
    left = {p.name for p in tmp_path.iterdir()} - {"run.h5"}
    ending = {"old": "new", "new": "seal" if more == LAST else ""}[there]
    assert left == ({f".run.h5.{os.getpid()}.{ending}"} if ending else set())
    with open_trace(path) as trace:
        assert trace.steps == min(steps + more, LAST)
        assert trace.layout.steps == (FIRST if there == "old" else LAST)
        assert trace.complete == (there == "old" and base == "finished")
        check_sound(trace)
    if there == "old" and base == "finished":
        assert path.read_bytes() == before
    go(plan(steps=LAST), path, extend_run=True)
    check_bits(path, never_stopped(), planned(FIRST, steps))
    assert [p.name for p in tmp_path.iterdir()] == ["run.h5"]


def test_an_extension_without_room_on_the_disk_leaves_the_old_file(finished, monkeypatch):
    before = finished.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(TraceError, match="No space left on device; the run needs"):
        go(plan(steps=LAST), finished, extend_run=True)
    assert finished.read_bytes() == before
    assert [p.name for p in finished.parent.iterdir()] == ["run.h5"]


@pytest.mark.parametrize("steps", [FIRST, 12])
def test_no_more_steps_than_are_recorded_are_refused(finished, steps):
    before = finished.read_bytes()
    with pytest.raises(
        TraceError, match=rf"finished run of {FIRST} steps exists already.* --steps N \(above {FIRST}\)"
    ):
        go(plan(steps=steps), finished, extend_run=True)
    assert finished.read_bytes() == before


@pytest.mark.parametrize("steps", [STOPPED + 1, STOPPED, 12])
def test_fewer_steps_than_an_interrupted_run_has_planned_are_refused(interrupted, steps):
    before = interrupted.read_bytes()
    with pytest.raises(RecipeError, match=rf"steps: {FIRST} in the file, {steps} now\); .* --steps {FIRST} resumes it"):
        go(plan(steps=steps), interrupted, extend_run=True)
    assert interrupted.read_bytes() == before


def test_more_steps_without_asking_are_refused_with_the_way_to_ask(finished, bases):
    with pytest.raises(
        TraceError, match=rf"finished run of {FIRST} steps exists already.* --steps N \(above {FIRST}\)"
    ):
        go(plan(steps=LAST), finished)
    with pytest.raises(RecipeError, match=rf"steps: {FIRST} in the file, {LAST} now\); .* --steps {LAST} resumes it"):
        go(plan(steps=LAST), bases["interrupted"])


def test_an_interrupted_extension_asked_for_the_old_steps_says_how_to_resume(finished):
    interrupt(plan(steps=LAST), finished, 50, extend_run=True)
    with pytest.raises(RecipeError, match=rf"steps: {LAST} in the file, {FIRST} now\); .* --steps {LAST} resumes it"):
        go(plan(), finished)


def test_a_run_of_another_recipe_or_other_data_is_not_extended(finished):
    before = finished.read_bytes()
    with pytest.raises(
        RecipeError, match=r"another recipe exists already \(optimizer\.lr: 0\.05 in the file, 0\.1 now\)"
    ):
        go(plan("optimizer.lr=0.1", steps=LAST), finished, extend_run=True)
    assert finished.read_bytes() == before
    begun_with(finished, data_digest="f" * 64)
    before = finished.read_bytes()
    with pytest.raises(RecipeError, match=r"other data exists already \(digest f{12} in the file, [0-9a-f]{12} now\)"):
        go(plan(steps=LAST), finished, extend_run=True)
    assert finished.read_bytes() == before


def test_of_many_differences_the_first_are_shown_and_the_rest_counted(interrupted):
    changes = ["data.train=30", "data.test=10", "data.seed=1", "network.depth=2", "network.width=4", "init.rho_k=2.0"]
    with pytest.raises(RecipeError, match=r"data\.train: 40 in the file, 30 now; .* 4 now; and 2 more\)"):
        go(plan(*changes, "members.seeds=1"), interrupted)


def test_a_diverged_run_is_not_extended(tmp_path):
    path = tmp_path / "run.h5"
    assert go(plan(*WILD), path).ended == "diverged"
    before = path.read_bytes()
    with pytest.raises(
        TraceError, match=r"cannot be extended: it diverged after \d+ steps and contains no optimizer state"
    ):
        go(plan(*WILD, steps=LAST), path, extend_run=True)
    with pytest.raises(TraceError, match="a diverged run of") as refusal:
        go(plan(*WILD), path)
    assert "--steps" not in str(refusal.value)
    assert path.read_bytes() == before


def test_a_run_that_diverged_and_was_killed_before_it_was_sealed_ends_where_it_diverged(tmp_path, monkeypatch):
    path, whole = tmp_path / "run.h5", tmp_path / "whole.h5"
    with monkeypatch.context() as patch:
        inside.kill_before(patch.setattr, "seal")
        with pytest.raises(Killed):
            go(plan(*WILD), path)
    assert go(plan(*WILD, steps=LAST), whole).ended == "diverged"
    assert go(plan(*WILD, steps=LAST), path, extend_run=True).ended == "diverged"
    assert contents(path) == contents(whole)


def damage(path: Path, name: str, row: int) -> None:
    """Turns a bit of a row of a live file's dataset."""
    with h5py.File(path, "r") as file:
        place = file[name].id.get_offset() + row * file[name].nbytes // len(file[name]) + 5
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


def test_a_file_without_the_optimizer_s_state_is_not_extended(interrupted, tmp_path):
    for slot in (0, 1):
        damage(interrupted, "checkpoint/weights1", slot)
    with pytest.raises(TraceError, match="both of its checkpoints are damaged; `rhotrace repair"):
        go(plan(steps=LAST), interrupted, extend_run=True)
    saved = tmp_path / "saved.h5"
    assert not repair(interrupted, saved).resumable
    with pytest.raises(TraceError, match=f"cannot be extended: it was repaired after {STOPPED} steps and contains no"):
        go(plan(steps=LAST), saved, extend_run=True)


@pytest.mark.parametrize("steps", [FIRST, LAST])
def test_where_the_newest_state_is_damaged_training_resumes_from_the_one_before(interrupted, tmp_path, steps):
    whole, began = tmp_path / "whole.h5", []
    with open_trace(interrupted) as trace:
        newest, before = whole_commits(trace)
    damage(interrupted, "checkpoint/weights1", newest.slot)
    training.train(plan(steps=steps), interrupted, device="cpu", extend_run=True, begin=began.append)
    assert began == [before.steps] == [newest.steps - 9]
    go(plan(steps=steps), whole)
    assert contents(interrupted) == contents(whole)
    with open_trace(interrupted) as trace:
        check_sound(trace)


@pytest.mark.parametrize(
    ("name", "row", "what"), [("loss", 20, "steps 18 to 26 are"), ("weights/W2", 2, r"the weights at step \d+ are")]
)
def test_a_damaged_run_is_not_extended(interrupted, name, row, what):
    damage(interrupted, name, row)
    with pytest.raises(TraceError, match=rf"{what} damaged on the disk; `rhotrace repair"):
        go(plan(steps=LAST), interrupted, extend_run=True)


# --- other conditions ----------------------------------------------------------------------------------------


def begun_with(path: Path, **attributes: str) -> None:
    """Makes a run file say that it was begun with something else."""
    with open_trace(path) as trace:
        before = trace.attributes
    for name, value in attributes.items():
        attribute(name, type(before[name])(value))(path)


def other_version(path: Path, package: str) -> str:
    """The versions that a run file names, but for that of one package."""
    with open_trace(path) as trace:
        return re.sub(rf"(?<![^ ]){package} [^,]+", f"{package} 99.1", trace.attributes["versions"])


CONDITIONS = ("device", "threads", "products")  # attributes of their own, beside the versions


@pytest.mark.parametrize(
    ("changed", "extend_run"),
    [
        ("rhotrace", False),
        ("torch", True),
        ("numpy", False),
        ("device", True),
        ("device", False),
        ("threads", True),
        ("products", False),
    ],
)
def test_a_run_begun_under_other_conditions_is_resumed_only_when_asked(interrupted, changed, extend_run):
    there = "77" if changed == "threads" else "99.1"
    with open_trace(interrupted) as trace:
        now = trace.attributes
    if changed in CONDITIONS:
        begun_with(interrupted, **{changed: there})
    else:
        begun_with(interrupted, versions=other_version(interrupted, changed))
    before, content = interrupted.read_bytes(), plan(steps=LAST if extend_run else FIRST)
    with pytest.raises(TraceError) as refusal:
        go(content, interrupted, extend_run=extend_run)
    assert interrupted.read_bytes() == before
    go(content, interrupted, extend_run=extend_run, despite_changes=True)
    own = now[changed] if changed in CONDITIONS else provenance.version(changed)
    message = str(refusal.value)
    assert f"under other conditions ({changed}: {there} in the file, {own} now)" in message
    assert "--despite-changes resumes anyway" in message
    assert "\n" not in message
    with open_trace(interrupted) as trace:
        assert trace.complete
        (session,) = trace.sessions
        assert session["from_step"] == STOPPED
        assert session["versions"] == now["versions"]
        assert (session["device"], session["threads"]) == (now["device"], now["threads"])
        key = changed if changed in CONDITIONS else "versions"
        assert there in str(trace.attributes[key])  # how it began stays in the file


def test_a_file_that_does_not_say_what_multiplied_is_of_torch(tmp_path, monkeypatch):
    def older(file):
        del file.attrs["products"]
        restamp(file)

    path, content = tmp_path / "run.h5", plan("network.dtype=float32")
    interrupt(content, path, STOPPED)
    edit(older)(path)
    monkeypatch.setattr(products, "one_dnn_is_faster", lambda: True)
    with pytest.raises(TraceError, match="products: torch in the file, oneDNN now"):
        go(content, path)
    monkeypatch.setattr(products, "one_dnn_is_faster", lambda: False)
    assert go(content, path).ended == "finished"


def test_another_number_of_threads_is_seen(interrupted, monkeypatch):
    """As torch itself counts them, and not only as a test pretends."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with pytest.raises(TraceError, match=f"threads: {threads} in the file, {threads + 1} now"):
            go(plan(), interrupted)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("package", ["h5py", "scipy", "torchvision"])
def test_other_versions_of_packages_that_decide_no_bit_do_not_matter(interrupted, package):
    begun_with(interrupted, versions=other_version(interrupted, package))
    assert go(plan(), interrupted).ended == "finished"
    with open_trace(interrupted) as trace:
        assert f"{package} 99.1" in trace.attributes["versions"]
        assert f"{package} {provenance.version(package)}" in trace.sessions[0]["versions"]


def test_a_repository_that_moved_on_is_noted_and_does_not_matter(interrupted):
    begun_with(interrupted, git_revision="f" * 40)
    go(plan(), interrupted)
    with open_trace(interrupted) as trace:
        assert trace.attributes["git_revision"] == "f" * 40
        assert trace.sessions[0]["git_revision"] == ""


def test_data_in_another_folder_is_the_same_data(interrupted):
    root = Path(training.__file__).resolve().parents[2] / "data"
    assert go(plan(f"data.root={root}", steps=LAST), interrupted, extend_run=True).ended == "finished"


# --- the command line ----------------------------------------------------------------------------------------


@pytest.fixture
def small_file(tmp_path) -> Path:
    """The recipe of ``plan``, with its steps."""
    path = tmp_path / "small.yaml"
    path.write_text(SMALL.replace("steps: 60", f"steps: {FIRST}"), encoding="utf-8")
    return path


def test_refusals_take_a_line_or_two_and_exit_with_2(command, small_file, interrupted):
    words = ["train", small_file, "-o", "run.h5", "--device", "cpu"]
    begun_with(interrupted, versions=other_version(interrupted, "torch"))
    for refused, says in {
        (): f"(torch: 99.1 in the file, {provenance.version('torch')} now), so it may not produce the same bits as",
        ("--steps", LAST): "(torch: ",
        ("--steps", 20): f"(steps: {FIRST} in the file, 20 now); --force starts again, --steps {FIRST} resumes it",
        ("--set", "optimizer.lr=0.3"): "(optimizer.lr: 0.05 in the file, 0.3 now)",
    }.items():
        code, out, err = command(*words, *refused)
        assert (code, out) == (2, "")
        assert len(err.splitlines()) == 1
        assert err.startswith("error: run.h5: ")
        assert says in err
    assert command(*words, "--despite-changes")[0] == 0
    code, out, err = command(*words)
    assert (code, out) == (2, "")
    assert f"a finished run of {FIRST} steps exists already; --force replaces it, --steps N (above {FIRST})" in err
    assert interrupted.exists()


def test_info_shows_the_sessions_and_what_they_ran_under(command, small_file, interrupted):
    words = ["train", small_file, "-o", interrupted, "--device", "cpu", "--despite-changes"]
    begun_with(interrupted, versions=other_version(interrupted, "numpy"))
    command(*words)
    command(*words, "--steps", 70)
    code, out, err = command("info", "run.h5")
    assert (code, err) == (0, "")
    assert re.search(rf"session 2 +from step {STOPPED}\b", out)
    assert re.search(rf"session 3 +from step {FIRST}\b", out)
    shown = json.loads(command("info", "run.h5", "--json")[1])
    first, second = shown["sessions"]
    for session in (first, second):
        assert f"numpy {provenance.version('numpy')}" in session["versions"]
        assert "--despite-changes" in session["command"]
    assert "--steps" not in first["command"]
    assert second["command"].endswith("--steps 70")
    assert {"threads", "device", "started", "host", "folder", "python", "platform", "git_revision"} <= set(first)


# --- what killed processes leave -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["run.h5", "run[1].h5", "r*.h5", "[!x]un.h5", "**", "run"])
def test_leftovers_of_this_run_are_removed_and_those_of_others_are_not(tmp_path, name):
    own = {f".{name}.{left}" for left in ("7.new", "123456.seal", "4194304.new")}
    names = ["run", "run.h5", "run1.h5", "run[1].h5", "rn.h5", "r*.h5", f"{name}.bak", f"{name}.7", f"x{name}"]
    others = {f".{other}.{left}" for other in names if other != name for left in ("7.new", "8.seal")}
    others |= {f".{name}.{left}" for left in ("new", "x.new", "7.old", "7.x.new", "-7.new", "new.7", "7.new.x")}
    others |= {f"{name}.7.new", f"x.{name}.7.new"}
    for left in own | others:
        (tmp_path / left).write_text("left")
    go(plan(steps=1), tmp_path / name)
    assert {p.name for p in tmp_path.iterdir()} == {name, *(others - own)}
