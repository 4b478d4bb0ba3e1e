"""The benchmarks still run with the package as it is: each in small, by a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
        ("import drawing as b; b.KINDS = ('rho',); b.main(4000, 1)", "| rho |"),
        ("import overhead as b; b.analysis_row(2000)", "2,000 steps x 8 layers"),
        (
            "import overhead as b; c = b.recipe.parse(b.RECIPE, ['members.seeds=2', 'steps=3'])\n"
            "print(b.bare_single(c) > 0, b.bare_members(c) > 0, b.traced(c) > 0)",
            "True True True",
        ),
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
        (
            "import run as b; b.SECONDS = 0.01; c = b.recipe.parse(b.DEEP8, ['data.train=20', b.SGD.replace('32', '8')])\n"
            "r = b.paired(b.traced(c), b.bare(c), rounds=1); f, n = b.work(c); r.update(what='w', beside='b', share_of_peak=0.5)\n"
            "print(int(f), n, r['ratio'] > 0, b.markdown({'machine': b.machine(), 'training': [r]}).count('| w | b |'))",
            # 8 samples: forward, backward, no gradient of the inputs; then 20 forward; 3 x 4 bytes of 74,816 weights
            f"{8 * 2 * (3 * 74816 - 50176) + 20 * 2 * 74816} {12 * 74816} True 1",
        ),
    ],
    ids=["coverage", "drawing", "overhead: analysis", "overhead: loops", "prediction", "ensemble", "run"],
)
def test_the_benchmark_runs(code, row, tmp_path):
    assert row in run(tmp_path, code)
