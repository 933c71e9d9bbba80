"""Encodings of functions, arguments and results: the SDK's packing, and what the runner adds to it.

The SDK itself is imported only by those functions that need it: workers load this module once per core, and
importing the SDK takes longer than starting Python.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pybase64
from pydantic_core import from_json, to_json

from parsl_globus.errors import DecodeError

#: Name of the runner's function, and of the registered function.
RUNNER_NAME = "parsl_globus_runner"
#: Strategy of functions sent as source, and of data sent as JSON (PROTOCOL.md section 6).
SOURCE_STRATEGY = "st\n"
JSON_STRATEGY = "11\n"
#: Where endpoints find the class for JSON results, as `result_serializers` names it.
JSON_RESULT_SERIALIZER = "globus_compute_sdk.serialize.JSONData"
#: The runner's empty keyword arguments, packed.
_NO_KEYWORDS = f"{len(JSON_STRATEGY) + 2}\n{JSON_STRATEGY}{{}}"


def pack_buffers(buffers: Sequence[str]) -> str:
    """Join buffers, each led by its length in characters. The inverse of `split_buffers`."""
    return "".join([f"{len(buffer)}\n{buffer}" for buffer in buffers])


def split_buffers(packed: str, limit: int) -> list[str]:
    """Split `packed` into its buffers.

    Args:
        packed: What `pack_buffers` gave.
        limit: How many buffers there may be.

    Raises:
        DecodeError: It doesn't follow the format, or holds more than `limit` buffers.
    """
    buffers: list[str] = []
    position = 0
    while position < len(packed):
        newline = packed.find("\n", position, position + 20)
        digits = packed[position:newline] if newline > 0 else ""
        if not (digits.isascii() and digits.isdigit()):
            raise _bad(packed, f"there is no length at character {position}")
        start, position = newline + 1, newline + 1 + int(digits)
        if position > len(packed):
            raise _bad(packed, f"the buffer at character {start} is cut short")
        if len(buffers) == limit:
            raise _bad(packed, f"there are more than {limit} buffers")
        buffers.append(packed[start:position])
    return buffers


def _bad(text: str, detail: str) -> DecodeError:
    return DecodeError(what="packed payload", size_bytes=len(text), detail=detail)


def pack_runner_code(source: str) -> str:
    """The runner's source in the form in which functions are registered.

    It goes with every task, so without what is for people, its docstring, comments and empty lines, and with indents of
    one space. Workers compare it with what they make of their own, which is the same in any Python.
    """
    text = _COMMENT.sub("", _DOCSTRING.sub("", source, count=1))
    text = _INDENT.sub(lambda indent: " " * (len(indent[0]) // 4), _EMPTY_LINES.sub("\n", text))
    return pack_buffers([f"{SOURCE_STRATEGY}{RUNNER_NAME}:{text}"])


#: In the runner's text, whose strings have no line ends and none of these; a test compares what Python makes of both.
_DOCSTRING = re.compile(r'\n +""".*?"""(?=\n)', re.DOTALL)
_COMMENT = re.compile(r'(?m) *# [^"\n]*$')
_EMPTY_LINES = re.compile(r"\n{2,}")
_INDENT = re.compile(r"(?m)^(?:    )+")


def pack_runner_call(arguments: Sequence[str]) -> str:
    """The runner's arguments, which are texts only: they are decoded before the runner starts."""
    return pack_buffers([JSON_STRATEGY + json.dumps(list(arguments), separators=(",", ":"))]) + _NO_KEYWORDS


@dataclass(frozen=True, slots=True)
class LateText:
    """Text that is made each time it is needed, of what can't change in between.

    Attributes:
        make: Makes it, in ASCII; never raises.
        most: It is no longer than this.
    """

    make: Callable[[], bytes] = field(compare=False)
    most: int

    def __len__(self) -> int:
        return self.most

    def __str__(self) -> str:
        return self.make().decode("ascii")


