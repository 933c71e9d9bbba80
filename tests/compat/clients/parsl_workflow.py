"""A Parsl workflow: with Parsl's own executor for Globus Compute, or with ours. Usage: parsl_workflow.py WHICH ID."""

from __future__ import annotations

import json
import sys

import parsl
from parsl import Config, bash_app, join_app, python_app


@python_app
def add(x, y):
    return x + y


@python_app
def fail():
    raise KeyError("on purpose")


@bash_app
def shout(text, stdout=None):
    return f"echo {text} | tr a-z A-Z"


@python_app
def tell(x):
    return ["app", x]


def tell_registered(x):
    return ["registered", x]


@join_app
def twice(x):
    return add(x, x)


def executor_for(which: str, endpoint_id: str):
    if which == "parsl":
        from globus_compute_sdk import Executor
        from parsl.executors import GlobusComputeExecutor

        inner = Executor(endpoint_id=endpoint_id)
        inner.api_burst_limit = 1  # its rate limiter is off at 1
        return GlobusComputeExecutor(executor=inner)
    from globus_compute_sdk import Client

    from parsl_globus import GlobusComputeExecutor as Ours

    client = Client()
    return Ours(endpoint_id, client=client, function_ids={tell: client.register_function(tell_registered)})


def main(which: str, endpoint_id: str) -> None:
    found: dict = {}
    with parsl.load(Config(executors=[executor_for(which, endpoint_id)], run_dir="runinfo")):
        found["chain"] = add(add(1, 2), add(3, 4)).result(120)
        found["join"] = twice(21).result(60)
        found["told"] = tell((1, 2)).result(60)
        found["many"] = sum(future.result(60) for future in [add(i, 1) for i in range(100)])
        try:
            fail().result(60)
        except KeyError as exc:
            found["failure"] = repr(exc)
        found["exit_code"] = shout("hello").result(60)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
