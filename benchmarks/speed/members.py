"""Members side by side, beside one network after another, and beside batched products and JAX for the same networks."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from rhotrace.config import recipe
from rhotrace.config.recipe import Recipe

from .limits import least
from .loops import batched, one_by_one, traced
from .measure import Effort, Loop, Row, paired
from .workloads import DEEP8

SIZES = (
    ("L = 3, width 16, N = 200", ("network={kind: mlp, depth: 3, width: 16}", "data.train=200"), (1, 16, 256)),
    ("L = 8, width 64, N = 400", (), (1, 16)),
)


def members(_: Path, effort: Effort) -> Iterator[Row]:
    """A row for each number of members and each alternative."""
    for label, overrides, counts in SIZES[:1] if effort.quick else SIZES:
        for number in counts[1:2] if effort.quick else counts:
            content = recipe.parse(DEEP8, [*overrides, f"members.seeds={number}"])
            what = f"GD, {label}, {number} member{'s' * (number > 1)}"
            shared = {"what": what, **least(content, effort.limits)}
            ours = traced(content)
            yield {**shared, "beside": "bare loop, one after another", **paired(ours, one_by_one(content), effort, 3)}
            if number > 1:
                yield {**shared, "beside": "batched products", **paired(ours, batched(content), effort, 3)}
            if number != 256:
                with jax(content, effort.jax) as theirs:
                    found = paired(ours, theirs, effort, 3) if theirs else {"missing": "not installed"}
                yield {**shared, "beside": "JAX vmap, compiled", **found}


@contextlib.contextmanager
def jax(content: Recipe, python: str) -> Iterator[Loop | None]:
    """The same networks in a process of JAX; None where it does not import."""
    data, network = content.load_data(), content.network
    sizes = (network.depth, network.width, data.x.shape[1], len(data.x), len(content.seeds), content.optimizer.lr)
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python, str(Path(__file__).with_name("jax_vmap.py")), *map(str, sizes)]
    if subprocess.run([python, "-c", "import jax"], capture_output=True, env=plain, check=False).returncode:
        yield None
        return
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=plain) as child:
        child.stdout.readline()

        def go(steps: int) -> float:
            child.stdin.write(f"{steps}\n")
            child.stdin.flush()
            return float(child.stdout.readline())

        yield go
        child.stdin.close()
