"""One run across several processes: the numbers of one process, one file, and nothing lost when one of them dies."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import inside
import numpy as np
import psutil
import pytest
import torch
import torch.distributed as dist
from crashing import BLOCK, CONTEXT, contents, faults
from small import SMALL

from rhotrace.cli import app as cli
from rhotrace.config import recipe
from rhotrace.errors import DeviceError, TraceError
from rhotrace.models.datasets import Dataset
from rhotrace.runfile.reader import open_trace
from rhotrace.training import distributed
from rhotrace.training import train as training
from rhotrace.training.distributed import Team

TEXT = SMALL.replace("train: 40", "train: 41")  # neither 2 nor 4 processes have equal shards of it
FULL_BATCH = {
    "gd": "optimizer={kind: gd, lr: 0.05}",
    "weight norm": "optimizer={kind: weight-norm, lr: 0.05}",
    "ten outputs": "data={dataset: mnist, classes: all, train: 41, test: 20}",
}
KILL = signal.SIGKILL
NEVER = 24 * 3600.0  # seconds; long before that, ``together`` kills a process that still waits, and its code is KILL
LOST = "ended or cannot be reached"


# --- processes that train together, forked from a server that has imported everything ----------------------


@dataclass(frozen=True)
class Deed:
    """What happens to one process after ``step`` steps: a signal, or the loss of the file."""

    rank: int
    step: int
    number: int | None


@dataclass(frozen=True)
class Part:
    """One process of a run."""

    text: str
    path: Path
    data: Dataset
    environment: dict[str, str]
    deed: Deed | None
    patience: float
    behind: bool


@dataclass(frozen=True)
class End:
    """How the processes of a run ended, and what each of them said."""

    codes: list[int]
    said: list[str] = field(default_factory=list)

    @property
    def errors(self) -> list[str]:
        return [line for text in self.said for line in text.splitlines() if "error" in line.lower()]


@lru_cache
def dataset(text: str) -> Dataset:
    content = recipe.parse(text)
    return content.load_data()


def together(
    path: Path, size: int, *texts: str, deed: Deed | None = None, patience: float = 60, behind: bool = False
) -> End:
    """Trains a recipe (or one for each process) in ``size`` processes, as torchrun would start them."""
    texts = texts or (TEXT,)
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    parts = []
    for rank in range(size):
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "localhost"}
        variables |= {"MASTER_PORT": store.port, "TORCHELASTIC_USE_AGENT_STORE": True}
        environment = {name: str(value) for name, value in variables.items()}
        text = texts[rank % len(texts)]
        part = Part(
            text, path, dataset(text), environment, deed if deed and deed.rank == rank else None, patience, behind
        )
        parts.append(CONTEXT.Process(target=work, args=(part,)))
    for part in parts:
        part.start()
    for part in sorted(parts, key=lambda part: deed is not None and part is parts[deed.rank]):
        part.join(1 if deed and deed.number == signal.SIGSTOP and part is parts[deed.rank] else 60)
        part.kill()
        part.join()
    said = [(path.parent / f"said{rank}").read_text() for rank in range(size)]
    return End([part.exitcode for part in parts], said)


def work(part: Part) -> None:
    """What each process does."""
    os.environ.update(part.environment)
    rank = int(part.environment["RANK"])
    with (part.path.parent / f"said{rank}").open("w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    source = part.path.with_name(f"recipe{rank}.yaml")
    source.write_text(part.text)
    inside.without_git(pytest.MonkeyPatch())  # for good: the process ends with its test
    inside.data_at_hand(setattr, part.data)
    inside.small_blocks(setattr, BLOCK)
    inside.patience_with_others(setattr, part.patience)
    if part.behind:
        inside.always_behind(setattr)
    if part.deed:
        inside.before_each_reduction(setattr, partial(strike, part.deed, part.path))
    sys.argv = ["rhotrace", "train", str(source), "-o", str(part.path), "--device", "cpu"]
    cli.main()


def strike(deed: Deed, path: Path, step: int) -> None:
    if step == deed.step:
        if deed.number:
            os.kill(os.getpid(), deed.number)
        else:
            path.unlink()


def text_of(*overrides: str) -> str:
    return recipe.parse(TEXT, list(overrides)).to_yaml()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The contents of the undisturbed run of ``size`` processes."""

    @lru_cache
    def run(size: int, text: str = TEXT) -> dict[str, bytes]:
        path = tmp_path_factory.mktemp("whole") / "run.h5"
        end = together(path, size, text)
        assert end.codes == [0] * size, end.said
        return contents(path)

    return run


