"""What is caught of a task's output when the worker's own is gone."""

from __future__ import annotations

import os
import subprocess
import sys

TASK = """
import os, sys
from parsl_globus.worker import output
for _ in range(2):
    output.begin(None, "an-id")
    print("printed")
    tail = output.end()
    assert tail == "printed\\n" or sys.argv[1] == "closed", tail
files = len(os.listdir("/proc/self/fd"))
output.begin(None, "an-id")
output.end()
assert len(os.listdir("/proc/self/fd")) == files
os._exit(7)
"""


def test_a_pipe_that_nobody_reads_is_no_failure_of_the_task():
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert subprocess.run([sys.executable, "-c", TASK, "pipe"], stderr=writing, check=False).returncode == 7
    finally:
        os.close(writing)


READER = """
import ctypes, os, threading
from parsl_globus.worker import output
output.begin(None, "an-id")
c = ctypes.CDLL(None)
threading.Thread(target=c.getchar, daemon=True).start()
c.printf(b"by compiled code")
tail = output.end()
os._exit(7 if tail == "by compiled code" else 1)
"""


def test_a_thread_of_compiled_code_that_reads_holds_nothing_up():
    with subprocess.Popen([sys.executable, "-c", READER], stdin=subprocess.PIPE) as process:
        assert process.wait(60) == 7


WITHOUT_END = """
import os, time
from parsl_globus.worker import output
output._LOOK_S, output.FILE_BYTES, output.PASSED_ON_IN_ALL_BYTES = 0.01, 1 << 21, 1 << 21
def is_long():
    with output._sink._lock:  # what is written while it is being cut comes before what is kept
        return os.fstat(1).st_size >= output.FILE_BYTES
def task():
    output.begin(None, "an-id")
    for _ in range(3):
        os.write(1, b"." * output.FILE_BYTES)
        deadline = time.monotonic() + 60
        while is_long():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    print("the end")
    tail = output.end()
    assert tail.endswith("...the end\\n") and len(tail) == output.TAIL_BYTES, tail
    assert os.fstat(output._sink._head).st_size == len("an-id\\n")
task(), task(), task()
os._exit(7)
"""


def test_what_is_written_without_end_is_cut_down_and_not_passed_on_for_ever():
    done = subprocess.run([sys.executable, "-c", WITHOUT_END], capture_output=True, check=False)
    assert done.returncode == 7, done.stderr[-1000:]
    assert done.stderr.count(b"the end") == 2
    assert done.stderr.endswith(b"is not passed on; there was too much.]\n")
    assert len(done.stderr) < 2 * 1024 * 1024 + 200


NOTED = """
import os
from parsl_globus.worker import output
output.begin(None, "an-id")
os.write(1, b"." * (output.FILE_BYTES + 1))
output._sink._shorten()
os.write(1, b"the end")
size = os.fstat(1).st_size
output.PASSED_ON_BYTES += 1000
output.end()
os._exit(7 if size < output.PASSED_ON_BYTES else 1)
"""


def test_what_is_left_out_is_said():
    done = subprocess.run([sys.executable, "-c", NOTED], capture_output=True, check=False)
    assert done.returncode == 7
    assert done.stderr.startswith(b"[7340033 bytes or more of the output before this were left out]\n...")
    assert done.stderr.endswith(b"...the end")


def test_without_an_output_nothing_is_caught_and_nothing_left_open():
    command = ["/bin/sh", "-c", 'exec "$@" >&- 2>&-', "sh", sys.executable, "-c", TASK, "closed"]
    assert subprocess.run(command, check=False).returncode == 7
