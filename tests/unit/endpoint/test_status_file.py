"""The state of a user endpoint, for whoever asks on its machine."""

from __future__ import annotations

from parsl_globus.endpoint import status_file


def test_a_state_that_can_t_be_told_harms_nobody(tmp_path, caplog):
    asked = tmp_path / "status.ask"
    asked.touch()

    def state():
        raise RuntimeError("the interchange is gone")

    status_file.answer(tmp_path, state)
    assert "the interchange is gone" in caplog.text
    assert not asked.exists()
    assert not (tmp_path / "status.json").exists()
