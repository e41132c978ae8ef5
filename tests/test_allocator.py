"""Freed memory is kept: told by the pages that a process of its own has to get anew."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stream.allocator import keep_freed_memory

FAULTS = """
import resource, sys
import numpy as np
from stream.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
[np.ones(1 << 16) for _ in range(16)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    [np.ones(1 << 16) for _ in range(16)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, check=True, timeout=60)
    return int(done.stdout)


@pytest.mark.skipif(not keep_freed_memory(), reason="the C library is not glibc")
def test_the_arrays_of_a_batch_take_the_place_of_the_last_one() -> None:
    kept, given_back = faults("kept"), faults("given back")
    assert kept < given_back / 10 and given_back > 50_000
