"""What is adopted from an executor of the SDK, and that the SDK still has it where we look."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from globus_compute_sdk import Client, Executor
from globus_compute_sdk.serialize import (
    AllCodeStrategies,
    AllDataStrategies,
    ComputeSerializer,
    DillCode,
    DillDataBase64,
    JSONData,
    PureSourceDill,
    PureSourceTextInspect,
)
from globus_compute_sdk.serialize.concretes import SELECTABLE_CODE_STRATEGIES, SELECTABLE_DATA_STRATEGIES

from parsl_globus import GlobusComputeExecutor
from parsl_globus.errors import ConfigError, DecodeError
from parsl_globus.executor.adoption import OWN, Lent, Serializers, serializers_of, settings_of, unpack_record
from parsl_globus.executor.functions import Encoder, runner_registration
from parsl_globus.wire import payload


@pytest.fixture
def lend(parsl_globus_site):
    lent = []

    def lend_one(**settings):
        lent.append(Executor(endpoint_id=uuid.uuid4(), client=parsl_globus_site.client(), **settings))
        return lent[-1]

    yield lend_one
    for executor in lent:
        executor.shutdown()


def test_the_sdk_s_serializer_has_what_is_read_of_it():
    """Fails when upstream moves one of the attributes that `adoption` names in its docstring."""
    serializer = ComputeSerializer(
        strategy_code=PureSourceDill,
        strategy_data=JSONData,
        allowed_deserializer_types=[DillCode, DillDataBase64],
    )
    assert type(serializer.code_serializer) is PureSourceDill
    assert type(serializer.data_serializer) is JSONData
    assert serializer.allowed_deserializer_types == {DillCode, DillDataBase64}


def test_nothing_is_adopted_from_nothing():
    assert settings_of(None) == Lent()
    assert serializers_of(None, None) is OWN


def test_the_sdk_s_defaults_count_as_none(lend):
    assert serializers_of(lend(), None) == OWN


def test_serializers_come_from_the_executor_or_from_the_client_alone(lend):
    chosen = ComputeSerializer(strategy_code=AllCodeStrategies(), strategy_data=AllDataStrategies())
    executor = lend(serializer=chosen, result_serializers=[DillDataBase64, "globus_compute_sdk.serialize.JSONData"])
    adopted = serializers_of(executor, None)
    assert (type(adopted.code), type(adopted.data)) == (AllCodeStrategies, AllDataStrategies)
    assert [path.rpartition(".")[2] for path in adopted.results] == ["DillDataBase64", "JSONData"]
    alone = serializers_of(None, executor.client)
    assert (alone.code, alone.data, alone.results) == (adopted.code, adopted.data, OWN.results)


def test_strategies_that_can_t_carry_a_record_are_followed_by_one_that_can(lend):
    adopted = serializers_of(lend(result_serializers=[PureSourceDill]), None)
    assert [path.rpartition(".")[2] for path in adopted.results] == ["PureSourceDill", "JSONData"]


def test_a_serializer_that_allows_no_pickles_is_refused_by_the_constructor(lend):
    strict = ComputeSerializer(allowed_deserializer_types=[PureSourceTextInspect, JSONData])
    with pytest.raises(ConfigError, match="allows JSONData, PureSourceTextInspect only"):
        GlobusComputeExecutor(lend(serializer=strict))


@pytest.mark.parametrize("kind", SELECTABLE_CODE_STRATEGIES)
def test_the_runner_travels_by_every_strategy(kind):
    code = ComputeSerializer(strategy_code=kind).code_serializer
    registration = runner_registration(Serializers(code=code))
    (buffer,) = payload.split_buffers(registration.function_code, limit=1)
    assert registration.meta["serde_identifier"] == kind.identifier.strip()
    function = ComputeSerializer().deserialize(buffer)
    assert function.__name__ == payload.RUNNER_NAME


@pytest.mark.parametrize("kind", SELECTABLE_DATA_STRATEGIES)
def test_a_call_travels_by_every_strategy(kind):
    data = ComputeSerializer(strategy_data=kind).data_serializer
    packed = str(Encoder(Serializers(data=data)).encode(pow, (2, 5), {}))
    args, kwargs = (ComputeSerializer().deserialize(buffer) for buffer in payload.split_buffers(packed, limit=2))
    assert (len(args), kwargs) == (3, {})
    assert all(isinstance(text, str) for text in args)


@pytest.mark.parametrize("kind", SELECTABLE_DATA_STRATEGIES)
def test_a_record_comes_home_by_every_strategy(kind):
    serializer = ComputeSerializer(strategy_data=kind)
    assert unpack_record(serializer.serialize({"kind": "value"})) == {"kind": "value"}
    for other in ([], {"kind": 1}, "text"):
        with pytest.raises(DecodeError):
            unpack_record(serializer.serialize(other))
    with pytest.raises(DecodeError):
        unpack_record("99\nnothing")


def test_a_strategy_that_fails_is_told():
    class Broken:
        def serialize(self, data):
            raise OSError("no luck")

    broken: Any = Broken()
    with pytest.raises(ConfigError, match="Broken .* no luck"):
        Serializers(data=broken).pack_call([])


def test_the_client_s_own_arguments_are_adopted(parsl_globus_site):
    known = parsl_globus_site.client()
    client = Client(
        authorizer=known.authorizer,
        do_version_check=False,
        code_serialization_strategy=PureSourceTextInspect(),
        data_serialization_strategy=JSONData(),
    )
    adopted = serializers_of(None, client)
    assert (type(adopted.code), type(adopted.data)) == (PureSourceTextInspect, JSONData)
