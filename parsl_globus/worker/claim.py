"""How a worker claims a task: it makes the task's mark, unless somebody has made it before.

The mark is a further name of a file that the process has already. A new file for each task becomes ever dearer where
thousands are made and removed: ext4 uses no inode again that was freed in the last minute, and looks at all of them
before it takes one. It was a quarter of all processor time.
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

    Raises:
        OSError: It can't be made.
    """
    folder = os.path.dirname(mark)
    for fresh in (False, True):
        try:
            own = _file(folder, fresh=fresh)
            os.link(own, mark)
        except FileExistsError:
            # On NFS the answer to the link may get lost, and the one to its repetition says this.
            return os.path.samefile(own, mark)
        except FileNotFoundError:
            continue  # of a process that rested for very long, the file was taken for one that nobody needs
        except OSError:
            break  # there are no links on this file system, or the file has as many as it may have
        return True
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return False
    return True


def is_asked(mark: str) -> bool:
    """Whether the task of this mark is to end: the agent writes the mark's name into it, as it has others as well."""
    name = os.path.basename(mark).encode()
    # Opened each time: that is when NFS asks its server, whatever it has cached.
    try:
        with open(mark, "rb") as stream:
            return stream.readline(len(name) + 1) == name + b"\n"
    except OSError:
        return False


def _file(folder: str, *, fresh: bool) -> str:
    key = (os.getpid(), folder)
    if fresh:
        _own.pop(key, None)
    path = _own.get(key)
    if path is None:
        beside = os.path.join(os.path.dirname(folder), FOLDER)
        os.makedirs(beside, mode=0o700, exist_ok=True)
        path = os.path.join(beside, f"{platform.node()}-{os.getpid()}-{os.urandom(4).hex()}")
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        _own[key] = path
    return path
