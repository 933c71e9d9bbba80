"""What our own processes do with memory, seen in a process of its own."""

from __future__ import annotations

import subprocess
import sys


def told_by(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout


def test_cycles_are_found_later_and_still_found():
    code = """
import gc, weakref
from parsl_globus.wire import buffers
class Cycle:
    def __init__(self):
        self.own = self
buffers.seek_cycles_rarely()
first = weakref.ref(Cycle())
few = [[] for _ in range(5_000)]
print(first() is None)
many = [[] for _ in range(200_000)]
print(first() is None)
"""
    assert told_by(code).split() == ["False", "True"]


def test_freed_buffers_are_kept():
    code = """
import resource
from parsl_globus.wire import buffers
print(buffers.keep_freed())
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(8_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults() < 500)
"""
    assert told_by(code).split() == ["True", "True"]
