"""A worker process of ProcessPoolEngine: `python -m parsl_globus.worker.pool DESCRIPTOR FUNCTION`.

The descriptor is a connected socket. A task comes as two lengths, JSON of the worker function's arguments, and the
body; the answer goes back as a kind, a length and its bytes. Nothing is pickled; a closed socket ends the process.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

#: Lengths of arguments and body; kind and length of an answer.
TASK_HEAD = struct.Struct(">IQ")
ANSWER_HEAD = struct.Struct(">cQ")
READY, RESULT, ERROR = b"+", b"r", b"e"


def main() -> None:
    """Answer tasks until the agent closes the socket."""
    descriptor, name = sys.argv[1:]
    link = socket.socket(fileno=int(descriptor))
    # What a task starts must not keep the socket open: if this process died, the agent's writing would wait for ever.
    os.set_inheritable(link.fileno(), False)
    os.register_at_fork(after_in_child=link.close)
    module, _, attribute = name.rpartition(".")
    function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    link.sendall(ANSWER_HEAD.pack(READY, 0))
    while (head := _receive(link, TASK_HEAD.size)) is not None:
        arguments_bytes, body_bytes = TASK_HEAD.unpack(head)
        text, body = _receive(link, arguments_bytes), _receive(link, body_bytes)
        if text is None or body is None:
            return
        kind, answer = _run(function, bytes(body), json.loads(text))
        link.sendall(ANSWER_HEAD.pack(kind, len(answer)) + answer)


def _run(function: Callable[..., Any], body: bytes, arguments: dict[str, Any]) -> tuple[bytes, bytes]:
    try:
        result = function(body, *arguments["a"], **arguments["k"])
    except Exception as exc:  # noqa: BLE001 - the worker function promises not to raise; if it does, the agent is told
        return ERROR, f"{type(exc).__name__}: {exc}".encode()
    if not isinstance(result, bytes):
        return ERROR, f"The worker gave a {type(result).__name__} instead of a result message.".encode()
    return RESULT, result


def _receive(link: socket.socket, size_bytes: int) -> bytearray | None:
    """Exactly so many bytes, or `None` when the socket was closed."""
    received = bytearray(size_bytes)
    view = memoryview(received)
    while view:
        count = link.recv_into(view)
        if count == 0:
            return None
        view = view[count:]
    return received


if __name__ == "__main__":
    main()
