"""Tasks and results through a real service: REST by requests, AMQP by pika."""

from __future__ import annotations

import json
import uuid

import pika.exceptions
import pytest
from service_thread import ServiceThread, UserEndpoint

from parsl_globus.wire import codec
from parsl_globus.wire.messages import Result


@pytest.fixture
def manager(rest, closing):
    return closing(rest.endpoint())


def start(manager, closing) -> UserEndpoint:
    return closing(UserEndpoint(manager.command()))


def ids_of(reply):
    return [task_id for ids in reply["tasks"].values() for task_id in ids]


def test_a_task_goes_out_and_its_result_comes_home(rest, manager, closing):
    meta = {"python_version": "3.11.7", "sdk_version": "4.19.0"}
    function_id = rest.function("7\n01\nab\u00e9\n", meta=meta)
    reply = rest.submit(
        manager.endpoint_id,
        function_id,
        ['4\n00\n"', "4\n00\n\u20ac"],
        resource_specification={"num_nodes": 2},
        result_serializers=["a.b.C"],
        user_endpoint_config={"account": "x"},
        user_runtime={"python_version": "3.11"},
    )
    for name in ("task_group_id", "request_id", "endpoint_id"):
        uuid.UUID(reply[name])
    command = manager.command()
    assert command["command"] == "cmd_start_endpoint"
    assert command["kwargs"]["user_opts"] == {"account": "x"}
    assert command["kwargs"]["user_runtime"] == {"python_version": "3.11"}
    assert command["globus_identity_set"][0]["sub"] == command["globus_effective_identity"]
    site = closing(UserEndpoint(command))
    tasks = site.tasks(2)
    assert [str(task.task_id) for _, task in tasks] == ids_of(reply)
    assert [task.task_buffer for _, task in tasks] == [
        '7\n01\nab\u00e9\n4\n00\n"',
        "7\n01\nab\u00e9\n4\n00\n\u20ac",
    ]
    headers = tasks[0][0].headers
    assert headers == {
        "function_uuid": function_id,
        "task_uuid": ids_of(reply)[0],
        "resource_specification": '{"num_nodes": 2}',
        "result_serializers": ["a.b.C"],
        "python_version": "3.11.7",
        "sdk_version": "4.19.0",
    }
    good = site.answer(tasks[0][1].task_id, "00\ngood")
    bad = site.answer(tasks[1][1].task_id, "a traceback", error="it broke")
    inbox = closing(rest.results(reply["task_group_id"]))
    came = inbox.take(2)
    assert [body for _, body in came] == [good, bad]
    assert all(properties.timestamp for properties, _ in came)
    first, second = ids_of(reply)
    results = rest.good("POST", "/v2/batch_status", {"task_ids": [first, second, str(uuid.uuid4())]})["results"]
    assert set(results) == {first, second}
    assert (results[first]["status"], results[first]["result"]) == ("success", "00\ngood")
    assert (results[second]["status"], results[second]["exception"]) == ("failed", "a traceback")
    assert float(results[second]["completion_t"]) > 0
    assert rest.good("GET", f"/v2/tasks/{first}") == results[first]
    group = rest.good("GET", f"/v2/taskgroup/{reply['task_group_id']}")
    assert group == {"taskgroup_id": reply["task_group_id"], "tasks": [{"id": first}, {"id": second}]}


def test_an_unfinished_task_has_no_completion_time(rest, manager):
    (task_id,) = ids_of(rest.submit(manager.endpoint_id, rest.function(), ["p"]))
    assert rest.good("GET", f"/v2/tasks/{task_id}") == {"task_id": task_id, "status": "waiting-for-ep"}


