"""How fast this machine trains a recipe: on each device, with several numbers of threads, and of members side by side.

Each setting is a short training into a temporary folder, with everything recorded and written, and the same steps without
recording. Steps per second are those of the clock, without start-up: what a user waits for. Snapshots are left out. A
quantity with a longer stride than the short training counts once in it, so a slow recipe looks a little slower than it is.
"""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rhotrace.config.recipe import Recipe
from rhotrace.models.datasets import Dataset
from rhotrace.models.device import choose_device, find_device
from rhotrace.sweeps import resources
from rhotrace.training.plan import initial_buffers, initial_parameters
from rhotrace.training.train import train

if TYPE_CHECKING:
    from rhotrace.models.network import Tensors

MEMBERS = (1, 4, 16, 64)
MEMBERS_ON_A_GPU = 256
SECONDS = 60.0
_AS_FAST = 0.95  # of the fastest: a simpler setting with this speed is as good
_DRAWN = 256  # steps whose batches are drawn at once


@dataclass(frozen=True)
class Setting:
    """One way to train.

    Attributes:
        device: ``cpu`` or ``cuda``.
        threads: of the processor.
        members: networks side by side.
    """

    device: str
    threads: int
    members: int


@dataclass(frozen=True)
class Reading:
    """The speed of one setting.

    Attributes:
        setting: what was measured.
        steps_per_second: with everything recorded and written.
        member_steps_per_second: the same times the number of members.
        ratio: time of a step over that of the same step without recording.
        share_full: share of the time spent on full-set sums that training itself does not need.
    """

    setting: Setting
    steps_per_second: float
    member_steps_per_second: float
    ratio: float
    share_full: float


@dataclass(frozen=True)
class Benchmark:
    """The speeds of a recipe on this machine.

    Attributes:
        recipe: its name.
        members: of the recipe.
        steps: of the recipe.
        processor: of the machine.
        cores: of the processor that this process may use.
        gpu: name of the CUDA device; empty where none was measured.
        load: of the machine before the measurements: processes that compute, averaged over a minute.
        readings: in the order of measurement.
        left_out: settings that were not measured, each with the reason.
        fastest: for the recipe's own number of members; None where that was not measured.
        most: the most networks trained in a given time.
        seconds: that the recipe's steps take with ``fastest``.
    """

    recipe: str
    members: int
    steps: int
    processor: str
    cores: int
    gpu: str
    load: float
    readings: tuple[Reading, ...]
    left_out: tuple[tuple[Setting, str], ...]
    fastest: Reading | None
    most: Reading | None
    seconds: float | None


def settings(own: int, *, device: str = "all", members: Sequence[int] = ()) -> list[Setting]:
    """What to measure: each device with 1, 2, 4, … threads up to the number of cores, simpler settings first.

    Args:
        own: number of members of the recipe, which is always among those measured.
        device: ``cpu``, ``cuda``, or ``all`` that the machine has.
        members: numbers of members; by default 1, 4, 16 and 64, and 256 on a GPU.

    Raises:
        DeviceError: CUDA was asked for and torch finds none.
    """
    devices = {"all": ["cpu", "cuda"][: 1 + (choose_device("auto") == "cuda")], "cpu": ["cpu"]}.get(device)
    found = []
    for each in devices or [choose_device(device)]:
        default = (*MEMBERS, MEMBERS_ON_A_GPU) if each == "cuda" else MEMBERS
        threads = [1] if each == "cuda" else _powers_of_two(cores())
        found += [Setting(each, n, m) for n, m in product(threads, sorted({own, *(members or default)}))]
    return found


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _powers_of_two(most: int) -> list[int]:
    return sorted({2**n for n in range(most.bit_length())} | {most})


def measure(
    name: str,
    recipe: Recipe,
    chosen: Sequence[Setting],
    *,
    seconds: float = SECONDS,
    begin: Callable[[int, Setting], None] = lambda _, __: None,
    watch: Callable[[Reading], None] = lambda _: None,
) -> Benchmark:
    """Measures every setting that fits the memory and the time.

    Args:
        name: of the recipe.
        recipe: to be measured.
        chosen: see ``settings``.
        seconds: for all of them, about.
        begin: called before each setting, with its number from 1.
        watch: called with each reading.

    Raises:
        KeyboardInterrupt: the user stopped a training.
        DataError: the data is missing or does not contain what the recipe asks for.
    """
    load, data = _load(), recipe.load_data()
    each, number = seconds / len(chosen), 0
    readings: list[Reading] = []
    left_out: list[tuple[Setting, str]] = []
    for (_, threads), group in groupby(chosen, key=lambda setting: (setting.device, setting.threads)):
        slowest = (0.0, 1)  # seconds of a step, and with how many members
        for setting in group:
            number += 1
            begin(number, setting)
            step = slowest[0] * setting.members / slowest[1]
            why = _too_large(recipe, data, setting) or (f"a step takes about {step:.1f} s" if step > each else "")
            if why:
                left_out.append((setting, why))
                continue
            with _threads(threads):
                reading = _reading(with_members(recipe, setting.members), data, setting, each)
            slowest = max(slowest, (1 / reading.steps_per_second, setting.members))
            readings.append(reading)
            watch(reading)
    own = [reading for reading in readings if reading.setting.members == len(recipe.seeds)]
    fastest = simplest_of_the_fastest(own, lambda reading: reading.steps_per_second)
    return Benchmark(
        name, len(recipe.seeds), recipe.steps, processor(), cores(), _gpu(chosen), load, tuple(readings),
        tuple(left_out), fastest,
        simplest_of_the_fastest(readings, lambda reading: reading.member_steps_per_second),
        recipe.steps / fastest.steps_per_second if fastest else None,
    )  # fmt: skip


