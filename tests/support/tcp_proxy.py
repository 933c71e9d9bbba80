"""A TCP proxy on loopback that can be cut, to take a network away from a real client and a real server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress


class TcpProxy:
    """Forwards connections to a port until it is cut.

    Args:
        target_port: Where they go.
        swap: Bytes of the server's answers, and what they become on their way; both of the same length.

    Attributes:
        port: Where clients connect.
        accepted: How many connections came so far.
    """

    def __init__(self, target_port: int, *, swap: tuple[bytes, bytes] = (b"", b"")) -> None:
        assert len(swap[0]) == len(swap[1])
        self._target_port = target_port
        self._swap = swap
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.accepted = 0
        self._open = threading.Event()
        self._open.set()
        self._flowing = threading.Event()
        self._flowing.set()
        self._lose_after: bytes | None = None
        self._cut_at: tuple[bytes, threading.Event] | None = None
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, name="proxy", daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Break all connections and refuse new ones until `mend`."""
        self._open.clear()
        self._close_all()

    def cut_once(self) -> None:
        """Break all connections; new ones are taken."""
        self._close_all()

    def mend(self) -> None:
        self._open.set()

    def hold(self) -> None:
        """Keep back what servers send until `release`; connections stay open, as on a link that loses all packets."""
        self._flowing.clear()

    def release(self) -> None:
        self._flowing.set()

    def lose_answer(self, request: bytes) -> None:
        """Break the connection that sends `request` next, once the server has answered it: the answer is lost."""
        self._lose_after = request

    def cut_at(self, request: bytes) -> threading.Event:
        """As `cut`, when a client sends `request` next, which doesn't arrive.

        Returns:
            Set when that has happened.
        """
        event = threading.Event()
        self._cut_at = (request, event)
        return event

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._close_all()
        self._flowing.set()
        self._thread.join(5)

    def __enter__(self) -> TcpProxy:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _close_all(self) -> None:
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for one in sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _address = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            if not self._open.is_set():
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target_port))
            except OSError:
                client.close()
                continue
            with self._lock:
                self._sockets |= {client, server}
            lose = threading.Event()
            for pump in (self._requests, self._answers):
                threading.Thread(target=self._pump, args=(client, server, pump, lose), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket, lose: threading.Event) -> None:
        while data := client.recv(65536):
            if self._cut_at is not None and self._cut_at[0] in data:
                (_, event), self._cut_at = self._cut_at, None
                self.cut()
                event.set()
                return
            if self._lose_after is not None and self._lose_after in data:
                self._lose_after = None
                lose.set()
            server.sendall(data)

    def _answers(self, client: socket.socket, server: socket.socket, lose: threading.Event) -> None:
        while data := server.recv(65536):
            self._flowing.wait()
            if lose.is_set():
                return
            client.sendall(data.replace(*self._swap) if self._swap[0] else data)

    def _pump(
        self,
        source: socket.socket,
        sink: socket.socket,
        pump: Callable[[socket.socket, socket.socket, threading.Event], None],
        lose: threading.Event,
    ) -> None:
        with suppress(OSError):
            pump(source, sink, lose)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            with self._lock:
                known = one in self._sockets
                self._sockets.discard(one)
            if known:
                one.close()
