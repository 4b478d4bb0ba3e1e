"""Damaged run files: no flipped bit goes unnoticed, and ``repair`` saves every step before the damage."""

from __future__ import annotations

import faulthandler
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from damaging import (
    KINDS,
    Undamaged,
    differing,
    edit,
    everything,
    flipped,
    header,
    longest_beginning,
    plan,
    refusal,
    text,
    train_plain,
    turned,
    unnamed,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rhotrace.analysis.verification import CHECKS, verify
from rhotrace.errors import TraceError
from rhotrace.runfile.integrity import is_whole
from rhotrace.runfile.reader import Trace, open_trace
from rhotrace.runfile.repair import repair

# hdf5_files leaves the closing of a file that was opened as one cut short to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file <_io.FileIO:ResourceWarning")
QUIET = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module", autouse=True)
def no_hang():
    """Ends the process with a traceback if HDF5 hangs: nothing else can."""
    faulthandler.dump_traceback_later(600, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


# --- damage ------------------------------------------------------------------------------------------------

anywhere = st.integers(0, 2**20).map(lambda n: n * 0x9E3779B1)  # spread over a file by the remainder


def turn(whole: bytes, between: np.ndarray, bits: list[tuple[bool, int, int]]) -> bytes:
    """The bytes with bits turned, among all or (where most is at stake) among those that are no dataset's values."""
    return turned(whole, [(int(between[n % len(between)]) if own else n % len(whole), bit) for own, n, bit in bits])


def overwrite(whole: bytes, first: int, size: int, filling: str) -> bytes:
    """The bytes with a page of them lost."""
    first = first % len(whole) // size * size
    size = min(size, len(whole) - first)
    noise = np.random.default_rng(first).bytes(size)
    return (
        whole[:first] + {"zeros": bytes(size), "ones": b"\xff" * size, "noise": noise}[filling] + whole[first + size :]
    )


bits = st.lists(st.tuples(st.booleans(), anywhere, st.integers(0, 7)), min_size=1, max_size=3)
turns = bits.map(lambda bits: lambda o: turn(o.whole, o.between, bits))
cuts = anywhere.map(lambda n: lambda o: o.whole[: n % len(o.whole)])
pages = st.builds(
    lambda *page: lambda o: overwrite(o.whole, *page),
    anywhere,
    st.sampled_from([64, 512, 4096]),
    st.sampled_from(["zeros", "ones", "noise"]),
)


def outcome(original: Undamaged, path: Path, *, thorough: bool = True) -> str:
    """What becomes of a damaged file: refused, found wrong by a check (perhaps only the first), or sound.

    Nothing else may happen to a reader.
    """
    opened: list[Trace] = []
    if refusal(lambda: opened.append(open_trace(path)), path):
        return "refused"
    with opened[0] as trace:
        if not thorough and not is_whole(trace):
            return "wrong"
        for quantity in trace.quantities:
            refusal(lambda: trace[quantity.name], path)  # noqa: B023 - called at once
        refusal(trace.snapshots, path)
        refusal(trace.state, path)
        result = verify(trace)
    assert [check.name for check in result.checks] == list(CHECKS)
    assert all(len(check.says.splitlines()) == 1 for check in result.checks), result.checks
    if not result.sound:
        return "wrong"
    assert result.steps == original.steps
    assert not differing(original.cut(everything(path)), original.content)
    return "sound"


@pytest.mark.parametrize(("kind", "examples"), [("sealed", 500), ("live", 250)])
def test_damage_is_refused_or_reported_or_of_no_consequence(files, tmp_path, kind, examples):
    original, path, met = files[kind], tmp_path / "damaged.h5", Counter()

    @settings(QUIET, max_examples=examples)
    @given(turns | turns | turns | cuts | pages, st.sampled_from([True, False, False, False]))
    def damage(spoil, thorough):
        path.write_bytes(spoil(original))
        met[outcome(original, path, thorough=thorough)] += 1

    damage()
    assert met.total() >= examples
    assert min(met[how] for how in ("refused", "wrong", "sound")) > 0, met


fixed = st.tuples(anywhere, st.integers(0, 7)).map(
    lambda bit: lambda o: turned(o.whole, [(int(o.fixed[bit[0] % len(o.fixed)]), bit[1])])
)
between = st.tuples(anywhere, st.integers(0, 7)).map(
    lambda bit: lambda o: turned(o.whole, [(int(o.between[bit[0] % len(o.between)]), bit[1])])
)
OF_THE_MOMENT = {"/@finished", "/@wall_seconds", "/@attributes_digest", "/@sessions", "checkpoint/commit"}


def test_no_damage_of_a_live_file_is_sound_after_resume_and_seal(files, tmp_path):
    """What comes out sound is, to the last bit, the run that was resumed without damage."""
    original, path, met = files["live"], tmp_path / "damaged.h5", Counter()
    path.write_bytes(original.whole)
    train_plain(plan(), path)
    expected = everything(path)

    def earlier_sessions(content):
        return content["/@sessions"].splitlines()[:-1]

    @settings(QUIET, max_examples=150)
    @given(fixed | between | turns | pages)
    def damage(spoil):
        path.write_bytes(spoil(original))
        if refusal(lambda: train_plain(plan(), path), path):
            met["refused"] += 1
            return
        with open_trace(path) as trace:
            sound = verify(trace).sound
        met["sound" if sound else "wrong"] += 1
        if sound:
            found = everything(path)
            assert set(differing(found, expected)) <= OF_THE_MOMENT
            assert earlier_sessions(found) == earlier_sessions(expected)

    damage()
    assert met["refused"] > 50, met
    assert met["sound"] > 0, met


@pytest.mark.parametrize("kind", KINDS)
def test_text_on_which_hdf5_would_hang_is_refused(files, tmp_path, kind):
    """In the last heap are references of 8 bytes; HDF5 takes the zeros behind one of no bytes for the next, of no size."""
    whole, path, refused = files[kind].whole, tmp_path / "heap.h5", 0
    heap = whole.rindex(b"GCOL\1\0\0\0")
    at = heap + 16
    while whole[at : at + 2] != b"\0\0":
        size = int.from_bytes(whole[at + 8 : at + 16], "little")
        if size == 8:
            path.write_bytes(turned(whole, [(at + 8, 3)]))
            refused += f"the text at byte {heap} is damaged" in (refusal(lambda: open_trace(path), path) or "")
        at += 16 + -(-size // 8) * 8
    assert refused > 10  # the number depends on the text in the heaps


# --- repair ------------------------------------------------------------------------------------------------


def check_saved(original: Undamaged, target: Path, steps: int) -> None:
    """A repaired file is sound, and has the first steps of the undamaged one, and no other weights, bit for bit."""
    with open_trace(target) as trace:
        result = verify(trace)
        assert result.sound, [check for check in result.checks if check.outcome == "wrong"]
        assert trace.complete
        assert trace.steps == steps
        assert trace.attributes["ended"] == "repaired"
        for quantity in original.layout.quantities:
            rows = original.rows[quantity.name][: original.layout.rows(quantity.cadence, steps)]
            assert trace[quantity.name].tobytes() == rows.tobytes(), quantity.name
        for step, weights in trace.snapshots():
            assert all(a.tobytes() == b.tobytes() for a, b in zip(weights, original.snapshots[step], strict=True))


values = st.lists(st.tuples(anywhere, st.integers(0, 7)), min_size=1, max_size=2).map(
    lambda bits: lambda o: turned(o.whole, [(int(o.values[n % len(o.values)]), bit) for n, bit in bits])
)
lost_values = st.tuples(anywhere, st.sampled_from(["zeros", "ones", "noise"])).map(
    lambda page: lambda o: overwrite(o.whole, int(o.values[page[0] % len(o.values)]), 64, page[1])
)


@pytest.mark.parametrize("kind", KINDS)
def test_repair_saves_the_longest_sound_beginning_and_touches_nothing(files, tmp_path, kind):
    original, path, target, met = files[kind], tmp_path / "damaged.h5", tmp_path / "saved.h5", Counter()

    @settings(QUIET, max_examples=50)
    @given(values | lost_values | turns | pages)
    def damage(spoil):
        damaged = spoil(original)
        path.write_bytes(damaged)
        target.unlink(missing_ok=True)
        longest = longest_beginning(original, damaged, tmp_path / "padded.h5")
        message = refusal(lambda: repair(path, target), path)
        assert path.read_bytes() == damaged
        met["saved" if message is None else message.split(": ")[1]] += 1
        if message is None:
            check_saved(original, target, longest)
        elif "nothing to repair" in message:
            assert outcome(original, path) == "sound"
        elif "nothing can be saved" in message:
            assert longest == 0
        else:  # what says how to read the file is itself lost
            assert outcome(original, path) == "refused"
        assert (
            sorted(p.name for p in tmp_path.iterdir() if p.name != "padded.h5")
            == ["damaged.h5", "saved.h5"][: 1 + (message is None)]
        )

    damage()
    assert met["saved"] >= 15, met
    assert met["nothing can be saved"] >= 3, met


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_at_any_tenth_keeps_what_is_before_the_cut(files, tmp_path, kind):
    original, path, saved = files[kind], tmp_path / "cut.h5", []
    for tenth in range(10):
        damaged = original.whole[: len(original.whole) * tenth // 10]
        path.write_bytes(damaged)
        target = tmp_path / f"saved{tenth}.h5"
        longest = longest_beginning(original, damaged, tmp_path / "padded.h5")
        message = refusal(lambda: repair(path, target), path)  # noqa: B023 - called at once
        assert path.read_bytes() == damaged
        if message is None:
            check_saved(original, target, longest)
            saved.append(longest)
        else:
            assert not target.exists()
            assert longest == 0 or not attributes_remain(tmp_path / "padded.h5")
    assert saved == sorted(saved)
    assert kind == "live" or len(saved) > 5


def attributes_remain(path: Path) -> bool:
    """Whether h5py reads what a file says of itself."""
    with h5py.File(path, "r") as file:
        try:
            return len(dict(file.attrs)) > 0
        except (OSError, RuntimeError, KeyError):
            return False


BEYOND_THE_ROWS = {
    "a snapshot": flipped("weights/W1", 0.2),
    "all snapshots": header("weights/W2"),
    "the group of the snapshots": header("weights"),
    "an axis of the weights": header("weights/W1_out"),
    "the axis of the layers": header("layer"),
    "the axis of the members": header("member"),
    "the seeds": header("seed"),
    "a time axis": header("test_step"),
    "the recipe": text("recipe"),
    "the recipe as JSON": text("recipe_json"),
    "the recipe's digest": text("recipe_digest"),
    "the command": text("command"),
    "the name of an axis": edit(unnamed),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", BEYOND_THE_ROWS)
def test_what_is_lost_beside_the_rows_costs_no_step_and_training_can_go_on(files, copies, tmp_path, kind, case):
    original, target = files[kind], tmp_path / "saved.h5"
    BEYOND_THE_ROWS[case](copies[kind])
    result = repair(copies[kind], target)
    assert (result.steps, result.steps_before, result.resumable) == (original.steps, original.steps, True)
    check_saved(original, target, original.steps)
    with open_trace(target) as trace:
        assert trace.recipe == plan().model_dump()
        assert (
            result.text_lost
            == ("repaired_text" in trace.attributes)
            == (case.startswith("the recipe") or case == "the command")
        )
        assert result.snapshots == tuple(trace.snapshot_steps())
        lost = {"a snapshot": 1, "all snapshots": 5, "the group of the snapshots": 5}
        assert result.snapshots_lost == len(original.snapshots) - len(result.snapshots)
        assert result.snapshots_lost == min(lost.get(case, 0), len(original.snapshots))


@pytest.mark.parametrize("kind", KINDS)
def test_a_repaired_run_is_trained_further_to_the_bits_of_one_never_stopped(copies, tmp_path, kind):
    saved, whole = tmp_path / "saved.h5", tmp_path / "whole.h5"
    flipped("weights/W1", 0.2)(copies[kind])
    assert repair(copies[kind], saved).resumable
    train_plain(plan("steps=60"), saved, extend_run=True)
    train_plain(plan("steps=60"), whole)
    found, expected = everything(saved), everything(whole)
    same = [name for name in expected if "@" not in name and "#" not in name and not name.startswith("weights")]
    assert {"rho_k", "test_error", "checkpoint/weights2", "test_step"} <= set(same)
    assert differing({name: found[name] for name in same}, {name: expected[name] for name in same}) == []
    with open_trace(saved) as trace:
        assert verify(trace).sound


@pytest.mark.parametrize(
    ("kind", "row", "steps", "resumable"), [("sealed", 35, 32, False), ("live", 20, 18, True), ("live", 17, 9, False)]
)
def test_only_steps_whose_state_was_kept_are_trained_further(copies, tmp_path, kind, row, steps, resumable):
    chunks = Undamaged(copies[kind]).places["rho_k"]
    place = chunks[row // 8].start + 9 if kind == "sealed" else chunks[0].start + row * 32
    copies[kind].write_bytes(turned(copies[kind].read_bytes(), [(place, 1)]))
    result = repair(copies[kind], tmp_path / "saved.h5")
    assert (result.steps, result.resumable) == (steps, resumable)
    if resumable:
        train_plain(plan("steps=60"), tmp_path / "saved.h5", extend_run=True)
    else:
        with pytest.raises(TraceError, match="contains no optimizer state"):
            train_plain(plan("steps=60"), tmp_path / "saved.h5", extend_run=True)


def test_repair_refuses_a_sound_file_a_place_that_is_taken_and_what_cannot_be_saved(copies, tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("mine")
    for path in copies.values():
        assert "a file exists already" in refusal(lambda: repair(path, taken), taken)  # noqa: B023
        assert "a file exists already" in refusal(lambda: repair(path, path), path)  # noqa: B023
        assert "nothing to repair: all of its" in refusal(lambda: repair(path, tmp_path / "new"), path)  # noqa: B023
        flipped("rho_k", 0.1)(path)
        assert "nothing can be saved" in refusal(lambda: repair(path, tmp_path / "new"), path)  # noqa: B023
    assert taken.read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["live.h5", "sealed.h5", "taken"]


def test_a_run_stopped_just_before_the_copy_of_its_weights_is_whole(tmp_path):
    path = tmp_path / "live.h5"
    train_plain(plan("record.snapshots=4", "steps=81"), path, until=1)
    with h5py.File(path, "r+") as file:
        assert list(file["weights/snapshot_step"]) == [0, 1, 9, -1]
        file["weights/snapshot_step"][2] = -1
    with open_trace(path) as trace:
        assert trace.steps == 9
        assert verify(trace).sound
    assert "nothing to repair" in refusal(lambda: repair(path, tmp_path / "new.h5"), path)
