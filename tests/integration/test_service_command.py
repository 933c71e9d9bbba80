"""`parsl-globus service` as its user meets it: real processes, one sentence per failure."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import stat
import subprocess
import sys

import pytest

COMMAND = [sys.executable, "-m", "parsl_globus.cli", "service"]


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def start():
    """Starts `service run` and waits until it is ready."""
    running = []

    def start_one(*options: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, "run", "--port", "0", "--amqp-port", "0", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        assert process.stdout.readline().startswith("service ready at http://127.0.0.1:")
        return process

    yield start_one
    for process in running:
        process.kill()
        process.communicate()


def assert_one_sentence(result, *words: str) -> None:
    assert result.returncode == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


def test_status_tells_where_it_is_and_ends_with_it(start, tmp_path):
    assert_one_sentence(call("status"), "parsl-globus service start")
    process = start()
    status = json.loads(call("status", "--json").stdout)
    assert (status["status"], status["pid"]) == ("online", process.pid)
    assert status["url"] == f"http://127.0.0.1:{status['port']}"
    with socket.create_connection(("127.0.0.1", status["amqp_port"]), timeout=5):
        pass
    shown = call("status")
    assert shown.returncode == 0
    assert status["url"] in shown.stdout
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=5)
    assert (process.returncode, out, err) == (0, "", "")
    assert_one_sentence(call("status"), "parsl-globus service start")


def test_a_killed_service_is_not_taken_for_one_that_answers(start):
    process = start()
    process.kill()
    process.communicate()
    assert_one_sentence(call("status"), "can't be reached")
    offline = call("status", "--json")
    assert offline.returncode == 1
    assert json.loads(offline.stdout)["status"] == "offline"
    restarted = start("--public-only")
    status = json.loads(call("status", "--json").stdout)
    assert (status["pid"], status["public_only"]) == (restarted.pid, True)
    restarted.terminate()
    assert restarted.wait(5) == 0


def test_env_is_what_a_shell_can_evaluate(start):
    assert_one_sentence(call("env"), "parsl-globus service start")
    start()
    shown = call("env")
    assert shown.returncode == 0
    assert "port 5000" in shown.stderr
    values = dict(shlex.split(line)[1].split("=", 1) for line in shown.stdout.splitlines())
    port = json.loads(call("status", "--json").stdout)["port"]
    assert values["GLOBUS_SDK_ENVIRONMENT"] == "local"
    assert values["GLOBUS_SDK_SERVICE_URL_AUTH"] == f"http://localhost:{port}/"
    assert set(values) == {
        "GLOBUS_SDK_ENVIRONMENT",
        "GLOBUS_SDK_SERVICE_URL_AUTH",
        "GLOBUS_COMPUTE_CLIENT_ID",
        "GLOBUS_COMPUTE_CLIENT_SECRET",
    }
    home = os.environ["PARSL_GLOBUS_HOME"]
    assert stat.S_IMODE(os.stat(f"{home}/credentials.json").st_mode) == 0o600


def test_a_port_in_use(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert_one_sentence(call("run", "--port", port, "--amqp-port", "0"), port, "--port")
        assert_one_sentence(call("run", "--port", "0", "--amqp-port", port), port, "--amqp-port")


def test_a_data_folder_in_use_or_unusable(start, tmp_path):
    start("--data", str(tmp_path / "data"))
    options = ("--port", "0", "--amqp-port", "0", "--data")
    assert_one_sentence(call("run", *options, str(tmp_path / "data")), "Another service", "--data")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "service.db").write_bytes(b"no database" * 1000)
    assert_one_sentence(call("run", *options, str(tmp_path / "damaged")), "--data")
    (tmp_path / "key").mkdir()
    (tmp_path / "key" / "secret.key").write_bytes(b"short")
    assert_one_sentence(call("run", *options, str(tmp_path / "key")), "secret.key")
