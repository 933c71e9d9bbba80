"""Builds the wheel and the sdist, installs each into a clean environment and tries what a user tries first."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

TRIES = [
    ["-c", "import parsl_globus; parsl_globus.GlobusComputeExecutor; parsl_globus.connect"],
    ["-m", "parsl_globus.cli", "--version"],
    ["-m", "parsl_globus.cli", "--help"],
    ["-m", "parsl_globus.cli", "endpoint", "configure", "--list-templates"],
    ["-c", "import importlib.metadata as m; assert m.version('parsl-globus')"],
    ["-c", "import os, sys; assert os.path.exists(sys.prefix + '/share/parsl_globus/examples/co2_workflow.py')"],
]
#: Without its extra, a command names it in one sentence.
WITHOUT_EXTRA = {"service run": "parsl-globus[service]", "endpoint check x": "parsl-globus[endpoint]"}


def main(folder: Path) -> None:
    dist = folder / "dist"
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(dist), str(root)], check=True)
    built = sorted(dist.glob("*.whl")) + sorted(dist.glob("*.tar.gz"))
    assert len(built) == 2, built
    for archive in built:
        home = folder / f"venv-{archive.suffix.strip('.')}"
        venv.create(home, with_pip=True, clear=True)
        python = home / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", archive], check=True)
        for arguments in TRIES:
            subprocess.run([python, *arguments], check=True, cwd=folder)
        for command, extra in WITHOUT_EXTRA.items():
            tried = subprocess.run(
                [python, "-m", "parsl_globus.cli", *command.split()], capture_output=True, text=True, cwd=folder
            )
            assert tried.returncode == 1, (command, tried)
            assert extra in tried.stderr, tried.stderr
            assert "Traceback" not in tried.stderr, tried.stderr
        print(f"{archive.name}: installed and tried")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
