"""Runs Parsl's own test suite, from the installed package, against our executor, service and endpoint.

    python tests/parsl_suite/run.py [--public-only] [--apart] [--public-agent] [pytest's options]

Nothing that an executor like ours could do is left out; what is, is in `LEFT_OUT`, with its reason, and in the page
`docs/tested_on.rst`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import parsl
import public

CONFIG = Path(__file__).with_name("config.py").absolute()

#: Tests by name, each with the reason why an executor for remote endpoints can't pass it.
LEFT_OUT = {
    "test_error_handling/test_resource_spec.py::test_resource": (
        "it allows InvalidResourceSpecification from three executors of Parsl only, by their classes"
    ),
    "test_docs/test_workflow1.py::test_procedural": (
        "its output has a relative path, which must mean the same folder here and on the worker"
    ),
}
#: Also left out with an endpoint that sees none of our files (--apart): commands of theirs write to a path here.
LEFT_OUT_APART = {
    "test_bash_apps/test_basic.py::test_parallel_for": "each app writes an output file to a path here",
    "test_bash_apps/test_memoize.py": "the command itself looks for a file that an earlier one left at a path here",
    "test_bash_apps/test_multiline.py::test_multiline": "the app writes its output files to paths here",
    "test_docs/test_kwargs.py::test_outputs": "the app opens a path here",
    "test_python_apps/test_outputs.py::test_launch_apps": "the app opens a path here",
    "test_staging/test_output_chain_filenames.py::test_behavior": "the app writes to a path here, which the next reads",
}
#: Left out with the public agent (--public-agent) unless --whole: chains and trees of tasks. They pass, too, but each
#: step takes half a second there, and the whole suite two minutes. What they test of Parsl, others test, too.
CHAINS = ("fibonacci", "increment", "mapred", "overview", "pipeline", "type5", "workflow4", "diamond", "lifted")
#: Upstream's own markers, left out where their condition does not hold.
NO_INTERNET = "cleannet"
ROOT = "unix_filesystem_permissions_required"
#: With an endpoint that sees none of our files (--apart), this marker needs what is not there.
SHARED_FILES = "staging_required"
INTERNET_HOST = "gist.githubusercontent.com"


def main() -> int:
    """Run the suite once; returns pytest's exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--public-only", action="store_true", help="a service without our protocol extensions")
    parser.add_argument("--apart", action="store_true", help="an endpoint that sees none of the tests' files")
    parser.add_argument(
        "--public-agent", action="store_true", help="an endpoint of globus-compute-endpoint, unmodified"
    )
    parser.add_argument("--whole", action="store_true", help="with --public-agent: no subset")
    parser.add_argument("--limit-s", type=float, default=None, help="fail if it takes longer")
    options, pytest_options = parser.parse_known_args()
    missing = _missing(apart=options.apart, public_agent=options.public_agent)
    if missing is not None:
        print(missing)
        return 1 if os.environ.get("CI") else 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="parsl-suite-") as folder:
        # The tests write into the current folder, and their conftest must be below it.
        (Path(folder) / "parsl").symlink_to(Path(parsl.__file__).parent)
        (Path(folder) / "pytest.ini").write_text("[pytest]\n")  # upstream's warnings are upstream's
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("GLOBUS_", "PYTEST_"))}
        environment["HOME"] = folder
        environment["PARSL_GLOBUS_SUITE_PUBLIC_ONLY"] = str(int(options.public_only))
        if options.apart:
            environment["PARSL_GLOBUS_SUITE_HIDDEN"] = folder
        command = [sys.executable, "-m", "pytest", "parsl/tests", "--config", str(CONFIG), "-rfEs", "-q"]
        command += ["--random-order", *_selection(apart=options.apart), *pytest_options]
        if options.public_agent and not options.whole:
            print(f"left out: tests with these words in their names, as their chains take long: {', '.join(CHAINS)}")
            command += ["-k", f"not ({' or '.join(CHAINS)})"]
        with public.public_endpoint() if options.public_agent else nullcontext((list[str], {})) as (there, found):
            code = subprocess.run(there(command), cwd=folder, env={**environment, **found}).returncode
    took_s = time.monotonic() - began
    print(f"Parsl's suite took {took_s:.0f} s.")
    if options.limit_s is not None and took_s > options.limit_s:
        print(f"That is more than the {options.limit_s:.0f} s it may take.")
        return code or 1
    return code


def _selection(*, apart: bool) -> Iterator[str]:
    """Options for pytest that leave out what can't pass here, each told with its reason."""
    for name, reason in {**LEFT_OUT, **(LEFT_OUT_APART if apart else {})}.items():
        print(f"left out: {name}: {reason}")
        yield f"--deselect=parsl/tests/{name}"
    markers = []
    if not _has_internet():
        print(f"left out: tests marked {NO_INTERNET}: {INTERNET_HOST} can't be resolved")
        markers.append(NO_INTERNET)
    if os.geteuid() == 0:
        print(f"left out: tests marked {ROOT}: root may create the folder that they expect to be refused")
        markers.append(ROOT)
    if apart:
        print(f"left out: tests marked {SHARED_FILES}: they hand files over by path")
        markers.append(SHARED_FILES)
    if markers:
        yield "-m"
        yield " and ".join(f"not {marker}" for marker in markers)


def _missing(*, apart: bool, public_agent: bool) -> str | None:
    """Why it can't run here, or `None`."""
    if apart and not _can_hide():
        return "--apart needs a mount namespace, which can't be made here (unshare, from util-linux)"
    missing = public.why_not() if public_agent else None
    return f"--public-agent: {missing}" if missing is not None else None


def _can_hide() -> bool:
    if shutil.which("unshare") is None:
        return False
    who = [] if os.geteuid() == 0 else ["--map-root-user"]
    with tempfile.TemporaryDirectory() as folder:
        command = ["unshare", *who, "--mount", "mount", "-t", "tmpfs", "none", folder]
        return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0


def _has_internet() -> bool:
    try:
        socket.getaddrinfo(INTERNET_HOST, 443)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
