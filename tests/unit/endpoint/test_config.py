"""YAML to model to Parsl objects."""

from __future__ import annotations

import pytest

from parsl_globus.endpoint.config.build import build_executor
from parsl_globus.endpoint.config.classes import arguments_of, lookup, names
from parsl_globus.endpoint.config.load import load_config, parse_config
from parsl_globus.endpoint.config.walltime import canonical_walltime
from parsl_globus.errors import ConfigError

#: Parsl's `address_by_interface` leaves its socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("01:00:00", "01:00:00"),
        ("1:00:00", "01:00:00"),
        ("10:00:00", "10:00:00"),
        ("12:00", "00:12:00"),
        ("24:00:00", "24:00:00"),
        ("1-00:00:00", "24:00:00"),
        ("2-12", "60:00:00"),
        ("3600", "01:00:00"),
        ("90", "00:01:30"),
        ("'00:10:00'", "00:10:00"),
    ],
)
def test_walltimes_are_read_as_they_are_written(written, meant):
    text = f"engine:\n  type: GlobusComputeEngine\n  provider: {{type: SlurmProvider, walltime: {written}}}\n"
    assert parse_config(text).engine.provider.arguments["walltime"] == meant


@pytest.mark.parametrize("written", ["0:00:59", "59", "00:00:00", "soon", "1:2:3:4", "-5", "1.5"])
def test_walltimes_that_are_refused(written):
    with pytest.raises(ConfigError, match="walltime"):
        canonical_walltime(written, "engine.provider.walltime")


ENGINE = "engine:\n  type: GlobusComputeEngine\n"


@pytest.mark.parametrize(
    ("text", "line", "key_path", "words"),
    [
        (ENGINE + "  max_worker_per_node: 2\n", 3, "engine.max_worker_per_node", "did you mean 'max_workers_per_node'"),
        (ENGINE + "  provider:\n    type: SlurmProvidr\n", 4, "engine.provider.type", "did you mean 'SlurmProvider'"),
        (
            ENGINE
            + "  provider:\n    type: SlurmProvider\n    launcher:\n      type: SrunLauncher\n      override: x\n",
            7,
            "engine.provider.launcher.override",
            "did you mean 'overrides'",
        ),
        (ENGINE + "  address: {type: address_by_interface, iface: lo}\n", 3, "engine.address.iface", "ifname"),
        (ENGINE + "  job_status_kwargs: {strategy: clever}\n", 3, "engine.job_status_kwargs.strategy", "'clever'"),
        (ENGINE + "  provider: {walltime: 5}\n", 3, "engine.provider.type", "'type' is missing"),
        (ENGINE + "  provider: slurm\n", 3, "engine.provider", "mapping"),
        (
            ENGINE + "  provider:\n    type: PBSProProvider\n    max_blocks: many\n",
            5,
            "engine.provider.max_blocks",
            "a whole number, not 'many'",
        ),
        (
            ENGINE + "  provider:\n    type: SlurmProvider\n    exclusive: 1\n",
            5,
            "engine.provider.exclusive",
            "true or false, not 1",
        ),
        (
            ENGINE + "  provider:\n    type: LocalProvider\n    nodes_per_block: 0\n",
            5,
            "engine.provider.nodes_per_block",
            "1 or more, not 0",
        ),
        (
            ENGINE + "  provider:\n    type: LocalProvider\n    max_blocks: 2\n    min_blocks: 3\n",
            6,
            "engine.provider.min_blocks",
            "more than the most, 2",
        ),
        (
            ENGINE + "  provider:\n    type: KubernetesProvider\n    namespace: x\n",
            3,
            "engine.provider.image",
            "KubernetesProvider can't do without it",
        ),
        (
            ENGINE + "  provider:\n    type: SlurmProvider\n    scheduler_options: 12\n",
            5,
            "engine.provider.scheduler_options",
            "a text, not 12; put it in quotes",
        ),
        (
            ENGINE + "  provider:\n    type: KubernetesProvider\n    image: x\n    persistent_volumes: [[a]]\n",
            6,
            "engine.provider.persistent_volumes",
            "a list of 2 values, each a text",
        ),
        (ENGINE + "  address: {type: address_by_interface}\n", 3, "engine.address.ifname", "'ifname' is missing"),
        (ENGINE + "  max_workers_per_node: two\n", 3, "engine.max_workers_per_node", "a whole number, not 'two'"),
        (ENGINE + "  available_accelerators: '0,1'\n", 3, "engine.available_accelerators", "or a list, each a text"),
        (ENGINE + "  worker_port_range: [1]\n", 3, "engine.worker_port_range", "a list of 2 values"),
        (ENGINE + "  encrypted: yes please\n", 3, "engine.encrypted", "true or false"),
        (ENGINE + "  strategy: {type: Clever}\n", 3, "engine.strategy.type", "job_status_kwargs"),
        (ENGINE + "  label: {{ LABEL }}\n", 3, None, "a placeholder such as {{ ACCOUNT }}"),
        (ENGINE + "  container_type: docker\n", 1, "engine.container_uri", "needs an image"),
        (ENGINE + "  enable_mpi_mode: true\n", 3, "engine.enable_mpi_mode", "MPI"),
        ("engine:\n  type: HighThroughputExecutor\n", 2, "engine.type", "no engine"),
        ("display_nam: x\n", 1, "display_nam", "did you mean 'display_name'"),
        ("heartbeat_period: often\n", 1, "heartbeat_period", "number"),
        ("paths:\n  endpoint_di: x\n", 2, "paths.endpoint_di", "did you mean 'endpoint_dir'"),
        ("pam: {enabl: false}\n", 1, "pam.enabl", "did you mean 'enable'"),
        ("heartbeat_period: .inf\n", 1, "heartbeat_period", "finite"),
        (ENGINE + "  max_workers_per_node: -1\n", 3, "engine.max_workers_per_node", "1 or more, not -1"),
        ("engine: &x {type: *x}\n", None, None, "contains itself"),
        ("heartbeat_period: 0.2\n", 1, "heartbeat_period", "greater than or equal to 1"),
        ("allowed_functions:\n  - 1d0f7e16-8d0b-4c8e-9d5c-2f3b1a5f7f3e\n  - x\n", 3, "allowed_functions.1", "UUID"),
        ("a: 1\nb: [\n", 3, None, "not valid YAML"),
        ("public: true\npublic: false\n", 2, None, "twice"),
        ("- a\n", 1, None, "keys and values"),
        ("high_assurance: true\n", 1, "high_assurance", "audit"),
        ("identity_mapping_config_path: /x\nmulti_user: false\n", 2, "multi_user", "for several users"),
    ],
)
def test_errors_say_where_and_what(text, line, key_path, words):
    with pytest.raises(ConfigError) as caught:
        parse_config(text, file="config.yaml")
    assert (caught.value.file, caught.value.line, caught.value.key_path) == ("config.yaml", line, key_path)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"config.yaml:{line}: " if line is not None else "config.yaml: ")


