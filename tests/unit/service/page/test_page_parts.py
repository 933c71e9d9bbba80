from __future__ import annotations

import json
import uuid

import pytest

from parsl_globus.service.page.metrics import is_local
from parsl_globus.service.page.render import Renderer, fragment, marks, read_marks
from parsl_globus.service.page.views import id_range
from parsl_globus.service.store.failures import failure_of, looks_failed
from parsl_globus.service.store.views import HEAD_BYTES
from parsl_globus.wire import codec
from parsl_globus.wire.messages import Result
from parsl_globus.wire.states import TaskStage


def runner_result(record: object) -> bytes:
    return codec.pack(Result(task_id=uuid.uuid4(), data="11\n" + json.dumps(record, separators=(",", ":"))))


@pytest.mark.parametrize("separators", [(",", ":"), None], ids=["ours", "public"])
@pytest.mark.parametrize(
    ("record", "code"),
    [
        ({"kind": "raised", "data": "gASVAAAA", "text": "Traceback ...\nKeyError: 1"}, "AppRaised"),
        ({"kind": "value", "raised": "Traceback ...\nKeyError: 1", "data": "gASVAAAA"}, "AppRaised"),
        ({"kind": "broken", "what": "an argument", "text": "Traceback ...\nKeyError: 1"}, "AppBroken"),
    ],
)
def test_what_an_app_raised_is_a_failure_with_its_traceback(record, code, separators):
    data = "11\n" + json.dumps(record, separators=separators)
    body = codec.pack(Result(task_id=uuid.uuid4(), data=data))
    failure = failure_of(body)
    assert (failure.code, failure.text) == (code, "Traceback ...\nKeyError: 1")
    assert looks_failed(TaskStage.SUCCESS, body[:HEAD_BYTES])


@pytest.mark.parametrize(
    "body",
    [
        runner_result({"kind": "value", "data": "gASVAAAA"}),
        runner_result(["kind", "raised"]),
        codec.pack(Result(task_id=uuid.uuid4(), data="11\n" + "[" * 100_000)),
        codec.pack(Result(task_id=uuid.uuid4(), data="00\ngASVAAAA")),
    ],
    ids=["value", "no record", "nested", "dill"],
)
def test_a_value_is_no_failure(body):
    assert failure_of(body) is None


def test_bytes_that_are_no_result_are_told_as_that():
    assert failure_of(b"\x01{}").code == "ResultUnreadable"


@pytest.mark.parametrize(
    ("text", "first"),
    [("0123ABCD", "0123abcd-0000-0000-0000-000000000000"), ("0123abcd-4567", "0123abcd-4567-0000-0000-000000000000")],
)
def test_the_beginning_of_an_id(text, first):
    low, high = id_range(text)
    assert str(low) == first
    assert str(high) == first.replace("0000", "ffff").replace("00000000", "ffffffff")


@pytest.mark.parametrize("text", ["", "abc", "no id", "z" * 32, "a" * 33, "ab-cd"])
def test_other_texts_are_no_ids(text):
    assert id_range(text) is None


@pytest.mark.parametrize(
    ("peer", "headers", "local"),
    [
        ("127.0.0.1", {"host": "127.0.0.1:5000"}, True),
        ("127.0.0.1", {"host": "localhost"}, True),
        ("::1", {"host": "[::1]:5000"}, True),
        ("127.0.0.1", {"host": "evil.example:5000"}, False),
        ("127.0.0.1", {"host": "localhost", "x-forwarded-for": "10.1.2.3"}, False),
        ("127.0.0.1", {"host": "localhost", "forwarded": "for=10.1.2.3"}, False),
        ("10.1.2.3", {"host": "localhost"}, False),
        (None, {}, False),
    ],
)
def test_what_comes_from_this_machine(peer, headers, local):
    assert is_local(peer, headers) is local


def test_marks_survive_the_way_through_an_address():
    fragments = {"endpoint-1": fragment("a"), "b.c": fragment("b")}
    assert read_marks(marks(fragments)) == {name: piece.mark for name, piece in fragments.items()}
    assert read_marks("") == read_marks("nonsense") == {}


def test_every_template_and_file_is_there():
    renderer = Renderer()
    assert set(renderer.static) == {"page.css", "page.js", "icon.svg"}
    for name in renderer._templates.list_templates():
        renderer._templates.get_template(name)


def test_no_template_has_style_or_script_of_its_own():
    renderer = Renderer()
    for name in renderer._templates.list_templates():
        source = renderer._templates.loader.get_source(renderer._templates, name)[0]
        assert " style=" not in source
        assert "<style" not in source
        assert " onclick" not in source
        assert "|safe" not in source.replace(" ", "")
