"""Templates and static files, from inside the package, and the headers they go out with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from fastapi import Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from parsl_globus.service.page import throughput
from parsl_globus.service.page.live import Fragment, fragment
from parsl_globus.service.page.views import EndpointView, Overview, TaskList, TaskPage
from parsl_globus.version import __version__

_PACKAGE = "parsl_globus.service.page"
_TYPES = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

#: No script, style or image but our own, nothing framed, forms to nowhere else.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
SECURE_HEADERS: Mapping[str, str] = {"Strict-Transport-Security": "max-age=31536000"}


@dataclass(frozen=True)
class StaticFile:
    """A file that browsers may keep: its address changes with it."""

    content: bytes
    media_type: str
    version: str


class Renderer:
    """Draws pages.

    Attributes:
        static: The files under `/static`, by name.
    """

    def __init__(self) -> None:
        self.static = {name: _load(name, media_type) for name, media_type in _TYPES.items()}
        self._templates = Environment(
            loader=PackageLoader(_PACKAGE),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters["time"] = _time
        self._templates.filters["seconds"] = throughput.seconds
        self._templates.filters["bytes"] = _bytes
        self._templates.filters["host"] = _host
        self._templates.globals["static"] = self._address
        self._templates.globals["version"] = __version__
        self._templates.globals["geometry"] = throughput

    def _address(self, name: str) -> str:
        return f"/static/{name}?{self.static[name].version}"

    def text(self, template: str, **values: Any) -> str:
        """A template, filled."""
        return self._templates.get_template(template).render(**values)

    def html(self, template: str, *, secure: bool, status: int = 200, **values: Any) -> Response:
        """A page."""
        response = Response(self.text(template, **values), status, media_type="text/html; charset=utf-8")
        response.headers.update({**HEADERS, **(SECURE_HEADERS if secure else {}), "Cache-Control": "no-store"})
        return response

    # ---- fragments --------------------------------------------------------------------------------------------

    def overview(self, overview: Overview) -> dict[str, Fragment]:
        """The pieces of the first page."""
        rows = {f"endpoint-{e.endpoint_id}": self._endpoint(e) for e in overview.endpoints}
        drawn = [Markup(html) for html in rows.values()]
        return {
            "totals": fragment(self.text("_totals.html", totals=overview.totals, plot=overview.plot)),
            "endpoints": fragment(self.text("_endpoints.html", rows=drawn), parts=rows),
            **{name: fragment(html) for name, html in rows.items()},
            "hour": fragment(self.text("_hour.html", plot=overview.plot)),
            "failures": fragment(self.text("_failures.html", failures=overview.failures)),
        }

    def _endpoint(self, endpoint: EndpointView) -> str:
        return self.text("_endpoint.html", endpoint=endpoint)

    def tasks(self, tasks: TaskList, *, sees_all: bool) -> dict[str, Fragment]:
        """The pieces of a list of tasks."""
        return {"tasks": fragment(self.text("_tasks.html", tasks=tasks, sees_all=sees_all))}

    def task(self, task: TaskPage) -> dict[str, Fragment]:
        """The pieces of a task's page."""
        return {"task": fragment(self.text("_task.html", task=task))}


def marks(fragments: Mapping[str, Fragment]) -> str:
    """What a page says it has when it asks for changes."""
    return ",".join(f"{name}.{piece.mark}" for name, piece in fragments.items())


def read_marks(text: str) -> dict[str, str]:
    """What `marks` wrote; what isn't that is left out, so that its fragment is sent again."""
    pairs = (part.rpartition(".") for part in text[:100_000].split(","))
    return {name: mark for name, _, mark in pairs if name}


def markup(fragments: Mapping[str, Fragment]) -> dict[str, Markup]:
    """The fragments for a template that puts them into a page."""
    return {name: Markup(piece.html) for name, piece in fragments.items()}


def _load(name: str, media_type: str) -> StaticFile:
    content = (files(_PACKAGE) / "static" / name).read_bytes()
    return StaticFile(content, media_type, hashlib.sha256(content).hexdigest()[:12])


def _time(seconds: float | None, precise: bool = False) -> Markup:
    """A point in time, which the script turns into the browser's own zone."""
    if seconds is None:
        return Markup('<span class="none">never</span>')
    try:
        moment = datetime.fromtimestamp(seconds, timezone.utc)
    except (OverflowError, ValueError, OSError):
        return Markup('<span class="none">unknown</span>')
    exact = moment.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    kind = Markup(' class="precise"') if precise else ""
    text = exact if precise else exact[:19]
    return Markup('<time{} datetime="{}Z">{} UTC</time>').format(kind, exact.replace(" ", "T"), text)


def _bytes(size: int) -> str:
    if size < 1000:
        return f"{size} bytes"
    value = float(size)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 1000 or unit == "GB":
            break
    return f"{value:.1f} {unit}"


def _host(url: str) -> str:
    return urlsplit(url).netloc
