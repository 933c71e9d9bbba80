from __future__ import annotations

import copy
import inspect
import pickle

import pytest
from error_examples import EXAMPLES

from parsl_globus import errors

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


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        (None, "service start"),
        ("http://127.0.0.1:5000", "service start"),
        ("http://[::1]:5000/x", "service start"),
        ("http://localhost", "service start"),
        ("https://localhost.example.org", "Check its address"),
        ("https://lab.example.org", "Check its address"),
        ("no URL", "Check its address"),
    ],
)
def test_only_a_service_of_this_machine_can_be_started_here(url, advice):
    assert advice in str(errors.ServiceUnreachable(url=url))
