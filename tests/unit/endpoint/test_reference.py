"""The configuration reference against the models that it is made from."""

from __future__ import annotations

import pytest

from parsl_globus.endpoint.config.classes import names
from parsl_globus.endpoint.config.model import NO_EFFECT, EndpointModel
from parsl_globus.endpoint.config.reference import MEANINGS, reference


@pytest.mark.parametrize("model", MEANINGS, ids=lambda model: model.__name__)
def test_each_key_has_a_meaning(model):
    assert set(MEANINGS[model]) == set(model.model_fields)
    without = {key for key, meaning in MEANINGS[model].items() if not meaning}
    assert without == (set(NO_EFFECT) if model is EndpointModel else set())


def test_the_reference_has_every_key_and_class():
    text = reference()
    for key in EndpointModel.model_fields:
        assert f"* - ``{key}``\n" in text
    for kind in ("provider", "launcher", "address"):
        for name in names(kind):
            assert f"\n{name}\n" in text
    for key in ("max_workers_per_node", "container_type", "job_status_kwargs", "select_options", "bind_cmd", "ifname"):
        assert f"``{key}``" in text
    assert "remote_monitoring_radio" not in text


def test_types_and_defaults_are_those_of_the_models():
    text = reference()
    for row in (
        "* - ``heartbeat_period``\n     - a number\n     - ``30.0``\n",
        "* - ``admins``\n     - a list, each a UUID\n",
        "* - ``image``\n     - a text\n     - must be given\n",
        "* - ``worker_port_range``\n     - a list of 2 values, each a whole number\n     - ``[54000, 55000]``\n",
    ):
        assert row in text
