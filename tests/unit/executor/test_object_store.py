"""Values by reference, with the worker's side run here as a worker runs it."""

from __future__ import annotations

import os
import sys
import threading
import uuid
import zlib

import pytest
from proxystore.connectors.file import FileConnector, FileKey

from parsl_globus.errors import (
    ExecutorShutDown,
    NotDeserializable,
    NotSerializable,
    ObjectStoreFailed,
    PayloadTooLarge,
    ResultTooLarge,
    ServiceUnreachable,
    VersionMismatch,
    WorkerLacksModule,
    WorkerLost,
)
from parsl_globus.executor import object_pickles
from parsl_globus.executor.functions import Encoder
from parsl_globus.executor.object_places import GivenPlace
from parsl_globus.executor.object_shipped import with_objects
from parsl_globus.executor.object_store import ObjectFuture, ObjectStore
from parsl_globus.executor.outcome import complete_from_status, fail
from parsl_globus.executor.streams import Stream
from parsl_globus.wire import payload
from parsl_globus.wire.documents import TaskStatus
from parsl_globus.worker import runner

DEADLINE_S = 60
THRESHOLD_BYTES = 1000
LARGE = os.urandom(5 * THRESHOLD_BYTES)
GROUP = ("", "")


class Noting(FileConnector):
    """A connector that can be told to fail, and counts."""

    def __init__(self, store_dir, **options):
        super().__init__(store_dir, **options)
        self.puts = 0
        self.failures: list[Exception] = []

    def put(self, obj):
        self.puts += 1
        if self.failures:
            raise self.failures.pop()
        return super().put(obj)

    def left(self) -> list[str]:
        return os.listdir(self.store_dir)


class Here:
    """An executor whose worker is this thread."""

    def __init__(self, connector, **options) -> None:
        self.place = GivenPlace(connector)
        self.place.limit_bytes = options.pop("limit_bytes", None)
        self.place.recipe = lambda: ("proxystore.connectors.file.FileConnector", connector.config())
        self.encoder = Encoder()
        self.sent: list[str] = []
        self.run = True
        self.objects = ObjectStore(
            self.place, self.send, self.check, threshold_bytes=THRESHOLD_BYTES, label="here", **options
        )
        self.objects.start()

    def send(self, future, _group, function, args, kwargs):
        text = str(self.encoder.encode(function, args, kwargs))
        self.sent.append(text)
        if not self.run:
            return
        arguments = payload.unpack_runner_call(payload.split_buffers(text, limit=3)[0])
        record = payload.pack_runner_record(runner.parsl_globus_runner(*arguments))
        complete_from_status(future, TaskStatus(task_id=uuid.uuid4(), status="success", result=record))

    def check(self, _group, function):
        self.encoder.encode(function, (), {})

    def submit(self, function, *args, streams=None, **kwargs):
        future = ObjectFuture(self.objects, streams or {})
        self.objects.submit(future, GROUP, function, args, kwargs)
        return future

    def idle(self) -> None:
        assert self.objects._evictions.drain(DEADLINE_S)


@pytest.fixture
def connector(tmp_path):
    return Noting(str(tmp_path / "store"))


@pytest.fixture
def here(connector):
    here = Here(connector)
    yield here
    here.objects.stop(ExecutorShutDown(label="here"))
    assert connector.left() == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("here-objects")]


class Mine:
    def __init__(self, data):
        self.data = data


def test_small_values_travel_with_the_task(here, connector):
    assert here.submit(lambda a, b: (a, b), 1, b="x").result(DEADLINE_S) == (1, "x")
    assert connector.puts == 0
    without = Encoder().encode(lambda a, b: (a, b), (1,), {"b": "x"})
    assert len(here.sent[0]) < len(without) + 4000


@pytest.mark.parametrize("value", [LARGE, bytearray(LARGE), [LARGE, "x"], {"a": LARGE.hex()}, Mine(LARGE)], ids=type)
def test_large_values_travel_apart(here, connector, value):
    def same(first, *, second):
        assert second is first
        return first

    future = here.submit(same, value, second=value)
    got = future.result(DEADLINE_S)
    assert type(got) is type(value)
    assert getattr(got, "data", got) == getattr(value, "data", value)
    assert connector.puts == 1
    assert len(here.sent[0]) < 10_000
    here.idle()
    assert connector.left() == []


def test_what_is_made_there_comes_home(here, connector):
    assert here.submit(lambda n: "x" * n, 10_000).result(DEADLINE_S) == "x" * 10_000
    cls, value = here.submit(lambda: (Mine, Mine("y" * 10_000))).result(DEADLINE_S)
    assert cls is Mine
    assert value.data == "y" * 10_000
    assert connector.puts == 0


def test_an_array_is_an_array(here):
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(10_000.0)
    doubled = here.submit(lambda a: a * 2, array).result(DEADLINE_S)
    assert (doubled == array * 2).all()