# --- the same numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "kind"), [(2, "gd"), (4, "gd"), (2, "weight norm"), (4, "ten outputs")])
def test_every_quantity_is_that_of_one_process(tmp_path, size, kind):
    text = text_of(FULL_BATCH[kind])
    one, several = tmp_path / "one.h5", tmp_path / "several.h5"
    training.train(recipe.parse(text), one, device="cpu")
    end = together(several, size, text)
    assert end.codes == [0] * size, end.said
    assert [bool(said) for said in end.said] == [True] + [False] * (size - 1)
    with open_trace(one) as alone, open_trace(several) as shared:
        assert (alone.attributes["processes"], shared.attributes["processes"]) == (1, size)
        for quantity in alone.quantities:
            np.testing.assert_allclose(
                shared[quantity.name], alone[quantity.name], rtol=1e-9, atol=1e-12, err_msg=quantity.name
            )
        for step in alone.snapshot_steps():
            for a, b in zip(alone.snapshot(step), shared.snapshot(step), strict=True):
                np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12)


def test_the_same_number_of_processes_gives_the_same_bits(tmp_path, whole):
    assert together(tmp_path / "run.h5", 3).codes == [0, 0, 0]
    assert contents(tmp_path / "run.h5") == whole(3)


def test_a_run_that_diverges_ends_in_all_processes(tmp_path):
    text = text_of("network.depth=1", "optimizer.lr=1e9", "steps=200")
    training.train(recipe.parse(text), tmp_path / "one.h5", device="cpu")
    end = together(tmp_path / "run.h5", 3, text)
    assert end.codes == [3, 0, 0], end.said  # process 0 reports how the run ended
    assert "diverged" in end.said[0]
    with open_trace(tmp_path / "one.h5") as one, open_trace(tmp_path / "run.h5") as several:
        assert several.attributes["ended"] == "diverged"
        assert several.steps == one.steps < 200


# --- interruptions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_process_ends_the_run_and_the_same_command_resumes_it(tmp_path, whole, lost):
    path = tmp_path / "run.h5"
    end = together(path, 3, deed=Deed(lost, 40, KILL), patience=NEVER)  # a lost process is noticed, not waited for
    assert end.codes == [-KILL if rank == lost else 2 for rank in range(3)], end.said
    assert len(end.errors) == 1, end.said
    assert f"error: one of the 3 processes {LOST}" in end.errors[0]
    assert not any("Traceback" in said for said in end.said)
    assert faults(path, 32, 40) == []
    with open_trace(path) as trace:
        assert (trace.steps, trace.complete) == (32, False)
    end = together(path, 3)
    assert end.codes == [0, 0, 0], end.said
    assert "at step 32" in end.said[0]
    assert contents(path) == whole(3)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_any_process_stops_all_at_one_step(tmp_path, whole, number):
    path = tmp_path / "run.h5"
    end = together(path, 3, deed=Deed(1, 25, number))
    assert end.codes == [130, 0, 0], end.said
    assert "interrupted: 27 steps" in end.said[0]  # asked for in step 25, counted from 0; told to all in the next
    assert end.said[1:] == ["", ""]
    assert faults(path, 27, 27) == []
    assert together(path, 3).codes == [0, 0, 0]
    assert contents(path) == whole(3)


