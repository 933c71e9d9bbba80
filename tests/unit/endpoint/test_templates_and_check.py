"""`endpoint configure --template` and `endpoint check`, by the commands."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys

import pytest
from click.testing import CliRunner

from parsl_globus.cli.endpoint import endpoint
from parsl_globus.endpoint.config import machine
from parsl_globus.endpoint.config.build import build_executor
from parsl_globus.endpoint.config.load import parse_config
from parsl_globus.endpoint.config.machine import findings, modules_of
from parsl_globus.endpoint.config.templates import template_names, template_text
from parsl_globus.endpoint.folder import find
from parsl_globus.errors import ConfigError

#: Parsl's `address_by_interface` leaves its socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

SITES = {"polaris", "aurora", "perlmutter", "frontier", "expanse", "delta", "anvil", "stampede3", "bebop", "midway"}
KINDS = {"kubernetes", "laptop", "slurm", "pbspro"}
COMMANDS = ("sbatch", "squeue", "scancel", "srun", "qsub", "qstat", "qdel", "mpiexec")

#: A cluster that nobody runs; enough for KubernetesProvider to be made.
KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: none
clusters: [{name: none, cluster: {server: "http://127.0.0.1:1"}}]
contexts: [{name: none, context: {cluster: none, user: none}}]
users: [{name: none, user: {}}]
"""

ENGINE = "engine:\n  type: GlobusComputeEngine\n"


