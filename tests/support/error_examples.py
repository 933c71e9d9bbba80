"""One of each error that users can meet, with all its fields."""

from __future__ import annotations

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
    errors.NotForRegisteredFunction(what="walltime", function_id="f"),
    errors.TaskCancelled(detail="by its owner"),
    errors.ExecutorShutDown(label="polaris"),
    errors.JournalError(path="run.journal", detail="it is not a file"),
    errors.JournalInUse(path="run.journal"),
    errors.SchedulerError(what="slurmctld", detail="not ready after 30 s"),
]
