from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from parsl_globus import errors

EXAMPLES = [
    errors.ConfigError("No such key.", file="config.yaml", line=3, key_path="engine.provider"),
    errors.MissingExtra(extra="service", module="fastapi"),
    errors.DecodeError(what="result message", size_bytes=7, detail="no JSON"),
    errors.LinkGaveUp(after_s=12.0, detail="refused"),
    errors.LinkClosed(),
    errors.BrokerRefused(routing_key="x.tasks", detail="full"),
    errors.ServiceUnreachable(url="http://127.0.0.1:5000", after_s=61.0, detail="refused"),
    errors.RequestRefused(http_status=404, code="ENDPOINT_NOT_FOUND", reason="no such endpoint"),
    errors.TooManyRequests(retry_after_s=3.0, reason="slow down"),
    errors.NotAuthorized(http_status=403, code="FORBIDDEN", reason="not yours"),
    errors.ExtensionMissing(extension="cancel", url="http://127.0.0.1:5000", detail="the tasks run on."),
    errors.SubmissionUncertain(detail="timeout"),
    errors.EndpointNotFound(endpoint="laptop"),
    errors.EndpointOffline(endpoint_id="e", after_s=5),
    errors.EndpointStartFailed(endpoint_id=None, detail="no such queue"),
    errors.TaskFailed(task_id="t", code="C", remote_traceback="Traceback"),
    errors.TaskLost(task_id="t", code="TaskLost", remote_traceback="gone"),
    errors.WorkerLost(task_id="t", code="WorkerLost", remote_traceback="killed"),
    errors.ResultTooLarge(task_id="t", code="MaxResultSizeExceeded", remote_traceback="big"),
    errors.InvalidResourceSpecification(task_id="t", code="InvalidResourceSpecification", remote_traceback="no MPI"),
    errors.TaskTimedOut(limit_s=2.0),
    errors.VersionMismatch(sender={"python": "3.11"}, worker={"python": "3.12"}, detail="no source"),
    errors.NotSerializable(what="argument 2", detail="a lock"),
    errors.NotDeserializable(what="the function", detail="no module"),
    errors.PayloadTooLarge(size_bytes=11, limit_bytes=10),
    errors.ObjectStoreFailed(what="the result", detail="no room", host="nid1", transient=True),
    errors.WorkerLacksModule(module="proxystore", host="nid1"),
    errors.FunctionNotAllowed(endpoint_id="e", detail="not listed"),
    errors.TaskCancelled(detail="by its owner"),
    errors.ExecutorShutDown(label="polaris"),
    errors.JournalError(path="run.journal", detail="it is not a file"),
    errors.JournalInUse(path="run.journal"),
    errors.SchedulerError(what="slurmctld", detail="not ready after 30 s"),
]

#: Branches that are only caught, never raised as themselves.
ABSTRACT = {
    errors.ParslGlobusError,
    errors.WireError,
    errors.LinkError,
    errors.ServiceError,
    errors.EndpointError,
    errors.TaskError,
}


def test_every_error_has_an_example():
    defined = {
        member
        for _, member in inspect.getmembers(errors, inspect.isclass)
        if issubclass(member, errors.ParslGlobusError)
    }
    assert defined - ABSTRACT == {type(example) for example in EXAMPLES}


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("duplicate", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy], ids=["pickle", "copy"])
def test_survives_pickling_and_copying_with_its_fields(error, duplicate):
    twin = duplicate(error)
    assert type(twin) is type(error)
    assert str(twin) == str(error)
    assert twin.fields == error.fields
    for name, value in error.fields.items():
        assert getattr(twin, name) == value


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_message_is_a_sentence(error):
    first_line = str(error).splitlines()[0]
    assert len(first_line) > 10
    assert first_line[0].isupper() or error.fields.get("file")


def test_config_error_says_where():
    assert str(EXAMPLES[0]) == "config.yaml:3: engine.provider: No such key."