def test_the_same_key_gives_the_same_reply_and_nothing_twice(rest, manager, closing):
    function_id, headers = rest.function(), {"Idempotency-Key": str(uuid.uuid4())}
    first = rest.submit(manager.endpoint_id, function_id, ["a", "b"], headers)
    assert rest.submit(manager.endpoint_id, function_id, ["a", "b"], headers) == first
    other = rest.submit(manager.endpoint_id, function_id, ["c"], {"Idempotency-Key": str(uuid.uuid4())})
    site = start(manager, closing)
    assert [str(task.task_id) for _, task in site.tasks(3)] == ids_of(first) + ids_of(other)
    assert site.inbox.waiting() == 0
    refused = rest.call("POST", f"/v3/endpoints/{manager.endpoint_id}/submit", {}, headers={"Idempotency-Key": "x"})
    assert (refused.status_code, refused.json()["code"]) == (400, "INVALID_IDEMPOTENCY_KEY")


def test_the_same_key_with_another_group_leaves_no_queue_behind(rest, manager, closing):
    function_id, headers = rest.function(), {"Idempotency-Key": str(uuid.uuid4())}
    first, other = str(uuid.uuid4()), str(uuid.uuid4())
    reply = rest.submit(manager.endpoint_id, function_id, ["a"], headers, task_group_id=first)
    assert rest.submit(manager.endpoint_id, function_id, ["a"], headers, task_group_id=other) == reply
    assert rest.submit(manager.endpoint_id, function_id, ["a"], headers, task_group_id=first) == reply
    assert closing(rest.results(first)).waiting() == 0
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="404"):
        closing(rest.results(other)).waiting()
    rest.submit(manager.endpoint_id, function_id, ["b"], task_group_id=other)
    assert closing(rest.results(other)).waiting() == 0


@pytest.mark.parametrize("more", [{}, {"Prefer": "per-task"}])
def test_the_same_key_gives_the_same_reply_though_its_function_is_gone(rest, manager, more):
    function_id, headers = rest.function(), {"Idempotency-Key": str(uuid.uuid4()), **more}
    first = rest.submit(manager.endpoint_id, function_id, ["a", "b"], headers)
    rest.good("DELETE", f"/v2/functions/{function_id}")
    assert rest.submit(manager.endpoint_id, function_id, ["a", "b"], headers) == first
    body = {"create_queue": True, "tasks": {function_id: ["a"]}}
    new = rest.call("POST", f"/v3/endpoints/{manager.endpoint_id}/submit", body)
    assert new.status_code == 404


def test_one_bad_function_refuses_its_own_tasks_only_if_asked_so(rest, manager, closing):
    good, bad = rest.function(), str(uuid.uuid4())
    body = {"create_queue": True, "tasks": {bad: ["a", "b"], good: ["c"]}}
    path = f"/v3/endpoints/{manager.endpoint_id}/submit"
    refused = rest.call("POST", path, body)
    assert (refused.status_code, refused.json()["code"]) == (404, "FUNCTION_NOT_FOUND")
    reply = rest.good("POST", path, body, headers={"Prefer": "per-task"})
    assert reply["tasks"][bad] == [None, None]
    assert set(reply["errors"]) == {bad}
    assert reply["errors"][bad]["1"]["code"] == "FUNCTION_NOT_FOUND"
    ((_, task),) = start(manager, closing).tasks(1)
    assert reply["tasks"][good] == [str(task.task_id)]


def test_a_result_that_comes_twice_is_delivered_once(rest, manager, closing):
    reply = rest.submit(manager.endpoint_id, rest.function(), ["a", "b"])
    site = start(manager, closing)
    (_, first), (_, second) = site.tasks(2)
    site.answer(first.task_id, "00\nfirst")
    site.answer(first.task_id, "00\nagain")
    site.answer(second.task_id, "00\nsecond")
    inbox = closing(rest.results(reply["task_group_id"]))
    assert [codec.unpack(body, Result).data for _, body in inbox.take(2)] == ["00\nfirst", "00\nsecond"]
    assert inbox.waiting() == 0


def test_bad_and_foreign_results_are_dropped_and_others_go_on(rest, manager, closing):
    function_id = rest.function()
    reply = rest.submit(manager.endpoint_id, function_id, ["a"])
    site = start(manager, closing)
    rest.submit(manager.endpoint_id, function_id, ["b"], user_endpoint_config={"other": 1})
    foreign = start(manager, closing)
    ((_, task),) = site.tasks(1)
    for body in (b"", b"\x01{", b"\x02{}", b'\x01{"message_type":"result","data":{}}', b"\x01" + b"[" * 5000):
        site.publish_result(body)
    site.answer(uuid.uuid4())
    foreign.answer(task.task_id, "00\nforged")
    site.answer(task.task_id, "00\nreal")
    inbox = closing(rest.results(reply["task_group_id"]))
    ((_, body),) = inbox.take(1)
    assert codec.unpack(body, Result).data == "00\nreal"


