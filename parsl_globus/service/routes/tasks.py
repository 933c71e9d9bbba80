"""REST for tasks: submission, questions, and where results come."""

from __future__ import annotations

import uuid

from fastapi import APIRouter, Request, Response

from parsl_globus.errors import RequestRefused
from parsl_globus.service.routes.http import (
    caller_of,
    document_reply,
    json_reply,
    path_id,
    read_document,
    service_of,
)
from parsl_globus.service.routes.openapi import asks, takes
from parsl_globus.service.rules import refusals
from parsl_globus.wire.documents import (
    IDEMPOTENCY_HEADER,
    PREFER_HEADER,
    PREFER_PER_TASK,
    ListedSubmission,
    Submission,
    Submitted,
    TaskIds,
)

router = APIRouter()


@router.post(
    "/v3/endpoints/{endpoint_id}/submit",
    openapi_extra=takes(Submission) | asks(Idempotency_Key="header", Prefer="header"),
)
async def submit(request: Request) -> Response:
    """Accept tasks; the answer means that they are stored."""
    caller = await caller_of(request)
    endpoint_id = path_id(request, "endpoint_id")
    service = service_of(request)
    key, per_task = None, False
    if not service.config.public_only:
        key = _key(request)
        preferences = request.headers.get(PREFER_HEADER, "").split(",")
        per_task = PREFER_PER_TASK in (preference.strip().lower() for preference in preferences)
    submission = await read_document(request, Submission)
    reply = await service.tasks.submit(caller, endpoint_id, submission, key=key, per_task=per_task)
    return Response(reply, media_type="application/json")


@router.post("/v2/submit", openapi_extra=takes(ListedSubmission))
async def submit_list(request: Request) -> Response:
    """Accept tasks for one endpoint, in the form of old."""
    caller = await caller_of(request)
    listed = await read_document(request, ListedSubmission)
    endpoint_id = listed.tasks[0][1]
    tasks: dict[uuid.UUID, list[str]] = {}
    for function_id, other_id, payload in listed.tasks:
        if other_id != endpoint_id:
            raise refusals.invalid("All tasks of a request must be for the same endpoint. Send a request for each.")
        tasks.setdefault(function_id, []).append(payload)
    submission = Submission(tasks=tasks, create_queue=listed.create_websocket_queue, task_group_id=listed.task_group_id)
    reply = Submitted.model_validate_json(await service_of(request).tasks.submit(caller, endpoint_id, submission))
    ids = {function_id: iter(task_ids) for function_id, task_ids in reply.tasks.items()}
    results = [
        {"task_uuid": str(next(ids[function_id])), "status": "Success", "http_status_code": 200}
        for function_id, _, _ in listed.tasks
    ]
    return json_reply({"response": "success", "task_group_id": str(reply.task_group_id), "results": results})


def _key(request: Request) -> str | None:
    text = request.headers.get(IDEMPOTENCY_HEADER)
    if text is None:
        return None
    try:
        return str(uuid.UUID(text))
    except ValueError as exc:
        raise refusals.bad_key() from exc


@router.get("/v2/get_amqp_result_connection_url")
async def result_access(request: Request) -> Response:
    """Where the caller's results come."""
    caller = await caller_of(request)
    return document_reply(service_of(request).credentials.results(caller.identity_id))


@router.get("/v2/taskgroup/{group_id}")
async def task_group(request: Request) -> Response:
    """The tasks of a group."""
    caller = await caller_of(request)
    group_id = path_id(request, "group_id")
    task_ids = await service_of(request).tasks.group_tasks(caller, group_id)
    return json_reply({"taskgroup_id": str(group_id), "tasks": [{"id": str(task_id)} for task_id in task_ids]})


@router.post("/v2/batch_status", openapi_extra=takes(TaskIds))
async def batch_status(request: Request) -> Response:
    """How tasks stand."""
    caller = await caller_of(request)
    wanted = (await read_document(request, TaskIds)).task_ids
    statuses = await service_of(request).tasks.statuses(caller, wanted)
    # Joined by hand: each status is written once, and results may be megabytes.
    parts = [f'"{task_id}":{status.model_dump_json(exclude_none=True)}' for task_id, status in statuses.items()]
    return Response(f'{{"response":"batch","results":{{{",".join(parts)}}}}}', media_type="application/json")


@router.get("/v2/tasks/{task_id}")
async def task(request: Request) -> Response:
    """How one task stands."""
    caller = await caller_of(request)
    task_id = path_id(request, "task_id")
    statuses = await service_of(request).tasks.statuses(caller, [task_id])
    if task_id not in statuses:
        raise refusals.unknown_task(task_id)
    return document_reply(statuses[task_id])


@router.post("/v3/tasks/cancel", openapi_extra=takes(TaskIds))
async def cancel(request: Request) -> Response:
    """Cancel tasks (extension `cancel`)."""
    service = service_of(request)
    if service.config.public_only:
        raise RequestRefused(http_status=404, code="NOT_FOUND", reason="There is nothing at this address.")
    caller = await caller_of(request)
    wanted = (await read_document(request, TaskIds)).task_ids
    outcome = await service.tasks.cancel(caller, wanted)
    return json_reply({"results": {str(task_id): word for task_id, word in outcome.items()}})