@pytest.mark.parametrize(("deed", "steps"), [(Deed(1, 40, KILL), 32), (Deed(1, 25, signal.SIGINT), 27)])
def test_blocks_written_behind_the_steps_lose_no_more(tmp_path, whole, deed, steps):
    path = tmp_path / "run.h5"
    end = together(path, 3, deed=deed, patience=NEVER, behind=True)
    assert end.codes[0] == (2 if deed.number == KILL else 130), end.said
    assert faults(path, steps, 40) == []
    with open_trace(path) as trace:
        assert (trace.steps, trace.complete) == (steps, False)
    assert together(path, 3, behind=True).codes == [0, 0, 0]
    assert contents(path) == whole(3)


def test_a_run_that_diverges_behind_the_steps_ends_in_all_processes(tmp_path):
    text = text_of("network.depth=1", "optimizer.lr=1e9", "steps=200")
    for name, behind in (("one.h5", False), ("run.h5", True)):
        assert together(tmp_path / name, 2, text, behind=behind).codes == [3, 0]
    assert contents(tmp_path / "run.h5") == contents(tmp_path / "one.h5")


def test_a_process_that_falls_silent_is_given_up(tmp_path):
    end = together(tmp_path / "run.h5", 3, deed=Deed(2, 40, signal.SIGSTOP), patience=4)
    assert end.codes == [2, 2, -KILL], end.said
    assert len(end.errors) == 1, end.said
    assert LOST in end.errors[0]
    assert faults(tmp_path / "run.h5", 32, 40) == []


def test_a_failure_of_the_writing_process_is_said_once(tmp_path):
    end = together(tmp_path / "run.h5", 3, deed=Deed(0, 20, None))
    assert end.codes == [2, 2, 2], end.said
    assert len(end.errors) == 1, end.said
    assert "because the file was removed" in end.said[0]


def test_another_number_of_processes_is_refused_unless_asked_for(tmp_path):
    path, content = tmp_path / "run.h5", recipe.parse(TEXT)
    assert together(path, 2, deed=Deed(0, 40, signal.SIGINT)).codes == [130, 0]
    end = together(path, 3)
    assert end.codes == [2, 2, 2], end.said
    assert len(end.errors) == 1
    assert "processes: 2 in the file, 3 now" in end.errors[0]
    with pytest.raises(TraceError, match="processes: 2 in the file, 1 now"):
        training.train(content, path, device="cpu")
    assert training.train(content, path, device="cpu", despite_changes=True).ended == "finished"
    with open_trace(path) as trace:
        assert (trace.attributes["processes"], trace.sessions[0]["processes"]) == (2, 1)


# --- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ((text_of("optimizer={kind: sgd, lr: 0.05, batch_size: 7}"),), "optimizer.batch_size: got 7 and 3 processes"),
        ((text_of("data.train=2"),), "data.train: got 2 training samples, expected at least one for each of the 3"),
        ((TEXT, TEXT, text_of("optimizer.lr=0.1")), "process 2 and process 0 differ in recipe"),
        ((TEXT, text_of("data.train=40"), TEXT), "process 1 and process 0 differ in recipe, data"),
        ((TEXT, "nonsense: 1"), "nonsense"),
    ],
)
def test_what_cannot_be_trained_together_is_refused_once(tmp_path, monkeypatch, texts, says):
    if "nonsense: 1" in texts:  # has no data
        monkeypatch.setattr(sys.modules[__name__], "dataset", lambda _: None)
    path = tmp_path / "run.h5"
    end = together(path, 3, *texts)
    assert end.codes == [2, 2, 2], end.said
    assert len([line for said in end.said for line in said.splitlines()]) <= 2, end.said
    assert says in "".join(end.said)
    assert not path.exists()


def test_a_finished_run_is_refused_once(tmp_path):
    path = tmp_path / "run.h5"
    together(path, 2)
    before = path.read_bytes()
    end = together(path, 2)
    assert end.codes == [2, 2]
    assert len(end.errors) == 1
    assert "a finished run of 60 steps exists already" in end.said[0]
    assert path.read_bytes() == before


@pytest.mark.parametrize("size", ["0", "1", None])
def test_one_process_is_no_team(monkeypatch, size):
    for name, value in {"RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1", "WORLD_SIZE": size}.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    with distributed.team() as team:
        assert team is None


