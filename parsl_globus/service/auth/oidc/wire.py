"""Questions to an issuer over HTTPS, off the event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import requests
from urllib3.exceptions import HTTPError

#: To connect, and between two parts of the answer.
_TIMEOUT_S = (5.0, 10.0)
_LONGEST_ANSWER_BYTES = 1 << 20


class NoAnswer(Exception):
    """The issuer didn't answer as an issuer does; the text says how."""


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        status: HTTP's.
        document: The object that the body is.
    """

    status: int
    document: Mapping[str, Any]


class Wire:
    """Asks, a few at a time: one that doesn't answer holds up logins with it, and nothing else."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="oidc")

    def close(self) -> None:
        """Let go of the threads; what they do ends by itself soon."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def get(self, url: str, *, bearer: str | None = None) -> Answer:
        """Ask for a document.

        Raises:
            NoAnswer: None came.
        """
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        return await self._run(partial(_ask, "GET", url, headers, None))

    async def post(self, url: str, form: Mapping[str, str], headers: Mapping[str, str]) -> Answer:
        """Send a form.

        Raises:
            NoAnswer: No document came back.
        """
        return await self._run(partial(_ask, "POST", url, headers, form))

    async def _run(self, work: partial[Answer]) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _ask(method: str, url: str, headers: Mapping[str, str], form: Mapping[str, str] | None) -> Answer:
    try:
        with requests.request(
            method,
            url,
            data=form,
            headers={"Accept": "application/json", **headers},
            timeout=_TIMEOUT_S,
            # Secrets go to the addresses that the issuer has named, and to no others.
            allow_redirects=False,
            stream=True,
            # A ~/.netrc would go before the header.
            auth=lambda request: request,
        ) as reply:
            body = reply.raw.read(_LONGEST_ANSWER_BYTES + 1, decode_content=True)
            status = reply.status_code
    # Of urllib3 comes what breaks within the body.
    except (requests.RequestException, HTTPError, OSError) as exc:
        raise NoAnswer(_reason(exc)) from exc
    if len(body) > _LONGEST_ANSWER_BYTES:
        raise NoAnswer("its answer is too long")
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise NoAnswer(f"HTTP status {status}, and no JSON object")
    return Answer(status, document)


def _reason(exc: BaseException) -> str:
    """The innermost cause, without addresses of objects."""
    seen = exc
    while (inner := getattr(seen, "reason", None) or seen.__cause__ or seen.__context__) is not None:
        if not isinstance(inner, BaseException):
            break
        seen = inner
    return str(getattr(seen, "strerror", None) or type(seen).__name__)
