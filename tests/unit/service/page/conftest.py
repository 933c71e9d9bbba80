from __future__ import annotations

import re
from contextlib import ExitStack

import pytest
import requests
from page_scene import Scene, another_user, login_link
from service_thread import DEADLINE_S, ServiceThread


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
    """The owner, who is an administrator."""
    return closing(service.rest())


@pytest.fixture
def scene(rest, closing):
    return closing(Scene(rest, "Polaris"))


@pytest.fixture
def stranger(rest, closing):
    return closing(another_user(rest, "eve"))


class Visitor:
    """The page by plain `requests`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = requests.Session()
        self.session.trust_env = False

    def get(self, path: str, **options) -> requests.Response:
        return self.session.get(self.url + path, timeout=DEADLINE_S, **options)

    def post(self, path: str, fields: dict[str, str], **options) -> requests.Response:
        return self.session.post(self.url + path, data=fields, timeout=DEADLINE_S, **options)

    def csrf(self, path: str = "/login") -> str:
        return re.search('name="csrf" value="([0-9a-f]{64})"', self.get(path).text).group(1)

    def log_in(self, rest) -> Visitor:
        code = login_link(rest).partition("#code=")[2]
        reply = self.post("/login", {"csrf": self.csrf(), "code": code})
        assert reply.url == self.url + "/"
        return self

    def close(self) -> None:
        self.session.close()


@pytest.fixture
def visitor(service, closing):
    """Makes visitors; of a caller of REST, one who is logged in."""

    def visit(rest=None):
        made = closing(Visitor(service.url))
        return made.log_in(rest) if rest is not None else made

    return visit


@pytest.fixture
def visitor_at(closing):
    """Makes visitors of any service."""
    return lambda url: closing(Visitor(url))
