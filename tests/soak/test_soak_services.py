"""A tenth of what `make soak` does."""

from __future__ import annotations

import pytest
from rabbitmq import RabbitMQ
from soak_services import soak


@pytest.mark.timeout(600)
def test_every_task_ends_once_although_a_process_is_killed(postgres, tmp_path):
    for part in ("rabbitmq", "services"):
        (tmp_path / part).mkdir()
    rabbit = RabbitMQ(tmp_path / "rabbitmq")
    try:
        report = soak(10_000, tmp_path / "services", postgres, rabbit)
    finally:
        rabbit.close()
    print(report)
    assert report.problems() == []
