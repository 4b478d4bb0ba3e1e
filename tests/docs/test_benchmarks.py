"""The benchmarks still run with the package as it is: each in small, by a process of its own."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rhotrace.config import recipe

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def run(tmp_path: Path, code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(FOLDER), str(FOLDER.parent)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("code", "row"),
    [
        ("import coverage as b; print(b.cover(b.CONDITIONS['L = 3'], 3)[0])", "3"),
        (
            "import prediction as b; b.BASE = b.BASE.replace('train: 1000', 'train: 60')\n"
            "b.CONDITIONS = {'L = 2': ['network.depth=2', 'init.rho_k=1.0', 'steps=1500']}; b.main(['L = 2'], b.Path('found.json'))\n"
            "assert b.json.loads(b.Path('found.json').read_text())['runs'][0]['stretches']",
            "| L = 2 |",
        ),
        (
            "import ensemble as b, pathlib; b.SECONDS = 0.05; print(b.rate(pathlib.Path(), 3, 16, 1) > 0)\n"
            "(pathlib.Path() / b.INDEX).touch(); print(b.resolved(3, 16, 1, 5).steps)",
            "5",
        ),
    ],
    ids=["coverage", "prediction", "ensemble"],
)
def test_the_benchmark_runs(code, row, tmp_path):
    assert row in run(tmp_path, code)


def test_the_benchmark_of_speed_writes_its_data_table_and_figure(tmp_path):
    """All parts but those that would repeat a slow import: memory, and pictures, which are drawn as the long run is."""
    parts = "training,recorders,members,starts,whole,size,reading,growth"
    run(tmp_path, f"import sys, run as b; sys.argv[1:] = '--quick --only {parts} -o out'.split(); b.main()")
    found = json.loads((tmp_path / "out" / "speed.json").read_text())
    assert all(found[part] for part in parts.split(","))
    gd, sgd = found["training"]
    assert gd["ratio"] > 0
    assert gd["limit_us"] < gd["us"]
    assert sgd["parts"]["full-set pass"] > 0  # a goal of 0 is missed, and explained
    page = (tmp_path / "out" / "speed.md").read_text()
    assert f"{sgd['us']:.0f}" in page
    assert sgd["why"] in page
    assert "Out of time" not in page
    assert "goals are reached.**" in page
    assert (tmp_path / "out" / "speed.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("overrides", "flops"),
    [
        # of 74,816 weights, 50,176 are in the first layer, which has 64 units
        ([], 400 * 2 * (3 * 74816 - 50176)),
        # a batch of 8: forward, backward and no gradient of the inputs; then 20 forward
        (["data.train=20", "SGD"], 8 * 2 * (3 * 74816 - 50176) + 20 * 2 * 74816),
        # followed: a product of rank 8 in the place of the first layer, which is computed at every 64th step
        (
            ["data.train=20", "SGD", "record.every.first_layer=64"],
            8 * 2 * (3 * 74816 - 50176) + 20 * 2 * (74816 - 50176 + 50176 / 64 + 64 * 8),
        ),
    ],
    ids=["gd", "sgd", "followed"],
)
def test_the_work_of_a_step_is_that_of_its_products(overrides, flops, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    limits, workloads = importlib.import_module("speed.limits"), importlib.import_module("speed.workloads")
    sgd = workloads.SGD.replace("32", "8")
    content = recipe.parse(workloads.DEEP8, [sgd if each == "SGD" else each for each in overrides])
    assert limits.work(content) == (pytest.approx(flops), 12 * 74816)
    least = limits.least(content, {limits.PRODUCTS[0]: 100.0, limits.MEMORY: 10.0})
    assert least["limit_us"] == pytest.approx(max(flops / 1e5, 12 * 74816 / 1e4))
