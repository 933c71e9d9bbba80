"""All processes of an endpoint can be found and ended, however they were detached."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from parsl_globus.endpoint.folder import EndpointFolder, ManagerLock, all_folders, create, find
from parsl_globus.endpoint.processes import TREE_VARIABLE, end_marked, marked, tree_environment, tree_mark
from parsl_globus.errors import ConfigError, EndpointError, EndpointNotFound

STUBBORN = "import signal, sys; signal.signal(15, signal.SIG_IGN); print('up', flush=True); signal.pause()"


def _start(mark, program=STUBBORN):
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, TREE_VARIABLE: mark},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "up\n"
    return process


def test_stubborn_processes_are_ended_and_others_are_not(tmp_path):
    ours = _start(tree_mark(tmp_path, "uep.x"))
    other = _start(tree_mark(tmp_path / "other", "uep.x"))
    try:
        assert marked(tree_mark(tmp_path)) == [ours.pid]
        assert marked(tree_mark(tmp_path, "uep.y")) == []
        assert end_marked(tree_mark(tmp_path), grace_s=0.1) == 1
        assert ours.wait(5) == -9
        assert other.poll() is None
    finally:
        for process in (ours, other):
            process.kill()
            process.wait()
            process.stdout.close()


def test_the_mark_is_inherited(tmp_path):
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {STUBBORN!r}])"
    process = _start(tree_mark(tmp_path, "uep.x"), program)
    assert len(marked(tree_mark(tmp_path))) == 2
    end_marked(tree_mark(tmp_path), grace_s=0.1)
    assert process.wait(5) != 0
    process.stdout.close()
    assert marked(tree_mark(tmp_path)) == []


def test_configure_find_and_list():
    folder = create("laptop", None, force=False)
    assert find("laptop") == folder
    assert [entry.name for entry in all_folders()] == ["laptop"]
    assert folder.config.stat().st_mode & 0o077 == 0
    with pytest.raises(EndpointError, match="exists already"):
        create("laptop", None, force=False)
    create("laptop", "debug: true\n", force=True)
    assert folder.config.read_text() == "debug: true\n"
    with pytest.raises(EndpointNotFound, match="laptop"):
        find("laptap")


@pytest.mark.parametrize("name", ["../x", "a b", "", ".hidden", "a/b"])
def test_names_that_are_refused(name):
    with pytest.raises(ConfigError, match="name"):
        create(name, None, force=False)
    with pytest.raises(EndpointNotFound):
        find(name)


def test_the_lock_tells_a_running_manager_from_a_stale_file():
    folder = create("laptop", None, force=False)
    assert folder.manager_pid is None
    with ManagerLock(folder):
        assert folder.manager_pid == os.getpid()
        with pytest.raises(EndpointError, match="runs already"):
            ManagerLock(folder)
    assert folder.manager_pid is None
    (folder.path / "manager.pid").write_text("1")
    assert folder.manager_pid is None


def test_a_broken_id_file_is_named():
    folder = create("laptop", None, force=False)
    assert folder.endpoint_id is None
    (folder.path / "endpoint.json").write_text('{"endpoint_id": "x"}')
    with pytest.raises(ConfigError, match="endpoint.json"):
        _ = EndpointFolder("laptop", folder.path).endpoint_id


def test_processes_that_rename_themselves_keep_the_mark(tmp_path):
    pytest.importorskip("setproctitle")
    mark = tree_mark(tmp_path, "uep.x")
    # Without the second variable, the long name would overwrite what /proc shows of the environment.
    program = f"import setproctitle; setproctitle.setproctitle('parsl ' * 2000); {STUBBORN}"
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, **tree_environment(mark)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "up\n"
    assert marked(mark) == [process.pid]
    end_marked(mark, grace_s=0.1)
    process.wait(5)
    process.stdout.close()


def test_orphans_are_ended_whatever_their_environment(tmp_path):
    # In a process of its own, since it becomes a subreaper.
    program = textwrap.dedent(f"""
        import os, subprocess, sys
        from parsl_globus.endpoint.processes import become_subreaper, end_orphans
        become_subreaper()
        known = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
        script = 'setsid env -i "$0" -c "$1" & read -r word'  # a shell that leaves a process behind
        command = ["/bin/sh", "-c", script, sys.executable, {STUBBORN!r}]
        shell = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE)
        assert shell.stdout.readline() == b"up\\n"
        shell.stdin.close()
        shell.wait()
        print(end_orphans([known.pid], grace_s=0.1), known.poll(), end_orphans([known.pid], grace_s=0.1))
        known.communicate()
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.split() == ["1", "None", "0"], done.stderr
