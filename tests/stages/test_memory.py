"""How a process that runs stages holds its memory."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, numpy
from pipeline.stages.memory import keep_freed_memory
if "kept" in sys.argv:
    keep_freed_memory()
numpy.ones(40 * 2**20, numpy.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    numpy.ones(40 * 2**20, numpy.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")
def test_memory_that_is_freed_is_used_again_without_asking_the_system() -> None:
    def faults(*arguments: str) -> int:
        return int(subprocess.check_output([sys.executable, "-c", PROGRAM, *arguments]))

    pages = 40 * 2**20 // resource.getpagesize()
    # Without it a block of over 32 MiB is a mapping of its own each time; huge pages may make its pages fewer.
    assert faults("kept") < min(pages, faults())
