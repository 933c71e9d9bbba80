"""A Python of another minor version, for workers that differ from the workflow."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import site
import subprocess
import sys
from functools import cache
from pathlib import Path

import parsl_globus

#: Those that the package supports.
_MINORS = (13, 12, 11, 10)
#: What workers load that is compiled for one minor version only.
_COMPILED = ("pyzmq", "pydantic-core")


@cache
def other_python() -> tuple[Path | None, str | None]:
    """The newest supported Python on this machine that is not the tests' own, or why there is none.

    `PARSL_GLOBUS_TEST_OTHER_PYTHON` names another one, for example "3.12".
    """
    wanted = os.environ.get("PARSL_GLOBUS_TEST_OTHER_PYTHON")
    for minor in [int(wanted.removeprefix("3."))] if wanted else _MINORS:
        if minor == sys.version_info.minor:
            continue
        for program in _candidates(minor):
            look = [program, "-c", "import sys, venv; print('%d.%d' % sys.version_info[:2])"]
            done = subprocess.run(look, capture_output=True, text=True, check=False)
            if done.stdout.strip() == f"3.{minor}":
                return Path(program), None
    return None, f"there is no second Python, {wanted or 'of 3.10 to 3.13'}, on this machine"


def _candidates(minor: int) -> list[str]:
    home = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    kept = [path for path in home.glob(f"versions/3.{minor}.*/bin/python") if re.fullmatch(r"[\d.]+", path.parts[-3])]
    found = shutil.which(f"python3.{minor}")
    return [*map(str, sorted(kept)), *([found] if found else [])]


def make_environment(python: Path, folder: Path) -> Path:
    """An environment for workers: the tests' own packages, with what is compiled for `python` instead.

    Args:
        python: Makes it.
        folder: Where; a new folder.

    Returns:
        Its folder of programs, for `PATH`.
    """
    subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    wanted = [f"{name}=={importlib.metadata.version(name)}" for name in _COMPILED]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    minor = packages.parent.name.removeprefix("python")
    binary = ["--only-binary=:all:", "--python-version", minor, "--target", str(packages)]
    subprocess.run([*install, *binary, *wanted], check=True, stdin=subprocess.DEVNULL, timeout=300)
    shared = [Path(parsl_globus.__file__).parents[1], *site.getsitepackages()]
    (packages / "shared.pth").write_text("".join(f"{path}\n" for path in shared))
    pool = Path(sys.executable).with_name("process_worker_pool.py").read_text()
    program = folder / "bin" / "process_worker_pool.py"
    program.write_text(f"#!{folder / 'bin' / 'python'}\n{pool.partition(chr(10))[2]}")
    program.chmod(0o755)
    return folder / "bin"
