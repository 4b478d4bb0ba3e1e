"""A sweep on real Ray clusters: nodes and workers that are killed, Ctrl-C, and clusters that are not there."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from rhotrace.analysis.verification import verify
from rhotrace.config import recipe
from rhotrace.errors import TraceError
from rhotrace.runfile.reader import open_trace
from rhotrace.runfile.run_lock import is_locked, lock_path
from rhotrace.sweeps import ray_cluster
from rhotrace.sweeps.job import Job, train_job
from rhotrace.sweeps.local_processes import processes
from rhotrace.sweeps.runner import carry_out, plan
from rhotrace.sweeps.sweep_file import read

pytestmark = [
    # Ray leaves its processes' handles and pipes to the collector.
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:unclosed file .*/logs/.*:ResourceWarning"),
]
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")

STEPS = 2200  # some seconds: several commits
SWEEP = """\
recipe: recipe.yaml
axes:
  - grid:
      network.width: WIDTHS
seeds: 2
"""
NODE = {"object_store_memory": 80_000_000, "include_dashboard": False}


def files_of(folder: Path, text: str, steps: int = STEPS, widths: str = "[6, 7, 8]") -> Path:
    (folder / "recipe.yaml").write_text(text.replace("steps: 60", f"steps: {steps}").replace("members: {seeds: 3}", ""))
    (folder / "sweep.yaml").write_text(SWEEP.replace("WIDTHS", widths))
    return folder / "sweep.yaml"


def until(what: Callable[[], Any], seconds: float = 90.0) -> Any:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if found := what():
            return found
        time.sleep(0.1)  # to look reads the files of all runs
    raise AssertionError("it did not happen in time")


def training(folder: Path) -> dict[Path, tuple[int, int]]:
    """The process and the committed steps of each run that has some and is being trained."""
    found = {}
    for path in folder.glob("*.h5"):
        with contextlib.suppress(TraceError, OSError, ValueError), open_trace(path) as trace:
            if is_locked(path) and 0 < trace.steps < trace.layout.steps:
                found[path] = int(lock_path(path).read_text()), trace.steps
    return found


def values(path: Path) -> dict[str, bytes]:
    """The bits of everything that is recorded."""
    with open_trace(path) as trace:
        found = {q.name: np.asarray(trace[q.name]).tobytes() for q in trace.quantities}
        for step, weights in trace.snapshots():
            found[f"weights at {step}"] = b"".join(np.asarray(W).tobytes() for W in weights)
        return found


def sessions(folder: Path) -> dict[str, list[int]]:
    """The first step of each session after the first, of every run."""
    found = {}
    for path in folder.glob("*.h5"):
        with open_trace(path) as trace:
            found[path.name] = [session["from_step"] for session in trace.sessions]
    return found


def assert_as(folder: Path, reference: Path) -> None:
    """Every run is there, whole, finished, and has the bits of the sweep that nothing befell."""
    runs = sorted(path.name for path in reference.glob("*.h5"))
    assert sorted(path.name for path in folder.glob("*.h5")) == runs
    for name in runs:
        with open_trace(folder / name) as trace:
            assert trace.complete
            assert trace.attributes["ended"] == "finished"
            assert verify(trace).sound
        assert values(folder / name) == values(reference / name)
    assert not list(folder.glob(".*.lock"))


def rays() -> set[int]:
    """The processes of Ray on this machine."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline() or [process.name()]
            ours = words[0].startswith("ray::") or any("/site-packages/ray/" in word for word in words[:3])
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process.pid)
    return found


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """Ray's folder for logs and sockets, whose paths must be short; nothing of Ray outlives it."""
    before, folder = rays(), Path(tempfile.mkdtemp(prefix="rt", dir="/tmp"))
    yield folder
    until(lambda: not rays() - before, seconds=90)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def cluster(scratch):
    """A head with one CPU, to which the tests add nodes."""
    from ray.cluster_utils import Cluster

    # A node is given up after two seconds without a sign of life, not after fifteen.
    quick = {"health_check_period_ms": 500, "health_check_timeout_ms": 500, "health_check_failure_threshold": 3}
    environment = {"RAY_USAGE_STATS_ENABLED": "0"}
    # Ray notes the address of the last cluster here, and makes the folder only for one whose logs go there too.
    Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray").mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        head = {**NODE, "num_cpus": 1, "temp_dir": str(scratch), "_system_config": quick}
        made = Cluster(initialize_head=True, head_node_args=head)
        yield made
        made.shutdown()


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    """The sweep, trained by one process of this machine, undisturbed."""
    from small import SMALL

    folder = tmp_path_factory.mktemp("reference")
    planned = plan(read(files_of(folder, SMALL)), folder / "runs")
    states = carry_out(planned, processes(1))
    assert {state.state for state in states.values()} == {"finished"}
    return folder / "runs"


