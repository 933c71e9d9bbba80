"""Worker functions for the engines' contract: what a task does is written in its body."""

from __future__ import annotations

import os
import time
from pathlib import Path


def answer(body, task_id, endpoint_id, *, run_dir, mark=None, **settings):
    """Do as `body` says."""
    if mark is not None:
        Path(mark).touch()
    word, _, rest = body.partition(b":")
    if word == b"echo":
        return rest
    if word == b"who":
        return f"{task_id} {endpoint_id} {run_dir} {sorted(settings.items())}".encode()
    if word == b"wait":  # until a file is there
        deadline = time.monotonic() + 30
        while not os.path.exists(rest) and time.monotonic() < deadline:
            time.sleep(0.01)
        return b"waited"
    if word == b"hold":  # tells its process in one file, and waits for another for long
        began, gate = rest.split(b":")
        Path(os.fsdecode(began)).write_text(str(os.getpid()))
        deadline = time.monotonic() + 180
        while not os.path.exists(gate) and time.monotonic() < deadline:
            time.sleep(0.01)
        return b"held"
    if word == b"raise":
        raise ValueError("as told")
    if word == b"number":
        return 42
    if word == b"die":
        os._exit(1)
    if word == b"container":
        return f"{os.environ.get('CONTAINER')} {os.environ.get('HOME')}".encode()
    if word == b"pid":
        return str(os.getpid()).encode()
    if word == b"fork":  # leaves a process that has all its descriptors, and goes on
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        return b"%d" % os.getpid()
    if word == b"orphan":  # leaves a process that has all its descriptors, and dies
        ready, told = os.pipe()
        if os.fork() == 0:
            os.write(told, b"%d" % os.getpid())
            time.sleep(60)
            os._exit(0)
        Path(os.fsdecode(rest)).write_bytes(os.read(ready, 100))
        os._exit(1)
    raise AssertionError(body)
