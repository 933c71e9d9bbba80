"""Brings a call's arguments from an object store and its result into one: shipped as text, so it stands alone.

Functions only: classes would travel by value with every task.
"""

from __future__ import annotations

import importlib
import io
import pickle
import platform
import sys
import tempfile
import traceback
import types
from collections.abc import Callable
from typing import Any

import dill


def with_objects(call: Callable[..., Any]) -> Callable[..., Any]:
    """`call` with arguments that may be elsewhere; its result is a record that may say where the value is.

    What Parsl made of an exception is returned as it is.
    """

    def wrapper(*args: Any, _parsl_globus_objects: dict[str, Any], **kwargs: Any) -> Any:
        given = _parsl_globus_objects
        if "key" in given:
            found = fetch(given)
            if isinstance(found, dict):
                return found
            args, kwargs = found
            del found
        value = call(*args, **kwargs)
        del args, kwargs  # they may be large, and so may be what comes
        if type(value).__name__ == "RemoteExceptionWrapper":
            return value
        return send(given, value)

    return wrapper


def problem(what: str, error: BaseException, kind: str = "store") -> dict[str, Any]:
    """The record of what went wrong on the way."""
    missing = error.name if isinstance(error, ModuleNotFoundError) and kind == "store" else None
    return {
        "parsl_globus_objects": "problem",
        "what": what,
        "kind": "missing" if missing else kind,
        "module": missing,
        "http_status": getattr(error, "http_status", None),
        "transient": bool(getattr(error, "transient", False)),
        "python": python_version(),
        "detail": str(error) if is_ours(error) else f"{type(error).__name__}: {error}",
        "text": "".join(traceback.format_exception(type(error), error, error.__traceback__)),
        "host": platform.node(),
    }


def is_ours(error: BaseException) -> bool:
    """Whether our connector raised it."""
    return any(base.__name__ == "ParslGlobusError" for base in type(error).__mro__)


def python_version() -> str:
    """The minor version that runs here."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def connector(kind: str, options: dict[str, Any]) -> Any:
    """The connector; each is made once per process."""
    home = sys.modules.setdefault("_parsl_globus_connectors", types.ModuleType("_parsl_globus_connectors"))
    known = vars(home).setdefault("known", {})
    name = pickle.dumps((kind, options))
    found = known.get(name)
    if found is None:
        module, _, cls = kind.rpartition(".")
        found = getattr(importlib.import_module(module), cls)(**options)
        while len(known) >= 8:  # not closed: some then remove what is in their store
            known.pop(next(iter(known)), None)
        known[name] = found
    return found


def fetch(given: dict[str, Any]) -> Any:
    """The arguments, positional and keyword, or the record of a problem."""
    if given["python"] not in (None, python_version()):
        return problem("the arguments", RuntimeError(f"this is Python {python_version()}"), "mismatch")
    for last in (False, False, True):
        try:
            store = connector(*given["store"])
            open_file = getattr(store, "get_file", None)
            data = open_file(given["key"]) if open_file is not None else store.get(given["key"])
        except Exception as error:  # noqa: BLE001 - whatever a connector raises
            return problem("the arguments", error)
        if data is None:
            return problem("the arguments", LookupError("they are not in the object store any more"), "gone")
        try:
            with data if open_file is not None else io.BytesIO(data) as file:
                found = (dill.Unpickler if given["python"] else pickle.Unpickler)(file).load()
                file.read()  # only at its end is it known whether all was as it was put
                return found
        except Exception as error:  # noqa: BLE001 - whatever an object's own reduction raises
            if not is_ours(error):
                return problem("the arguments", error, "unpickle")
            if last:
                return problem("the arguments", error)
        del data
    raise AssertionError("unreachable")


def send(given: dict[str, Any], value: Any) -> dict[str, Any]:
    """The record of a result."""
    ours = sys.modules.get("_parsl_globus_by_value_1")  # there if something of the sender's own came
    quick, thorough = (ours._Fast, ours._Thorough) if ours else (pickle.Pickler, dill.Pickler)
    for pickler in (quick, thorough):
        spool = new_spool(given["limit"])
        try:
            try:
                pickler(spool, protocol=5).dump(value)
            except Exception:  # noqa: BLE001 - the runner tells it, if nothing can pickle it
                continue
            if spool.size <= given["limit"]:
                break
            try:
                key = put(connector(*given["store"]), spool.file)
            except Exception as error:  # noqa: BLE001 - whatever a connector raises
                return {**problem("the result", error), "size_bytes": spool.size}
        finally:
            spool.file.close()
        python = None if pickler is quick else python_version()
        return {"parsl_globus_objects": "key", "key": key, "python": python, "size_bytes": spool.size}
    return {"parsl_globus_objects": "value", "value": value}


def put(store: Any, file: Any) -> Any:
    """Put what is in a file; the key."""
    file.seek(0)
    put_file = getattr(store, "put_file", None)
    return store.put(file.read()) if put_file is None else put_file(file)


def new_spool(limit: int) -> Any:
    """For a pickler: what is written stays in memory as long as it is small, then it is in a file without a name."""
    spool = types.SimpleNamespace(file=io.BytesIO(), size=0)

    def write(data: Any) -> int:
        count = memoryview(data).nbytes
        if spool.size <= limit < spool.size + count:
            before = spool.file
            spool.file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by who asked for it
            spool.file.write(before.getbuffer())
        spool.size += count
        spool.file.write(data)
        return count

    spool.write = write
    return spool
