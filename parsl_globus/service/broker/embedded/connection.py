"""One client's AMQP connection: handshake, channels, heartbeats, and never more in memory than it may have."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import cast

from pamqp import base, commands, common

from parsl_globus.errors import DecodeError
from parsl_globus.service.broker.base import Authorize, Grant
from parsl_globus.service.broker.embedded import frames
from parsl_globus.service.broker.embedded.channel import Channel
from parsl_globus.service.broker.embedded.frames import Fault
from parsl_globus.service.broker.embedded.outgoing import Outgoing
from parsl_globus.service.broker.embedded.publisher import ChannelPublisher
from parsl_globus.service.broker.embedded.queues import Queue, QueueTable
from parsl_globus.version import __version__

logger = logging.getLogger(__name__)

#: A frame before the tuning may not be larger; RabbitMQ's value.
_FIRST_FRAME_MAX_BYTES = 8192
_FRAME_MIN_BYTES = 4096
_FRAME_ERROR = 501
#: How long a peer may take to agree to a close, or to take what is still to be sent.
_CLOSE_TIMEOUT_S = 5.0
#: What may be on its way on all channels of a connection, in messages of the largest size.
_ARRIVING_FACTOR = 2
#: Half heartbeat periods without a byte after which a peer is dead; two to two and a half periods.
_SILENT_TICKS = 4


@dataclass(frozen=True)
class Limits:
    """What a connection may use.

    Attributes:
        frame_max_bytes: Largest frame offered to clients.
        channel_max: Highest channel number.
        heartbeat_s: Heartbeat period offered to clients, 0 for none; the client's choice counts.
        message_bytes: Largest message that is taken.
        high_water_bytes: No delivery goes to a connection while more than this waits to be sent.
        handshake_timeout_s: A peer that isn't logged in after this is dropped. Longer than pika's own limit of 15 s,
            since pika takes a connection that breaks during the login for wrong credentials.
    """

    frame_max_bytes: int = 131_072
    channel_max: int = 2047
    heartbeat_s: int = 60
    message_bytes: int = 64 * 1024 * 1024
    high_water_bytes: int = 1024 * 1024
    handshake_timeout_s: float = 30.0


class _State(Enum):
    HEADER = auto()
    START = auto()
    TUNE = auto()
    OPEN = auto()
    RUNNING = auto()
    CLOSING = auto()
    CLOSED = auto()


class Connection(asyncio.Protocol):
    """The server's end of one connection.

    Args:
        table: Exchanges and queues.
        authorize: Judges logins.
        limits: What it may use.
        registry: Open connections; it adds and removes itself.
    """

    def __init__(self, table: QueueTable, authorize: Authorize, limits: Limits, registry: set[Connection]) -> None:
        self.table = table
        self.username = ""
        self.grant = Grant()
        self.frame_max = limits.frame_max_bytes
        self.message_limit_bytes = limits.message_bytes
        self.cancel_notify = False
        self.lost = asyncio.get_running_loop().create_future()
        self._authorize = authorize
        self._limits = limits
        self._registry = registry
        self._loop = asyncio.get_running_loop()
        # Both come with `connection_made`, before anything else can happen.
        self._transport: asyncio.Transport
        self._out: Outgoing
        self._state = _State.HEADER
        self._splitter = frames.FrameSplitter(_FIRST_FRAME_MAX_BYTES)
        self._channels: dict[int, Channel] = {}
        self._unconfirmed: set[ChannelPublisher] = set()
        self._arriving_bytes = 0
        self._stop_reason: tuple[int, str] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tick_s = 0.0
        self._silent_ticks = 0

    # ---- transport --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self._transport = cast(asyncio.Transport, transport)
        self._out = Outgoing(self._transport, self._limits.high_water_bytes)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._registry.add(self)
        self._timer = self._loop.call_later(self._limits.handshake_timeout_s, self.abort, "no login in time")

    def data_received(self, data: bytes) -> None:
        """Work off all frames that are complete, then answer them in one write."""
        self._silent_ticks = 0
        try:
            if self._state is _State.HEADER:
                data = self._on_protocol_header(data)
            for kind, number, payload in self._splitter.feed(data):
                self._on_frame(kind, number, payload)
                if self._state is _State.CLOSED:
                    return
        except Fault as fault:
            self.close(fault.code, fault.text)
            if fault.code == _FRAME_ERROR:
                # Where the next frame begins isn't known any more, so no agreement can be read.
                self._end()
        except DecodeError as error:
            self.close(502, f"SYNTAX_ERROR - {error}")
        except Exception:
            # The outermost loop of a connection: a bug ends this one, not the broker.
            logger.exception("A connection of %r ends because of an internal error", self.username)
            self.close(541, "INTERNAL_ERROR")
        self._send_confirms()
        self._out.flush()

    def _send_confirms(self) -> None:
        for publisher in self._unconfirmed:
            publisher.send_confirms()
        self._unconfirmed.clear()

    def pause_writing(self) -> None:
        """More waits to be sent than may."""
        self._out.pause()

    def resume_writing(self) -> None:
        """What waited is sent."""
        self._out.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone: put back what it had not acknowledged."""
        if self._timer is not None:
            self._timer.cancel()
        self._release()
        self._state = _State.CLOSED
        self._registry.discard(self)
        if exc is not None:
            logger.info("A connection of %r broke: %s", self.username, exc)
        if not self.lost.done():
            self.lost.set_result(None)

    # ---- as channels see it -----------------------------------------------------------------------------------

    def send(self, parts: Iterable[bytes | memoryview]) -> None:
        """Send these bytes soon, along with all that comes until then."""
        self._out.send(parts)

    def may_deliver(self, queue: Queue) -> bool:
        """Whether there is space for deliveries; if not, `queue` is woken when there is."""
        return self._out.may_deliver(queue)

    def confirm_later(self, publisher: ChannelPublisher) -> None:
        """Call `publisher.send_confirms` soon: once all that was received is worked off."""
        if not self._unconfirmed:
            # For messages that are handled later; what is received now is confirmed at the end of `data_received`.
            self._loop.call_soon(self._send_confirms)
        self._unconfirmed.add(publisher)

    def reserve(self, size_bytes: int) -> None:
        """Count a message that begins to arrive, or with a negative size one that is complete.

        Raises:
            Fault: Too much is on its way on all channels together.
        """
        self._arriving_bytes += size_bytes
        if self._arriving_bytes > _ARRIVING_FACTOR * self._limits.message_bytes:
            raise Fault(506, "RESOURCE_ERROR - too many large messages at once", hard=True)

    def _send_method(self, method: base.Frame, number: int = 0) -> None:
        self.send((frames.encode_method(number, method),))

    # ---- ending -----------------------------------------------------------------------------------------------

    def close(self, code: int, text: str) -> None:
        """Tell the client why, and end the connection when it agrees, or without that after a while."""
        if self._state in (_State.CLOSING, _State.CLOSED):
            self.abort("more bad input while closing")
            return
        started = self._state is not _State.HEADER
        self._state = _State.CLOSING
        self._release()
        if started:
            self._send_method(commands.Connection.Close(code, frames.short_reply(text), 0, 0))
        self._out.flush()
        self._set_timer(_CLOSE_TIMEOUT_S)
        if not started:
            self._transport.close()

    def stop(self, code: int, text: str) -> None:
        """As `close`, but a login that is going on is finished first.

        The public agent takes a connection that ends during the login for wrong credentials, and never comes back.
        """
        if self._state in (_State.HEADER, _State.START, _State.TUNE, _State.OPEN):
            self._stop_reason = (code, text)
        else:
            self.close(code, text)

    def _set_timer(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_s, self.abort, "no agreement to the close")

    def _end(self) -> None:
        """Send what waits and end; both sides agreed."""
        self._state = _State.CLOSED
        self._release()
        self._out.flush()
        self._set_timer(_CLOSE_TIMEOUT_S)
        self._transport.close()

    def abort(self, reason: str) -> None:
        """End the connection at once."""
        self._state = _State.CLOSED
        logger.info("A connection of %r is dropped: %s", self.username, reason)
        self._transport.abort()

    def _release(self) -> None:
        for channel in self._channels.values():
            channel.release()
        self._channels.clear()
        self._unconfirmed.clear()

    def _tick(self) -> None:
        """Every half heartbeat period: a sign of life from here, and a look whether one came from there.

        Ticks are counted, not seconds: when this process was held up, what the peer sent meanwhile is still unread.
        """
        self._silent_ticks += 1
        if self._silent_ticks > _SILENT_TICKS:
            self.abort("no heartbeat")
            return
        if not self._out.used:
            self.send((frames.HEARTBEAT_FRAME,))
            self._out.flush()
        self._out.used = False
        self._timer = self._loop.call_later(self._tick_s, self._tick)

    # ---- frames -----------------------------------------------------------------------------------------------

    def _on_protocol_header(self, data: bytes) -> bytes:
        header, rest = self._splitter.take(len(frames.PROTOCOL_HEADER), data)
        if header is None:
            return b""
        if header != frames.PROTOCOL_HEADER:
            # AMQP 0-9-1 section 4.2.2: answer with the header that is understood, and close.
            self.send((frames.PROTOCOL_HEADER,))
            self._end()
            return b""
        self._state = _State.START
        properties: dict[str, common.FieldValue] = {
            "product": "parsl_globus",
            "version": __version__,
            "capabilities": {
                "publisher_confirms": True,
                "basic.nack": True,
                "consumer_cancel_notify": True,
                "authentication_failure_close": True,
                "per_consumer_qos": True,
                "exchange_exchange_bindings": False,
                "connection.blocked": False,
            },
        }
        self._send_method(commands.Connection.Start(0, 9, properties, "PLAIN", "en_US"))
        return rest

    def _on_frame(self, kind: int, number: int, payload: bytes) -> None:
        if kind == frames.FRAME_HEARTBEAT:
            return
        if kind not in (frames.FRAME_METHOD, frames.FRAME_HEADER, frames.FRAME_BODY):
            raise Fault(501, f"FRAME_ERROR - frames of type {kind} are unknown", hard=True)
        if number == 0 or self._state is not _State.RUNNING:
            self._on_connection_frame(kind, number, payload)
            return
        channel = self._channels.get(number)
        if channel is None:
            self._open_channel(kind, number, payload)
            return
        if channel.closing or (kind == frames.FRAME_METHOD and payload[:2] == b"\x00\x14"):
            self._on_channel_lifecycle(channel, kind, payload)
            return
        try:
            if kind == frames.FRAME_METHOD:
                channel.on_method(payload)
            elif kind == frames.FRAME_HEADER:
                channel.publisher.on_header(payload)
            else:
                channel.publisher.on_body(payload)
        except Fault as fault:
            if fault.hard:
                raise
            self._close_channel(channel, fault, payload)

    def _open_channel(self, kind: int, number: int, payload: bytes) -> None:
        if kind != frames.FRAME_METHOD or not isinstance(frames.decode_method(payload), commands.Channel.Open):
            raise Fault(504, "CHANNEL_ERROR - expected 'channel.open'", hard=True)
        if number > self._limits.channel_max:
            raise Fault(504, f"CHANNEL_ERROR - channel {number} exceeds channel_max", hard=True)
        self._channels[number] = Channel(number, self)
        self._send_method(commands.Channel.OpenOk(), number)

    def _on_channel_lifecycle(self, channel: Channel, kind: int, payload: bytes) -> None:
        """Methods of the class channel, and whatever arrives on a channel that is being closed."""
        if kind != frames.FRAME_METHOD:
            return
        method = frames.decode_method(payload)
        if isinstance(method, commands.Channel.Close):
            channel.release()
            channel.closing = True
            self._channels.pop(channel.number, None)
            self._send_method(commands.Channel.CloseOk(), channel.number)
        elif channel.closing:
            if isinstance(method, commands.Channel.CloseOk):
                self._channels.pop(channel.number, None)
        elif isinstance(method, commands.Channel.Open):
            raise Fault(504, "CHANNEL_ERROR - second 'channel.open' seen", hard=True)
        else:
            channel.on_method(payload)

    def _close_channel(self, channel: Channel, fault: Fault, payload: bytes) -> None:
        channel.release()
        channel.closing = True
        class_id, method_id = (
            int.from_bytes(payload[0:2], "big"),
            int.from_bytes(payload[2:4], "big"),
        )
        text = frames.short_reply(fault.text)
        self._send_method(commands.Channel.Close(fault.code, text, class_id, method_id), channel.number)

    def _on_connection_frame(self, kind: int, number: int, payload: bytes) -> None:
        if self._state is _State.CLOSING:
            if kind == frames.FRAME_METHOD and payload[:4] in (b"\x00\x0a\x00\x33", b"\x00\x0a\x00\x32"):
                self._end()
            return
        if kind != frames.FRAME_METHOD:
            raise Fault(505, "UNEXPECTED_FRAME - content without a channel", hard=True)
        method = frames.decode_method(payload)
        if isinstance(method, commands.Connection.Close):
            self._release()
            self._send_method(commands.Connection.CloseOk())
            self._end()
        elif number == 0 and self._state is _State.START and isinstance(method, commands.Connection.StartOk):
            self._on_start_ok(method)
        elif number == 0 and self._state is _State.TUNE and isinstance(method, commands.Connection.TuneOk):
            self._on_tune_ok(method)
        elif number == 0 and self._state is _State.OPEN and isinstance(method, commands.Connection.Open):
            self._on_open(method)
        else:
            raise Fault(503, f"COMMAND_INVALID - {method.name} is not expected here", hard=True)

    # ---- handshake --------------------------------------------------------------------------------------------

    def _on_start_ok(self, method: commands.Connection.StartOk) -> None:
        capabilities = method.client_properties.get("capabilities")
        capabilities = capabilities if isinstance(capabilities, dict) else {}
        self.cancel_notify = bool(capabilities.get("consumer_cancel_notify"))
        parts = method.response.split("\0") if isinstance(method.response, str) else []
        grant = None
        if method.mechanism == "PLAIN" and len(parts) == 3:
            self.username = parts[1]
            try:
                grant = self._authorize(parts[1], parts[2])
            except Exception:
                # No answer: a refusal would be final for the public agent. It tries again after its own timeout.
                logger.exception("The login of %r could not be judged", self.username)
                self._state = _State.CLOSING
                return
        if grant is None:
            logger.info("A login as %r was refused", self.username)
            raise Fault(
                403,
                "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. "
                "For details see the service's log.",
                hard=True,
            )
        self.grant = grant
        self._state = _State.TUNE
        limits = self._limits
        self._send_method(commands.Connection.Tune(limits.channel_max, limits.frame_max_bytes, limits.heartbeat_s))

    def _on_tune_ok(self, method: commands.Connection.TuneOk) -> None:
        frame_max = method.frame_max or self._limits.frame_max_bytes
        if not _FRAME_MIN_BYTES <= frame_max <= self._limits.frame_max_bytes:
            raise Fault(530, f"NOT_ALLOWED - negotiated frame_max = {frame_max} is out of range", hard=True)
        self.frame_max = self._splitter.limit_bytes = frame_max
        self._tick_s = method.heartbeat / 2
        self._state = _State.OPEN

    def _on_open(self, method: commands.Connection.Open) -> None:
        if method.virtual_host != "/":
            raise Fault(530, f"NOT_ALLOWED - vhost {method.virtual_host} not found", hard=True)
        self._state = _State.RUNNING
        self._send_method(commands.Connection.OpenOk())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._tick_s:
            self._timer = self._loop.call_later(self._tick_s, self._tick)
        if self._stop_reason is not None:
            self.close(*self._stop_reason)
