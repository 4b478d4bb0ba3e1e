"""Memory that a step frees serves the next one."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

COUNT = """\
import resource
from rhotrace.training.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        tensors = [b"x" * (24 << 20) for _ in range(4)]
        del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = faults()
keep_freed_memory()
faults()
print(given_back, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_pages_are_paid_for_once():
    said = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True, timeout=60).stdout
    given_back, kept = map(int, said.split())
    assert kept < 100 < given_back / 10