def simplest_of_the_fastest(readings: Sequence[Reading], speed: Callable[[Reading], float]) -> Reading | None:
    """The first reading within 5 % of the fastest: with the fewest threads or members, and on the processor."""
    best = max(map(speed, readings), default=0.0)
    return next((reading for reading in readings if speed(reading) >= _AS_FAST * best), None)


def with_members(recipe: Recipe, members: int) -> Recipe:
    """The recipe with another number of members, whose lists are repeated or cut."""
    own = len(recipe.seeds)
    if members == own:
        return recipe
    repeated = {
        key: [values[n % own] for n in range(members)]
        for key in type(recipe.members).model_fields
        if isinstance(values := getattr(recipe.members, key), list)
    }
    return recipe.model_copy(
        update={"members": recipe.members.model_copy(update={**repeated, "seeds": list(range(members))})}
    )


def _too_large(recipe: Recipe, data: Dataset, setting: Setting) -> str:
    """Why a setting does not fit the memory; empty where it does."""
    (samples, outputs), shape = data.y.shape, data.shape
    needed = resources.shared_bytes(recipe, samples, len(data.x_test), shape)
    needed += setting.members * resources.member_bytes(recipe, samples, shape, outputs)
    free = resources.free_bytes(setting.device)
    if setting.members == 1 or needed < resources.SHARE * free:
        return ""
    return f"it takes about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    """As with ``OMP_NUM_THREADS`` set to this number."""
    import torch

    named, before = os.environ.get("OMP_NUM_THREADS"), torch.get_num_threads()
    os.environ["OMP_NUM_THREADS"] = str(number)
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if named is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = named


def _reading(recipe: Recipe, data: Dataset, setting: Setting, seconds: float) -> Reading:
    shares: list[float] = []
    with tempfile.TemporaryDirectory() as folder:

        def recorded(steps: int) -> tuple[int, float]:
            done, took, share = _recorded(recipe, Path(folder) / "run.h5", setting.device, steps)
            shares.append(share)
            return done, took

        rate = _rate(recorded, recipe.steps, seconds * 0.6)
    plain = _rate(
        lambda steps: (steps, unrecorded(recipe, data, setting.device, steps)[0]), recipe.steps, seconds * 0.3
    )
    return Reading(setting, rate, rate * setting.members, plain / rate, shares[-1])


def _rate(go: Callable[[int], tuple[int, float]], most: int, seconds: float) -> float:
    """Steps per second, of ever more steps until they take a good part of the time."""
    steps, left = min(2, most), seconds
    while True:
        done, took = go(steps)
        left -= took
        enough = took >= seconds / 3 or steps >= most or done < steps  # a run that diverges has fewer
        if enough or left <= 0:
            return done / max(took, 1e-9)
        steps = min(most, max(steps + 1, int(steps * min(20.0, 0.7 * left / took))))


def _recorded(recipe: Recipe, path: Path, device: str, steps: int) -> tuple[int, float, float]:
    """Steps and seconds of a short training, from the first step to the last block, and the share of full-set sums.

    Raises:
        KeyboardInterrupt: the user stopped it.
    """
    marks = [0.0, 0.0]
    short = recipe.model_copy(
        update={"steps": steps, "record": recipe.record.model_copy(update={"snapshots": 0})},
    )
    outcome = train(
        short,
        path,
        device=device,
        force=True,
        begin=lambda _: marks.__setitem__(0, time.perf_counter()),
        watch=lambda _: marks.__setitem__(1, time.perf_counter()),
    )
    if outcome.ended == "interrupted":
        raise KeyboardInterrupt
    return outcome.steps, marks[1] - marks[0], outcome.share_full


def unrecorded(recipe: Recipe, data: Dataset, device: str, steps: int) -> tuple[float, Tensors]:
    """Seconds of the recipe's first steps without recording, and the weights that they lead to.

    Inputs are not augmented, and the learning rate stays as it is at the start.
    """
    import torch

    find_device(device)
    dtype, optimizer, batches = getattr(torch, recipe.network.dtype), recipe.trained_by, recipe.optimizer.minibatches
    network = recipe.network.build(data.shape, data.y.shape[1])
    x, y, *start = (
        torch.as_tensor(values, device=device, dtype=dtype)
        for values in (data.x, data.y, *initial_parameters(recipe, network))
    )
    buffers = tuple(torch.as_tensor(values, device=device, dtype=dtype) for values in initial_buffers(recipe, network))
    options = {
        name: torch.as_tensor(np.array(values), device=device, dtype=dtype).view(-1, 1, 1)
        for name, values in recipe.switched_on(recipe.optimizer).items()
    }
    state = optimizer.begin(tuple(start), options)
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    with torch.no_grad():
        for step in range(steps):
            if batches and step % _DRAWN == 0:
                last = min(step + _DRAWN, steps)
                drawn = batches.indices(recipe.batch_seeds, step, last, samples=len(x))
                index = torch.as_tensor(drawn, device=device)
            picked = index[step % _DRAWN] if batches else slice(None)
            back = network.gradients(state["weights"], x[picked], y[picked], recipe.loss, buffers)
            optimizer.step(state, back.gradients, **options)
            buffers = back.buffers
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began, state["weights"]


def processor() -> str:
    """Name of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _load() -> float:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _gpu(chosen: Sequence[Setting]) -> str:
    import torch

    return torch.cuda.get_device_name() if any(setting.device == "cuda" for setting in chosen) else ""