@pytest.fixture
def start(tmp_path, small, scratch):
    """Starts the command in a group of processes of its own, as a terminal does; all that is left of it is killed."""
    started = []

    def begin(*words: str, **how: Any) -> subprocess.Popen[str]:
        file = files_of(tmp_path, small, **how)
        process = subprocess.Popen(
            [sys.executable, "-m", "rhotrace", "sweep", str(file), "-o", str(tmp_path / "runs"), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            cwd=tmp_path,
            env={**os.environ, "NO_COLOR": "1", "RAY_TMPDIR": str(scratch)},
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def ended(process: subprocess.Popen[str], code: int, seconds: float = 120) -> tuple[str, str]:
    out, errors = process.communicate(timeout=seconds)
    assert process.returncode == code, errors
    return out, errors


def raylet(node) -> int:
    return node.all_processes["raylet"][0].process.pid


def parent_of(pid: int) -> int | None:
    try:
        return psutil.Process(pid).ppid()
    except psutil.NoSuchProcess:
        return None


# --- refused ------------------------------------------------------------------------------------------------


def test_without_ray_the_remedy_is_shown(command, tmp_path, small, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, out, errors = command("sweep", files_of(tmp_path, small), "--ray", "auto")
    assert (code, out) == (2, "")
    assert "--ray: Ray is not installed; python -m pip install 'rhotrace[ray]'" in errors


@needs_ray
@pytest.mark.parametrize("address", ["auto", "127.0.0.1:9", "nonsense"])
def test_where_no_cluster_is_the_sweep_is_refused_at_once(command, tmp_path, small, monkeypatch, address):
    if address == "auto" and rays():
        pytest.skip("Ray runs on this machine")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    code, out, errors = command("sweep", files_of(tmp_path, small), "--ray", address)
    assert (code, out) == (2, "")
    said = errors[errors.index("error:") :]
    assert ("Connection refused" in said) == (address == "127.0.0.1:9")  # and not Ray's own words, after minutes
    assert f"--ray {address}: no cluster" in said
    assert "ray start --head" in said
    assert said.count("\n") <= 2


@needs_ray
def test_gpus_that_ray_cannot_give_are_refused(command, tmp_path, small):
    code, _, errors = command("sweep", files_of(tmp_path, small), "--ray", "local", "--gpus", "1.5")
    assert code == 2
    assert "--gpus: got 1.5, expected a fraction of one, or a whole number" in errors


@needs_ray
def test_what_no_node_has_is_not_waited_for(command, tmp_path, small, cluster):
    code, _, errors = command("sweep", files_of(tmp_path, small), "--ray", cluster.address, "--gpus", "0.5")
    assert code == 2
    assert "no node has what a run needs (1 CPU, 0.5 GPU" in errors


def test_a_folder_that_is_not_shared_is_reported(tmp_path):
    origin = ray_cluster._Origin(str(tmp_path), ("rhotrace",), None)
    end = ray_cluster._train_there(Job("", str(tmp_path / "away" / "run.h5"), "cpu", "recipe.yaml"), origin)
    assert end.ended == "failed"
    assert "a folder that all machines of the cluster share" in end.why


def test_a_run_that_fails_of_anything_does_not_stop_the_others(tmp_path, small, monkeypatch):
    def fail(*_words, **_more):
        raise ValueError("of\nanything")

    monkeypatch.setattr("rhotrace.training.train.train", fail)
    text = recipe.parse(small).to_yaml()
    end = train_job(Job(text, str(tmp_path / "run.h5"), "cpu", "recipe.yaml"))
    assert (end.ended, end.why) == ("failed", "ValueError: of anything")


# --- trained ------------------------------------------------------------------------------------------------


@needs_ray
def test_the_run_of_a_node_that_is_killed_goes_on_elsewhere(command, cluster, reference, tmp_path, small):
    runs, node = tmp_path / "runs", cluster.add_node(**NODE, num_cpus=1)
    there = psutil.Process(raylet(node))
    lost: list[Path] = []

    def kill_it() -> None:
        def on_it() -> list[Path]:
            return [path for path, (pid, _) in training(runs).items() if parent_of(pid) == there.pid]

        lost.extend(until(on_it))
        for victim in (there, *there.children(recursive=True)):
            victim.kill()

    killer = threading.Thread(target=kill_it)
    killer.start()
    code, out, errors = command("sweep", files_of(tmp_path, small), "-o", runs, "--ray", cluster.address, "--json")
    killer.join()
    cluster.remove_node(node, allow_graceful=False)

    assert code == 0, errors
    assert {run["state"] for run in json.loads(out)["runs"].values()} == {"finished"}
    assert_as(runs, reference)
    later = sessions(runs)
    assert [0 < step < STEPS for step in later.pop(lost[0].name)] == [True]
    assert list(later.values()) == [[], []]


@needs_ray
def test_a_worker_is_killed_then_the_sweep_stopped_and_the_same_command_finishes_it(
    start, command, cluster, reference, tmp_path
):
    runs, node = tmp_path / "runs", cluster.add_node(**NODE, num_cpus=2, num_gpus=1)
    words = ("--ray", cluster.address, "--gpus", "0.5")
    process = start(*words)

    # Half a GPU each: two at once, on the node that has it. The first is held, so that it waits for the second.
    path, (killed, steps) = until(lambda: next(iter(training(runs).items()), None))
    os.kill(killed, signal.SIGSTOP)
    until(lambda: len(training(runs)) == 2)
    assert {parent_of(pid) for pid, _ in training(runs).values()} == {raylet(node)}

    os.kill(killed, signal.SIGKILL)
    now = until(lambda: next((pid for run, (pid, _) in training(runs).items() if run == path and pid != killed), None))
    os.kill(now, signal.SIGSTOP)  # so that it is not done before it is told to stop
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(1.5)
    os.kill(now, signal.SIGCONT)

    _, errors = ended(process, 130)
    assert "the same command resumes the sweep" in errors
    assert not any(map(is_locked, runs.glob("*.h5")))
    with open_trace(path) as trace:
        assert not trace.complete
        assert steps <= trace.sessions[0]["from_step"] < trace.steps
        stopped = trace.steps
    done = {}
    for other in runs.glob("*.h5"):
        with open_trace(other) as trace:
            if trace.complete:
                done[other] = other.stat()

    code, _, errors = command("sweep", tmp_path / "sweep.yaml", "-o", runs, *words)
    assert code == 0, errors
    assert_as(runs, reference)
    assert sessions(runs)[path.name][1:] == [stopped]
    assert {other: other.stat() for other in done} == done
    cluster.remove_node(node)


@needs_ray
def test_a_ray_of_ones_own(start, tmp_path):
    before = rays()
    ended(start("--ray", "local", steps=50, widths="[6]"), 0)
    for path in (tmp_path / "runs").glob("*.h5"):
        with open_trace(path) as trace:
            assert trace.complete
            assert trace.attributes["command"].startswith("__main__.py sweep")
    until(lambda: not rays() - before, seconds=90)


def test_processes_stop_as_ray_does(start, tmp_path):
    process = start()
    until(lambda: training(tmp_path / "runs"))
    os.killpg(process.pid, signal.SIGINT)
    _, errors = ended(process, 130)
    assert "the same command resumes the sweep" in errors
    assert "1 interrupted" in errors
    later = sessions(tmp_path / "runs")
    assert list(later.values()) == [[]]
