"""Calls of functions that are registered already: which they are, and what may be around them."""

from __future__ import annotations

import functools
import json
import logging
import uuid
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from globus_compute_sdk.serialize import ComputeSerializer, PureSourceTextInspect
from globus_compute_sdk.serialize.concretes import DillDataBase64, JSONData
from parsl import File, bash_app, join_app, python_app
from parsl.app.errors import wrap_error
from parsl.app.python import timeout
from parsl.data_provider.http import HTTPInTaskStaging
from parsl.monitoring.remote import monitor_wrapper

from parsl_globus.errors import ConfigError, NotForRegisteredFunction, NotSerializable, RequestRefused
from parsl_globus.executor.adoption import OWN, Serializers
from parsl_globus.executor.journal_resume import _succeed
from parsl_globus.executor.outcome import PLAIN, complete_from_message, complete_from_status
from parsl_globus.executor.registered import RegisteredFunctions
from parsl_globus.executor.submission import Submission, group_of, is_runners
from parsl_globus.wire.documents import FunctionRegistration, TaskStatus
from parsl_globus.wire.messages import Result
from parsl_globus.wire.payload import split_buffers

FUNCTION_ID = uuid.uuid4()
GROUP = group_of({}, None, FUNCTION_ID)


def step(number, *, more=0):
    return number + more


@python_app
def step_app(number):
    return number


def registered(functions, serializers=OWN):
    return RegisteredFunctions(functions, serializers, label="here")


def monitored(function):
    return monitor_wrapper(
        f=function,
        args=(1,),
        kwargs={"more": 2},
        x_try_id=0,
        x_task_id=1,
        radio_config=None,
        run_id="r",
        logging_level=0,
        sleep_dur=1.0,
        monitor_resources=False,
        run_dir=".",
    )


def enter(functions, function, args=(), kwargs=None):
    """The packed arguments, and the future."""
    future: Future = Future()
    found = functions.find(function)
    return functions.enter(future, found, args, kwargs or {}, GROUP, None), future


def unpacked(packed):
    return [ComputeSerializer().deserialize(buffer) for buffer in split_buffers(packed, 2)]


# ---- which are registered ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [FUNCTION_ID, str(FUNCTION_ID)], ids=["uuid", "text"])
def test_an_app_or_its_function_is_found_as_parsl_gives_it(value):
    functions = registered({step_app: value, step: value})
    for given in (step_app.func, step, wrap_error(step), python_app(step).func):
        assert functions.find(given).function_id == FUNCTION_ID
    for other in (python_app(enter).func, enter, functools.partial(step), abs):
        assert functions.find(other) is None


def test_a_function_without_a_hash_is_none_of_them():
    @dataclass(frozen=True)
    class Call:
        items: list = field(default_factory=list)

        def __call__(self):
            return self.items

    assert registered({step: FUNCTION_ID}).find(Call()) is None


def test_a_helper_that_is_registered_makes_nothing_of_the_app_that_calls_it():
    helper = step

    def app(number):
        return helper(number)

    assert registered({step: FUNCTION_ID}).find(wrap_error(app)) is None


@bash_app
def shell():
    return "true"


@join_app
def joined():
    return step_app(1)


@pytest.mark.parametrize("wrong", [{shell: FUNCTION_ID}, {joined: FUNCTION_ID}, {"step": FUNCTION_ID}, {step: "my id"}])
def test_what_can_t_be_registered_is_told_when_the_executor_is_made(wrong):
    with pytest.raises(ConfigError, match="function_ids"):
        registered(wrong)


# ---- what is around them ----------------------------------------------------------------------------------------


def test_monitoring_is_left_out_and_said_once(caplog):
    functions = registered({step_app: FUNCTION_ID})
    function, args, kwargs = monitored(step_app.func)
    assert {"_parsl_monitoring_task_id", "_parsl_monitoring_try_id"} < set(kwargs)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            packed, _future = enter(functions, function, args, kwargs)
    assert unpacked(packed) == [(1,), {"more": 2}]
    assert len(caplog.records) == 1


def staged(function):
    manager = SimpleNamespace(dfk=SimpleNamespace(executors={"here": SimpleNamespace(working_dir=".")}))
    return HTTPInTaskStaging().replace_task(manager, "here", File("http://x/y"), function)


