"""Real accounts of this machine for a test, a Python that they can run, and what is needed for that."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil


def missing() -> str | None:
    """What keeps this machine from having such accounts."""
    if os.geteuid() != 0:
        return "root, to make accounts"
    for command in ("useradd", "userdel", "groupadd", "groupdel", "usermod"):
        if shutil.which(command) is None:
            return command
    if not _readable(Path(sys.executable)) and not _system_python().exists():
        return f"{_system_python()}: other accounts can't run root's Python"
    if not all(_readable(Path(folder)) for folder in site.getsitepackages()):
        return "packages that other accounts can read"
    return None


@contextmanager
def accounts(names: Sequence[str]) -> Iterator[Path]:
    """Make accounts with a group of the same name and homes in a folder of their own, which is told.

    At the end they are gone, with all their processes and files.
    """
    # Not in pytest's folders, which are closed to others.
    folder = Path(tempfile.mkdtemp(prefix="accounts-"))
    folder.chmod(0o755)
    made: list[str] = []
    try:
        for name in names:
            home = folder / name
            _run("useradd", "--create-home", "--home-dir", str(home), "--shell", "/bin/sh", "--user-group", name)
            made.append(name)
            home.chmod(0o700)
        yield folder
    finally:
        for name in made:
            _remove(name)
        shutil.rmtree(folder)


@contextmanager
def group(name: str, members: Sequence[str]) -> Iterator[int]:
    """A group that these accounts are in, too; its number is told."""
    _run("groupadd", name)
    try:
        for member in members:
            _run("usermod", "--append", "--groups", name, member)
        yield grp.getgrnam(name).gr_gid
    finally:
        _run("groupdel", name)


def processes_of(name: str) -> list[psutil.Process]:
    """All that run as an account."""
    uid = pwd.getpwnam(name).pw_uid
    found = []
    for process in psutil.process_iter():
        try:
            if uid in process.uids() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def python_for_all(folder: Path) -> Path:
    """Make a virtual environment that every account can run, with the packages that the tests have."""
    own = Path(sys.executable)
    base = own if _readable(own) else _system_python()
    _run(str(base), "-m", "venv", "--without-pip", str(folder))
    packages = folder / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    lines = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()]
    (packages / "tests.pth").write_text("\n".join(lines) + "\n")
    python = folder / "bin" / "python"
    for script in own.parent.iterdir():
        text = script.read_bytes() if script.is_file() and script.suffix == ".py" else b""
        if text.startswith(b"#!"):
            copy = folder / "bin" / script.name
            copy.write_bytes(b"#!" + str(python).encode() + text[text.index(b"\n") :])
            copy.chmod(0o755)
    return python


def _system_python() -> Path:
    return Path(f"/usr/bin/python3.{sys.version_info.minor}")


def _readable(path: Path) -> bool:
    """Whether an account that is nobody's can get there."""
    command = [str(path), "-c", ""] if path.is_file() else ["/bin/ls", str(path)]
    try:
        # Not by setpriv: it leaves capabilities, and with them root's ways, to what it runs.
        done = subprocess.run(
            command, capture_output=True, check=False, cwd="/", env={}, user=65534, group=65534, extra_groups=[]
        )
    except PermissionError:
        return False
    return done.returncode == 0


def _remove(name: str) -> None:
    uid = pwd.getpwnam(name).pw_uid
    left = processes_of(name)
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=10)
    for path in Path(tempfile.gettempdir()).iterdir():
        try:
            if path.lstat().st_uid == uid:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        except FileNotFoundError:
            continue
    _run("userdel", "--remove", name)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # userdel: 12 is a mail folder that it can't remove, as there is none.
    assert done.returncode in (0, 12), (command, done.stderr)
