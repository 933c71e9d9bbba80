"""Large values to and from an endpoint, by reference. Usage: large_data.py ENDPOINT_ID STORE, a folder or "service"."""

from __future__ import annotations

import json
import os
import sys
import tempfile

import parsl
from parsl import Config, python_app
from proxystore.connectors.file import FileConnector
from proxystore.store import Store

from parsl_globus import GlobusComputeExecutor
from parsl_globus.errors import ExtensionMissing, ParslGlobusError


class Wrapped:
    def __init__(self, data):
        self.data = data


@python_app
def wrap(data):
    return Wrapped(data + data)


def main(endpoint_id: str, where: str) -> None:
    store = "service" if where == "service" else Store("peers", FileConnector(where))
    executor = GlobusComputeExecutor(endpoint_id, object_store=store)
    found: dict = {}
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            parsl.load(Config(executors=[executor], run_dir=folder, initialize_logging=False)),
        ):
            data = os.urandom(9 * 2**20)
            got = wrap(data).result(120)
            found["same"] = type(got) is Wrapped and got.data == data + data
            # As a worker's Python without what is needed.
            executor._objects._place.recipe = lambda: ("no_such_package.Connector", {})
            try:
                wrap(data).result(60)
            except ParslGlobusError as exc:
                found["missing"] = [type(exc).__name__, exc.module]
    except ExtensionMissing as exc:
        found["extension"] = exc.extension
    found["left"] = os.listdir(where) if where != "service" else []
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
