"""The examples of docs/extending.md run as written, in a process of their own, and a run made with them is right."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np

import rhotrace

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


def test_the_examples_train_a_run_that_is_read_without_them(tmp_path):
    code = "\n\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    (tmp_path / "extending.py").write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "extending.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(20, 3, 4)"

    with rhotrace.open(tmp_path / "own.h5") as run:
        norms, loss = run["spectral_norm"], run["loss"]
        for step in (s for s in run.snapshot_steps() if s % 10 == 0 and s < 200):
            expected = [[np.linalg.svd(W, compute_uv=False)[0] for W in layer] for layer in run.snapshot(step)]
            np.testing.assert_allclose(norms[step // 10].T, expected, rtol=1e-5)
    np.testing.assert_allclose(norms[0], 1, rtol=1e-6)  # orthonormal at the start
    assert (loss[-1] < 0.1 * loss[0]).all()
    with h5py.File(tmp_path / "own.h5") as file:
        assert {name for name in file["checkpoint"] if name.startswith("velocity")}  # the state is saved


def test_every_part_that_can_be_added_has_its_section():
    for part in ("network", "loss", "initialiser", "optimizer", "quantity", "dataset"):
        assert re.search(rf"^## An? {part}$", PAGE, re.MULTILINE)
        assert re.search(rf"\(#an?-{part}\)", PAGE)
