"""What a task costs the workflow's process while it waits, counted in bytes, so that a slow machine changes nothing."""

from __future__ import annotations

import gc
import time
import tracemalloc
from concurrent.futures import Future

import pytest

from parsl_globus import GlobusComputeExecutor
from parsl_globus.client.rest import ServiceClient
from parsl_globus.wire.documents import EndpointRegistration

COUNT = 2_000
#: Beyond a future, which every executor makes.
LIMIT_BYTES = 1_500
DEADLINE_S = 120


@pytest.fixture
def executor(parsl_globus_site):
    """On an endpoint that the service knows, though nothing runs there."""
    client = parsl_globus_site.client()
    service = ServiceClient(client)
    endpoint_id = service.register_endpoint(EndpointRegistration(endpoint_name="nobody"), None).endpoint_id
    service.close()
    executor = GlobusComputeExecutor(endpoint_id, client=client)
    executor.start()
    yield executor
    executor.shutdown()


def submit(executor, count: int) -> list[Future]:
    """Tasks that have arrived at the service, and wait there."""
    known = len(executor._results.pending)
    futures = [executor.submit(pow, {}, number, 2, mod=7) for number in range(count)]
    deadline = time.monotonic() + DEADLINE_S
    while len(executor._results.pending) < known + count:
        assert time.monotonic() < deadline, f"{executor.outstanding()} are outstanding"
        time.sleep(0.05)
    return futures


def traced_bytes() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def test_tasks_that_wait_take_little_memory(executor):
    first = submit(executor, 10)  # what is loaded with the first call
    tracemalloc.start()
    try:
        before = traced_bytes()
        alone: list[Future] = [Future() for _ in range(COUNT)]
        of_futures = traced_bytes() - before
        before = traced_bytes()
        waiting = submit(executor, COUNT)
        of_tasks = traced_bytes() - before
    finally:
        tracemalloc.stop()
    assert not any(future.done() for future in first + waiting + alone)
    assert (of_tasks - of_futures) / COUNT < LIMIT_BYTES