def test_texts_are_taken_as_they_are_written():
    provider = parse_config(
        ENGINE + "  provider: {type: SlurmProvider, account: 0123, partition: on}\n"
    ).engine.provider
    assert provider.arguments == {"account": "0123", "partition": "on"}


def test_lists_become_tuples_where_parsl_wants_them():
    volumes = "  provider: {type: KubernetesProvider, image: x, persistent_volumes: [[claim, /data]]}\n"
    assert parse_config(ENGINE + volumes).engine.provider.arguments["persistent_volumes"] == [("claim", "/data")]


def test_a_strategy_as_the_public_agent_took_it_at_first():
    poller = parse_config(ENGINE + "  strategy: {type: SimpleStrategy, max_idletime: 90}\n").engine.poller
    assert (poller.strategy, poller.max_idletime) == ("simple", 90)


def test_a_missing_interface_is_named():
    config = parse_config(ENGINE + "  address: {type: address_by_interface, ifname: bond77}\n")
    with pytest.raises(ConfigError, match="bond77"):
        build_executor(config.engine)


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "config.yaml")


def test_keys_of_the_public_agent_are_taken():
    text = """\
display_name: None
debug: false
public: true
admins: [1d0f7e16-8d0b-4c8e-9d5c-2f3b1a5f7f3e]
amqp_port: 443
heartbeat_period: 30
heartbeat_threshold: 120
idle_heartbeats_soft: 10
idle_heartbeats_hard: 5760
endpoint_setup: null
detach_endpoint: true
environment: local
local_compute_services: true
paths: {endpoint_dir: /x}
pam: {enable: false}
subscription_id: 1d0f7e16-8d0b-4c8e-9d5c-2f3b1a5f7f3e
engine:
  type: GlobusComputeEngine
  label: mine
  encrypted: false
  run_in_sandbox: true
  working_dir: here
  strategy: none
  job_status_kwargs: {max_idletime: 60.0, strategy_period: 10}
  max_retries_on_system_failure: 2
  allowed_serializers: [globus_compute_sdk.serialize.JSONData, globus_compute_sdk.serialize.PureSourceTextInspect]
  container_type: null
  provider: {type: LocalProvider, worker_init: null}
"""
    config = parse_config(text)
    assert config.display_name is None
    assert config.engine.poller.strategy == "none"
    assert config.engine.poller.max_idletime == 60
    assert config.engine.options == {"encrypted": False}
    assert config.engine.max_retries_on_system_failure == 2


def test_an_empty_file_is_a_manager_with_a_template():
    assert parse_config("# nothing\n").engine is None


@pytest.mark.parametrize("kind", ["provider", "launcher"])
def test_every_class_of_parsl_can_be_named(kind):
    assert len(names(kind)) >= 10
    for name in names(kind):
        assert arguments_of(lookup(kind, name))


def test_one_block_here_needs_no_address(monkeypatch):
    def ask_the_internet(*_args, **_kwargs):
        raise AssertionError("asked a web site for an address")

    monkeypatch.setattr("requests.get", ask_the_internet)
    assert build_executor(parse_config(ENGINE).engine).address == "127.0.0.1"
