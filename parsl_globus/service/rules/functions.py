"""Functions: who may register, see, use and delete them."""

from __future__ import annotations

import json
import time
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from parsl_globus.service.auth.base import Identity
from parsl_globus.service.rules import refusals
from parsl_globus.service.store.base import FunctionRecord, Store
from parsl_globus.wire.documents import FunctionRegistration

#: Functions kept in memory, by the size of their code.
_CACHE_BYTES = 64 * 1024 * 1024
#: For how long a function may still be used that another process has deleted.
_SURE_S = 2.0
#: Strategy "source text" of the SDK's serializers, which a worker turns into a function (PROTOCOL.md section 6).
_SOURCE_STRATEGY = "st\n"
_LONGEST_VERSION = 128


@dataclass(frozen=True)
class ReadyFunction:
    """A function as task messages need it.

    Attributes:
        record: The function.
        code_json: Its code, escaped as the inside of a JSON string.
        headers: What its tasks' messages say about it.
    """

    record: FunctionRecord = field(repr=False)
    code_json: str = field(repr=False)
    headers: dict[str, Any] = field(default_factory=dict)


class FunctionRules:
    """What may happen to functions.

    Args:
        store: Where they are.
        versions: Whether task messages name the function's versions (extension `versions`).
    """

    def __init__(self, store: Store, *, versions: bool) -> None:
        self._store = store
        self._versions = versions
        self._cache: OrderedDict[uuid.UUID, ReadyFunction] = OrderedDict()
        self._cached_bytes = 0
        #: Until when each is taken to be there, by `time.monotonic`; another process may delete it.
        self._sure_until_s: dict[uuid.UUID, float] = {}

    async def register(self, caller: Identity, registration: FunctionRegistration) -> uuid.UUID:
        """Keep a function; returns its new id.

        Raises:
            RequestRefused: It is for a group that the caller isn't in.
        """
        if registration.group is not None and registration.group not in caller.groups:
            raise refusals.function_group_forbidden(registration.group)
        meta = registration.meta or {}
        code = registration.function_code
        if not registration.serialized:
            code = _pack_source(registration.function_name, code)
        record = FunctionRecord(
            function_id=uuid.uuid4(),
            owner_id=caller.identity_id,
            name=registration.function_name,
            code=code,
            public=registration.public,
            description=registration.description,
            python_version=_text(meta.get("python_version")),
            sdk_version=_text(meta.get("sdk_version")),
            group_id=registration.group,
        )
        await self._store.add_function(record)
        return record.function_id

    async def get(self, caller: Identity, function_id: uuid.UUID) -> FunctionRecord:
        """A function that the caller may use.

        Raises:
            RequestRefused: It is unknown, deleted, or another's.
        """
        ready = await self.ready([function_id])
        return self.check_use(caller, function_id, ready).record

    def check_use(
        self, caller: Identity, function_id: uuid.UUID, ready: dict[uuid.UUID, ReadyFunction]
    ) -> ReadyFunction:
        """The function out of `ready`, if the caller may use it.

        Raises:
            RequestRefused: It is not there, deleted, or another's.
        """
        function = ready.get(function_id)
        if function is None or function.record.deleted:
            raise refusals.unknown_function(function_id)
        record = function.record
        if record.owner_id != caller.identity_id and not record.public and record.group_id not in caller.groups:
            raise refusals.function_forbidden(function_id)
        return function

    async def delete(self, caller: Identity, function_id: uuid.UUID) -> None:
        """Delete a function of the caller's own; tasks that were accepted still run.

        Raises:
            RequestRefused: It is unknown, deleted, or another's.
        """
        record = await self.get(caller, function_id)
        if record.owner_id != caller.identity_id:
            raise refusals.function_forbidden(function_id)
        await self._store.delete_function(function_id)
        self._drop(function_id)

    async def ready(self, function_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, ReadyFunction]:
        """Those of `function_ids` that are known, deleted ones included, ready for task messages."""
        if self._store.shared:
            await self._drop_deleted(function_ids)
        missing = [function_id for function_id in function_ids if function_id not in self._cache]
        found = {}
        if missing:
            records = await self._store.functions(missing)
            found = {function_id: self._prepare(record) for function_id, record in records.items()}
        for function_id in function_ids:
            if function_id in self._cache:
                self._cache.move_to_end(function_id)
                found[function_id] = self._cache[function_id]
        for function_id in missing:
            if function_id in found and not found[function_id].record.deleted:
                self._remember(found[function_id])
        return found

    async def _drop_deleted(self, function_ids: Sequence[uuid.UUID]) -> None:
        now_s = time.monotonic()
        doubtful = [i for i in function_ids if i in self._cache and self._sure_until_s.get(i, 0.0) <= now_s]
        if not doubtful:
            return
        live = await self._store.live_functions(doubtful)
        for function_id in doubtful:
            if function_id in live:
                self._sure_until_s[function_id] = now_s + _SURE_S
            else:
                self._drop(function_id)

    def _drop(self, function_id: uuid.UUID) -> None:
        self._sure_until_s.pop(function_id, None)
        dropped = self._cache.pop(function_id, None)
        if dropped is not None:
            self._cached_bytes -= len(dropped.code_json)

    def _prepare(self, record: FunctionRecord) -> ReadyFunction:
        headers: dict[str, Any] = {"function_uuid": str(record.function_id)}
        if self._versions and record.python_version:
            headers["python_version"] = record.python_version
        if self._versions and record.sdk_version:
            headers["sdk_version"] = record.sdk_version
        return ReadyFunction(record, json.dumps(record.code)[1:-1], headers)

    def _remember(self, function: ReadyFunction) -> None:
        if function.record.function_id in self._cache:
            return
        self._cache[function.record.function_id] = function
        self._cached_bytes += len(function.code_json)
        while self._cached_bytes > _CACHE_BYTES:
            self._drop(next(iter(self._cache)))


def _pack_source(name: str, source: str) -> str:
    buffer = f"{_SOURCE_STRATEGY}{name}:{source}"
    return f"{len(buffer)}\n{buffer}"


def _text(value: Any) -> str | None:
    """A version as it was told; it goes into the header of each task's message, so a story is not taken for one."""
    return value if isinstance(value, str) and len(value) <= _LONGEST_VERSION else None
