"""Sends a bash_app's stdout and stderr home beside its result: shipped as text, so it stands alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def with_streams(call: Callable[..., Any]) -> Callable[..., Any]:
    """`call` with files of the worker's in place of the sender's; returns its value and their contents."""

    def wrapper(*args: Any, **kwargs: Any) -> dict[str, Any]:
        import os
        import platform
        import shutil
        import tempfile
        import zlib

        folder = tempfile.mkdtemp(prefix="parsl-globus-streams-")
        sender_paths = kwargs.pop("_parsl_globus_streams")
        paths: dict[str, str] = {}
        for stream, sender_path in sender_paths.items():
            # Two streams into one file stay one file.
            kwargs[stream] = paths.setdefault(sender_path, os.path.join(folder, stream))
        try:
            value = call(*args, **kwargs)
        except BaseException:  # a task that is cancelled or over its time is no exception
            shutil.rmtree(folder, ignore_errors=True)
            raise
        home, keep = {}, False
        for sender_path, path in paths.items():
            if not os.path.exists(path):
                continue
            with open(path, "rb") as file:
                content = zlib.compress(file.read(), 1)
                size = file.tell()
                if len(content) > 3 << 20:  # a result has 10 MiB, as text; both streams must fit
                    keep = True
                    file.seek(0)
                    head = file.read(1 << 20)
                    file.seek(-(1 << 20), 2)
                    where = f"{platform.node()}:{path}"
                    note = f"\n[{size - (2 << 20)} bytes are left out; all {size} are in {where}]\n"
                    content = zlib.compress(head + note.encode() + file.read(), 1)
            home[sender_path] = content
            if not keep:
                os.unlink(path)
        if not keep:
            os.rmdir(folder)
        return {"value": value, "streams": home}

    return wrapper
