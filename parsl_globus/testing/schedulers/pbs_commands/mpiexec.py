"""`mpiexec` with the command line of Cray PALS, over MPICH's: PALS takes `--cpu-bind` and `--depth`, MPICH neither.

Options beside PALS' are errors. `--depth` is checked and dropped, as it only widens a binding. With `PALS_LOG`, the
arguments are added there, so that a test can compare them with what a launcher was configured to say.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from typing import NoReturn

_BINDINGS = {"none": "none", "thread": "hwthread", "core": "core", "numa": "numa", "socket": "socket"}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"mpiexec: {message}\n")
        sys.exit(1)


def main() -> NoReturn:
    """Become MPICH's mpiexec."""
    parser = _parser()
    asked = parser.parse_args()
    if not asked.command:
        parser.error("no command")
    if os.environ.get("PALS_LOG"):
        with open(os.environ["PALS_LOG"], "a") as stream:
            stream.write(json.dumps(sys.argv[1:]) + "\n")
    hydra = shutil.which("mpiexec.hydra")
    if hydra is None:
        parser.error("mpiexec.hydra (MPICH) not found")
    os.execv(hydra, [hydra, *_hydra_options(asked), *asked.command])


def _parser() -> _Parser:
    parser = _Parser(prog="mpiexec", add_help=False, allow_abbrev=False)
    parser.add_argument("-n", "--np", "-np", dest="n", type=_positive, required=True)
    parser.add_argument("--ppn", type=_positive)
    parser.add_argument("-d", "--depth", type=_positive, default=1)
    parser.add_argument("--cpu-bind", choices=[*_BINDINGS, "depth"])
    parser.add_argument("--hostfile")
    parser.add_argument("--hosts")
    parser.add_argument("-l", "--label", action="store_true")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def _hydra_options(asked: argparse.Namespace) -> list[str]:
    options = ["-n", str(asked.n)]
    if asked.ppn:
        options += ["-ppn", str(asked.ppn)]
    hostfile = asked.hostfile or (None if asked.hosts else os.environ.get("PBS_NODEFILE"))
    if hostfile:
        options += ["-f", hostfile]
    elif asked.hosts:
        options += ["-hosts", asked.hosts]
    if asked.cpu_bind == "depth":
        options += ["-bind-to", f"hwthread:{asked.depth}"]
    elif asked.cpu_bind:
        options += ["-bind-to", _BINDINGS[asked.cpu_bind]]
    if asked.label:
        options += ["-prepend-rank"]
    return options


if __name__ == "__main__":
    main()