def test_an_app_s_exception_is_its_own_and_leaves_nothing(here):
    def fails(data):
        raise KeyError(len(data))

    with pytest.raises(KeyError):
        here.submit(fails, LARGE).result(DEADLINE_S)


def test_what_parsl_makes_of_an_exception_is_returned(here):
    from parsl.app.errors import RemoteExceptionWrapper, wrap_error

    @wrap_error
    def fails(data):
        raise KeyError(len(data))

    got = here.submit(fails, LARGE).result(DEADLINE_S)
    assert isinstance(got, RemoteExceptionWrapper)
    with pytest.raises(KeyError):
        got.reraise()


def test_the_arguments_go_when_the_task_was_lost(here, connector):
    here.run = False
    future = here.submit(len, LARGE)
    assert here.objects._up.drain(DEADLINE_S)
    assert connector.left() != []
    fail(future, WorkerLost(task_id="t", code="WorkerLost", remote_traceback="killed"))
    here.idle()


def test_files_of_a_bash_app_come_home_as_well(here, tmp_path):
    path = str(tmp_path / "out")

    def app(data):
        return {"value": len(data), "streams": {path: zlib.compress(b"x" * 5000)}}

    future = here.submit(app, LARGE, streams={path: Stream(path, "w")})
    assert future.result(DEADLINE_S) == len(LARGE)
    assert (tmp_path / "out").read_bytes() == b"x" * 5000


def test_a_result_that_comes_twice_changes_nothing(here):
    future = here.submit(lambda: "x" * 5000)
    assert future.result(DEADLINE_S) == "x" * 5000
    future.set_result({"parsl_globus_objects": "value", "value": 1})
    assert future.result() == "x" * 5000


# ---- what goes wrong ------------------------------------------------------------------------------------------------


def test_what_can_t_be_pickled_is_named(here):
    with pytest.raises(NotSerializable) as caught:
        here.submit(len, LARGE, (i for i in [1]))
    assert caught.value.what == "argument 1"
    with pytest.raises(NotSerializable, match="The result"):
        here.submit(lambda data: (i for i in data), LARGE).result(DEADLINE_S)


def test_a_function_that_can_t_be_pickled_is_told_before_its_arguments_are_sent(here, connector):
    numbers = (i for i in [1])

    def function(data, held=numbers):
        return held

    with pytest.raises(NotSerializable, match="The function 'function'"):
        here.submit(function, LARGE)
    assert (connector.puts, here.sent) == (0, [])


def test_more_than_the_store_takes_is_told_at_once(connector):
    here = Here(connector, limit_bytes=4000)
    with pytest.raises(PayloadTooLarge) as caught:
        here.submit(len, LARGE)
    assert caught.value.size_bytes > caught.value.limit_bytes == 4000
    assert (connector.puts, here.sent) == (0, [])
    here.objects.stop(ExecutorShutDown(label="here"))


@pytest.mark.parametrize("transient", [True, False])
def test_a_store_that_takes_nothing_is_told(here, connector, transient):
    connector.failures.append(ServiceUnreachable(url="u") if transient else OSError("no room"))
    with pytest.raises(ObjectStoreFailed, match="The arguments did not come") as caught:
        here.submit(len, LARGE).result(DEADLINE_S)
    assert (caught.value.transient, caught.value.host) == (transient, None)
    assert here.submit(len, LARGE).result(DEADLINE_S) == len(LARGE)


def test_arguments_that_are_gone_are_told(here, connector):
    connector.put = lambda _data: FileKey("nothing")
    with pytest.raises(ObjectStoreFailed, match="not in the object store any more") as caught:
        here.submit(len, LARGE).result(DEADLINE_S)
    assert caught.value.host


def test_a_result_that_is_gone_is_told(here, connector):
    future = ObjectFuture(here.objects, {})
    future.set_result({"parsl_globus_objects": "key", "key": FileKey("nothing"), "python": None, "size_bytes": 1})
    with pytest.raises(ObjectStoreFailed, match="The result did not come"):
        future.result(DEADLINE_S)


def test_a_module_that_a_worker_lacks_is_named(here):
    here.place.recipe = lambda: ("no_such_module.Connector", {})
    for submitted in (here.submit(len, LARGE), here.submit(lambda: "x" * 5000)):
        with pytest.raises(WorkerLacksModule, match="pip install 'parsl-globus") as caught:
            submitted.result(DEADLINE_S)
        assert caught.value.module == "no_such_module"


def test_a_store_that_fails_on_the_worker_is_told(here):
    here.place.recipe = lambda: ("proxystore.connectors.file.FileConnector", {"store_dir": "/dev/null/x"})
    with pytest.raises(ObjectStoreFailed, match="as the worker on .* was told: NotADirectoryError"):
        here.submit(lambda: "x" * 5000).result(DEADLINE_S)


