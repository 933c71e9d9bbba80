"""How a worker claims a task: it makes the task's mark, unless somebody has made it before.

The mark is a further name of a file that the process has already. A new file for each task becomes ever dearer where
thousands are made and removed, on ext4 without a journal: it uses no inode again that was freed in the last minute
(`recently_deleted` in Linux's fs/ext4/ialloc.c), and looks at all of them before it takes one. By the kernel's profile
that was a quarter of all processor time.
"""

from __future__ import annotations

import os
import platform

#: Of the files of which marks are names, beside the folder of the marks.
FOLDER = "workers"

#: Of this process, by folder of the marks; a process that was forked makes its own.
_own: dict[tuple[int, str], str] = {}


def claim(mark: str) -> bool:
    """Make the mark; returns whether it is this process's.

    Args:
        mark: Its path.

    Raises:
        OSError: It can't be made.
    """
    made = _link(mark)
    return _create(mark) if made is None else made


def _link(mark: str) -> bool | None:
    """Make the mark as a name of this process's file; `None` where that can't be."""
    folder = os.path.dirname(mark)
    for fresh in (False, True):
        own = _file(folder, fresh=fresh)
        if own is None:
            return None
        try:
            os.link(own, mark)
        except FileExistsError:
            # On NFS the answer to the link may get lost, and the one to its repetition says this.
            return os.path.samefile(own, mark)
        except FileNotFoundError:
            continue  # of a process that rested for very long, the file was taken for one that nobody needs
        except OSError:
            return None  # there are no links on this file system, or the file has as many as it may have
        return True
    return None


def _create(mark: str) -> bool:
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return False
    return True


def is_asked(mark: str) -> bool:
    """Whether the task of this mark is to end: the agent adds the mark's name to the file, which has others as well."""
    # Opened each time: that is when NFS asks its server, whatever it has cached.
    try:
        with open(mark) as names:
            return f"{os.path.basename(mark)}\n" in names
    except OSError:
        return False


def _file(folder: str, *, fresh: bool) -> str | None:
    """The path of this process's file, made when there is none; `None` where it can't be made."""
    key = (os.getpid(), folder)
    path = None if fresh else _own.get(key)
    if path is None:
        beside = os.path.join(os.path.dirname(folder), FOLDER)
        path = os.path.join(beside, f"{platform.node()}-{os.getpid()}-{os.urandom(4).hex()}")
        try:
            os.makedirs(beside, mode=0o700, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except OSError:
            return None
        _own[key] = path
    return path
