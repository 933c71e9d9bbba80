"""Fails when Parsl moves the private attribute that `htex_private` sets."""

from __future__ import annotations

import inspect

from parsl.executors.high_throughput.executor import DEFAULT_LAUNCH_CMD, HighThroughputExecutor
from parsl.executors.high_throughput.interchange import Interchange

from parsl_globus.endpoint.htex_private import relax_version_check


def test_the_attribute_is_where_it_was():
    executor = HighThroughputExecutor(address="127.0.0.1")
    assert executor._check_python_mismatch is True
    relax_version_check(executor)
    assert executor._check_python_mismatch is False
    assert "_check_python_mismatch" in inspect.signature(Interchange).parameters


def test_the_launch_command_is_what_we_replace():
    assert DEFAULT_LAUNCH_CMD.startswith("process_worker_pool.py ")
