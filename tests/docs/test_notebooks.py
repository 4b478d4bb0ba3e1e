"""The notebooks run from top to bottom, in a kernel of their own, and say what their text promises."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed (rhotrace[test])")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (rhotrace[test])")
pytest.importorskip("ipykernel", reason="ipykernel is not installed (rhotrace[test])")


@pytest.mark.filterwarnings("ignore")  # those of Jupyter itself; the kernel is another process
def test_the_notebook_of_a_loop_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "docs" / "own-loop.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # outputs are made by running it
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(
        part.get("text", "")
        for cell in notebook.cells
        for part in cell.get("outputs", [])
        if part.output_type == "stream"
    )
    T = [float(number) for number in re.findall(r"T = ([\d.]+) steps", printed)]
    assert len(T) == 2
    assert all(50 < each < 200 for each in T)
    ratio = re.search(r"sgd over gd: ([\d.e+]+)", printed)
    assert ratio
    assert float(ratio[1]) > 2
