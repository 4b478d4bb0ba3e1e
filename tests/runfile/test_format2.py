"""Run files of format 2, written before a file described itself: they open, verify, resume and seal as ever.

The files in ``format2/`` were written by the last version of that format: a finished and an interrupted run of SGD, a
finished one of weight normalisation whose members differ in rho_k(0), and an interrupted one of GD with He's weights.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from rhotrace.config import recipe
from rhotrace.runfile.reader import open_trace
from rhotrace.training.train import train

FOLDER = Path(__file__).with_name("format2")
NAMES = ["sgd-sealed", "sgd-live", "weight-norm-sealed", "gd-live"]
names = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def old(tmp_path):
    return lambda name: Path(shutil.copy(FOLDER / f"{name}.h5", tmp_path))


def own_recipe(path: Path, *overrides: str) -> recipe.Recipe:
    with open_trace(path) as trace:
        return recipe.parse(trace.attributes["recipe"], list(overrides))


@names
def test_it_reads_as_its_bytes_say(old, name):
    path = old(name)
    with open_trace(path) as trace, h5py.File(path, locking=False) as file:
        assert file.attrs["format_version"] == trace.layout.version == 2
        kind = trace.recipe["optimizer"]["kind"]
        assert trace.facts.optimizer == kind
        assert trace.facts.law == ("weight-norm" if kind == "weight-norm" else "descent")
        assert trace.facts.minibatches == (kind == "sgd")
        assert trace.facts.equilibrium
        assert ("v_norm" in trace) == (kind == "weight-norm")
        for quantity in trace.quantities:
            found = trace[quantity.name]
            assert len(found) == trace.layout.rows(quantity.cadence, trace.steps)
            np.testing.assert_array_equal(found, file[quantity.name][: len(found)])
            assert file[quantity.name].attrs["long_name"] == quantity.says
            assert file[quantity.name].attrs["units"] == quantity.units
            assert [dim[0].name[1:] for dim in file[quantity.name].dims][1:] == list(quantity.axes)
        for number, step in enumerate(trace.snapshot_steps()):
            for k, W in enumerate(trace.snapshot(step), 1):
                np.testing.assert_array_equal(W, file[f"weights/W{k}"][number])


@pytest.mark.usefixtures("quick_pictures")
@names
def test_every_command_reads_it(old, name, command):
    path = old(name)
    assert command("verify", path)[0] == 0
    checks = json.loads(command("verify", path, "--json")[1])["checks"]
    assert {check["outcome"] for check in checks} == {"sound"}
    for words in (
        ["info"],
        ["analyze"],
        ["audit"],
        ["export", "--to", "csv", "-o", "old.csv"],
        ["report", "-o", "old.html"],
    ):
        code, out, err = command(words[0], path, *words[1:])
        assert code == 0, (words, out, err)


@pytest.mark.parametrize("name", ["sgd-live", "gd-live"])
def test_an_interrupted_one_resumes_to_the_bits_of_a_run_of_today(old, tmp_path, name, command):
    path, new = old(name), tmp_path / "new.h5"
    train(own_recipe(path), path, device="cpu", despite_changes=True)
    train(own_recipe(path), new, device="cpu")
    with open_trace(path) as resumed, open_trace(new) as fresh:
        assert resumed.complete
        assert (resumed.layout.version, fresh.layout.version) == (2, 3)
        assert {q.name for q in resumed.quantities} == {q.name for q in fresh.quantities}
        for quantity in fresh.quantities:
            assert resumed[quantity.name].tobytes() == fresh[quantity.name].tobytes(), quantity.name
        assert resumed.snapshot_steps() == fresh.snapshot_steps()
        for (_, before), (_, now) in zip(resumed.snapshots(), fresh.snapshots(), strict=True):
            assert [W.tobytes() for W in before] == [W.tobytes() for W in now]
    assert command("verify", path)[0] == 0


def test_a_finished_one_is_extended_to_the_bits_of_a_longer_run_of_today(old, tmp_path, command):
    path, new = old("weight-norm-sealed"), tmp_path / "new.h5"
    longer = own_recipe(path, "steps=60")
    train(longer, path, device="cpu", extend_run=True, despite_changes=True)
    train(longer, new, device="cpu")
    with open_trace(path) as extended, open_trace(new) as fresh:
        assert (extended.steps, extended.layout.version) == (60, 2)
        for quantity in fresh.quantities:
            assert extended[quantity.name].tobytes() == fresh[quantity.name].tobytes(), quantity.name
    assert command("verify", path)[0] == 0


@pytest.mark.parametrize("name", ["sgd-sealed", "sgd-live"])
def test_a_damaged_one_is_found_and_repaired(old, name, command, tmp_path):
    path = old(name)
    with h5py.File(path, locking=False) as file:
        rho_k = file["rho_k"]
        place = rho_k.id.get_offset() or rho_k.id.get_chunk_info(rho_k.id.get_num_chunks() - 1).byte_offset
    with path.open("r+b") as raw:
        raw.seek(place + 20 * 32 if name == "sgd-live" else place + 5)
        byte = raw.read(1)
        raw.seek(-1, 1)
        raw.write(bytes([byte[0] ^ 1]))
    assert command("verify", path)[0] == 2
    code, out, err = command("repair", path, "-o", "saved.h5")
    assert code == 0, out + err
    assert command("verify", tmp_path / "saved.h5")[0] == 0
    with open_trace(tmp_path / "saved.h5") as saved:
        assert 0 < saved.steps < 40


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("strides", '{"free": 1, "forward": 0, "test": 1}'),
        ("strides", "[1, 4, 10]"),
        ("layer_shapes", "[[3, 784], [1, 2]]"),
        ("layer_shapes", "[]"),
        ("state_shapes", '{"../rho_k": [[2], [2]]}'),
        ("planned_snapshots", "[3, 1, 0]"),
        ("planned_steps", "forty"),
    ],
)
def test_attributes_that_no_run_has_are_refused_in_a_line(old, command, attribute, value):
    path = old("sgd-sealed")
    with h5py.File(path, "r+") as file:
        file.attrs[attribute] = value
    code, _, err = command("info", path)
    assert code == 2
    assert "damaged" in err
    assert len(err.splitlines()) <= 2