def test_each_process_of_a_machine_needs_a_gpu_of_its_own(monkeypatch):
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    member = Team.__new__(Team)
    member.local_rank = 1
    member.take_device("cuda")
    assert taken == [1]
    member.local_rank = 2
    with pytest.raises(DeviceError, match="got 2 CUDA devices, expected one for each process"):
        member.take_device("cuda")


# --- torchrun itself ---------------------------------------------------------------------------------------

# ``python -m rhotrace``, with the data at hand and time to look on: torchrun's processes import all anew.
SLOWED = """\
import pickle, runpy, sys, time
sys.path.append(SUPPORT)
import inside

inside.small_blocks(setattr, 16)
inside.data_at_hand(setattr, pickle.load(open("data", "rb")))
inside.before_each_reduction(setattr, lambda _: time.sleep(0.004))
runpy.run_module("rhotrace", run_name="__main__", alter_sys=True)
"""


class Torchrun:
    """``torchrun`` at a recipe, with two processes, which it starts once more when one of them dies."""

    def __init__(self, folder: Path, text: str) -> None:
        self.run, self.log = folder / "run.h5", folder / "log"
        (folder / "recipe.yaml").write_text(text)
        (folder / "slowed.py").write_text(SLOWED.replace("SUPPORT", repr(str(Path(inside.__file__).parent))))
        (folder / "data").write_bytes(pickle.dumps(dataset(text)))
        torchrun = [*(sys.executable, "-m", "torch.distributed.run"), *("--standalone", "--nproc-per-node", "2")]
        words = ["--max-restarts", "1", "slowed.py", "train", "recipe.yaml", "-o", "run.h5", "--device", "cpu"]
        environment = {**os.environ, "NO_COLOR": "1", "PYTHONPATH": str(Path(cli.__file__).parents[2])}
        with self.log.open("w") as log:
            self.process = subprocess.Popen([*torchrun, *words], cwd=folder, stdout=log, stderr=log, env=environment)

    def __enter__(self) -> Torchrun:
        return self

    def __exit__(self, *_: object) -> None:
        for left in [*self.workers().values(), self.process]:
            with contextlib.suppress(psutil.Error):
                left.kill()
        self.process.wait()

    def workers(self) -> dict[int, psutil.Process]:
        if self.process.poll() is not None:
            return {}
        found = {}
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(
                psutil.Error, KeyError
            ):  # it ended meanwhile, or is none of the processes that train
                found[int(child.environ()["RANK"])] = child
        return found

    def reach(self, steps: int) -> dict[int, psutil.Process]:
        """Waits until more than ``steps`` steps are committed; returns the processes by rank."""
        ends = time.monotonic() + 60
        while not self.run.exists() or self.committed() <= steps:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < ends, self.log.read_text()
            time.sleep(0.02)
        return self.workers()

    def committed(self) -> int:
        with open_trace(self.run) as trace:
            return trace.steps

    def end(self) -> int:
        code = self.process.wait(60)
        assert "/rhotrace/" not in self.log.read_text()  # no traceback of ours
        return code


def test_torchrun_resumes_after_a_kill_and_stops_when_interrupted(tmp_path, whole):
    text = text_of("steps=600")
    with Torchrun(tmp_path, text) as torchrun:
        workers = torchrun.reach(0)
        workers[0].kill()
        psutil.wait_procs(workers.values(), timeout=20)
        assert not any(worker.is_running() for worker in workers.values())
        torchrun.reach(torchrun.committed())  # torchrun has started both again
        torchrun.process.send_signal(signal.SIGINT)
        assert torchrun.end() != 0  # torchrun's own code, not that of its processes
    log = torchrun.log.read_text()
    assert log.count("error: ") == log.count(f"error: one of the 2 processes {LOST}") == 1
    assert log.count("resuming ") == log.count("interrupted: ") == 1
    stopped = torchrun.committed()
    assert 0 < stopped < 600
    assert faults(torchrun.run, 32, stopped) == []
    assert together(torchrun.run, 2, text).codes == [0, 0]
    assert contents(torchrun.run) == whole(2, text)
