"""What Parsl's users write, run on a real endpoint by way of a real service."""

from __future__ import annotations

import json
import os
import shutil
import threading
from concurrent.futures import as_completed
from pathlib import Path

import pytest
from parsl import bash_app, join_app, python_app

from parsl_globus.errors import NotSerializable, PayloadTooLarge, ResultTooLarge

DEADLINE_S = 120

pytestmark = pytest.mark.usefixtures("dfk")


FACTOR = 3


@python_app
def add(x, y):
    return x + y


@python_app
def where():
    import os

    return os.getpid(), os.getcwd()


@python_app
def scale(x):
    return FACTOR * x


@python_app
def fail(code):
    import json

    raise json.JSONDecodeError("on purpose", "document", code)


@python_app
def identity(value):
    return value


@python_app
def large(size):
    return b"x" * size


@bash_app
def shout(text, stdout=None, stderr=None):
    return f"echo {text} | tr a-z A-Z"


@bash_app
def leave(code):
    return f"exit {code}"


@join_app
def sum_of_doubles(count):
    return [add(i, i) for i in range(count)]


def test_a_python_app_runs_elsewhere():
    pid, folder = where().result(DEADLINE_S)
    assert pid != os.getpid()
    assert folder != os.getcwd()


def test_apps_depend_on_each_other():
    assert add(add(1, 2), y=add(3, 4)).result(DEADLINE_S) == 10


def test_a_bash_app(tmp_path):
    out = tmp_path / "out.txt"
    assert shout("hello", stdout=str(out)).result(DEADLINE_S) == 0
    assert out.read_text() == "HELLO\n"


def test_a_bash_app_that_fails():
    from parsl.app.errors import BashExitFailure

    with pytest.raises(BashExitFailure) as caught:
        leave(3).result(DEADLINE_S)
    assert caught.value.exitcode == 3


def test_what_a_bash_app_printed_comes_home_also_when_it_failed(tmp_path, monkeypatch):
    @bash_app
    def tell_and_fail(stdout=None, stderr=None):
        return "pwd; echo broken >&2; exit 7"

    from parsl.app.errors import BashExitFailure

    monkeypatch.chdir(tmp_path)
    out, err = tmp_path / "new" / "out.txt", tmp_path / "err.txt"
    err.write_text("before\n")
    with pytest.raises(BashExitFailure):
        # A relative path is relative to here; a mode is kept.
        tell_and_fail(stdout=(str(out), "w"), stderr="err.txt").result(DEADLINE_S)
    assert out.read_text().strip() not in ("", os.getcwd())
    assert err.read_text().startswith("before\n")
    assert err.read_text().endswith("broken\n")


def test_a_bash_app_s_large_output_comes_home_in_part(tmp_path):
    @bash_app
    def flood(stdout=None):
        return "head -c 8000000 /dev/urandom"

    flood(stdout=str(tmp_path / "out")).result(DEADLINE_S)
    content = (tmp_path / "out").read_bytes()
    assert b"5902848 bytes are left out; all 8000000 are in " in content
    kept = content.partition(b"all 8000000 are in ")[2].partition(b"]\n")[0].decode().partition(":")[2]
    assert os.path.getsize(kept) == 8_000_000
    shutil.rmtree(os.path.dirname(kept))


def test_two_streams_into_one_file(tmp_path):
    @bash_app
    def both(stdout=None, stderr=None):
        return "echo one; echo two >&2"

    path = str(tmp_path / "both")
    both(stdout=path, stderr=path).result(DEADLINE_S)
    assert Path(path).read_text().splitlines()[-2:] == ["one", "two"]


def test_a_join_app():
    assert sum_of_doubles(5).result(DEADLINE_S) == [0, 2, 4, 6, 8]


def test_an_app_uses_a_global_of_its_module_that_no_worker_has():
    assert scale(14).result(DEADLINE_S) == 42


def test_an_app_s_own_exception_arrives_as_itself():
    with pytest.raises(json.JSONDecodeError) as caught:
        fail(7).result(DEADLINE_S)
    assert caught.value.pos == 7


def test_a_failed_dependency_is_told_by_parsl():
    from parsl.dataflow.errors import DependencyError

    with pytest.raises(DependencyError):
        add(fail(1), 1).result(DEADLINE_S)


def test_a_thousand_at_once():
    futures = {add(i, 1): i for i in range(1_000)}
    for future in as_completed(futures, timeout=DEADLINE_S):
        assert future.result() == futures[future] + 1


def test_an_argument_that_can_t_be_pickled_fails_its_own_future_only():
    before = [add(i, i) for i in range(20)]
    bad = identity(i for i in [1])
    after = [add(i, i) for i in range(20)]
    with pytest.raises(NotSerializable, match="Argument 0"):
        bad.result(DEADLINE_S)
    assert [future.result(DEADLINE_S) for future in before + after] == [2 * i for i in range(20)] * 2


def test_an_argument_that_is_too_large_fails_its_own_future_only():
    futures = [identity(i) for i in range(10)]
    with pytest.raises(PayloadTooLarge) as caught:
        identity(os.urandom(8 * 1024 * 1024)).result(DEADLINE_S)
    assert caught.value.size_bytes > caught.value.limit_bytes == 10 * 1024 * 1024
    assert [future.result(DEADLINE_S) for future in futures] == list(range(10))


def test_a_result_that_is_too_large_is_told():
    with pytest.raises(ResultTooLarge) as caught:
        large(8 * 1024 * 1024).result(DEADLINE_S)
    assert caught.value.size_bytes > caught.value.limit_bytes == 10 * 1024 * 1024
    assert add(1, 1).result(DEADLINE_S) == 2


def test_a_result_that_can_t_be_pickled_is_told():
    @python_app
    def generator():
        return (i for i in [1])

    with pytest.raises(NotSerializable, match="The result"):
        generator().result(DEADLINE_S)


def test_megabytes_go_there_and_back():
    blobs = [os.urandom(1024 * 1024) for _ in range(20)]
    futures = [identity(blob) for blob in blobs]
    assert [future.result(DEADLINE_S) for future in futures] == blobs


def test_apps_called_from_many_threads():
    sums: dict[int, int] = {}

    def call(number):
        sums[number] = add(number, number).result(DEADLINE_S)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert sums == {i: 2 * i for i in range(16)}


def test_walltime_is_kept():
    from parsl.app.errors import AppTimeout

    @python_app
    def spin(walltime=1):
        while True:
            pass

    with pytest.raises(AppTimeout):
        spin().result(DEADLINE_S)
