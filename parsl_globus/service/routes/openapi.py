"""The OpenAPI document, with what routes read by hand: bodies and addresses."""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from parsl_globus.version import __version__
from parsl_globus.wire.documents import Document

_PLACEHOLDER = re.compile(r"{(\w+)}")
_UUIDS = ("endpoint_id", "function_id", "task_id", "group_id", "blob_id")


def takes(model: type[Document]) -> dict[str, Any]:
    """What a route says with `openapi_extra` about the body that it reads: this document, as JSON."""
    content = {"application/json": {"schema": model.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}


def takes_form(*fields: str) -> dict[str, Any]:
    """Likewise of a form with these fields."""
    properties = {field: {"type": "string"} for field in fields}
    schema = {"type": "object", "properties": properties}
    content = {"application/x-www-form-urlencoded": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


def takes_bytes(media_type: str) -> dict[str, Any]:
    """Likewise of a body of any bytes."""
    content = {media_type: {"schema": {"type": "string", "format": "binary"}}}
    return {"requestBody": {"required": True, "content": content}}


def asks(**parameters: str) -> dict[str, Any]:
    """What a route reads from the query or the headers: where each is, `query` or `header`."""
    return {
        "parameters": [
            {"name": name.replace("_", "-") if place == "header" else name, "in": place, "schema": {"type": "string"}}
            for name, place in parameters.items()
        ]
    }


def document(app: FastAPI) -> dict[str, Any]:
    """The document of an application, made once."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=__version__, routes=app.routes)
        for path, verbs in schema["paths"].items():
            for operation in verbs.values():
                operation.setdefault("parameters", []).extend(_placeholder(n) for n in _PLACEHOLDER.findall(path))
                operation["security"] = [{"token": []}]
        schemes = schema.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes["token"] = {"type": "http", "scheme": "bearer"}
        app.openapi_schema = schema
    return app.openapi_schema


def _placeholder(name: str) -> dict[str, Any]:
    schema = {"type": "string", "format": "uuid"} if name in _UUIDS else {"type": "string"}
    return {"name": name, "in": "path", "required": True, "schema": schema}