def test_a_module_that_an_argument_needs_is_not_the_store_s(here, monkeypatch, tmp_path):
    (tmp_path / "only_here.py").write_text("class Thing:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import only_here

    monkeypatch.setattr("parsl_globus.executor.by_value.is_installed", lambda _module: True)
    arguments = [LARGE, only_here.Thing()]
    here.run = False
    future = here.submit(len, arguments)
    assert here.objects._up.drain(DEADLINE_S)
    monkeypatch.delitem(sys.modules, "only_here")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(tmp_path)])
    call = payload.unpack_runner_call(payload.split_buffers(here.sent[0], limit=3)[0])
    record = payload.pack_runner_record(runner.parsl_globus_runner(*call))
    complete_from_status(future, TaskStatus(task_id=uuid.uuid4(), status="success", result=record))
    with pytest.raises(NotDeserializable, match="only_here"):
        future.result(DEADLINE_S)


def test_code_does_not_go_to_another_python(here, monkeypatch):
    monkeypatch.setattr("parsl_globus.executor.object_pickles.this_python", lambda: "3.1")
    with pytest.raises(VersionMismatch):
        here.submit(len, [LARGE, Mine(1)]).result(DEADLINE_S)
    assert here.submit(len, LARGE).result(DEADLINE_S) == len(LARGE)
    future = ObjectFuture(here.objects, {})
    future.set_result({"parsl_globus_objects": "key", "key": FileKey("x"), "python": "3.1", "size_bytes": 1})
    with pytest.raises(VersionMismatch):
        future.result(DEADLINE_S)


def test_a_result_over_the_service_s_limit_is_too_large(here):
    future = ObjectFuture(here.objects, {})
    future.set_result(
        {
            "parsl_globus_objects": "problem",
            "what": "the result",
            "kind": "store",
            "module": None,
            "http_status": 413,
            "transient": False,
            "detail": "The blob is larger than 9 bytes.",
            "host": "h",
        }
    )
    with pytest.raises(ResultTooLarge, match="larger than 9"):
        future.result(DEADLINE_S)


# ---- the end --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True])
def test_what_waits_fails_at_the_end_and_its_arguments_go(connector, durable):
    here = Here(connector, durable=durable)
    here.run = False
    sent = here.submit(len, LARGE)
    assert here.objects._up.drain(DEADLINE_S)
    blocked, go_on = threading.Event(), threading.Event()
    put = connector.put

    def put_slowly(obj):
        blocked.set()
        assert go_on.wait(DEADLINE_S)
        return put(obj)

    connector.put = put_slowly
    waiting = [here.submit(len, LARGE) for _ in range(5)]
    assert blocked.wait(DEADLINE_S)
    assert len(here.objects) == 5
    fail(sent, ExecutorShutDown(label="here"))
    here.objects.stop(ExecutorShutDown(label="here"))
    for future in (sent, *waiting):
        assert isinstance(future.exception(DEADLINE_S), ExecutorShutDown)
    go_on.set()
    for thread in here.objects._up._threads:
        thread.join(DEADLINE_S)
    # With a journal, a later run takes the task up.
    assert (len(connector.left()) >= 2) if durable else True


def test_results_stay_for_a_journal(connector):
    here = Here(connector, durable=True)
    assert here.submit(lambda: "x" * 5000).result(DEADLINE_S) == "x" * 5000
    here.objects.stop(ExecutorShutDown(label="here"))
    assert len(connector.left()) == 2  # with ProxyStore's mark that it is whole


# ---- parts ----------------------------------------------------------------------------------------------------------


def test_an_app_is_wrapped_and_encoded_once():
    from parsl.app.errors import wrap_error

    app = wrap_error(len)
    assert with_objects(app) is with_objects(app)
    assert with_objects(len).__name__ == "len"
    encoder = Encoder()

    def fresh():
        return with_objects(app)

    assert encoder.encode(fresh(), (), {}) == encoder.encode(fresh(), (), {})


def test_large_pickles_are_in_files_and_many_in_memory(monkeypatch):
    monkeypatch.setattr(object_pickles.Pickled, "_files", threading.BoundedSemaphore(1))
    first, second = (object_pickles.pickled(LARGE, 100) for _ in range(2))
    assert (first._in_file, second._in_file) == (True, False)
    for pickle in (first, second):
        assert object_pickles.unpickled(pickle.file(), quick=True) == LARGE
        pickle.close()
        pickle.close()
    with object_pickles.pickled(LARGE, 100) as third:
        assert third._in_file
        assert third.size_bytes > len(LARGE)


def test_a_future_that_was_cancelled_is_left_alone(here):
    here.run = False
    future = here.submit(len, LARGE)
    assert here.objects._up.drain(DEADLINE_S)
    assert future.cancel()
    future.set_result({"parsl_globus_objects": "value", "value": 1})
    assert future.cancelled()
    here.idle()
