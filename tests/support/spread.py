"""How the tests are spread over processes: one file to a process, long ones first, and the waiting ones all in one."""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadFileScheduling

# Of these, half of the time and more goes by waiting: for processes that start and die, for clusters, for browsers.
WAITING = {
    "tests/sweeps/test_ray_cluster.py",
    "tests/scenarios/test_crash.py",
    "tests/training/test_distributed.py",
    "tests/scenarios/test_watch.py",
    "tests/scenarios/test_disk.py",
    "tests/own_loop/test_growing_file.py",
    "tests/training/test_copy_out.py",
}
# Whatever begins late should be short, or a processor is idle in the end.
LONG = [
    "tests/display/figures/test_kinds.py",
    "tests/scenarios/test_damage.py",
    "tests/display/html/test_report.py",
    "tests/scenarios/test_readme.py",
    "tests/docs/test_benchmarks.py",
    "tests/scenarios/test_extension.py",
    "tests/display/figures/test_runs.py",
    "tests/training/test_resume.py",
    "tests/scenarios/test_hostile.py",
    "tests/training/test_train.py",
]


def file_of(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


def waiting_then_long_first(items: list[pytest.Item]) -> None:
    """Sorts tests by their files."""
    ranks = dict.fromkeys(WAITING, -1) | {name: rank for rank, name in enumerate(LONG)}
    items.sort(key=lambda item: ranks.get(file_of(item), len(LONG)))


class WaitingTogether(LoadFileScheduling):
    """On two or three processors one process more has all tests that wait, while the others keep the processors busy."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "waiting" if file in WAITING and self.numnodes <= 4 else file
