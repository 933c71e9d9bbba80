"""The contract of a Parsl executor, as far as it needs no endpoint."""

from __future__ import annotations

import threading
import uuid
from typing import Any

import pytest
import typeguard
from globus_compute_sdk import Executor
from parsl import Config
from parsl.executors.base import ParslExecutor

from parsl_globus import GlobusComputeExecutor
from parsl_globus.client.rest import ServiceClient
from parsl_globus.errors import ConfigError, EndpointNotFound, ExecutorShutDown, NotSerializable, ServiceUnreachable
from parsl_globus.wire.documents import EndpointRegistration

ENDPOINT_ID = uuid.uuid4()
DEADLINE_S = 20


@pytest.fixture
def client(parsl_globus_site):
    return parsl_globus_site.client()


@pytest.fixture
def registered(client):
    """An endpoint that the service knows, though nothing runs there."""
    service = ServiceClient(client)
    registration = EndpointRegistration(endpoint_name="nobody")
    yield service.register_endpoint(registration, None).endpoint_id
    service.close()


@pytest.fixture
def executor(client, registered):
    executor = GlobusComputeExecutor(registered, client=client)
    executor.start()
    yield executor
    executor.shutdown()


def test_an_sdk_executor_s_settings_are_adopted(client):
    with Executor(
        endpoint_id=ENDPOINT_ID,
        client=client,
        resource_specification={"num_nodes": 2},
        user_endpoint_config={"queue": "debug"},
        batch_size=7,
    ) as lent:
        for ours in (GlobusComputeExecutor(executor=lent), GlobusComputeExecutor(lent)):
            assert isinstance(ours, ParslExecutor)
            assert ours.endpoint_id == ENDPOINT_ID
            assert ours.client is client
            assert ours.resource_specification == {"num_nodes": 2}
            assert ours.user_endpoint_config == {"queue": "debug"}
            assert ours.max_batch == 7
            assert ours.label == "GlobusComputeExecutor"
        own = GlobusComputeExecutor(str(uuid.UUID(int=1)), executor=lent, resource_specification={"num_nodes": 1})
        assert (own.endpoint_id, own.resource_specification) == (uuid.UUID(int=1), {"num_nodes": 1})


def test_the_lent_executor_is_never_used_nor_shut_down(client, registered):
    with Executor(endpoint_id=registered, client=client) as lent:
        ours = GlobusComputeExecutor(lent)
        ours.start()
        ours.submit(abs, {}, -1)
        ours.shutdown()
        assert lent.task_count_submitted == 0
        assert not lent._stopped


@pytest.mark.parametrize("endpoint_id", [None, "laptop", ""])
def test_an_endpoint_id_that_is_none_is_told(endpoint_id):
    with pytest.raises(ConfigError, match="endpoint"):
        GlobusComputeExecutor(endpoint_id)


def test_types_are_checked():
    wrong: Any = 7
    with pytest.raises(typeguard.TypeCheckError):
        GlobusComputeExecutor(ENDPOINT_ID, label=wrong)


def test_a_configuration_s_repr_holds_no_secret(client, parsl_globus_site):
    text = repr(Config(executors=[GlobusComputeExecutor(ENDPOINT_ID, client=client)]))
    assert str(ENDPOINT_ID) in text
    assert client.authorizer.access_token not in text
    assert client.authorizer.confidential_client.authorizer.password not in text


def test_the_constructor_connects_to_nothing():
    GlobusComputeExecutor(ENDPOINT_ID)  # no service, no credentials


def test_no_service_is_told_at_start(monkeypatch):
    monkeypatch.setenv("PARSL_GLOBUS_SERVICE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("GLOBUS_COMPUTE_CLIENT_ID", str(uuid.uuid4()))
    monkeypatch.setenv("GLOBUS_COMPUTE_CLIENT_SECRET", "x")
    executor = GlobusComputeExecutor(ENDPOINT_ID)
    with pytest.raises(ServiceUnreachable, match="127.0.0.1:1"):
        executor.start()


def test_an_unknown_endpoint_is_told_at_start(client):
    executor = GlobusComputeExecutor(ENDPOINT_ID, client=client)
    with pytest.raises(EndpointNotFound, match=str(ENDPOINT_ID)):
        executor.start()
    executor.shutdown()


def test_an_endpoint_that_is_offline_is_a_warning_at_start(client, registered, caplog):
    executor = GlobusComputeExecutor(registered, client=client, offline_timeout_s=90)
    executor.start()
    executor.shutdown()
    assert "is offline; tasks will wait for 90 s" in caplog.text


def test_futures_carry_an_id_of_ours_and_submission_does_no_network_work(executor):
    futures = [executor.submit(abs, {}, i) for i in range(100)]
    assert len({uuid.UUID(future.parsl_executor_task_id) for future in futures}) == 100
    assert executor.outstanding() <= 100


def test_a_specification_that_is_no_json_fails_its_own_future(executor):
    bad = executor.submit(abs, {"num_nodes": {1}}, 1)
    with pytest.raises(NotSerializable, match="parsl_resource_specification"):
        bad.result(DEADLINE_S)


def test_shutdown_answers_what_is_outstanding_and_leaves_no_thread(client, registered):
    before = set(threading.enumerate())
    executor = GlobusComputeExecutor(registered, client=client)
    executor.start()
    futures = [executor.submit(abs, {}, i) for i in range(20)]
    executor.shutdown()
    executor.shutdown()
    for future in [*futures, executor.submit(abs, {}, 1)]:
        with pytest.raises(ExecutorShutDown):
            future.result(DEADLINE_S)
    assert {thread for thread in threading.enumerate() if thread.is_alive()} <= before


def test_submit_before_start_is_told():
    with pytest.raises(ExecutorShutDown):
        GlobusComputeExecutor(ENDPOINT_ID).submit(abs, {}, 1).result(DEADLINE_S)