@pytest.fixture
def login_node(tmp_path, monkeypatch):
    """A machine with the commands of all schedulers, modules, and a kubeconfig."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    for command in COMMANDS:
        script = bin_dir / command
        script.write_text("#!/bin/sh\nexit 77\n")  # none is to be run
        script.chmod(0o755)
    (tmp_path / "kubeconfig").write_text(KUBECONFIG)
    home = tmp_path / "user"
    (home / "parsl-globus" / "bin").mkdir(parents=True)
    (home / "parsl-globus" / "bin" / "activate").touch()
    # What a login shell of a site has.
    (home / ".bash_profile").write_text('module() { [ "$1" = is-avail ] && [ "$2" != missing ]; }\n')
    monkeypatch.setenv("PATH", f"{bin_dir}:/usr/bin:/bin")
    if importlib.util.find_spec("kubernetes"):
        # It is read from the environment when that module is imported.
        place = "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"
        monkeypatch.setattr(place, str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("HOME", str(home))
    return bin_dir


def run(*arguments):
    result = CliRunner().invoke(endpoint, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def checked(text, name="x"):
    """What `check --json` says of `text`, and its exit code."""
    run("configure", name)
    find(name).config.write_text(text)
    result = run("check", name, "--json")
    return json.loads(result.output), result.exit_code


def filled_in(text):
    """A template as a user edits it, on a machine with a loopback interface only."""
    text = re.sub(r"ifname: [\w.]+", "ifname: lo", text)
    return text.replace("CHANGE_ME", "mine").replace("example_alcf_account", "mine")


def test_there_is_a_template_for_each_site_and_kind():
    assert set(template_names()) == SITES | KINDS
    assert len(SITES | {"kubernetes", "laptop"}) == 12


@pytest.mark.parametrize("name", sorted(SITES | KINDS))
def test_a_template_passes_the_check_once_it_is_filled_in(name, login_node):
    run("configure", name, "--template", name)
    assert find(name).config.read_text() == template_text(name)
    find(name).config.write_text(filled_in(template_text(name)))
    if name == "kubernetes":
        pytest.importorskip("kubernetes")
    result = run("check", name)
    assert (result.exit_code, result.output.rpartition("# This machine\n")[2]) == (0, "Nothing is missing.\n")
    assert "HighThroughputExecutor(" in result.output
    assert "process_worker_pool" in result.output.partition("# Submit script of one block")[2]


@pytest.mark.parametrize("name", sorted(SITES | KINDS - {"laptop"}))
def test_a_template_says_what_to_fill_in(name, login_node):
    told, code = checked(template_text(name))
    assert code == 1
    assert "account" in {finding["kind"] for finding in told["findings"]}


@pytest.mark.parametrize("name", sorted(SITES | KINDS))
def test_a_template_is_commented(name):
    text = template_text(name)
    assert text.startswith("# ")
    assert sum(line.strip().startswith("#") for line in text.splitlines()) >= 8
    assert max(map(len, text.splitlines())) <= 120
    assert parse_config(text).display_name


def test_templates_are_listed():
    rows = json.loads(run("configure", "--list-templates", "--json").output)
    assert [row["name"] for row in rows] == template_names()
    listed = run("configure", "--list-templates").output.splitlines()
    assert len(listed) == len(rows)
    assert listed[0].split(maxsplit=1)[1] == rows[0]["title"]


def test_an_unknown_template_lists_those_that_there_are():
    with pytest.raises(ConfigError, match=r"no template 'x'; there are: anvil, aurora, .*, stampede3\."):
        run("configure", "new", "--template", "x")
    with pytest.raises(ConfigError, match="either --config or --template"):
        run("configure", "new", "--template", "slurm", "--config", "x")
    assert run("configure").exit_code == 2


def test_a_check_names_what_this_machine_lacks(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    text = template_text("polaris").replace("bond0", "bond77")
    told, code = checked(text)
    assert code == 1
    by_key = {finding["key_path"]: finding for finding in told["findings"]}
    assert "qsub, qstat, qdel" in by_key["engine.provider.type"]["message"]
    assert "'example_alcf_account' is a placeholder" in by_key["engine.provider.account"]["message"]
    assert "no interface bond77" in by_key["engine.address.ifname"]["message"]
    assert "mpiexec" in by_key["engine.provider.launcher.type"]["message"]
    assert "module 'Anaconda'" in by_key["engine.provider.worker_init"]["message"]
    errors = {key for key, finding in by_key.items() if finding["severity"] == "error"}
    assert errors == {"engine.provider.type", "engine.provider.account", "engine.address.ifname"}
    assert told["errors"] == 3
    lines = text.splitlines()
    for key, finding in by_key.items():
        assert key.rpartition(".")[2] in lines[finding["line"] - 1]
        assert finding["file"] == str(find("x").config)
    # What can be shown is shown all the same.
    assert "#PBS -l walltime=01:00:00" in told["submit_script"]
    assert "PBSProProvider(" in told["parsl_objects"]
    assert told["model"]["engine"]["provider"]["arguments"]["queue"] == "preemptable"
    shown = run("check", "x")
    assert shown.exit_code == 1
    assert f"error: {find('x').config}:21: engine.provider.account: 'example_alcf_account'" in shown.output


def test_a_pod_is_shown(login_node):
    pytest.importorskip("kubernetes")
    told, _ = checked(filled_in(template_text("kubernetes")))
    assert "kind: Pod" in told["submit_script"]
    assert "image: mine" in told["submit_script"]
    # Not the path of this machine's Python, which a pod doesn't have.
    assert "process_worker_pool.py" in told["submit_script"]
    assert sys.prefix not in told["submit_script"]


def test_a_missing_package_is_told_with_its_extra(monkeypatch):
    monkeypatch.setattr("parsl.providers.kubernetes.kube._kubernetes_enabled", False)
    told, code = checked(filled_in(template_text("kubernetes")))
    assert code == 1
    assert any("pip install 'parsl[kubernetes]'" in finding["message"] for finding in told["findings"])


def test_modules_and_files_of_worker_init(login_node):
    init = "module load missing there; source /no/such/file && conda activate x"
    told, code = checked(ENGINE + f'  provider: {{type: LocalProvider, worker_init: "{init}"}}\n')
    assert code == 0  # compute nodes may have them
    assert [(finding["kind"], finding["severity"]) for finding in told["findings"]] == [
        ("module", "warning"),
        ("file", "warning"),
    ]
    assert "'missing'" in told["findings"][0]["message"]


@pytest.mark.parametrize(
    ("text", "modules"),
    [
        ("module load a b/1.2; source x", ["a", "b/1.2"]),
        ("ml gcc", ["gcc"]),
        ("module load a && module load a", ["a"]),
        ("module purge\nmodule load $MINE", []),
        ("echo 'module load x'", []),
        ("# module load x", []),
        ("echo 'it", []),
    ],
)
def test_modules_that_are_loaded(text, modules):
    assert modules_of(text) == modules


@pytest.mark.parametrize(
    ("account", "placeholder"),
    [
        ("example_alcf_account", True),
        ("YOUR_ACCOUNT", True),
        ("<project>", True),
        ("account", True),
        ("xxxx", True),
        ("m0000", True),
        ("m1234", False),
        ("pi-lab", False),
        ("datascience", False),
        ("bbxx-delta-cpu", False),
    ],
)
def test_accounts_that_are_placeholders(account, placeholder):
    config = parse_config(ENGINE + f'  address: 10.0.0.1\n  provider: {{type: SlurmProvider, account: "{account}"}}\n')
    told = [finding for finding in findings(config) if finding.kind == "account"]
    assert bool(told) == placeholder


def test_an_account_that_slurm_doesn_t_list(monkeypatch):
    monkeypatch.setattr(machine, "_slurm_accounts", lambda: frozenset({"one", "two"}))
    config = parse_config(ENGINE + "  address: 10.0.0.1\n  provider: {type: SlurmProvider, account: three}\n")
    (told,) = (finding for finding in findings(config) if finding.kind == "account")
    assert (told.severity, "one, two" in told.message) == ("warning", True)


def test_slurm_s_own_list_of_accounts(tmp_path, monkeypatch):
    script = tmp_path / "sacctmgr"
    script.write_text("#!/bin/sh\necho One\necho two\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert machine._slurm_accounts() == {"one", "two"}


def test_settings_without_effect_are_told():
    told, code = checked("detach_endpoint: false\nheartbeat_threshold: 200\n" + ENGINE)
    assert code == 0
    assert [(f["key_path"], f["kind"], f["line"]) for f in told["findings"]] == [
        ("detach_endpoint", "setting", 1),
        ("heartbeat_threshold", "setting", 2),
    ]


def test_threads_have_no_folders_of_their_own():
    with pytest.raises(ConfigError, match=r"engine\.run_in_sandbox: Threads share"):
        parse_config("engine: {type: ThreadPoolEngine, run_in_sandbox: true}\n")


@pytest.mark.parametrize("key", ["idle_heartbeats_soft: 3", "endpoint_setup: date"])
def test_settings_of_what_runs_tasks_belong_into_the_template(key):
    with pytest.raises(ConfigError, match="write it into the template"):
        parse_config(f"display_name: x\n{key}\n")


def test_no_address_off_this_machine_is_told(login_node):
    told, code = checked(ENGINE + "  provider: {type: SlurmProvider}\n")
    assert (code, [finding["kind"] for finding in told["findings"]]) == (0, ["address"])


@pytest.mark.parametrize(("provider", "severity"), [("LocalProvider", "error"), ("SlurmProvider", "warning")])
def test_a_launcher_s_command(provider, severity, login_node):
    text = ENGINE + f"  address: 10.0.0.1\n  provider: {{type: {provider}, launcher: {{type: AprunLauncher}}}}\n"
    (told,) = findings(parse_config(text))
    assert (told.kind, told.severity, "aprun" in told.message) == ("command", severity, True)


@pytest.mark.parametrize(
    ("engine", "key_path"),
    [
        ("engine:\n  type: GlobusMPIEngine\n  mpi_launcher: aprun\n", "engine.mpi_launcher"),
        (ENGINE + "  container_type: podman-hpc\n  container_uri: x\n", "engine.container_type"),
        (ENGINE + "  container_type: apptainer\n  container_uri: /none.sif\n", "engine.container_type"),
    ],
)
def test_commands_that_the_engine_itself_runs(engine, key_path, login_node):
    told, code = checked(engine + "  address: 10.0.0.1\n  provider: {type: SlurmProvider}\n")
    assert code == 0
    assert told["findings"][0]["key_path"] == key_path
    assert "compute nodes need it" in told["findings"][0]["message"]
    assert any("/none.sif" in finding["message"] for finding in told["findings"]) == ("/none.sif" in engine)


def test_a_template_for_users_is_shown_as_one_without_options():
    run("configure", "shared")
    folder = find("shared")
    folder.config.write_text("email: someone@example.org\n")
    template = folder.path / "user_config_template.yaml.j2"
    template.write_text(ENGINE + "  max_workers_per_node: {{ workers | default(3) }}\n")
    result = run("check", "shared", "--json")
    told = json.loads(result.output)
    assert told["model"]["engine"]["options"] == {"max_workers_per_node": 3}
    assert str(template) in told["note"]
    assert told["findings"][0]["file"] == str(folder.config)
    template.write_text(ENGINE + "  max_workers_per_node: {{ workers }}\n")
    told = json.loads(run("check", "shared", "--json").output)
    assert "workers" in told["note"]


def test_a_label_is_no_trouble_in_a_path():
    executor = build_executor(parse_config(ENGINE + "  label: Midway @ RCC's\n").engine)
    assert executor.label == "Midway_@_RCC_s-HighThroughputExecutor"


def test_a_log_folder_with_spaces_is_quoted():
    plain, spaces = (parse_config(ENGINE + f"  worker_logdir_root: {path}\n") for path in ("/a/b", "/a b"))
    assert " --logdir={logdir} " in build_executor(plain.engine).launch_cmd
    assert ' --logdir="{logdir}" ' in build_executor(spaces.engine).launch_cmd


def test_a_check_leaves_nothing(tmp_path, monkeypatch, login_node):
    before = set(os.listdir(tmp_path))
    checked(filled_in(template_text("polaris")))
    assert set(os.listdir(tmp_path)) - before == {"home"}
