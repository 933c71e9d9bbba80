from __future__ import annotations

import os
import zlib
from concurrent.futures import Future
from pathlib import Path

import pytest
from parsl.app.app import bash_app, python_app
from parsl.app.errors import BadStdStreamFile
from parsl.app.python import timeout
from parsl.data_provider.files import File

from parsl_globus.executor.streams import Stream, StreamsFuture, names_for_worker, streams_of, with_streams


@bash_app
def shell(stdout=None, stderr=None):
    return "true"


@python_app
def python(stdout=None):
    return 1


SHELL = shell.wrapped_remote_function


def test_a_path_is_one_of_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = streams_of(SHELL, {"stdout": "new/out", "stderr": (tmp_path / "err", "w")})
    assert found == {"stdout": Stream(str(tmp_path / "new/out"), "a+"), "stderr": Stream(str(tmp_path / "err"), "w")}
    assert (tmp_path / "new").is_dir()


def test_a_wrapped_bash_app_is_one():
    assert streams_of(timeout(SHELL, 3), {"stdout": os.devnull})


@pytest.mark.parametrize(
    "spec", [None, File("out"), ["out", "w"], ("out",), ("out", "w", 3), ("out", "r"), ("out", 1), 5]
)
def test_what_is_no_path_with_a_mode_is_left_to_parsl(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert streams_of(SHELL, {"stdout": spec}) == {}
    assert list(tmp_path.iterdir()) == []


def test_what_can_t_be_written_here_is_left_to_the_worker(tmp_path):
    assert streams_of(SHELL, {"stdout": str(tmp_path)}) == {}


def test_a_python_app_s_argument_is_its_own(tmp_path):
    assert streams_of(python.func, {"stdout": str(tmp_path / "out")}) == {}
    assert list(tmp_path.iterdir()) == []


def test_an_app_is_wrapped_once():
    assert with_streams(SHELL) is with_streams(SHELL)


def test_the_files_are_there_before_the_result(tmp_path):
    path = tmp_path / "out"
    path.write_text("before ")
    future = StreamsFuture({"stdout": Stream(str(path), "a+")})
    seen: Future[str] = Future()
    future.add_done_callback(lambda _: seen.set_result(path.read_text()))
    future.set_result({"value": 7, "streams": {"stdout": zlib.compress(b"after")}})
    assert future.result(0) == 7
    assert seen.result(0) == "before after"


def test_two_streams_into_one_file_are_one():
    one, two = Stream("/a", "w"), Stream("/b", "w")
    assert names_for_worker({"stdout": one, "stderr": two}) == {"stdout": "stdout", "stderr": "stderr"}
    assert names_for_worker({"stdout": one, "stderr": one}) == {"stdout": "stderr", "stderr": "stderr"}


def test_a_file_that_can_t_be_written_any_more_is_told(tmp_path):
    path = tmp_path / "folder" / "out"
    future = StreamsFuture({"stdout": Stream(str(path), "w")})
    future.set_result({"value": 7, "streams": {"stdout": zlib.compress(b"text")}})
    with pytest.raises(BadStdStreamFile) as caught:
        future.result(0)
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_on_the_worker_the_files_are_its_own(tmp_path):
    def call(stdout, stderr):
        Path(stdout).write_text("text")
        return stdout

    done = with_streams(call)(stdout="a", stderr="b", _parsl_globus_streams={"stdout": "a", "stderr": "b"})
    assert {path: zlib.decompress(content) for path, content in done["streams"].items()} == {"a": b"text"}
    assert done["value"] != "a"
    assert not Path(done["value"]).parent.exists()


def test_a_call_that_is_ended_leaves_no_folder_on_the_worker(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def call(stdout):
        Path(stdout).write_text("text")
        raise SystemExit

    with pytest.raises(SystemExit):
        with_streams(call)(stdout="a", _parsl_globus_streams={"stdout": "a"})
    assert list(tmp_path.iterdir()) == []
