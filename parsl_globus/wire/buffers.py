"""Memory of processes that carry messages: what they do with it otherwise than Python and the system would.

Freed buffers of large messages are kept for the next one. By default glibc asks the system for each anew, which then
comes page by page, with a fault and zeros for each. Of a task with an argument of 1 MB that was a third of all
processor time.

And cycles are looked for rarely: a burst of tasks is a hundred thousand objects that live until their results are gone,
and hardly a cycle among them. By default all of them are gone through again and again, for a sixteenth of the agent's
processor time and a tenth of the service's.
"""

from __future__ import annotations

import ctypes
import functools
import gc

#: glibc's own names and numbers, from malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
#: Larger buffers still go back at once; glibc takes no more than this.
LARGEST_BYTES = 32 * 1024 * 1024
#: So much of what was freed is kept at most: what glibc itself comes to after it has seen buffers of `LARGEST_BYTES`.
KEPT_BYTES = 2 * LARGEST_BYTES


@functools.cache
def keep_freed() -> bool:
    """Have this process keep freed buffers; for processes that are ours alone.

    Returns:
        Whether it does; only glibc can.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    return bool(mallopt(_M_MMAP_THRESHOLD, LARGEST_BYTES) and mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES))


def seek_cycles_rarely() -> None:
    """Have the collector begin after 50,000 new objects instead of 700; for processes that are ours alone."""
    gc.set_threshold(50_000, 20, 10)
