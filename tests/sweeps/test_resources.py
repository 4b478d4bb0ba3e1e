"""The estimates of memory and disk space, by which members are grouped into runs, beside what runs take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from rhotrace.config import recipe
from rhotrace.sweeps import resources
from rhotrace.training.train import train as train_recipe

OPTIMIZERS = {
    "gd": "{kind: gd, lr: 0.1}",
    "sgd": "{kind: sgd, lr: 0.1, batch_size: 8}",
    "weight-norm": "{kind: weight-norm, lr: 0.1, batch_size: 8}",
}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of reading the data cannot be reset")
def test_the_estimate_of_a_members_memory_is_within_a_factor_of_3(small, tmp_path):
    # Reading the data has a peak of its own, which would hide that of training: the first run reads it.
    text = (
        "import sys\nfrom pathlib import Path\nfrom rhotrace.config import recipe\nfrom rhotrace.training.train import train\n"
        "for path in sys.argv[1:]:\n"
        "    Path('/proc/self/clear_refs').write_text('5')\n"
        "    train(recipe.load(Path(path)), Path(path).with_suffix('.h5'), device='cpu')\n"
        "    (peak,) = [w for w in Path('/proc/self/status').read_text().splitlines() if w.startswith('VmHWM')]\n"
        "    print(peak.split()[1])\n"
    )
    paths, sizes = [], (2, 10, 110)
    for members in sizes:
        overrides = [f"members.seeds={members}", "data.train=400", "steps=4", "network.width=32", "record.snapshots=0"]
        given = recipe.parse(small, overrides)
        paths.append(tmp_path / f"{members}.yaml")
        paths[-1].write_text(given.to_yaml())
    words = [sys.executable, "-c", text, *map(str, paths)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120)
    first, base, peak = (1024 * int(line) for line in done.stdout.split())
    measured = (peak - base) / (sizes[2] - sizes[1])
    estimated = resources.member_bytes(given, 400, (784,), 1)
    assert measured / 3 < estimated < 3 * measured, f"{estimated:.3g} bytes, measured {measured:.3g}"
    shared = resources.shared_bytes(given, 400, given.data.test, (784,))
    assert first / 2 < shared < 2 * first, f"{shared:.3g} bytes, measured {first:.3g}"


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_predicted_disk_space_is_what_a_run_takes_while_it_trains(small, tmp_path, optimizer):
    def leave(_: int) -> None:
        raise KeyboardInterrupt

    given = recipe.parse(small, ["steps=3000", "network.width=32", f"optimizer={OPTIMIZERS[optimizer]}"])
    with pytest.raises(KeyboardInterrupt):
        train_recipe(given, tmp_path / "run.h5", device="cpu", begin=leave)
    taken = (tmp_path / "run.h5").stat().st_size
    predicted = len(given.seeds) * (
        resources.row_bytes(given, 40, (784,), 1) + resources.copies_bytes(given, 40, (784,), 1)
    )
    assert 0.7 < predicted / taken < 1.4


def test_the_predicted_disk_space_counts_the_velocity_that_only_members_ask_for(small):
    plain = recipe.parse(small)
    members = recipe.parse(small, ["members={seeds: 3, momentum: [0.0, 0.5, 0.9]}"])
    section = recipe.parse(small, ["optimizer.momentum=0.9"])
    sizes = [resources.copies_bytes(given, 40, (784,), 1) for given in (plain, members, section)]
    assert sizes[0] < sizes[1] == sizes[2]


def test_minibatches_through_convolutions_are_not_estimated_to_hold_the_whole_set_at_once(small):
    overrides = ["network={kind: conv}", "optimizer={kind: sgd, lr: 0.1, batch_size: 32}"]
    sgd, gd = recipe.parse(small, overrides), recipe.parse(small, overrides[:1])
    few, many = (resources.step_bytes(sgd, samples, (3, 32, 32), 1) for samples in (2_048, 10_000))
    assert few < many < 1.01 * few  # outputs alone
    assert resources.step_bytes(gd, 10_000, (3, 32, 32), 1) > 4 * many  # gradients need all activations


FOLLOWED = ["optimizer={kind: sgd, lr: 0.1, batch_size: 8}", "record.every.first_layer=16"]


@pytest.mark.parametrize(
    "overrides", [FOLLOWED, ["network.batch_norm=true"], []], ids=["followed", "batch norm", "plain"]
)
def test_the_predicted_state_on_disk_is_the_state_that_a_run_saves(small, tmp_path, overrides):
    given = recipe.parse(small, ["steps=4", "record.snapshots=0", *overrides])
    train_recipe(given, tmp_path / "run.h5", device="cpu")
    with h5py.File(tmp_path / "run.h5") as file:
        saved = sum(values.nbytes for name, values in file["checkpoint"].items() if values.dtype.kind == "f")
    predicted = resources.copies_bytes(given, given.data.train, (784,), 1)
    assert predicted * len(given.seeds) == 2 * saved


def test_a_followed_first_layer_is_counted(small):
    plain, followed = recipe.parse(small, FOLLOWED[:1]), recipe.parse(small, FOLLOWED)
    width, samples, item = plain.network.width, 5_000, np.dtype(plain.network.dtype).itemsize
    shared = [resources.shared_bytes(given, samples, 20, (784,)) for given in (plain, followed)]
    assert shared[1] - shared[0] == samples**2 * item  # the Gram matrix
    each = [resources.step_bytes(given, samples, (784,), 1) for given in (plain, followed)]
    assert each[1] - each[0] >= (width + 8) * samples * item  # the layer, and the batch's rows of the Gram matrix
