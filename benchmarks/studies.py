"""The page of studies: every answer of docs/studies.md, from finished runs of the studies.

    rhotrace study NAME
    python benchmarks/studies.py --runs runs

asks ``rhotrace study NAME --json`` for each study whose runs are there, writes docs/studies.json, and renders docs/studies.md
from it by benchmarks/studies.md.j2. A study whose runs are not there keeps the answer and the date that studies.json has.
``--render`` renders the page without any run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2

from rhotrace.studies.catalogue import shipped
from rhotrace.studies.run import file_name
from rhotrace.studies.study import Study

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "docs" / "studies.json"
PAGE = ROOT / "docs" / "studies.md"
KEPT = ("study", "question", "source", "scale", "verdict", "answer", "limits", "would_change")


def asked(study: Study, runs: Path) -> dict[str, Any] | None:
    """The answer of a study from its finished small runs; None where a run is missing."""
    if not all((runs / file_name(training, "small")).is_file() for training in study.trainings["small"]):
        return None
    with tempfile.TemporaryDirectory() as folder:
        words = ["study", study.name, "--runs", str(runs), "--json", "-o", str(Path(folder) / "page.html")]
        done = subprocess.run(
            [sys.executable, "-m", "rhotrace", *words], capture_output=True, text=True, check=False, cwd=ROOT
        )
    if done.returncode:
        raise SystemExit(f"{study.name}: {done.stderr}")
    (answer,) = json.loads(done.stdout)
    made = {"date": datetime.now(UTC).date().isoformat(), "torch": version("torch"), "rhotrace": version("rhotrace")}
    return {key: answer[key] for key in KEPT} | made


def rendered(answers: dict[str, Any]) -> str:
    """The page, from the answers by name; studies without one are listed as such."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        keep_trailing_newline=True,
    )
    missing = [study for name, study in shipped().items() if name not in answers]
    return environment.get_template("studies.md.j2").render(answers=answers, missing=missing)


def main() -> None:
    """Updates docs/studies.json from finished runs, and renders the page."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the run files")
    options.add_argument("--render", action="store_true", help="render the page from docs/studies.json alone")
    chosen = options.parse_args()
    answers = json.loads(DATA.read_text(encoding="utf-8")) if DATA.exists() else {}
    if not chosen.render:
        found = {name: asked(study, chosen.runs.resolve()) for name, study in shipped().items()}
        answers = {name: one for name in found if (one := found[name] or answers.get(name))}
        DATA.write_text(json.dumps(answers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(rendered(answers), encoding="utf-8")


if __name__ == "__main__":
    main()
