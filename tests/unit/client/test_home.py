from __future__ import annotations

import stat

import pytest

from parsl_globus.client import home
from parsl_globus.errors import ConfigError

RECORD = home.ServiceRecord(
    url="http://127.0.0.1:5000", amqp_port=5672, pid=1, data_dir="/d", public_only=False, version="0"
)


def test_a_service_is_remembered_and_forgotten_by_its_own_process_only():
    assert home.read_service() is None
    home.write_service(RECORD)
    assert home.read_service() == RECORD
    home.forget_service(2)
    assert home.read_service() == RECORD
    home.forget_service(1)
    assert home.read_service() is None


def test_credentials_are_kept_by_service_and_for_this_user_only():
    home.write_credentials("http://localhost:5000/", home.Credentials("a", "secret"))
    home.write_credentials("http://other:1", home.Credentials("b", "other"))
    assert home.read_credentials("http://127.0.0.1:5000").client_secret == "secret"
    assert home.read_credentials("http://other:1/").client_id == "b"
    assert home.read_credentials("http://nobody") is None
    file = home.home() / "credentials.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in home.home().iterdir()] == ["credentials.json"]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"url": 1, "unknown": 2}'])
def test_a_broken_record_is_told_with_its_file(content):
    home.home().mkdir(parents=True)
    file = home.home() / "service.json"
    file.write_text(content)
    with pytest.raises(ConfigError) as caught:
        home.read_service()
    assert caught.value.file == str(file)


def test_a_folder_that_can_t_be_written_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PARSL_GLOBUS_HOME", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="can't be written"):
        home.write_service(RECORD)