def test_a_task_group_is_taken_over_and_belongs_to_its_caller(rest, manager):
    group_id = str(uuid.uuid4())
    reply = rest.submit(manager.endpoint_id, rest.function(), ["a"], task_group_id=group_id)
    assert reply["task_group_id"] == group_id


def test_source_is_wrapped(rest, manager, closing):
    source = "def f():\n    return 1\n"
    function_id = rest.function(source, serialized=False)
    rest.submit(manager.endpoint_id, function_id, [""])
    ((_, task),) = start(manager, closing).tasks(1)
    assert task.task_buffer == f"{len(source) + 5}\nst\nf:{source}"


def test_a_failure_to_start_fails_what_waits(rest, manager, closing):
    reply = rest.submit(manager.endpoint_id, rest.function(), ["a", "b"])
    command = manager.command()
    manager.report(
        {"error": "no such partition: gpu", "heartbeat_period": 3}, command["kwargs"]["amqp_creds"]["endpoint_id"]
    )
    inbox = closing(rest.results(reply["task_group_id"]))
    results = [codec.unpack(body, Result) for _, body in inbox.take(2)]
    assert [str(result.task_id) for result in results] == ids_of(reply)
    assert {result.error_details.code for result in results} == {"EndpointStartFailed"}
    assert results[0].data == "no such partition: gpu"
    assert results[0].error_details.user_message == "no such partition: gpu"


def test_a_manager_that_returns_is_told_to_start_what_has_tasks(rest, manager, closing):
    rest.submit(manager.endpoint_id, rest.function(), ["a"])
    site = start(manager, closing)
    manager.report({"heartbeat_period": 30})
    again = manager.command()
    assert again["kwargs"]["amqp_creds"]["endpoint_id"] == site.endpoint_id
    site.report({"heartbeat_period": 30, "active": True})
    wait_for(lambda: rest.good("GET", f"/v2/endpoints/{site.endpoint_id}/status")["status"] == "online")
    rest.submit(manager.endpoint_id, rest.function(), ["b"])
    assert len(site.tasks(2)) == 2
    assert manager.inbox.waiting() == 0
    # It says good-bye while a task waits: started again at once.
    site.report({"heartbeat_period": 30, "active": False})
    assert manager.command()["kwargs"]["amqp_creds"]["endpoint_id"] == site.endpoint_id


def wait_for(condition):
    import threading
    import time

    deadline, pause = time.monotonic() + 20, threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.01)


def test_status_tells_of_tasks(rest, manager, closing):
    reply = rest.submit(manager.endpoint_id, rest.function(), ["a", "b", "c", "d"])
    site = start(manager, closing)
    tasks = site.tasks(4)
    site.answer(tasks[0][1].task_id)
    site.answer(tasks[1][1].task_id, error="it broke")
    manager.report({"heartbeat_period": 30, "note": "x"})
    site.report({"heartbeat_period": 30, "active": True, "outstanding_tasks": 3, "pending_tasks": 2})
    closing(rest.results(reply["task_group_id"])).take(2)
    path = f"/v2/endpoints/{manager.endpoint_id}/status"
    wait_for(lambda: rest.good("GET", path)["details"]["parsl_globus"]["tasks"]["running"] == 1)
    status = rest.good("GET", path)
    assert status["status"] == "online"
    assert status["details"]["note"] == "x"
    ours = status["details"]["parsl_globus"]
    assert ours["tasks"] == {"waiting": 1, "running": 1, "done": 1, "failed": 1}
    assert ours["user_endpoints"][0]["endpoint_id"] == site.endpoint_id
    assert ours["user_endpoints"][0]["online"]
    manager.report({"heartbeat_period": 0})
    wait_for(lambda: rest.good("GET", path)["status"] == "offline")