@dataclass(frozen=True, slots=True)
class RunnerCall:
    """A call that is packed when it is sent: while it waits it shares all but its arguments with its function's others.

    `str` of it is what `pack_runner_call` gives, `len` how long that is at most.

    Attributes:
        lead: From `runner_call_lead`.
        arguments: The last argument of the runner, from `to_text`: JSON takes it as it is.
    """

    lead: str
    arguments: str | LateText

    def __str__(self) -> str:
        arguments = str(self.arguments)
        size = len(self.lead) + len(arguments) + len(_END_OF_CALL)
        return f"{size}\n{self.lead}{arguments}{_END_OF_CALL}{_NO_KEYWORDS}"

    def __len__(self) -> int:
        size = len(self.lead) + len(self.arguments) + len(_END_OF_CALL)
        return len(str(size)) + 1 + size + len(_NO_KEYWORDS)


#: What a submission carries for a task, or becomes that with `str`.
Payload = str | RunnerCall

_END_OF_CALL = '"]'
#: Leads up to this length are remembered as JSON; longer ones hold data, which would stay for as long as the process.
_KNOWN_CHARACTERS = 32 * 1024
_JSON_END = to_json(_END_OF_CALL + _NO_KEYWORDS)[1:]


def json_parts(call: Payload) -> list[bytes]:
    """`str(call)` as JSON, in parts: what is long in it is neither copied nor looked at."""
    if isinstance(call, str):
        return [_json(call)]
    arguments = call.arguments
    text = arguments.make() if isinstance(arguments, LateText) else arguments.encode("ascii")
    size = len(call.lead) + len(text) + len(_END_OF_CALL)
    lead = _json_lead(call.lead) if len(call.lead) <= _KNOWN_CHARACTERS else _json(call.lead)[1:-1]
    return [b'"%d\\n' % size, lead, text, _JSON_END]


@functools.lru_cache(maxsize=64)
def _json_lead(text: str) -> bytes:
    return _json(text)[1:-1]


def _json(text: str) -> bytes:
    try:
        return to_json(text)
    except ValueError:  # half of a character, of a file's name for example; Python escapes it
        return json.dumps(text).encode()


def runner_call_lead(arguments: Sequence[str]) -> str:
    """All of a call up to the last argument of the runner."""
    return JSON_STRATEGY + json.dumps([*arguments, ""], separators=(",", ":"))[: -len(_END_OF_CALL)]


def unpack_runner_call(args_buffer: str) -> list[str]:
    """The texts of a call packed by `pack_runner_call`.

    Raises:
        DecodeError: It is not such a call.
    """
    try:
        if not args_buffer.startswith(JSON_STRATEGY):
            raise ValueError(f"strategy {args_buffer[:2]!r} instead of JSON")
        texts = from_json(args_buffer[len(JSON_STRATEGY) :])
        if not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
            raise ValueError("it is no list of texts")
    except ValueError as exc:
        raise DecodeError(what="runner call", size_bytes=len(args_buffer), detail=str(exc)) from exc
    return texts


def pack_runner_record(record: Mapping[str, Any]) -> str:
    """A record of the runner as the data of a result."""
    return JSON_STRATEGY + json.dumps(record, separators=(",", ":"))


def unpack_runner_record(data: str) -> dict[str, Any]:
    """The record of a result.

    Raises:
        DecodeError: The data is not a record of the runner.
    """
    try:
        if not data.startswith(JSON_STRATEGY):
            raise ValueError(f"strategy {data[:2]!r} instead of JSON")
        record = json.loads(data[len(JSON_STRATEGY) :])
        if not (isinstance(record, dict) and isinstance(record.get("kind"), str)):
            raise ValueError("it is no tagged record")
    except ValueError as exc:
        raise DecodeError(what="runner record", size_bytes=len(data), detail=str(exc)) from exc
    return record


def to_text(data: bytes) -> str:
    """Bytes as text for JSON."""
    return pybase64.b64encode_as_string(data)


def to_ascii(data: bytes) -> bytes:
    """The same in ASCII."""
    return pybase64.b64encode(data)


def text_length(size_bytes: int) -> int:
    """How long the text of so many bytes is."""
    return -(-size_bytes // 3) * 4


def from_text(text: str) -> bytes:
    """The inverse of `to_text`.

    Raises:
        DecodeError: It is no base64.
    """
    try:
        return pybase64.b64decode(text, validate=True)
    except ValueError as exc:
        raise DecodeError(what="base64 text", size_bytes=len(text), detail=str(exc)) from exc
