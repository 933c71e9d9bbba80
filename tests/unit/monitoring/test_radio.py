"""Monitored tasks by the runner: Parsl's own wrapper around an app, encoded, run from text, decoded."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from parsl import File
from parsl.app.errors import wrap_error
from parsl.app.python import timeout
from parsl.monitoring.message_type import MessageType
from parsl.monitoring.remote import monitor_wrapper

import parsl_globus.worker
from parsl_globus.errors import ConfigError
from parsl_globus.executor.functions import Encoder
from parsl_globus.executor.wrappers import shape_of
from parsl_globus.monitoring.radio import GlobusComputeRadio, Receiver
from parsl_globus.monitoring.records import decode
from parsl_globus.wire import payload
from parsl_globus.worker.radio import ROOM, SAMPLES, Radio

RUNNER = Path(parsl_globus.worker.__file__).with_name("runner.py").read_text()


def _make_app():
    """In here, as Parsl's apps aren't found under their names either, and so travel by value."""

    @wrap_error
    def app(x, then=None):
        if then is not None:
            raise ValueError(then)
        return 2 * x

    return app


app = _make_app()


class Monitored:
    """Wraps and encodes as the DataFlowKernel and the executor do."""

    def __init__(self):
        self.radio = GlobusComputeRadio()
        self.encoder = Encoder()

    def wrap(self, function, *args, task_id=0, sleep_dur=0.0, **kwargs):
        return monitor_wrapper(
            f=function, args=args, kwargs=kwargs, x_try_id=0, x_task_id=task_id, radio_config=self.radio,
            run_id="run", logging_level=logging.INFO, sleep_dur=sleep_dur, monitor_resources=True, run_dir="/nowhere",
        )  # fmt: skip

    def texts(self, function, *args, **options):
        wrapped, args, kwargs = self.wrap(function, *args, **options)
        packed = str(self.encoder.encode(wrapped, args, kwargs))
        return payload.unpack_runner_call(payload.split_buffers(packed, limit=2)[0])

    def run(self, function, *args, **options):
        namespace: dict = {}
        exec(RUNNER, namespace)
        record = namespace[payload.RUNNER_NAME](*self.texts(function, *args, **options))
        return json.loads(json.dumps(record))


@pytest.fixture
def monitored(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield Monitored()
    assert list(tmp_path.iterdir()) == []


def kinds(record, run_id="run"):
    taken = decode(record["monitoring"], run_id)
    assert taken.troubles == []
    assert taken.node.cpu_count >= 1
    return [kind for kind, _ in taken.messages]


def test_first_and_last_message_come_home(monitored):
    record = monitored.run(app, 21)
    assert record["kind"] == "value"
    assert kinds(record) == [MessageType.WORKER_TASK_INFO] * 2


def test_samples_of_the_forked_process_come_home():
    """In a process of its own, as it forks, and with nothing of this package."""
    texts = Monitored().texts(app, 21, sleep_dur=10.0)
    code = (
        "import json, sys\nspace = {}\ntask = json.load(sys.stdin)\nexec(task['runner'], space)\n"
        "json.dump(space[task['name']](*task['texts']), sys.stdout)\n"
        "assert not [name for name in sys.modules if name.startswith('parsl_globus.')]\n"
    )
    given = json.dumps({"runner": RUNNER, "name": payload.RUNNER_NAME, "texts": texts})
    done = subprocess.run(
        [sys.executable, "-c", code], input=given, capture_output=True, text=True, check=True, timeout=60
    )
    record = json.loads(done.stdout)
    assert record["kind"] == "value", record
    taken = decode(record["monitoring"], "run")
    samples = [content for kind, content in taken.messages if kind == MessageType.RESOURCE_INFO]
    assert samples
    assert samples[0]["psutil_process_memory_resident"] > 0
    assert not {"psutil_process_username", "psutil_process_cwd"} & set(samples[0])


def test_what_an_app_raises_comes_home_with_its_records(monitored):
    record = monitored.run(app, 1, then="on purpose")
    assert "on purpose" in record["raised"]
    assert kinds(record) == [MessageType.WORKER_TASK_INFO] * 2


def test_tasks_in_threads_keep_their_records_apart(monitored):
    barrier = threading.Barrier(4, timeout=60)

    def run(number):
        barrier.wait()
        taken = decode(monitored.run(app, number, task_id=number)["monitoring"], "run")
        return [content["task_id"] for _, content in taken.messages]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, range(4))) == [[number] * 2 for number in range(4)]


def test_an_app_is_encoded_once_for_all_its_monitored_calls(monitored):
    texts = [monitored.texts(app, number, task_id=number) for number in range(3)]
    assert len({(header, function) for header, function, _ in texts}) == 1
    assert len(monitored.encoder._wrappers._known) == 1
    other = monitored.texts(wrap_error(lambda x: x), 1)
    assert other[0] != texts[0][0]


def test_so_it_is_with_a_walltime(monitored):
    texts = [monitored.texts(timeout(app, seconds), 1) for seconds in (5, 5, 6)]
    assert texts[0][1] == texts[1][1] != texts[2][1]


def test_so_it_is_with_what_the_executor_puts_around_both(monitored):
    space: dict[str, Any] = {"__name__": "_parsl_globus_streams"}
    exec("def around(function):\n    return lambda *args, **kwargs: function(*args, **kwargs)", space)
    around = space["around"]
    first, second = (shape_of(around(monitored.wrap(timeout(app, 5))[0])) for _ in range(2))
    assert first == second is not None


def test_what_holds_changing_things_has_no_shape(monitored):
    things = File("/tmp/x")
    assert shape_of(app) is None
    assert shape_of(lambda: things) is None
    assert shape_of(monitored.wrap(app)[0]) is not None


def test_a_task_without_monitoring_says_nothing_of_it():
    namespace: dict = {}
    exec(RUNNER, namespace)
    call = payload.split_buffers(str(Encoder().encode(app, (1,), {})), limit=2)[0]
    assert "monitoring" not in namespace[payload.RUNNER_NAME](*payload.unpack_runner_call(call))


# ---- the stand-in by itself -------------------------------------------------------------------------------------


@pytest.fixture
def radio(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    radio = Radio()
    radio.open()
    return radio


def send(radio, count):
    sender = radio.create_sender()
    for number in range(count):
        sender.send((MessageType.RESOURCE_INFO, {"task_id": number}))


@pytest.mark.parametrize("count", [1, SAMPLES - 1, SAMPLES, 1_000, 5_003])
def test_a_long_series_is_thinned_evenly_and_keeps_its_end(radio, count, tmp_path):
    send(radio, count)
    numbers = [record["task_id"] for record in radio.close(0)["records"]]
    assert len(numbers) <= SAMPLES
    assert len(numbers) == count or len(numbers) >= SAMPLES // 2
    assert numbers[0] == 0
    assert numbers[-1] == count - 1
    assert len({b - a for a, b in zip(numbers[:-1], numbers[1:-1], strict=False)}) <= 1
    assert list(tmp_path.iterdir()) == []


def test_half_a_record_is_left_out_and_told(radio, tmp_path):
    send(radio, 2)
    (folder,) = tmp_path.iterdir()
    max(folder.iterdir()).write_text('{"type": "RESOU')
    home = radio.close(0)
    assert len(home["records"]) == 1
    assert "trouble" in home


def test_a_result_of_the_limit_s_size_goes_home_without_records(radio):
    send(radio, 2)
    home = radio.close(ROOM + 1)
    assert home["records"] == []
    assert "no room" in home["trouble"]


def test_a_task_is_none_the_worse_for_a_folder_that_can_t_be(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    record = Monitored().run(app, 21)
    assert record["kind"] == "value"
    assert record["monitoring"]["records"] == []
    assert "missing" in record["monitoring"]["trouble"]


def test_a_task_is_none_the_worse_for_a_folder_that_goes_away(radio, tmp_path):
    (folder,) = tmp_path.iterdir()
    os.rmdir(folder)
    send(radio, 1)
    assert "trouble" in radio.close(0)


# ---- the client's side ------------------------------------------------------------------------------------------


def test_the_receiver_puts_what_is_good_and_tells_each_trouble_once(monitored, caplog):
    put, nodes = [], []
    receiver = Receiver(put.append)
    receiver.take(monitored.run(app, 1)["monitoring"], None)  # no run is expected yet
    assert put == []
    receiver.expect("run", lambda node, endpoint_id: nodes.append(endpoint_id))
    receiver.take(monitored.run(app, 1)["monitoring"], "an endpoint")
    assert len(put) == 2
    assert nodes == ["an endpoint"]
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            receiver.take({"records": [], "trouble": "disk full"}, None)
    assert len(caplog.records) == 1
    assert "disk full" in caplog.text
    receiver.shutdown()
    receiver.take(monitored.run(app, 1)["monitoring"], None)
    assert len(put) == 2


def test_trouble_with_records_is_logged_and_goes_no_further(monitored, caplog):
    def broken(message):
        raise ValueError("the queue is closed")

    receiver = Receiver(broken)
    receiver.expect("run", lambda node, endpoint_id: None)
    receiver.take(monitored.run(app, 1)["monitoring"], None)
    assert "the queue is closed" in caplog.text


def test_another_executor_can_t_use_this_radio():
    with pytest.raises(ConfigError, match="remote_monitoring_radio"):
        GlobusComputeRadio().create_sender()