def test_cancelling(rest, manager, closing):
    reply = rest.submit(manager.endpoint_id, rest.function(), ["a", "b", "c"])
    first, second, third = ids_of(reply)
    site = start(manager, closing)
    site.answer(site.tasks(1)[0][1].task_id)
    inbox = closing(rest.results(reply["task_group_id"]))
    inbox.take(1)
    unknown = str(uuid.uuid4())
    outcome = rest.good("POST", "/v3/tasks/cancel", {"task_ids": [first, second, unknown]})["results"]
    assert outcome == {first: "finished", second: "cancelled", unknown: "unknown"}
    ((_, body),) = inbox.take(1)
    assert codec.unpack(body, Result).error_details.code == "TaskCancelled"
    site.report({"heartbeat_period": 30, "active": True})
    wait_for(lambda: rest.good("GET", f"/v2/endpoints/{site.endpoint_id}/status")["status"] == "online")
    assert rest.good("POST", "/v3/tasks/cancel", {"task_ids": [third]})["results"] == {third: "requested"}
    site.inbox.queue = site.creds["control_queue_info"]["queue"]
    messages = [json.loads(body) for _, body in site.inbox.take(2)]
    assert messages[1] == {"command": "cancel", "task_ids": [third]}


def test_deleting_an_endpoint_answers_its_tasks(rest, manager, closing):
    reply = rest.submit(manager.endpoint_id, rest.function(), ["a"])
    inbox = closing(rest.results(reply["task_group_id"]))
    rest.good("DELETE", f"/v2/endpoints/{manager.endpoint_id}")
    ((_, body),) = inbox.take(1)
    assert codec.unpack(body, Result).error_details.code == "EndpointDeleted"
    assert rest.call("GET", f"/v2/endpoints/{manager.endpoint_id}").json()["code"] == "ENDPOINT_NOT_FOUND"


def test_a_service_that_was_stopped_goes_on_where_it_was(tmp_path, closing):
    first = ServiceThread(tmp_path / "data").start()
    try:
        rest = first.rest()
        manager = rest.endpoint()
        reply = rest.submit(manager.endpoint_id, rest.function(), ["a", "b"])
        site = UserEndpoint(manager.command())
        tasks = site.tasks(2)
        body = site.answer(tasks[0][1].task_id, "00\nearly")
        inbox = rest.results(reply["task_group_id"])
        wait_for(lambda: inbox.waiting() == 1)
        for thing in (inbox, site, manager, rest):
            thing.close()
    finally:
        first.stop()
    port, amqp_port = int(first.url.rpartition(":")[2]), first.address.amqp_port
    second = closing(ServiceThread(tmp_path / "data", port=port, amqp_port=amqp_port).start(), "stop")
    site = closing(UserEndpoint({"kwargs": {"amqp_creds": site.creds}}))
    ((_, again),) = site.tasks(1)
    assert again.task_id == tasks[1][1].task_id
    late = site.answer(again.task_id, "00\nlate")
    rest = closing(second.rest())
    inbox = closing(rest.results(reply["task_group_id"]))
    assert [came for _, came in inbox.take(2)] == [body, late]
    again = rest.good("PUT", f"/v3/endpoints/{manager.endpoint_id}", {"endpoint_name": "site"})
    assert again == manager.registered


def test_a_manager_that_registers_again_is_told_at_once(tmp_path, closing):
    service = closing(ServiceThread(tmp_path / "data", start_repeat_s=1000.0).start(), "stop")
    rest = closing(service.rest())
    manager = closing(rest.endpoint())
    rest.submit(manager.endpoint_id, rest.function(), ["a"])
    site = start(manager, closing)
    manager.report({"heartbeat_period": 30})  # too early for a second command
    rest.submit(manager.endpoint_id, rest.function(), ["b"])
    rest.good("PUT", f"/v3/endpoints/{manager.endpoint_id}", {"endpoint_name": "site"})
    assert manager.command()["kwargs"]["amqp_creds"]["endpoint_id"] == site.endpoint_id
    assert manager.inbox.waiting() == 0