@pytest.mark.parametrize(
    ("wrapped", "what"),
    [
        (timeout(step_app.func, 3), "walltime"),
        (monitored(timeout(step_app.func, 3))[0], "walltime"),
        (staged(step_app.func), "staging in the task"),
        (staged(timeout(step_app.func, 3)), "staging in the task"),
    ],
)
def test_what_would_have_to_run_with_it_is_refused(wrapped, what):
    with pytest.raises(NotForRegisteredFunction, match=what) as refused:
        registered({step_app: FUNCTION_ID}).find(wrapped)
    assert (refused.value.what, refused.value.function_id) == (what, str(FUNCTION_ID))


# ---- arguments, requests and results ----------------------------------------------------------------------------


def test_arguments_are_packed_as_the_sdk_does():
    packed, future = enter(registered({step: FUNCTION_ID}), step, (1, "a"), {"more": (2, 3)})
    assert unpacked(packed) == [(1, "a"), {"more": (2, 3)}]
    assert getattr(future, PLAIN)
    adopted = registered({step: FUNCTION_ID}, Serializers(data=JSONData()))
    assert enter(adopted, step, (1,))[0] == ComputeSerializer(strategy_data=JSONData()).pack_buffers(
        ["11\n[1]", "11\n{}"]
    )


@pytest.mark.parametrize("serializers", [OWN, Serializers(data=JSONData())])
def test_an_argument_that_can_t_be_pickled_is_named(serializers):
    with pytest.raises(NotSerializable) as told:
        enter(registered({step: FUNCTION_ID}, serializers), step, (1,), {"more": (i for i in ())})
    assert told.value.what == "argument 'more'"


#: As a file's name may have it.
HALF = {"a": "half \udcff"}


class Service:
    url = "http://x"

    def __init__(self):
        self.submissions = []

    def submit(self, endpoint_id, submission, **_):
        self.submissions.append(json.loads(b"".join(submission)))
        raise RequestRefused(http_status=404, code="FUNCTION_NOT_FOUND", reason="gone")


@pytest.mark.parametrize("results", [OWN.results, ("x.Y", *OWN.results)])
def test_a_request_names_the_function_and_asks_for_the_value_as_it_is(results):
    service: Any = Service()
    runner_id = uuid.uuid4()
    runner = FunctionRegistration(function_name="runner", function_code="")
    submission = Submission(service, uuid.uuid4(), runner, runner_id, result_serializers=results, per_task=True)
    for group in (GROUP, group_of({"num_nodes": 2}, HALF, FUNCTION_ID), group_of({"num_nodes": 2}, None)):
        with pytest.raises(RequestRefused):
            submission.post(group, ["p"], None)
    bare, specified, runners = service.submissions
    assert bare["tasks"] == specified["tasks"] == {str(FUNCTION_ID): ["p"]}
    assert ("result_serializers" in bare) == (results != OWN.results)
    assert "resource_specification" not in bare
    assert (specified["resource_specification"], specified["user_endpoint_config"]) == ({"num_nodes": 2}, HALF)
    assert (runners["tasks"], runners["resource_specification"]) == ({str(runner_id): ["p"]}, {"num_nodes": 2})
    assert runners["result_serializers"] == list(results)
    assert not is_runners(GROUP)


def test_the_result_is_the_value():
    data = ComputeSerializer(strategy_data=DillDataBase64()).serialize((1, [2]))
    for complete in (
        lambda future: complete_from_message(future, Result(task_id=uuid.uuid4(), data=data)),
        lambda future: complete_from_status(future, TaskStatus(task_id=uuid.uuid4(), status="success", result=data)),
        lambda future: _succeed(future, TaskStatus(task_id=uuid.uuid4(), status="success", result=data)),
    ):
        future: Future = Future()
        setattr(future, PLAIN, True)
        complete(future)
        assert future.result(0) == (1, [2])
        complete(future)  # a result may come twice


def test_a_result_that_can_t_be_unpickled_fails_its_future():
    future: Future = Future()
    setattr(future, PLAIN, True)
    complete_from_message(future, Result(task_id=uuid.uuid4(), data="01\nno pickle"))
    assert "result" in str(future.exception(0))


def test_the_registered_code_needs_not_be_ours():
    """As the test above of arguments, with a function as the SDK registers it."""
    code = ComputeSerializer(strategy_code=PureSourceTextInspect()).serialize(step)
    packed, _ = enter(registered({step: FUNCTION_ID}), step, (1,), {"more": 2})
    args, kwargs = unpacked(packed)
    assert ComputeSerializer().deserialize(code)(*args, **kwargs) == 3
