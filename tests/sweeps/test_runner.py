"""A sweep from the command to the table: its index, its numbers, and what it makes of damage, kills and bad input."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from command_line import run_inside

from rhotrace.analysis.analyze import analyze
from rhotrace.errors import TraceError
from rhotrace.models.device import find_device
from rhotrace.runfile.reader import open_trace
from rhotrace.sweeps import local_processes, resources
from rhotrace.sweeps.index import INDEX, read_index, run_files
from rhotrace.sweeps.job import train_job
from rhotrace.sweeps.results import collect
from rhotrace.sweeps.runner import carry_out, look, plan
from rhotrace.sweeps.sweep_file import read

SWEEP = """\
recipe: small.yaml
set: {steps: 300, optimizer.lr: 0.1, record.snapshots: 0}
axes:
  - grid: {network.depth: [2, 3], init.rho_k: [0.7, 1.5]}
seeds: 2
"""


def here(jobs):
    """An engine in this process: no time is lost on starting others."""
    for job in jobs:
        yield None
        yield train_job(job)


def nowhere(jobs):
    """An engine that must not be used."""
    raise AssertionError([job.path for job in jobs])


def write(folder: Path, small: str, text: str = SWEEP) -> Path:
    (folder / "small.yaml").write_text(small)
    (folder / "sweep.yaml").write_text(text)
    return folder / "sweep.yaml"


def go(file: Path, folder: Path, engine=here, **how):
    return carry_out(plan(read(file), folder, **how), engine)


def said(states) -> list[str]:
    return [state.state for state in states.values()]


def stamps(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(folder.glob("*.h5"))}


def numbers(path: Path) -> dict[str, np.ndarray]:
    with open_trace(path) as trace:
        return {quantity.name: trace[quantity.name] for quantity in trace.quantities}


def same_bits(one: Path, other: Path) -> bool:
    first, second = numbers(one), numbers(other)
    return first.keys() == second.keys() and all(first[k].tobytes() == second[k].tobytes() for k in first)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with a sweep file and its finished sweep in ``out``; a test that changes it works on a copy."""
    from small import SMALL

    folder = tmp_path_factory.mktemp("finished")
    assert said(go(write(folder, SMALL), folder / "out")) == ["finished", "finished"]
    return folder


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Runs the command line inside this process, and its sweeps too; returns (exit code, stdout, stderr)."""
    monkeypatch.setattr(local_processes, "processes", lambda _: here)

    def run(*words: object, columns: int = 100) -> tuple[int, str, str]:
        return run_inside(monkeypatch, capsys, tmp_path, words, columns)

    return run


@pytest.fixture
def refused(command):
    """Runs a command that must be refused in a line or two, with nothing on standard output; returns them."""

    def run(*words: object) -> str:
        code, out, err = command(*words)
        assert (code, out) == (2, ""), err
        assert "error: " in err
        assert "Traceback" not in err
        return err

    return run


# --- the index and the numbers -----------------------------------------------------------------------------


def test_the_index_says_which_member_of_which_file_each_point_is(finished):
    index = read_index(finished / "out")
    assert index["axes"] == ["network.depth", "init.rho_k"]
    assert index["seeds"] == [0, 1]
    assert index["digest"] == read(finished / "sweep.yaml").digest
    assert sorted(run["file"] for run in index["runs"]) == sorted(p.name for p in (finished / "out").glob("*.h5"))
    assert [tuple(p["values"].values()) for p in index["points"]] == [(2, 0.7), (2, 1.5), (3, 0.7), (3, 1.5)]
    for point in index["points"]:
        seeds = []
        for run, member in point["members"]:
            with open_trace(finished / "out" / index["runs"][run]["file"]) as trace:
                assert trace.attributes["recipe_digest"] == index["runs"][run]["recipe_digest"]
                assert trace.depth == point["values"]["network.depth"]
                assert trace["init_rho_k"][member] == point["values"]["init.rho_k"]
                seeds.append(trace["seed"][member])
        assert seeds == [0, 1]


def test_the_index_is_found_by_its_folder_and_by_its_name(finished):
    out = finished / "out"
    assert read_index(out) == read_index(out / INDEX)
    files = [out / run["file"] for run in read_index(out)["runs"]]
    assert run_files([out]) == run_files([out / INDEX]) == files
    assert run_files([Path("a.h5"), out, Path("b.h5")]) == [Path("a.h5"), *files, Path("b.h5")]
    with pytest.raises(TraceError, match=r"rhotrace sweep SWEEP\.yaml -o"):
        read_index(finished)


@pytest.mark.parametrize("theta", [0.5, 0.3])
def test_T_of_a_point_is_that_of_analyze_over_its_members(finished, theta):
    index, result = read_index(finished / "out"), collect(finished / "out", theta=theta)
    left = 0
    for entry, point in zip(index["points"], result.points, strict=True):
        T = []
        for run, member in entry["members"]:
            with open_trace(finished / "out" / index["runs"][run]["file"]) as trace:
                T.append(analyze(trace, theta=theta).transient.each[member].T * trace["lr"][member])
        T = [value for value in T if math.isfinite(value)]
        assert (point.values, point.members, point.steps, point.left) == (entry["values"], 2, 300, len(T))
        if T:
            assert point.T.value == pytest.approx(math.exp(np.mean(np.log(T))), rel=1e-12)
        left += len(T)
    assert left >= 6
    assert not result.missing


def test_a_sweep_whose_files_are_gone_says_so_and_shows_the_rest(copy):
    first, *_ = run_files([copy / "out"])
    first.unlink()
    result = collect(copy / "out")
    assert len(result.missing) == 1
    assert first.name in result.missing[0]
    assert [point.outcomes for point in result.points[:2]] == [{"missing": 2}] * 2
    assert result.points[2].left == 2
    assert all(point.steps == 0 for point in result.points[:2])


# --- going on ----------------------------------------------------------------------------------------------


def test_a_second_call_trains_nothing_and_touches_nothing(copy):
    before = stamps(copy / "out")
    assert said(go(copy / "sweep.yaml", copy / "out", nowhere)) == ["finished", "finished"]
    assert stamps(copy / "out") == before


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_a_damaged_file_is_set_aside_and_trained_again_to_the_same_bits(copy, finished, share):
    first, second = run_files([copy / "out"])
    content = bytearray(first.read_bytes())
    content[int(share * len(content))] ^= 0x10
    first.write_bytes(content)
    untouched = second.read_bytes()
    states = go(copy / "sweep.yaml", copy / "out")
    assert said(states) == ["finished", "finished"]
    aside = first.with_suffix(".damaged1.h5")
    assert states[first.name].notes == (f"{first.name} was damaged: kept as {aside.name}, trained again",)
    assert aside.read_bytes() == content
    assert second.read_bytes() == untouched
    assert same_bits(first, finished / "out" / first.name)


def test_the_command_tells_of_the_file_it_set_aside(copy, command):
    first, _ = run_files([copy / "out"])
    first.write_bytes(b"no run file")
    code, out, err = command("sweep", copy / "sweep.yaml", "-o", copy / "out")
    assert code == 0
    assert f"note: {first.name} was damaged: kept as {first.stem}.damaged1.h5, trained again" in err
    assert "note" not in out


def test_a_file_of_another_recipe_under_a_runs_name_is_set_aside_too(copy):
    first, second = run_files([copy / "out"])
    shutil.copy(second, first)
    states = go(copy / "sweep.yaml", copy / "out")
    assert said(states) == ["finished", "finished"]
    assert first.with_suffix(".other1.h5").read_bytes() == second.read_bytes()
    with open_trace(first) as trace:
        assert trace.depth == 2


def test_a_sweep_that_is_extended_keeps_the_runs_of_groups_that_did_not_change(copy, small):
    before = stamps(copy / "out")
    asked = []

    def engine(jobs):
        asked.extend(jobs)
        yield from here(jobs)

    longer = write(copy, small, SWEEP.replace("[2, 3]", "[2, 3, 1]"))
    assert said(go(longer, copy / "out", engine)) == ["finished"] * 3
    assert len(asked) == 1
    after = stamps(copy / "out")
    assert len(after) == 3
    assert before.items() <= after.items()
    assert [tuple(p.values.values()) for p in collect(copy / "out").points] == [
        (depth, rho) for depth in (2, 3, 1) for rho in (0.7, 1.5)
    ]


def test_members_per_run_is_remembered(tmp_path, small):
    file = write(tmp_path, small, SWEEP.replace("300", "3"))
    assert said(go(file, tmp_path / "out", members_per_run=3)) == ["finished"] * 4
    names = [run.name for run in plan(read(file), tmp_path / "out").runs]
    assert names == [path.name for path in run_files([tmp_path / "out"])]
    assert said(go(file, tmp_path / "out", nowhere)) == ["finished"] * 4


def test_a_sweep_that_is_extended_keeps_its_members_per_run(tmp_path, small):
    file = write(tmp_path, small, SWEEP.replace("300", "3"))
    go(file, tmp_path / "out", members_per_run=3)
    before = [path.name for path in run_files([tmp_path / "out"])]
    longer = write(tmp_path, small, SWEEP.replace("300", "3").replace("[2, 3]", "[2, 3, 1]"))
    names = [run.name for run in plan(read(longer), tmp_path / "out").runs]
    assert set(before) < set(names)


# --- memory ------------------------------------------------------------------------------------------------


def test_runs_are_split_so_that_they_fit_the_memory(tmp_path, small, monkeypatch):
    file = write(tmp_path, small)
    whole = plan(read(file), tmp_path / "out")
    assert len(whole.runs) == 2
    recipe = whole.runs[1].recipe
    shared, each = resources.shared_bytes(recipe, 40, 20, (784,)), resources.member_bytes(recipe, 40, (784,), 1)
    for members in (1, 2, 3):
        monkeypatch.setattr(resources, "free_bytes", lambda _, m=members: (shared + (m + 0.5) * each) / resources.SHARE)
        split = plan(read(file), tmp_path / "out")
        assert max(len(run.points) for run in split.runs) == min(members, 2) if members < 3 else 3
        assert split.memory <= resources.SHARE * split.free
        assert split.members == 8
    monkeypatch.setattr(resources, "free_bytes", lambda _: 2 * (shared + 3.5 * each) / resources.SHARE)
    assert max(len(run.points) for run in plan(read(file), tmp_path / "out", workers=2).runs) <= 3


def test_the_grouping_stays_when_other_memory_is_free_later(tmp_path, small, monkeypatch):
    file = write(tmp_path, small, SWEEP.replace("300", "3").replace("depth: [2, 3]", "width: [16, 8]"))
    monkeypatch.setattr(resources, "shared_bytes", lambda *_: 0.0)
    monkeypatch.setattr(resources, "member_bytes", lambda recipe, *_: 1e9 if recipe.network.width == 16 else 1e3)
    monkeypatch.setattr(resources, "free_bytes", lambda _: 2.5e9 / resources.SHARE)
    first = go(file, tmp_path / "out")
    assert [len(state.run.points) for state in first.values()] == [2, 2, 4]
    for free in (2.5e9, 1e9, 1e12):
        monkeypatch.setattr(resources, "free_bytes", lambda _, free=free: free)
        assert [run.name for run in plan(read(file), tmp_path / "out").runs] == list(first)


def test_asking_for_the_free_memory_of_a_gpu_leaves_torch_as_it_was(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is restored afterwards
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (5_000_000_000, 8_000_000_000))
    before = torch.are_deterministic_algorithms_enabled()
    try:
        assert resources.free_bytes("cuda") == 5e9
        assert torch.are_deterministic_algorithms_enabled() is before is False
        assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
        assert find_device("cuda") == "cuda"  # a training does prepare them
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(before)


@pytest.mark.parametrize("key", ["data.train", "data.test"])
def test_a_sweep_over_all_samples_that_there_are_is_planned(tmp_path, small, key):
    file = write(tmp_path, small, SWEEP.replace("steps: 300", f"steps: 300, {key}: null"))
    all_of_them = plan(read(file), tmp_path / "out")
    assert all_of_them.memory > plan(read(write(tmp_path, small)), tmp_path / "out").memory


# --- runs that fail ----------------------------------------------------------------------------------------


def test_a_run_that_fails_stops_no_other_and_its_reason_is_shown(tmp_path, small, command):
    file = write(tmp_path, small, SWEEP.replace("300", "3"))
    first, second = plan(read(file), tmp_path / "out").runs
    (tmp_path / "out" / f".{first.name}.lock").mkdir(parents=True)  # so that the run file cannot be created
    code, out, err = command("sweep", file, "-o", "out", "--json")
    assert code == 2
    assert f"failed: {first.name}: " in err
    assert "the run file cannot be created" in err
    runs = json.loads(out)["runs"]
    assert [runs[run.name]["state"] for run in (first, second)] == ["failed", "finished"]
    assert "cannot be created" in runs[first.name]["why"]
    (tmp_path / "out" / f".{first.name}.lock").rmdir()
    assert command("sweep", file, "-o", "out")[0] == 0


LOWER = "lower network.width, data.train or optimizer.batch_size, or train fewer members in a run"


@pytest.mark.parametrize(
    ("problem", "why"),
    [
        (MemoryError(), f"out of memory on the machine; {LOWER}"),
        (
            MemoryError("Unable to allocate 7.28 TiB"),
            f"out of memory on the machine (tried to allocate 7.28 TiB); {LOWER}",
        ),
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8000000000000 bytes"),
            f"out of memory on the machine (tried to allocate 8000.0 GB); {LOWER}",
        ),
    ],
    ids=["python", "numpy", "disk", "torch"],
)
def test_a_run_without_memory_or_disk_fails_and_the_others_are_trained(tmp_path, small, monkeypatch, problem, why):
    from rhotrace.training import train as training

    real = training.train

    def train(recipe, *words, **options):
        if recipe.network.depth == 2:
            raise problem
        return real(recipe, *words, **options)

    monkeypatch.setattr(training, "train", train)
    states = go(write(tmp_path, small, SWEEP.replace("300", "3")), tmp_path / "out")
    assert sorted(said(states)) == ["failed", "finished"]
    assert [state.why for state in states.values() if state.why] == [why]


def test_a_batch_that_the_data_does_not_hold_fails_alone(tmp_path, small, command):
    text = (
        "recipe: small.yaml\nset: {steps: 2, data.train: null, data.classes: [5, 8]}\naxes:\n"
        "  - grid: {optimizer: [{kind: sgd, lr: 0.1, batch_size: 8}, {kind: sgd, lr: 0.1, batch_size: 50000}]}\n"
    )
    code, out, err = command("sweep", write(tmp_path, small, text), "-o", "out", "--json")
    assert code == 2
    assert "optimizer.batch_size: got 50000, expected at most" in err
    assert sorted(run["state"] for run in json.loads(out)["runs"].values()) == ["failed", "finished"]


def test_a_sweep_in_which_every_member_diverges_is_done(tmp_path, small, command):
    text = "recipe: small.yaml\naxes: [{grid: {optimizer.lr: [1.0e+150, 1.0e+160]}}]\n"
    code, out, err = command("sweep", write(tmp_path, small, text), "-o", "out", "--plot", "p.svg")
    assert (code, "1 diverged" in err, "diverged" in out) == (0, True, True)
    assert command("sweep", "sweep.yaml", "-o", "out")[0] == 0


# --- the command -------------------------------------------------------------------------------------------


def test_plan_says_what_would_be_trained_and_makes_nothing(tmp_path, small, command, monkeypatch):
    monkeypatch.setattr(local_processes, "processes", lambda _: nowhere)
    file = write(tmp_path, small)
    code, out, err = command("sweep", file, "--plan")
    assert (code, out) == (0, "")
    assert "4 points x 2 seeds = 8 networks in 2 runs of at most 4 members, 300 steps each" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.yaml", "sweep.yaml"]


def test_plan_gives_json_when_asked(tmp_path, small, command, monkeypatch):
    monkeypatch.setattr(local_processes, "processes", lambda _: nowhere)
    code, out, _ = command("sweep", write(tmp_path, small), "--plan", "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["points"], told["members"], [run["members"] for run in told["runs"]]) == (4, 8, [4, 4])


def test_json_is_json_and_alone_on_stdout(copy, command):
    code, out, err = command("sweep", copy / "sweep.yaml", "-o", copy / "out", "--json")
    found = json.loads(out)
    assert code == 0
    assert "runs: 2 finished" in err
    assert [point["values"]["network.depth"] for point in found["points"]] == [2, 2, 3, 3]
    assert {run["state"] for run in found["runs"].values()} == {"finished"}
    result = collect(copy / "out")
    assert [point["T"]["value"] for point in found["points"]] == [point.T.value for point in result.points]


def test_the_folder_is_named_after_the_sweep_by_default(tmp_path, small, command):
    write(tmp_path, small, SWEEP.replace("300", "3"))
    assert command("sweep", "sweep.yaml", "--set", "network.width=16")[0] == 0
    with open_trace(run_files([tmp_path / "sweeps" / "sweep"])[0]) as trace:
        assert (trace.steps, trace.recipe["network"]["width"]) == (3, 16)


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_the_table_has_a_cell_for_every_point_at_any_width(copy, command, columns):
    code, out, _ = command("sweep", copy / "sweep.yaml", "-o", copy / "out", columns=columns)
    assert code == 0
    for point in collect(copy / "out").points:
        assert f"{point.T.value:.3g}"[:4] in out


@pytest.mark.parametrize("name", ["[bold]x[red]", "δοκ ünï 🎉", "a b {c}", "sweep.json.d"])
def test_names_are_shown_as_they_are(tmp_path, small, command, name):
    file = write(tmp_path, small, SWEEP.replace("300", "3")).rename(tmp_path / f"{name}.yaml")
    code, out, err = command("sweep", file, columns=300)
    assert code == 0
    assert f"{name}.yaml" in err
    assert f"sweeps/{name}" in out.replace("\n", "")


def test_scaling_of_a_sweep_is_scaling_of_its_files(finished, command):
    out = finished / "out"
    answers = [command("scaling", *words, "--json") for words in ([out], [out / INDEX], run_files([out]))]
    assert answers[0][0] == 0
    assert json.loads(answers[0][1])["each"]
    assert answers[0] == answers[1] == answers[2]


def test_compare_of_a_sweep_is_compare_of_its_files(finished, command):
    out = finished / "out"
    answers = [command("compare", *words, "--json") for words in ([out], [out / INDEX], run_files([out]))]
    assert answers[0][0] == 0, answers[0][2]
    assert answers[0] == answers[1] == answers[2]


# --- refusals ----------------------------------------------------------------------------------------------


def test_a_sweep_that_is_not_there_is_refused(refused):
    assert "none.yaml" in refused("sweep", "none.yaml")


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_is_a_file_is_refused_as_such(tmp_path, small, refused, place):
    (tmp_path / "file").write_text("text")
    message = refused("sweep", write(tmp_path, small), "-o", place)
    assert "sweep's index" not in message
    assert "folder" in message


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("more", [(), ("--plan",)])
def test_cuda_without_a_gpu_is_refused_in_a_line(tmp_path, small, refused, more):
    assert "--device cuda" in refused("sweep", write(tmp_path, small), "--device", "cuda", *more)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--theta", "1"), "--theta: got 1, expected a number between 0 and 1"),
        (("--plot", "x.gif"), "--plot: got x.gif"),
        (("--set", "steps"), "--set: got 'steps', expected key.path=value"),
        (("--set", "stepps=3"), "stepps: unknown key; did you mean 'steps'?"),
        (("--set", "steps=three"), "steps: got 'three', expected a valid integer"),
        (("--set", "data.train=1000000"), "data: got 1000000 training samples"),
    ],
)
def test_wrong_options_are_refused(tmp_path, small, refused, words, said):
    assert said in refused("sweep", write(tmp_path, small), *words)
    assert not (tmp_path / "sweeps").exists()


BAD_INDEX = {
    "empty": "",
    "list": "[]",
    "other version": '{"format": 99}',
    "nothing but the format": '{"format": 1}',
    "wrong types": '{"format": 1, "digest": 0, "members_per_run": "x", "runs": 3, "points": 4, "axes": 5, "seeds": 6}',
    "files that are numbers": '{"format": 1, "digest": "", "members_per_run": 1, "runs": [{"file": 3}], "points": [], "axes": [], "seeds": []}',
    "deep": "[" * 100_000,
    "text": "\x00",
}


@pytest.mark.parametrize("kind", BAD_INDEX)
def test_a_bad_index_is_refused_by_every_command_that_reads_it(tmp_path, small, refused, kind):
    file = write(tmp_path, small, SWEEP.replace("300", "3"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / INDEX).write_text(BAD_INDEX[kind])
    for words in (("scaling", "out"), ("compare", "out"), ("sweep", file, "-o", "out")):
        assert "out/sweep.json" in refused(*words)


@pytest.mark.parametrize("value", ["x", 1.5, 0, -1, None, True])
def test_an_index_with_a_senseless_number_of_members_is_refused_or_ignored(copy, command, value):
    index = json.loads((copy / "out" / INDEX).read_text())
    (copy / "out" / INDEX).write_text(json.dumps({**index, "group_sizes": dict.fromkeys(index["group_sizes"], value)}))
    code, _, err = command("sweep", copy / "sweep.yaml", "-o", copy / "out", "--plan")
    assert code in {0, 2}
    assert code == 0 or "sweep.json" in err


def test_an_index_is_never_half_written(copy, monkeypatch):
    before = (copy / "out" / INDEX).read_text()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        go(copy / "sweep.yaml", copy / "out", nowhere)
    assert (copy / "out" / INDEX).read_text() == before


# --- kills -------------------------------------------------------------------------------------------------


def steps_of(path: Path) -> int:
    with contextlib.suppress(TraceError, OSError), open_trace(path) as trace:
        return trace.steps
    return 0


def wait_for(true, process, seconds: float = 60.0) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert process.poll() is None, "the sweep ended by itself"
        assert time.monotonic() < ends, "it never came to that"
        time.sleep(0.02)


def test_a_sweep_survives_the_kill_of_a_worker_and_then_that_of_all_of_it(tmp_path, small):
    steps = 7000
    file = write(
        tmp_path, small, SWEEP.replace("300", str(steps)).replace("[2, 3]", "[3]").replace("seeds: 2", "seeds: 1")
    )
    whole = tmp_path / "whole"
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "rhotrace", "sweep", str(file), "-o", str(out)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        (run,) = plan(read(file), whole).runs
        path = out / run.name
        wait_for(lambda: steps_of(path) > 0, process)
        (worker,) = [p for p in psutil.Process(process.pid).children() if any("spawn_main" in w for w in p.cmdline())]
        worker.kill()
        _, alive = psutil.wait_procs([worker], timeout=60)
        assert not alive
        at_kill = steps_of(path)
        assert 0 < at_kill < steps
        wait_for(lambda: steps_of(path) > at_kill, process)
        assert process.poll() is None
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    committed = steps_of(path)
    assert at_kill < committed < steps
    assert look(path, run.recipe) == ("begun", committed)
    begun = []

    def engine(jobs):
        begun.append(steps_of(path))
        yield from here(jobs)

    assert said(go(file, out, engine)) == ["finished"]
    assert begun == [committed]
    with open_trace(path) as trace:
        begins = [session["from_step"] for session in trace.sessions]
    assert len(begins) == 2
    assert begins[1] == committed
    assert said(go(file, whole)) == ["finished"]
    assert same_bits(path, whole / run.name)


@pytest.mark.parametrize("when", ["in training", "at once"])
def test_an_engine_gives_up_when_its_workers_only_die(tmp_path, small, monkeypatch, when):
    class Pool:
        def __init__(self, *_):
            pass

        def submit(self, *_):
            if when == "at once":
                raise BrokenProcessPool("a process died while the jobs were handed over")
            future = Future()
            future.set_exception(BrokenProcessPool("a process died"))
            return future

        def shutdown(self, **_):
            pass

    monkeypatch.setattr(local_processes, "ProcessPoolExecutor", Pool)
    states = go(write(tmp_path, small), tmp_path / "out", local_processes.processes(2))
    assert said(states) == ["failed", "failed"]
    assert all("is there enough memory?" in state.why for state in states.values())
