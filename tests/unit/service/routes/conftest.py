from __future__ import annotations

from contextlib import ExitStack

import pytest
from service_thread import ServiceThread


@pytest.fixture
def closing():
    """Closes what it is given, last one first."""
    with ExitStack() as stack:

        def later(thing, method="close"):
            stack.callback(getattr(thing, method))
            return thing

        yield later


@pytest.fixture
def service(tmp_path, closing):
    return closing(ServiceThread(tmp_path / "data", start_repeat_s=0.0).start(), "stop")


@pytest.fixture
def rest(service, closing):
    return closing(service.rest())
